"""Session locks against a real Redis: the port's suite, and what only Redis can do to them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio as redis_asyncio

from daisi_ws.adapters import redis_keys
from daisi_ws.adapters.locks_redis import LocksRedis
from daisi_ws.app.ports import Acquired, Held
from daisi_ws.domain.errors import Unavailable
from daisi_ws.embedded import RedisServer
from tests.adapters.locks_conformance import KEY, TTL, A, B, C, LocksConformance, World
from tests.adapters.redis_support import DEADLINE, Proxy, linked, until


class RedisWorld(World):
    """Locks in a Redis that a second client looks into."""

    def __init__(self, locks: LocksRedis, redis: redis_asyncio.Redis) -> None:
        self.locks = locks
        self._redis = redis

    async def lease(self, pod_id: str) -> None:
        """As :class:`PodsRedis` does."""
        await self._redis.set(redis_keys.pod(pod_id), "{}", ex=6)

    async def holder(self, key: str) -> str | None:
        """The plain value."""
        value = await self._redis.get(key)
        return value.decode() if isinstance(value, bytes) else value

    async def seconds_left(self, key: str) -> float:
        """The TTL."""
        return float(await self._redis.pttl(key)) / 1000

    async def expire(self, key: str) -> None:
        """The lock alone; what else belongs to it lives on."""
        await self._redis.delete(key)

    async def lose_everything(self) -> None:
        """Empty it."""
        await self._redis.flushall()

    async def set_by_older_pod(self, key: str, pod_id: str) -> None:
        """`SET NX EX` with the pod ID alone."""
        assert await self._redis.set(key, pod_id, nx=True, ex=30)


@pytest.fixture
async def world(redis_url: str, redis: redis_asyncio.Redis) -> AsyncIterator[RedisWorld]:
    """Locks over a link to the emptied Redis."""
    async with linked(redis_url) as link:
        yield RedisWorld(LocksRedis(link), redis)


class TestLocksRedis(LocksConformance):
    """The suite on Redis."""


async def test_number_grows_though_the_clock_goes_back(
    world: RedisWorld, redis: redis_asyncio.Redis
) -> None:
    """The last number is a floor for the next, whatever the server's clock says."""
    future = 9_000_000_000_000_000
    await redis.set(redis_keys.fence(KEY), f"{future} {B}")
    assert await world.fence(A) == future + 1


async def test_fence_lives_ten_times_as_long(world: RedisWorld, redis: redis_asyncio.Redis) -> None:
    """The number outlives its lock, renewals included, and does not stay for ever."""
    key = redis_keys.fence(KEY)
    await world.locks.acquire(KEY, A, 10)
    assert 95_000 < await redis.pttl(key) <= 100_000
    await world.locks.renew([(KEY, A, 20)])
    assert 195_000 < await redis.pttl(key) <= 200_000
    await world.locks.release([(KEY, A)])
    assert 195_000 < await redis.pttl(key) <= 200_000


async def test_lock_really_expires(world: RedisWorld) -> None:
    """A lock that nobody renews is free when its time is up."""
    await world.locks.acquire(KEY, A, 0.05)
    got: list[object] = [None]
    while not isinstance(got[-1], Acquired):
        got.append(await world.locks.acquire(KEY, B, TTL))
    assert await world.holder(KEY) == B


async def test_tracking_forgets_locks(redis_url: str, redis: redis_asyncio.Redis) -> None:
    """A connection that tracks what it reads is not told of locks: nobody caches them."""
    pushed: list[Any] = []
    async with linked(redis_url) as link:
        locks = LocksRedis(link)
        link.on_push("invalidate", lambda message: pushed.extend(message[1]))
        link.send("CLIENT", "TRACKING", "ON")
        await link.call("GET", "read")
        await redis.set(redis_keys.pod("pod-a-0-1"), "{}")
        await locks.acquire(KEY, A, TTL)
        await locks.acquire(KEY, B, TTL)
        await locks.renew([(KEY, A, TTL)])
        await locks.take(KEY, A, B, TTL)
        await locks.release([(KEY, B)])
        await redis.set(redis_keys.pod("pod-a-0-1"), "{}")
        await redis.set("read", 1)
        await until(lambda: b"read" in pushed, "the key that was read is told")
    assert pushed == [b"read"]


