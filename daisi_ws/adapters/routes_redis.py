"""Route sets in Redis, and the invalidations that keep a cache of them exact.

Reads are tracked by the server (`CLIENT TRACKING`, RESP3): the first change of a key that was
read is pushed on the same connection, after the reply to the read and before any later one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final
from weakref import WeakSet

import structlog

from daisi_ws.adapters import redis_keys
from daisi_ws.adapters.pods_redis import decode_reader, pod_id_of, remove_gone
from daisi_ws.adapters.redis_cluster import ClusterLink
from daisi_ws.adapters.redis_link import RedisLink, Script
from daisi_ws.app.ports import ReaderRecord
from daisi_ws.domain.errors import Unavailable
from daisi_ws.domain.subjects import interest_of, route_key
from daisi_ws.log import limited

_CHUNK: Final = 200

log = structlog.get_logger(__name__)


class RoutesRedis:
    """:class:`daisi_ws.app.ports.Routes` over one Redis connection.

    :param pod_id: the member that this pod adds and removes.
    :param ttl: getter of the TTL of a route in seconds.
    :param shared: whether every pod reads (then `add` lists them all).
    """

    def __init__(
        self,
        link: RedisLink | ClusterLink,
        pod_id: str,
        stream_name: str,
        ttl: Callable[[], float],
        shared: bool,
    ) -> None:
        self._link = link
        self._pod_id = pod_id
        self._reader_key = redis_keys.reader(stream_name, not link.in_order)
        self._ttl = ttl
        self._shared = shared
        self._add = Script.load("route_add")
        self._forget = Script.load("forget_pod")
        self._renew = Script.load("renew_routes")
        self._invalidated: list[Callable[[Sequence[str] | None], None]] = []
        self._tracked: WeakSet[RedisLink] = WeakSet()
        link.keep_loaded(self._add, self._forget, self._renew)
        link.on_connect(self._track)
        link.on_push("invalidate", self._on_push)
        link.on_down(lambda: self._tell(None))

    @property
    def tracking(self) -> bool:
        """See :attr:`Routes.tracking`."""
        return self._link.up and all(node in self._tracked for node in self._link.nodes)

    def on_invalidated(self, callback: Callable[[Sequence[str] | None], None]) -> None:
        """See :meth:`Routes.on_invalidated`."""
        self._invalidated.append(callback)

    async def add(
        self, interests: Sequence[str], removed: Sequence[str] = ()
    ) -> tuple[ReaderRecord | None, list[str]]:
        """See :meth:`Routes.add`."""
        ttl = int(self._ttl() * 1000)
        sent = [self._link.send("SREM", route_key(interest), self._pod_id) for interest in removed]
        keys = [route_key(interest) for interest in interests]
        if self._link.in_order and not self._shared:
            for at in range(0, len(keys), _CHUNK):
                chunk = (self._reader_key, *keys[at : at + _CHUNK])
                sent.append(self._link.run(self._add, chunk, (self._pod_id, ttl)))
            told = [await reply for reply in sent][len(removed) :]
            # Each has found a reader that may not know its routes: the newest is the one to ask.
            found = [record for record in map(decode_reader, told) if record is not None]
            return max(found, key=lambda record: record.epoch, default=None), []
        for key in keys:
            sent.append(self._link.send("SADD", key, self._pod_id))
            sent.append(self._link.send("PEXPIRE", key, ttl))
        if not self._link.in_order:
            # Whoever becomes the reader says so before it reads a route: so look after the routes
            # are there. On one connection that is the order of the commands.
            await asyncio.gather(*sent)
        reader = self._link.send("GET", self._reader_key)
        if not self._shared:
            *_, record = await asyncio.gather(*sent, reader)
            return decode_reader(record), []
        *_, record, pods = await asyncio.gather(
            *sent, reader, self._link.send("SMEMBERS", redis_keys.PODS)
        )
        return decode_reader(record), sorted(map(pod_id_of, pods))

    async def remove(self, interests: Sequence[str]) -> None:
        """See :meth:`Routes.remove`."""
        await asyncio.gather(
            *(self._link.send("SREM", route_key(i), self._pod_id) for i in interests)
        )

    async def renew(self, interests: Sequence[tuple[str, float]]) -> None:
        """See :meth:`Routes.renew`."""
        # On a cluster each route has a slot of its own, and a script keys of one.
        size = _CHUNK if self._link.in_order else 1
        chunks = (interests[at : at + size] for at in range(0, len(interests), size))
        await asyncio.gather(
            *(
                self._link.run(
                    self._renew,
                    [route_key(interest) for interest, _ in chunk],
                    [self._pod_id, *(int(ttl * 1000) for _, ttl in chunk)],
                )
                for chunk in chunks
            )
        )

    async def owners(self, interests: Sequence[str]) -> list[frozenset[str]]:
        """See :meth:`Routes.owners`."""
        asked = []
        for interest in interests:
            key = route_key(interest)
            node = self._link.node_of(key)
            node.send("CLIENT", "CACHING", "YES").add_done_callback(_consume)
            asked.append(node.send("SMEMBERS", key))
        found = await asyncio.gather(*asked)
        return [frozenset(map(pod_id_of, members)) for members in found]

    async def forget_pod(self, interest: str, pod_id: str) -> None:
        """See :meth:`Routes.forget_pod`."""
        await remove_gone(self._link, self._forget, route_key(interest), pod_id)

    async def check(self) -> bool:
        """Ask whether changes are still being told; begin anew where they are not.

        Where the server refused to tell them nothing is cached, and nothing has to be told.

        :raises Unavailable: Redis is away.
        """
        if not self.tracking:
            return True
        try:
            nodes = self._link.nodes
            told = await asyncio.gather(*(node.send("CLIENT", "TRACKINGINFO") for node in nodes))
        except Unavailable:
            if self._link.up:
                return True  # the question is refused, perhaps by an ACL
            raise
        silent = [node for node, info in zip(nodes, told, strict=True) if not _tracks(info)]
        if not silent:
            return True
        for node in silent:
            self._track(node)
        self._tell(None)
        return False

    def _track(self, link: RedisLink) -> None:
        self._tracked.discard(link)
        # OPTIN: only what is read to be cached is tracked, not every lock and token that is looked
        # at.
        link.send("CLIENT", "TRACKING", "ON", "OPTIN").add_done_callback(partial(self._look, link))

    def _look(self, link: RedisLink, tracked: asyncio.Future[Any]) -> None:
        if tracked.cancelled():
            return
        error = tracked.exception()
        if error is None:
            self._tracked.add(link)
        else:
            limited(log, "routes are not cached, every pod gets every event", problem=str(error))

    def _on_push(self, message: list[Any]) -> None:
        keys = message[1]
        if keys is None:
            self._tell(None)
            return
        found = (interest_of(key.decode(errors="replace")) for key in keys)
        changed = [interest for interest in found if interest is not None]
        if changed:
            self._tell(changed)

    def _tell(self, interests: Sequence[str] | None) -> None:
        for callback in self._invalidated:
            callback(interests)


def _tracks(info: Any) -> bool:
    """Tell from the reply to `CLIENT TRACKINGINFO`, a map, whether keys are tracked."""
    flags = info.get(b"flags", ()) if isinstance(info, dict) else ()
    return b"on" in flags and b"broken_redirect" not in flags


def _consume(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
