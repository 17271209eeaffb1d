"""Renewal of session locks, over several pods and a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis.asyncio as redis_asyncio
from structlog.testing import capture_logs

from daisi_ws.app.connection import Connection, State
from daisi_ws.app.renew import Renewal, lock_ttl
from daisi_ws.config import testing_config
from daisi_ws.domain import principal
from daisi_ws.domain.close import CloseReason
from daisi_ws.embedded import RedisServer
from tests.adapters.redis_support import DEADLINE, until
from tests.app.connections import FakeSink
from tests.app.session_world import ANN, World, pods


@pytest.fixture
async def world(redis_url: str, redis: redis_asyncio.Redis) -> AsyncIterator[World]:
    """Two pods."""
    async with pods(redis_url, redis, "a", "b") as world:
        yield world


@asynccontextmanager
async def running(renewal: Renewal) -> AsyncIterator[None]:
    """The renewal at work."""
    task = asyncio.create_task(renewal.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def lost(connection: Connection) -> bool:
    """Whether a session was ended because its lock is another's."""
    return connection.state is State.CLOSED and connection.reason is CloseReason.SESSION_LOST


def test_ttl_without_adaptation() -> None:
    """The fixed time, whatever the activity."""
    config = testing_config(app__session_ttl_seconds=42)
    assert lock_ttl(config, 0) == lock_ttl(config, 1e9) == 42


def test_ttl_with_adaptation() -> None:
    """The longer time while the last activity counts, else the shorter."""
    config = testing_config(adaptive_ttl__session_lock__enabled=True)
    assert (lock_ttl(config, 119), lock_ttl(config, 121)) == (30, 15)


async def test_renewal_lengthens(world: World) -> None:
    """All locks of this pod last for the whole time again."""
    a = world.pods["a"]
    session = await a.open()
    await world.redis.pexpire(ANN.session_key, 1000)
    before = a.renewal.last_renewed
    assert await a.renewal.verify_now()
    assert await world.redis.pttl(ANN.session_key) > 28_000
    assert session.state is State.OPEN
    assert before < a.renewal.last_renewed <= time.monotonic()


async def test_idle_sessions_last_less(world: World) -> None:
    """With an adaptive time, each lock follows the activity of its own connection."""
    world.configure(adaptive_ttl__session_lock__enabled=True)
    a = world.pods["a"]
    idle, active, joining = (principal.user("acme", "bot", name, 1e12) for name in "iaj")
    (await a.open(idle)).last_seen = time.monotonic() - 121
    (await a.open(active)).last_seen = time.monotonic() - 100
    await a.takeover.acquire(a.connection(joining))
    await a.renewal.verify_now()
    times = [await world.redis.pttl(who.session_key) for who in (idle, active, joining)]
    assert times[0] <= 15_000 < times[1]
    assert times[2] > 15_000


async def test_lost_session_ends(world: World) -> None:
    """Where the kill was not heard, the renewal finds the lock to be another's, and spares it."""
    a = world.pods["a"]
    session = await a.open()
    await world.redis.set(ANN.session_key, "b#c9", px=5000)
    with capture_logs() as lines:
        assert await a.renewal.verify_now()
    assert lost(session)
    await world.settle()
    assert await world.holder() == "b#c9"
    assert await world.redis.pttl(ANN.session_key) <= 5000
    assert a.hub.session(ANN.identity) is None
    assert [(line["event"], line["count"]) for line in lines] == [
        ("sessions ended, their locks are other connections'", 1)
    ]


async def test_lost_session_writes_nothing_more(world: World) -> None:
    """What waited for the client of a lost session is not written any more."""
    a = world.pods["a"]
    session = await a.open()
    sink = session.sink
    assert isinstance(sink, FakeSink)
    sink.written.clear()
    session.offer(7, b"held back")
    await world.redis.set(ANN.session_key, "b#c9")
    await a.renewal.verify_now()
    assert sink.written == []


async def test_session_that_was_replaced_during_a_pause(world: World) -> None:
    """After a long pause a session is over if another had it since, even one that has left."""
    a, b = world.pods["a"], world.pods["b"]
    a.deaf = True
    paused = await a.open()
    await world.redis.delete("pod:a", ANN.session_key)
    paused.state = State.JOINING  # a process that stands still delivers nothing
    newer = await b.open()
    newer.close(CloseReason.CLIENT_LEFT)
    await b.settle()
    paused.state = State.OPEN
    assert await a.renewal.verify_now()
    assert lost(paused)
    await world.settle()
    assert await world.holder() is None