async def test_lost_answer_is_asked_for_again(redis_server: RedisServer, redis_url: str) -> None:
    """When the answer is lost the lock may be ours: asking again says so, with its number."""
    async with (
        Proxy(redis_server.port) as proxy,
        linked(proxy.url, timeout_ms=100) as link,
        linked(redis_url) as other,
    ):
        locks = LocksRedis(link)
        proxy.losing = True
        with pytest.raises(Unavailable):
            await locks.acquire(KEY, A, TTL)
        assert proxy.lost.is_set()
        assert await LocksRedis(other).acquire(KEY, B, TTL) == Held(A, alive=False)
        proxy.losing = False
        await until(lambda: link.up, "the link is back")
        assert isinstance(await locks.acquire(KEY, A, TTL), Acquired)


async def test_without_redis_everything_is_unavailable(fresh_redis: RedisServer) -> None:
    """No method hides that Redis is away."""
    async with linked(fresh_redis.url) as link:
        locks = LocksRedis(link)
        fresh_redis.kill()
        await until(lambda: not link.up, "the loss is noticed")
        for call in (
            locks.acquire(KEY, A, TTL),
            locks.take(KEY, A, B, TTL),
            locks.renew([(KEY, A, TTL)]),
            locks.release([(KEY, A)]),
        ):
            with pytest.raises(Unavailable):
                await call


async def test_scripts_are_there_after_a_restart(fresh_redis: RedisServer) -> None:
    """After a restart the locks' scripts are known to the server before they are needed."""
    async with linked(fresh_redis.url) as link:
        LocksRedis(link)
        fresh_redis.restart()
        await until(lambda: link.up and len(link._scripts) == 4, "the link is back")
        digests = list(link._scripts)
        async with linked(fresh_redis.url, timeout_ms=int(DEADLINE * 1000)) as other:
            await until(lambda: link.up, "the link is back")
            assert await other.call("SCRIPT", "EXISTS", *digests) == [1, 1, 1, 1]


async def test_a_holder_that_is_leaving(redis_url: str, redis: redis_asyncio.Redis) -> None:
    """Newcomers are told of it, for as long as it was said, and of no other holder."""
    async with linked(redis_url) as link:
        locks = LocksRedis(link)
        await locks.acquire(KEY, A, TTL)
        await locks.announce([(KEY, A), ("session:acme:bot:bob", B)], 20)
        assert await locks.acquire(KEY, C, TTL) == Held(A, alive=False, leaving=True)
        assert 18_000 < await redis.pttl(redis_keys.leaving(KEY)) <= 20_000
        await locks.take(KEY, A, B, TTL)
        assert await locks.acquire(KEY, C, TTL) == Held(B, alive=False, leaving=False)


async def test_a_value_of_any_bytes_can_be_replaced(
    world: RedisWorld, redis: redis_asyncio.Redis
) -> None:
    """What no pod of ours would write is told back as it is, so that it can be taken over."""
    await redis.set(KEY, b"\xff\xfe#\x00", ex=30)
    held = await world.locks.acquire(KEY, A, TTL)
    assert isinstance(held, Held)
    assert isinstance(await world.locks.take(KEY, held.holder, A, TTL), Acquired)


async def test_a_value_of_the_wrong_type_holds_nobody_up(
    world: RedisWorld, redis: redis_asyncio.Redis
) -> None:
    """It is no lock: it is replaced, and the renewal of the others goes on."""
    await redis.lpush(KEY, "x")
    await redis.lpush(redis_keys.fence(KEY), "x")
    assert isinstance(await world.locks.acquire(KEY, A, TTL), Acquired)
    await redis.delete(KEY)
    await redis.lpush(KEY, "x")
    await world.locks.acquire(f"{KEY}-2", B, TTL)
    assert await world.locks.renew([(KEY, A, TTL), (f"{KEY}-2", B, TTL)]) == [True, True]
    await redis.delete(KEY)
    await redis.lpush(KEY, "x")
    await world.locks.release([(KEY, A), (f"{KEY}-2", B)])
    assert await world.holder(f"{KEY}-2") is None
