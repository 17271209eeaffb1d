"""Session locks in Redis: compare and set by Lua, hundreds in a round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from daisi_ws.adapters import redis_keys
from daisi_ws.adapters.redis_cluster import ClusterLink
from daisi_ws.adapters.redis_link import RedisLink, Script
from daisi_ws.adapters.redis_wire import Argument, Reply
from daisi_ws.app.ports import Acquired, Held

_CHUNK: Final = 200
_ANY_BYTES: Final = "latin-1"
"""Lock values are ASCII, if they are ours; whatever else stands there must be told back exactly,
or it could not be replaced."""

_Run = tuple[Script, Sequence[str], Sequence[Argument]]

Lease = TypeVar("Lease", bound=tuple[object, ...])


class LocksRedis:
    """:class:`daisi_ws.app.ports.Locks` and `Farewells` over one Redis connection."""

    def __init__(self, link: RedisLink | ClusterLink) -> None:
        self._link = link
        # On a cluster each lock has a slot of its own, and a script keys of one.
        self._chunk = _CHUNK if link.in_order else 1
        self._lease_prefix = redis_keys.pod("") if link.in_order else ""
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
            (owner, _milliseconds(ttl_seconds), holder.encode(_ANY_BYTES), self._lease_prefix),
        )
        if isinstance(reply, int):
            return Acquired(reply)
        holder = reply[0].decode(_ANY_BYTES)
        alive = bool(reply[1])
        if not self._lease_prefix:
            alive = bool(await self._link.call("EXISTS", redis_keys.pod(holder.partition("#")[0])))
        return Held(holder, alive=alive, leaving=bool(reply[2]))

    async def renew(self, leases: Sequence[tuple[str, str, float]]) -> list[bool]:
        """See :meth:`Locks.renew`. One script for 200; on a cluster for each, all at once."""
        runs: list[_Run] = []
        for chunk in self._chunks(leases):
            arguments: list[Argument] = []
            for _, owner, ttl_seconds in chunk:
                arguments += (owner, _milliseconds(ttl_seconds))
            keys = _keys([key for key, _, _ in chunk])
            runs.append((self._renew, keys, arguments))
        return [bool(kept) for found in await self._run(runs) for kept in found]

    async def release(self, leases: Sequence[tuple[str, str]]) -> None:
        """See :meth:`Locks.release`. Like :meth:`renew`."""
        runs: list[_Run] = []
        for chunk in self._chunks(leases):
            keys = _keys([key for key, _ in chunk])
            runs.append((self._release, keys, [owner for _, owner in chunk]))
        await self._run(runs)

    async def announce(self, leases: Sequence[tuple[str, str]], ttl_seconds: float) -> None:
        """See :meth:`Farewells.announce`. Like :meth:`renew`."""
        runs: list[_Run] = []
        for chunk in self._chunks(leases):
            keys = [redis_keys.leaving(key) for key, _ in chunk]
            arguments: list[Argument] = [_milliseconds(ttl_seconds)]
            arguments += [owner for _, owner in chunk]
            runs.append((self._leaving, keys, arguments))
        await self._run(runs)

    def _chunks(self, leases: Sequence[Lease]) -> Iterator[Sequence[Lease]]:
        return (leases[at : at + self._chunk] for at in range(0, len(leases), self._chunk))

    async def _run(self, runs: Sequence[_Run]) -> list[Reply]:
        """Run scripts: long ones one after the other, so that other commands get between them."""
        if self._chunk == 1:
            return await asyncio.gather(*(self._link.run(*run) for run in runs))
        return [await self._link.run(*run) for run in runs]


def _keys(locks: Sequence[str]) -> list[str]:
    return [key for lock in locks for key in (lock, redis_keys.fence(lock))]


def _milliseconds(seconds: float) -> int:
    return max(int(seconds * 1000), 1)