async def test_session_that_nobody_wanted_during_a_pause(world: World) -> None:
    """After a long pause a session goes on if nobody had it since, though its lock expired."""
    a = world.pods["a"]
    session = await a.open()
    await world.redis.delete(ANN.session_key)
    assert await a.renewal.verify_now()
    assert session.state is State.OPEN
    assert await world.holder() == session.lock_value


async def test_ended_session_is_not_revived(world: World) -> None:
    """A renewal on its way while a session ends does not set its lock again."""
    a = world.pods["a"]
    session = await a.open()
    renewing = asyncio.create_task(a.renewal.verify_now())
    session.close(CloseReason.CLIENT_LEFT)
    await renewing
    await world.settle()
    await a.renewal.verify_now()
    assert await world.holder() is None
    assert session.reason is CloseReason.CLIENT_LEFT


async def test_hundreds_of_sessions(world: World) -> None:
    """Exactly the lost ones of many end, wherever they stand in the row."""
    a = world.pods["a"]
    users = [principal.user("acme", "bot", f"u{n}", 1e12) for n in range(450)]
    sessions = await asyncio.gather(*(a.open(who) for who in users))
    for number in (0, 199, 200, 449):
        await world.redis.set(users[number].session_key, "b#c9")
    assert await a.renewal.verify_now()
    assert [n for n, session in enumerate(sessions) if lost(session)] == [0, 199, 200, 449]
    assert len(world.left(sessions)) == 446


async def test_interval_follows_the_configuration(world: World) -> None:
    """Renewal happens by itself, at the interval that is configured now."""
    world.configure(app__ttl_refresh_interval_seconds=0.1)
    a = world.pods["a"]
    session = await a.open()
    async with running(a.renewal):
        for _ in range(3):
            await world.redis.delete(ANN.session_key)
            async with asyncio.timeout(DEADLINE):
                while await world.holder() != session.lock_value:
                    pass


async def test_redis_away_and_back_empty(fresh_redis: RedisServer) -> None:
    """Connections stay while Redis is away; back and empty, it gets their locks again."""
    async with (
        redis_asyncio.Redis.from_url(fresh_redis.url) as redis,
        pods(fresh_redis.url, redis, "a") as world,
    ):
        a = world.pods["a"]
        world.configure(app__ttl_refresh_interval_seconds=0.1)
        session = await a.open()
        renewed = a.renewal.last_renewed
        fresh_redis.kill()
        await until(lambda: not a.link.up, "the loss is noticed")
        with capture_logs() as lines:
            for _ in range(3):
                assert not await a.renewal.verify_now()
            assert session.state is State.OPEN
            assert a.renewal.last_renewed == renewed
            async with running(a.renewal):
                fresh_redis.start()
                await until(lambda: a.renewal.last_renewed > renewed, "it is renewed again")
        await redis.aclose()  # what it kept of the former server
        assert await world.holder() == session.lock_value
        said = [line["event"] for line in lines if "locks" in line["event"]]
        assert said == [
            "session locks not renewed, connections stay",
            "session locks renewed again",
        ]


async def test_two_owners_after_the_data_was_lost(fresh_redis: RedisServer) -> None:
    """Should the loss of all data let a second session in, the renewal leaves one of the two."""
    async with (
        redis_asyncio.Redis.from_url(fresh_redis.url) as redis,
        pods(fresh_redis.url, redis, "a", "b") as world,
    ):
        a, b = world.pods["a"], world.pods["b"]
        old = await a.open()
        await redis.flushall()
        new = b.connection()
        await b.takeover.acquire(new)
        for pod in (a, b, a):
            await pod.renewal.verify_now()
        assert lost(old)
        assert new.state is not State.CLOSED
        assert await world.holder() == new.lock_value


async def test_displaced_stays_displaced(world: World) -> None:
    """A session that ends while its renewal is on its way keeps the reason it ended for."""
    a, b = world.pods["a"], world.pods["b"]
    session = await a.open()
    renewals = [asyncio.create_task(a.renewal.verify_now()) for _ in range(3)]
    await b.open()
    await asyncio.gather(*renewals, a.renewal.verify_now())
    assert session.reason is CloseReason.DISPLACED
