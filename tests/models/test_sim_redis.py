"""The simulated Redis does what the real one does, as far as the models need it."""

from __future__ import annotations

import time
from typing import cast

import pytest

from daisi_ws.adapters import redis_keys
from daisi_ws.adapters.locks_redis import LocksRedis
from daisi_ws.adapters.redis_link import RedisLink
from tests.adapters.locks_conformance import LocksConformance, World
from tests.models.direct_link import DirectLink
from tests.models.sim_redis import Client, RedisServer


class SimWorld(World):
    """Locks in a simulated Redis."""

    def __init__(self) -> None:
        self._server = RedisServer(time.time)
        self._link = DirectLink(self._server)
        self.locks = LocksRedis(cast("RedisLink", self._link))

    async def lease(self, pod_id: str) -> None:
        """As :class:`PodsRedis` does."""
        self._link.put(redis_keys.pod(pod_id), b"{}")

    async def holder(self, key: str) -> str | None:
        """The plain value."""
        value = self._server.value(key)
        return value.decode() if isinstance(value, bytes) else None

    async def seconds_left(self, key: str) -> float:
        """The TTL."""
        return self._server.ttl(key) or 0.0

    async def expire(self, key: str) -> None:
        """The lock alone."""
        self._link.delete(key)

    async def lose_everything(self) -> None:
        """Empty it."""
        self._server.flush()

    async def set_by_older_pod(self, key: str, pod_id: str) -> None:
        """The pod ID alone."""
        self._link.put(key, pod_id.encode(), "PX", 30_000)


@pytest.fixture
async def world() -> SimWorld:
    """An empty one."""
    return SimWorld()


class TestSimulatedLocks(LocksConformance):
    """The suite on the simulation."""


def test_a_change_of_what_was_read_to_be_cached_is_told_once() -> None:
    """Opt-in tracking: only reads after CACHING YES, only the first change, a flush as None."""
    told: list[list[object]] = []
    server = RedisServer(time.time)
    reader, writer = Client(told.append), Client(lambda _: None)
    server.clients = {reader, writer}
    server.execute(reader, "CLIENT", "TRACKING", "ON", "OPTIN")
    server.execute(reader, "SMEMBERS", "a")
    server.execute(writer, "SADD", "a", "x")
    assert told == []
    server.execute(reader, "CLIENT", "CACHING", "YES")
    assert server.execute(reader, "SMEMBERS", "a") == {b"x"}
    server.execute(writer, "SADD", "a", "x")
    assert told == []
    server.execute(writer, "SADD", "a", "y")
    server.execute(writer, "SADD", "a", "z")
    assert told == [[b"invalidate", [b"a"]]]
    server.flush()
    assert told[1:] == [[b"invalidate", None]]
