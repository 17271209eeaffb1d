"""Several pods in one process, each with its own link to one real Redis, for tests of sessions."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import NoReturn

import redis.asyncio as redis_asyncio

from daisi_ws.adapters import redis_keys
from daisi_ws.adapters.kills_redis import KillsRedis
from daisi_ws.adapters.locks_redis import LocksRedis
from daisi_ws.adapters.redis_link import RedisLink
from daisi_ws.app.connection import Connection, State
from daisi_ws.app.hub import Hub
from daisi_ws.app.ports import Acquired, Held, Locks
from daisi_ws.app.renew import Renewal
from daisi_ws.app.takeover import Takeover
from daisi_ws.config import Config, testing_config
from daisi_ws.domain import principal
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.errors import SessionConflict, Unavailable
from daisi_ws.domain.outbox import Outbox
from daisi_ws.domain.principal import Principal
from daisi_ws.metrics import Metrics
from tests.adapters.redis_support import linked
from tests.app.connections import FakeSink

ANN = principal.user("acme", "bot", "ann", 1e12)
ROOT = principal.admin("root", 1e12)


@dataclass
class Peers:
    """gRPC between the pods of a world; `broken` answers nobody."""

    world: World
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    broken: bool = False

    async def has_session(self, pod_id: str, session_key: str, holder: str, timeout: float) -> bool:
        """Answer for another pod, if it lives."""
        pod = self.world.pods.get(pod_id)
        if pod is None or pod.deaf or self.broken:
            await self._silence(timeout)
        return pod.takeover.has_session(session_key, holder)

    async def displace(self, pod_id: str, session_key: str, holder: str, timeout: float) -> None:
        """Have another pod end a session, as its gRPC server would."""
        self.asked.append((pod_id, session_key, holder))
        pod = self.world.pods.get(pod_id)
        if pod is None or pod.deaf or self.broken:
            await self._silence(timeout)
        else:
            await pod.takeover.displace(session_key, holder)

    async def _silence(self, timeout: float) -> NoReturn:
        """What a peer says that does not answer."""
        await asyncio.sleep(timeout)
        raise Unavailable("no answer")


class WatchedLocks:
    """Locks that look, before they ask for what ends a lock, whether its session still delivers.

    While `answering` is clear, answers to acquisitions are on their way; `answered` says that the
    server has given one.
    """

    def __init__(self, locks: Locks, world: World) -> None:
        self._locks = locks
        self._world = world
        self.answering = asyncio.Event()
        self.answering.set()
        self.answered = asyncio.Event()
        self.released: list[str] = []

    async def acquire(self, key: str, owner: str, ttl_seconds: float) -> Acquired | Held:
        """See :meth:`Locks.acquire`."""
        result = await self._locks.acquire(key, owner, ttl_seconds)
        self.answered.set()
        await self.answering.wait()
        return result

    async def take(self, key: str, holder: str, owner: str, ttl_seconds: float) -> Acquired | Held:
        """See :meth:`Locks.take`."""
        self._look(f"taken by {owner}", key, holder)
        return await self._locks.take(key, holder, owner, ttl_seconds)

    async def renew(self, leases: Sequence[tuple[str, str, float]]) -> list[bool]:
        """See :meth:`Locks.renew`."""
        return await self._locks.renew(leases)

    async def release(self, leases: Sequence[tuple[str, str]]) -> None:
        """See :meth:`Locks.release`."""
        for key, owner in leases:
            self._look("released", key, owner)
            self.released.append(owner)
        await self._locks.release(leases)

    def _look(self, what: str, key: str, holder: str) -> None:
        connection = self._world.connections.get(holder)
        if connection is None or connection.principal.session_key != key:
            return
        if connection.state is State.OPEN:
            self._world.too_early.append(f"{holder} {what} while it is open")


class Pod:
    """A pod as far as sessions go."""

    def __init__(self, world: World, pod_id: str, link: RedisLink) -> None:
        self.world = world
        self.pod_id = pod_id
        self.link = link
        self.hub = Hub()
        self.deaf = False
        self.metrics = Metrics()
        self.kills = KillsRedis(link)
        self.locks = WatchedLocks(LocksRedis(link), world)
        self.takeover = Takeover(
            hub=self.hub,
            locks=self.locks,
            kills=self.kills,
            peers=world.peers,
            pod_id=pod_id,
            config=lambda: world.config,
            metrics=self.metrics,
        )
        self.renewal = Renewal(self.hub, self.locks, lambda: world.config)
        self.heard: list[tuple[str, str, str]] = []
        self.kills.listen(self._on_kill)
        self._ends: set[asyncio.Task[None]] = set()

    def connection(self, who: Principal = ANN) -> Connection:
        """A connection that is joining; its end is cleaned up as a session does it."""
        connection = Connection(
            connection_id=f"c{next(self.world.numbers)}",
            pod_id=self.pod_id,
            principal=who,
            request_id="r",
            outbox=Outbox(10, 10_000, "drop_oldest"),
            queue=lambda _: None,
        )
        connection.on_close = lambda _: self._end(connection)
        self.hub.join(connection)
        self.world.connections[connection.lock_value] = connection
        return connection

    async def open(self, who: Principal = ANN) -> Connection:
        """Connect until `ready`; by then no older session of the identity may deliver."""
        connection = self.connection(who)
        await self.acquire(connection)
        return connection

    async def acquire(self, connection: Connection) -> Acquired:
        """Take the session and say `ready`."""
        try:
            acquired = await self.takeover.acquire(connection)
        except SessionConflict:
            connection.close(CloseReason.DISPLACED)
            raise
        for other in self.world.connections.values():
            same = other.principal.identity == connection.principal.identity
            if same and other is not connection and other.state is State.OPEN:
                self.world.too_early.append(f"{connection.lock_value} before {other.lock_value}")
        connection.open(FakeSink(), b"{}", 0, asyncio.get_running_loop().time())
        return acquired

    def count(self, name: str, **labels: str) -> float:
        """The value of a metric."""
        return self.metrics.registry.get_sample_value(f"dws_{name}_total", labels) or 0.0

    async def settle(self) -> None:
        """Wait for everything in the background."""
        while self._ends or self.takeover._tasks:
            await asyncio.gather(*self._ends, return_exceptions=True)
            await self.takeover.aclose()

    def _on_kill(self, channel: str, new_pod_id: str, holder: str) -> None:
        self.heard.append((channel, new_pod_id, holder))
        if not self.deaf:
            self.takeover.on_kill(channel, new_pod_id, holder)

    def _end(self, connection: Connection) -> None:
        task = asyncio.get_running_loop().create_task(self._leave(connection))
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)

    async def _leave(self, connection: Connection) -> None:
        self.hub.leave(connection)
        await self.takeover.release([connection])


class World:
    """Pods, and what must never happen in any of them."""

    def __init__(self, redis: redis_asyncio.Redis) -> None:
        self.redis = redis
        self.config: Config = testing_config()
        self.pods: dict[str, Pod] = {}
        self.peers = Peers(self)
        self.connections: dict[str, Connection] = {}
        self.numbers = itertools.count(1)
        self.too_early: list[str] = []

    def configure(self, **overrides: object) -> None:
        """Reload with other values."""
        self.config = testing_config(**overrides)

    async def lease(self, pod_id: str) -> None:
        """Give a pod a lease that lasts for the test."""
        await self.redis.set(redis_keys.pod(pod_id), "{}")

    async def holder(self, who: Principal = ANN) -> str | None:
        """Whose the lock is."""
        value = await self.redis.get(who.session_key)
        return value.decode() if isinstance(value, bytes) else value

    async def settle(self) -> None:
        """Wait for everything in the background of all pods."""
        for pod in self.pods.values():
            await pod.settle()

    def left(self, connections: Iterable[Connection]) -> list[Connection]:
        """Those that are not closed."""
        return [c for c in connections if c.state is not State.CLOSED]


@asynccontextmanager
async def pods(
    url: str, redis: redis_asyncio.Redis, *names: str, timeout_ms: int = 500
) -> AsyncIterator[World]:
    """A world with these pods, all with a lease; at the end nothing has come too early."""
    world = World(redis)
    async with AsyncExitStack() as stack:
        for name in names:
            link = await stack.enter_async_context(linked(url, timeout_ms))
            world.pods[name] = Pod(world, name, link)
            await world.lease(name)
        yield world
        await world.settle()
    assert world.too_early == []
