"""Session locks in Redis: compare and set by Lua, hundreds in a round trip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from daisi_ws.adapters import redis_keys
from daisi_ws.adapters.redis_link import Argument, RedisLink, Script
from daisi_ws.app.ports import Acquired, Held

_CHUNK: Final = 200
_ANY_BYTES: Final = "latin-1"
"""Lock values are ASCII, if they are ours; whatever else stands there must be told back exactly,
or it could not be replaced."""

_LEASE_PREFIX: Final = redis_keys.pod("")

Lease = TypeVar("Lease", bound=tuple[object, ...])


class LocksRedis:
    """:class:`daisi_ws.app.ports.Locks` and `Farewells` over one Redis connection."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._acquire = Script.load("lock_acquire")
        self._renew = Script.load("lock_renew")
        self._release = Script.load("lock_release")
        self._leaving = Script.load("lock_leaving")
        link.keep_loaded(self._acquire, self._renew, self._release, self._leaving)

    async def acquire(self, key: str, owner: str, ttl_seconds: float) -> Acquired | Held:
        """See :meth:`Locks.acquire`."""
        return await self.take(key, "", owner, ttl_seconds)

    async def take(self, key: str, holder: str, owner: str, ttl_seconds: float) -> Acquired | Held:
        """See :meth:`Locks.take`."""
        reply = await self._link.run(
            self._acquire,
            (key, redis_keys.fence(key), redis_keys.leaving(key)),
            (owner, _milliseconds(ttl_seconds), holder.encode(_ANY_BYTES), _LEASE_PREFIX),
        )
        if isinstance(reply, int):
            return Acquired(reply)
        holder = reply[0].decode(_ANY_BYTES)
        return Held(holder, alive=bool(reply[1]), leaving=bool(reply[2]))

    async def renew(self, leases: Sequence[tuple[str, str, float]]) -> list[bool]:
        """See :meth:`Locks.renew`. Beyond 200 there is a round trip for each 200."""
        kept: list[bool] = []
        for chunk in _chunks(leases):
            arguments: list[Argument] = []
            for _, owner, ttl_seconds in chunk:
                arguments += (owner, _milliseconds(ttl_seconds))
            keys = _keys([key for key, _, _ in chunk])
            kept += map(bool, await self._link.run(self._renew, keys, arguments))
        return kept

    async def release(self, leases: Sequence[tuple[str, str]]) -> None:
        """See :meth:`Locks.release`. Beyond 200 there is a round trip for each 200."""
        for chunk in _chunks(leases):
            keys = _keys([key for key, _ in chunk])
            await self._link.run(self._release, keys, [owner for _, owner in chunk])

    async def announce(self, leases: Sequence[tuple[str, str]], ttl_seconds: float) -> None:
        """See :meth:`Farewells.announce`. Beyond 200 there is a round trip for each 200."""
        for chunk in _chunks(leases):
            keys = [redis_keys.leaving(key) for key, _ in chunk]
            arguments: list[Argument] = [_milliseconds(ttl_seconds)]
            arguments += [owner for _, owner in chunk]
            await self._link.run(self._leaving, keys, arguments)


def _keys(locks: Sequence[str]) -> list[str]:
    return [key for lock in locks for key in (lock, redis_keys.fence(lock))]


def _chunks(leases: Sequence[Lease]) -> Iterator[Sequence[Lease]]:
    return (leases[at : at + _CHUNK] for at in range(0, len(leases), _CHUNK))


def _milliseconds(seconds: float) -> int:
    return max(int(seconds * 1000), 1)
