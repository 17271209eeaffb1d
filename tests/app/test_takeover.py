"""One session per identity, over several pods and a real Redis."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence

import pytest
import redis.asyncio as redis_asyncio

from daisi_ws.adapters import redis_keys
from daisi_ws.adapters.locks_redis import LocksRedis
from daisi_ws.app import takeover
from daisi_ws.app.connection import Connection, State
from daisi_ws.app.ports import Acquired
from daisi_ws.domain import principal
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.errors import InternalServerError, SessionConflict, Unavailable
from daisi_ws.domain.principal import Principal
from daisi_ws.embedded import RedisServer
from tests.adapters.redis_support import DEADLINE, Proxy, until
from tests.app.connections import FakeSink, event, flush
from tests.app.session_world import ANN, ROOT, Pod, World, pods

TAKEOVER = 1.5  # the shortest that the configuration allows


@pytest.fixture
async def world(redis_url: str, redis: redis_asyncio.Redis) -> AsyncIterator[World]:
    """Three pods."""
    async with pods(redis_url, redis, "a", "b", "c") as world:
        world.configure(app__session_takeover_seconds=TAKEOVER)
        yield world


def displaced(connection: Connection) -> bool:
    """Whether a connection was ended in favour of another."""
    return connection.state is State.CLOSED and connection.reason is CloseReason.DISPLACED


async def foreign(world: World, holder: str, who: Principal = ANN) -> None:
    """Let somebody who is no pod of the test hold a lock."""
    await world.redis.set(who.session_key, holder, px=30_000)


# Nobody in the way


async def test_first_connection(world: World) -> None:
    """A free lock is taken with the configured time, and the hub knows the session."""
    a = world.pods["a"]
    connection = await a.open()
    assert await world.holder() == connection.lock_value
    assert 28_000 < await world.redis.pttl(ANN.session_key) <= 30_000
    assert a.hub.session(ANN.identity) is connection
    assert a.count("session_lock_attempts", user_type="user", lock_type="initial") == 1
    assert a.count("session_lock_success") == 1
    assert a.count("session_conflicts", type="user") == 0


async def test_lock_lasts_as_long_as_activity_says(world: World) -> None:
    """With an adaptive time a new session counts as active."""
    world.configure(
        adaptive_ttl__session_lock__enabled=True,
        adaptive_ttl__session_lock__min_seconds=15,
        adaptive_ttl__session_lock__max_seconds=25,
    )
    await world.pods["a"].open()
    assert 23_000 < await world.redis.pttl(ANN.session_key) <= 25_000


async def test_identities_do_not_meet(world: World) -> None:
    """Another user, agent, company, or an admin of the same name displaces nobody."""
    everybody = [
        ANN,
        principal.user("acme", "bot", "bob", 1e12),
        principal.user("acme", "other", "ann", 1e12),
        principal.user("other", "bot", "ann", 1e12),
        principal.admin("ann", 1e12),
    ]
    connections = [await world.pods["a"].open(who) for who in everybody]
    await world.settle()
    assert world.left(connections) == connections


# The same pod


async def test_same_pod_replaces_locally(world: World) -> None:
    """The older session ends first, then the lock changes hands; nobody else hears of it."""
    a = world.pods["a"]
    old = await a.open()
    new = await a.open()
    await world.settle()
    assert displaced(old)
    assert await world.holder() == new.lock_value
    assert a.hub.session(ANN.identity) is new
    assert world.peers.asked == []
    assert a.heard == []
    assert a.count("session_conflicts", type="user") == 1


async def test_numbers_grow(world: World) -> None:
    """Every newer session has a larger fencing number, wherever it is."""
    fences = []
    for name in "aabca":
        acquired = await world.pods[name].acquire(world.pods[name].connection())
        fences.append(acquired.fence)
    assert fences == sorted(set(fences))


async def test_lock_of_a_connection_that_is_gone(world: World) -> None:
    """A lock that an ended connection of this pod has left behind is no obstacle."""
    await foreign(world, "a#gone")
    began = time.monotonic()
    await world.pods["a"].open()
    assert time.monotonic() - began < TAKEOVER / 2


async def test_lock_vanished_under_a_session_of_this_pod(world: World) -> None:
    """Where Redis came back empty the newcomer still ends the session before it."""
    a = world.pods["a"]
    old = await a.open()
    await world.redis.flushall()
    new = await a.open()
    assert displaced(old)
    assert a.hub.session(ANN.identity) is new


# Another pod


@pytest.mark.parametrize("broken", ["nothing", "grpc", "kills"])
async def test_other_pod_gives_up(world: World, broken: str) -> None:
    """The older session ends and its lock is released well before force, by whichever way."""
    a, b = world.pods["a"], world.pods["b"]
    old = await a.open()
    world.peers.broken = broken == "grpc"
    if broken == "kills":
        a.kills.listen(lambda *_: None)
    began = time.monotonic()
    new = await b.open()
    assert time.monotonic() - began < TAKEOVER / 2
    assert displaced(old)
    await world.settle()
    assert await world.holder() == new.lock_value
    assert a.hub.session(ANN.identity) is None
    assert b.hub.session(ANN.identity) is new
    assert b.count("session_lock_attempts", user_type="user", lock_type="force") == 0
    assert b.count("session_conflicts", type="user") == 1


async def test_kill_names_pod_and_holder(world: World) -> None:
    """What is published is what older pods understand, and which session is meant."""
    old = await world.pods["a"].open()
    await world.pods["b"].open()
    c = world.pods["c"]
    await until(lambda: bool(c.heard), "a third pod hears the kill")
    assert c.heard == [("session_kill:acme:bot:ann", "b", old.lock_value)]


async def test_nothing_is_delivered_after_the_displacement(world: World) -> None:
    """Once the newcomer has the session, nothing offered to the older one is sent."""
    old = await world.pods["a"].open()
    sink = old.sink
    assert isinstance(sink, FakeSink)
    await world.pods["b"].open()
    sink.written.clear()
    old.offer(7, event(7))
    flush(old, 0.0)
    assert sink.written == []
    assert sink.closed == [CloseReason.DISPLACED]


async def test_deaf_holder_is_forced_out(world: World) -> None:
    """A pod that lives but does not react keeps the session for the configured time, no longer."""
    a, b = world.pods["a"], world.pods["b"]
    a.deaf = True
    old = a.connection()
    await a.takeover.acquire(old)
    began = time.monotonic()
    new = await b.open()
    assert TAKEOVER <= time.monotonic() - began < TAKEOVER + 1
    assert await world.holder() == new.lock_value
    assert b.count("session_lock_attempts", user_type="user", lock_type="force") == 1
    assert b.count("session_lock_attempts", user_type="user", lock_type="retry") > 3


async def test_holder_without_lease_is_replaced_at_once(world: World) -> None:
    """A dead pod's lock is taken without waiting; should it live after all, it is told."""
    await foreign(world, "dead-0-1#c9")
    began = time.monotonic()
    new = await world.pods["b"].open()
    assert time.monotonic() - began < TAKEOVER / 2
    assert await world.holder() == new.lock_value
    assert ("dead-0-1", ANN.session_key, "dead-0-1#c9") in world.peers.asked


async def test_next_holder_gets_its_own_time(world: World) -> None:
    """When the holder changes, the new one is told, and force names it, after its own time."""
    for pod_id in ("x-0-1", "y-0-1"):
        await world.lease(pod_id)
    await foreign(world, "x-0-1#1")
    opening = asyncio.create_task(world.pods["a"].open())
    await until(lambda: len(world.peers.asked) == 1, "the first holder is told")
    await foreign(world, "y-0-1#2")
    changed = time.monotonic()
    await until(lambda: len(world.peers.asked) == 2, "the second holder is told")
    new = await opening
    assert time.monotonic() - changed >= TAKEOVER
    assert [(pod, holder) for pod, _, holder in world.peers.asked] == [
        ("x-0-1", "x-0-1#1"),
        ("y-0-1", "y-0-1#2"),
    ]
    assert await world.holder() == new.lock_value


async def test_contention_without_end_is_a_conflict(world: World) -> None:
    """Where the holder keeps changing, the newcomer is refused when its time is up."""
    world.configure(
        app__session_takeover_seconds=TAKEOVER,
        app__barrier_timeout_seconds=1,
        app__connect_timeout_seconds=2,
    )
    a = world.pods["a"]

    over = False

    async def keep_changing() -> None:
        number = 0
        while not over:
            number += 1
            await foreign(world, f"x-0-1#{number}")

    await world.lease("x-0-1")
    await foreign(world, "x-0-1#0")
    changing = asyncio.create_task(keep_changing())
    with pytest.raises(SessionConflict) as refusal:
        await a.open()
    over = True
    await changing
    assert refusal.value.reason == "timeout"
    assert a.count("session_lock_failure", reason="timeout") == 1


# Pods of the older service


async def test_older_pod_that_reacts(world: World) -> None:
    """An older pod that deletes its lock on a kill is followed at once."""
    await foreign(world, "old-pod")
    async with world.redis.pubsub() as pubsub:
        await pubsub.psubscribe("session_kill:*")
        opening = asyncio.create_task(world.pods["a"].open())
        while (message := await pubsub.get_message(timeout=1)) is None or (
            message["type"] != "pmessage"
        ):
            pass
        assert json.loads(message["data"])["new_pod_id"] == "a"
        assert not opening.done()
        await world.redis.delete(ANN.session_key)
        deleted = time.monotonic()
        await opening
        assert time.monotonic() - deleted < TAKEOVER / 2
    assert world.peers.asked == []


async def test_older_pod_that_does_not_react(world: World) -> None:
    """An older pod has no lease to look at: its lock is taken when its time is up."""
    await foreign(world, "old-pod")
    began = time.monotonic()
    new = await world.pods["a"].open()
    assert TAKEOVER <= time.monotonic() - began < TAKEOVER + 1
    assert await world.holder() == new.lock_value


async def test_kill_by_an_older_pod(world: World) -> None:
    """A kill without holder ends the session here, then its lock is free for the older pod."""
    old = await world.pods["a"].open()
    await world.redis.publish(ANN.kill_channel, '{"new_pod_id":"old-pod"}')
    await until(lambda: displaced(old), "the session ends")
    async with asyncio.timeout(DEADLINE):
        while not await world.redis.set(ANN.session_key, "old-pod", nx=True):
            pass


async def test_kill_without_holder_from_this_very_pod(world: World) -> None:
    """A kill that names this pod as the new one is about sessions elsewhere."""
    a, b = world.pods["a"], world.pods["b"]
    session = await a.open()
    await world.redis.publish(ANN.kill_channel, '{"new_pod_id":"a"}')
    await until(lambda: bool(a.heard) and bool(b.heard), "the kill is heard")
    await world.settle()
    assert session.state is State.OPEN
    assert await world.holder() == session.lock_value


# What is said late, or by who has no business to


async def test_late_kill_harms_no_newer_session(world: World) -> None:
    """A kill, or a gRPC word, about a session of the past changes nothing for the present one."""
    a, b = world.pods["a"], world.pods["b"]
    past = await a.open()
    await b.open()
    now = await a.open()
    await b.kills.publish(ANN.kill_channel, "b", past.lock_value)
    await a.takeover.displace(ANN.session_key, past.lock_value)
    await until(lambda: (ANN.kill_channel, "b", past.lock_value) in a.heard, "the kill is heard")
    await world.settle()
    assert now.state is State.OPEN
    assert await world.holder() == now.lock_value


async def test_late_cleanup_harms_no_newer_session(world: World) -> None:
    """An ended session's release frees nothing that is not its own."""
    a, b = world.pods["a"], world.pods["b"]
    old = await a.open()
    new = await b.open()
    await a.takeover.release([old, old])
    assert await world.holder() == new.lock_value


@pytest.mark.parametrize(
    "holder", ["", "a", "a#", "b#c1", "a#c999", "aa#c1", "#c1", "a#c1#", "x" * 5000]
)
async def test_displace_with_another_holder(world: World, holder: str) -> None:
    """Only the very lock value of a session of this pod ends it."""
    a = world.pods["a"]
    session = await a.open()
    await a.takeover.displace(ANN.session_key, holder)
    a.takeover.on_kill(ANN.kill_channel, "b", holder or "b#c7")
    await world.settle()
    assert session.state is State.OPEN
    assert await world.holder() == session.lock_value


async def test_nobody_is_displaced_through_a_foreign_identity(world: World) -> None:
    """A key or channel of another tenant with the holder of this one ends nothing."""
    a = world.pods["a"]
    session = await a.open()
    other = principal.user("other", "bot", "ann", 1e12)
    for identity in (other.identity, "admin:ann", "*", "", "acme:bot", "acme:bot:ann:"):
        await a.takeover.displace(f"session:{identity}", session.lock_value)
        a.takeover.on_kill(f"session_kill:{identity}", "b", session.lock_value)
        a.takeover.on_kill(f"session_kill:{identity}", "b", "")
    await world.settle()
    assert session.state is State.OPEN
    assert await world.holder() == session.lock_value


# Admins


async def test_admin_is_rejected_on_the_same_pod(world: World) -> None:
    """By default a second connection of an admin is refused, and the first one stays."""
    a = world.pods["a"]
    first = await a.open(ROOT)
    with pytest.raises(SessionConflict) as refusal:
        await a.open(ROOT)
    assert refusal.value.reason == "conflict"
    assert first.state is State.OPEN
    assert a.count("session_conflicts", type="admin") == 1
    assert a.count("session_lock_failure", reason="conflict") == 1


async def test_admin_is_rejected_on_another_pod(world: World) -> None:
    """A living holder elsewhere is not even told."""
    first = await world.pods["a"].open(ROOT)
    with pytest.raises(SessionConflict):
        await world.pods["b"].open(ROOT)
    await world.settle()
    assert first.state is State.OPEN
    assert await world.holder(ROOT) == first.lock_value
    assert world.peers.asked == []
    assert world.pods["a"].heard == []


@pytest.mark.parametrize("answers", [True, False])
async def test_admin_who_is_rejected_asks_with_pauses(
    world: World, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """Quick answers, and quick failures of a pod that was killed, are no reason to ask at once
    again: Redis and the holder's pod are asked some times in a second, not some thousand times."""
    world.configure(
        app__session_takeover_seconds=TAKEOVER,
        app__barrier_timeout_seconds=1,
        app__connect_timeout_seconds=2,
    )
    b = world.pods["b"]
    await world.pods["a"].open(ROOT)

    async def refuse(*_: object) -> bool:
        raise Unavailable("connection refused")

    if not answers:
        monkeypatch.setattr(world.peers, "has_session", refuse)
    with pytest.raises(SessionConflict):
        await b.open(ROOT)
    assert b.count("session_lock_attempts", user_type="admin", lock_type="retry") < 60


async def test_admin_is_rejected_though_the_lock_vanished(world: World) -> None:
    """A session that lives here counts, even where Redis has lost its lock."""
    a = world.pods["a"]
    first = await a.open(ROOT)
    await world.redis.flushall()
    with pytest.raises(SessionConflict):
        await a.open(ROOT)
    assert first.state is State.OPEN


async def test_refused_newcomer_releases_nothing(world: World) -> None:
    """Who was told that the lock is another's has nothing to give up."""
    b = world.pods["b"]
    await world.pods["a"].open(ROOT)
    with pytest.raises(SessionConflict):
        await b.takeover.acquire(b.connection(ROOT))
    await world.settle()
    assert b.locks.released == []


async def test_admin_follows_a_dead_pod(world: World) -> None:
    """Who is rejected by nobody alive gets the session."""
    await foreign(world, "dead-0-1#c9", ROOT)
    first = await world.pods["a"].open(ROOT)
    first.close(CloseReason.CLIENT_LEFT)
    await world.settle()
    await foreign(world, "b#gone", ROOT)
    assert await world.pods["b"].open(ROOT)


async def test_admin_outwaits_the_lease_of_a_pod_that_does_not_answer(world: World) -> None:
    """A pod that was just killed has its lease still: that is no reason to send its admins away."""
    await foreign(world, "killed#c9", ROOT)
    await world.lease("killed")
    joining = asyncio.create_task(world.pods["a"].open(ROOT))
    await until(lambda: world.pods["a"].count("session_conflicts", type="admin") == 1, "a conflict")
    assert not joining.done()
    await world.redis.delete(redis_keys.pod("killed"))
    admin = await joining
    assert await world.holder(ROOT) == admin.lock_value


async def test_admin_waits_for_a_silent_pod_no_longer_than_for_a_connection(world: World) -> None:
    """A pod that keeps its lease and its silence is respected in the end."""
    world.configure(
        app__session_takeover_seconds=TAKEOVER,
        app__barrier_timeout_seconds=1,
        app__connect_timeout_seconds=2,
    )
    a = world.pods["a"]
    first = await a.open(ROOT)
    a.deaf = True
    with pytest.raises(SessionConflict) as refusal:
        await world.pods["b"].open(ROOT)
    assert refusal.value.reason == "timeout"
    assert first.state is State.OPEN
    assert world.peers.asked == []


async def test_admin_follows_a_session_that_is_just_being_given_up(world: World) -> None:
    """Its pod answers, yet its lock goes a moment later, as after an outage of Redis."""
    a, b = world.pods["a"], world.pods["b"]
    first = await a.open(ROOT)
    joining = asyncio.create_task(b.open(ROOT))
    attempts = {"user_type": "admin", "lock_type": "retry"}
    await until(lambda: b.count("session_lock_attempts", **attempts) >= 2, "it was answered")
    first.close(CloseReason.CLIENT_LEFT)
    second = await joining
    assert await world.holder(ROOT) == second.lock_value


async def test_admin_follows_a_session_whose_pod_cannot_give_up_its_lock(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is away for that pod alone; it says that the session has ended."""
    a, b = world.pods["a"], world.pods["b"]
    first = await a.open(ROOT)

    async def away(leases: Sequence[tuple[str, str]]) -> None:
        raise Unavailable("cut off")

    monkeypatch.setattr(a.locks, "release", away)
    first.close(CloseReason.CLIENT_LEFT)
    second = await b.open(ROOT)
    assert await world.holder(ROOT) == second.lock_value
    assert await world.holder(ROOT) != first.lock_value


async def test_admin_is_rejected_by_an_older_pod(world: World) -> None:
    """An older pod's session counts as alive for as long as its lock lasts."""
    await foreign(world, "old-pod", ROOT)
    with pytest.raises(SessionConflict):
        await world.pods["a"].open(ROOT)


async def test_policy_follows_the_configuration(world: World) -> None:
    """After a reload the newer connection of an admin replaces the older, here and elsewhere."""
    first = await world.pods["a"].open(ROOT)
    world.configure(app__admin_session_policy="replace")
    second = await world.pods["a"].open(ROOT)
    third = await world.pods["b"].open(ROOT)
    assert displaced(first)
    assert displaced(second)
    assert third.state is State.OPEN


# Redis away, clients that leave


async def test_without_redis_nobody_gets_in_and_nobody_is_thrown_out(
    fresh_redis: RedisServer,
) -> None:
    """No new session without Redis: soon said, with what to do; the old one stays."""
    async with (
        redis_asyncio.Redis.from_url(fresh_redis.url) as redis,
        pods(fresh_redis.url, redis, "a") as world,
    ):
        a = world.pods["a"]
        old = await a.open()
        fresh_redis.kill()
        await until(lambda: not a.link.up, "the loss is noticed")
        began = time.monotonic()
        with pytest.raises(InternalServerError) as refusal:
            await a.open()
        assert time.monotonic() - began < 0.5
        assert "try again" in (refusal.value.details or "")
        assert old.state is State.OPEN
        assert a.count("session_lock_failure", reason="redis_unavailable") == 1
        await world.settle()


async def test_lost_answer_is_no_conflict_with_oneself(
    redis_server: RedisServer, redis_url: str, redis: redis_asyncio.Redis
) -> None:
    """When the answer to the acquisition is lost, asking again finds the lock to be ours."""
    async with (
        Proxy(redis_server.port) as proxy,
        pods(proxy.url, redis, "a", timeout_ms=100) as world,
    ):
        a = world.pods["a"]
        proxy.losing = True
        opening = asyncio.create_task(a.open())
        await proxy.lost.wait()
        assert await world.holder() == "a#c1"
        proxy.losing = False
        connection = await opening
        assert connection.state is State.OPEN
        assert await world.holder() == connection.lock_value
        assert a.count("session_conflicts", type="user") == 0


async def test_lock_of_who_left_while_redis_was_away_goes_when_it_is_back(
    fresh_redis: RedisServer,
) -> None:
    """An admin who comes back at once would else be refused as its own rival until it expires."""
    async with (
        redis_asyncio.Redis.from_url(fresh_redis.url) as redis,
        pods(fresh_redis.url, redis, "a", "b", timeout_ms=100) as world,
    ):
        a, b = world.pods["a"], world.pods["b"]
        connection = await a.open(ROOT)
        fresh_redis.pause()
        connection.close(CloseReason.CLIENT_LEFT)
        await until(lambda: bool(a.takeover._releasing), "the release has failed")
        fresh_redis.resume()
        await until(lambda: not a.takeover._releasing, "it is released")
        assert await world.holder(ROOT) is None
        await b.open(ROOT)


async def test_client_that_leaves_while_joining(world: World) -> None:
    """A cancelled admission leaves no lock behind, wherever it was cancelled."""
    a = world.pods["a"]
    a.locks.answering.clear()
    for turns in range(4):
        connection = a.connection()
        task = asyncio.create_task(a.takeover.acquire(connection))
        if turns == 3:
            a.locks.answered.clear()
            await a.locks.answered.wait()
        else:
            for _ in range(turns):
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await world.settle()
        assert task.cancelled()
        assert await world.holder() is None
        assert a.hub.session(ANN.identity) is None
        assert a.takeover._joining == {}


@pytest.mark.parametrize("by", ["kill", "grpc", "newcomer"])
async def test_displaced_while_joining(world: World, by: str) -> None:
    """Who is displaced while the answer is still on its way is closed, and gets a conflict."""
    a, b = world.pods["a"], world.pods["b"]
    connection = a.connection()
    a.locks.answering.clear()
    acquiring = asyncio.create_task(a.takeover.acquire(connection))
    await a.locks.answered.wait()
    assert await world.holder() == connection.lock_value
    if by == "kill":
        a.takeover.on_kill(ANN.kill_channel, "b", connection.lock_value)
    elif by == "grpc":
        await a.takeover.displace(ANN.session_key, connection.lock_value)
    else:
        await b.open()
    assert displaced(connection)
    a.locks.answering.set()
    with pytest.raises(SessionConflict) as refusal:
        await acquiring
    assert refusal.value.reason == "displaced"
    await world.settle()
    assert a.hub.session(ANN.identity) is None
    assert await world.holder() == (None if by != "newcomer" else b.hub.sessions()[0].lock_value)


async def test_displaced_newcomer_displaces_nobody(world: World) -> None:
    """A newcomer that was closed before it learned of the holder leaves the holder alone."""
    a = world.pods["a"]
    session = await a.open()
    newcomer = a.connection()
    a.locks.answering.clear()
    acquiring = asyncio.create_task(a.takeover.acquire(newcomer))
    await asyncio.sleep(0)
    newcomer.close(CloseReason.CLIENT_LEFT)
    a.locks.answering.set()
    with pytest.raises(SessionConflict):
        await acquiring
    assert session.state is State.OPEN


async def test_closed_before_its_turn(world: World) -> None:
    """A connection that was closed while it waited for the lock never gets it."""
    await world.lease("x-0-1")
    await foreign(world, "x-0-1#1")
    a = world.pods["a"]
    connection = a.connection()
    acquiring = asyncio.create_task(a.takeover.acquire(connection))
    await until(lambda: bool(world.peers.asked), "the holder is told")
    connection.close(CloseReason.GOING_AWAY)
    with pytest.raises(InternalServerError) as refusal:
        await acquiring
    assert "going away" in refusal.value.message
    await world.settle()
    assert await world.holder() == "x-0-1#1"


# A pod that drains


async def leaving(world: World, who: Principal = ANN, pod: str = "a") -> Connection:
    """Open a session whose client was asked to connect elsewhere."""
    session = await world.pods[pod].open(who)
    session.leaving = True
    await LocksRedis(world.pods[pod].link).announce([(who.session_key, session.lock_value)], 30)
    return session


@pytest.mark.parametrize("where", ["a", "b"])
async def test_a_client_that_moves_is_no_conflict(
    world: World, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old session stops delivering, then the new one has the lock; the old socket stays for
    a moment and is closed with 1001."""
    monkeypatch.setattr(takeover, "LINGER_SECONDS", 0.5)
    old = await leaving(world)
    new = await world.pods[where].open()
    assert old.state is State.CLOSED
    assert old.reason is CloseReason.MOVED
    sink = old.sink
    assert isinstance(sink, FakeSink)
    assert sink.closed == []
    assert await world.holder() == new.lock_value
    await until(lambda: sink.closed == [CloseReason.MOVED], "the socket is closed")
    assert CloseReason.MOVED.code == 1001
    await world.settle()
    assert await world.holder() == new.lock_value
    assert world.pods[where].count("session_conflicts", type="user") == 0
    forced = world.pods[where].count("session_lock_attempts", user_type="user", lock_type="force")
    assert forced == (1 if where == "a" else 0)


@pytest.mark.parametrize("where", ["a", "b"])
async def test_an_admin_moves_under_reject(world: World, where: str) -> None:
    """The newcomer is not refused while the holder is asked to go; later ones are."""
    world.configure(app__admin_session_policy="reject")
    old = await leaving(world, ROOT)
    new = await world.pods[where].open(ROOT)
    assert old.reason is CloseReason.MOVED
    assert world.pods[where].count("session_conflicts", type="admin") == 0
    with pytest.raises(SessionConflict):
        await world.pods["c"].open(ROOT)
    assert new.state is State.OPEN


async def test_a_mark_of_an_older_session_means_nothing(world: World) -> None:
    """Whoever has come back to the identity since is respected again."""
    world.configure(app__admin_session_policy="reject")
    await leaving(world, ROOT)
    new = await world.pods["b"].open(ROOT)
    with pytest.raises(SessionConflict):
        await world.pods["c"].open(ROOT)
    assert new.state is State.OPEN
    assert world.pods["c"].count("session_conflicts", type="admin") == 1


async def test_a_deaf_pod_that_drains_loses_the_session_all_the_same(world: World) -> None:
    """Neither gRPC nor the kill switch arrives: it is taken by force, and renewal finds out."""
    a = world.pods["a"]
    a.deaf = world.peers.broken = True
    old = a.connection()
    await a.takeover.acquire(old)
    old.leaving = True
    await LocksRedis(a.link).announce([(ANN.session_key, old.lock_value)], 30)
    newcomer = await world.pods["b"].open()
    assert await world.holder() == newcomer.lock_value
    old.open(FakeSink(), b"{}", 0, 0.0)
    old.offer(1, event(1))
    await world.pods["a"].renewal.verify_now()
    assert old.reason is CloseReason.MOVED
    assert isinstance(old.sink, FakeSink)
    assert event(1) not in old.sink.written
    assert world.pods["b"].count("session_conflicts", type="user") == 0


# Races


async def race(world: World, runners: list[Pod], who: Principal) -> list[Connection]:
    """Connect on all these pods at once; return the connections when all is decided."""
    connections = [pod.connection(who) for pod in runners]
    outcomes = await asyncio.gather(
        *(pod.acquire(c) for pod, c in zip(runners, connections, strict=True)),
        return_exceptions=True,
    )
    unexpected = [o for o in outcomes if not isinstance(o, Acquired | SessionConflict)]
    assert unexpected == []
    await world.settle()
    return connections


@pytest.mark.parametrize("runners", ["aa", "ab", "aaaaaaaaaa", "abcabcabca", "aaaaabbbbb"])
async def test_race_for_one_identity(world: World, runners: str) -> None:
    """Of all who come at once exactly one is left, the others are displaced; round after round."""
    every: list[Connection] = []
    for _ in range(10):
        connections = await race(world, [world.pods[name] for name in runners], ANN)
        every += connections
        left = world.left(every)
        assert len(left) == 1
        assert left[0] in connections
        assert all(displaced(c) for c in every if c is not left[0])
        assert await world.holder() == left[0].lock_value
        for name, pod in world.pods.items():
            own = left[0] if left[0].lock_value.startswith(f"{name}#") else None
            assert pod.hub.session(ANN.identity) is own


@pytest.mark.parametrize("broken", ["grpc", "kills"])
async def test_race_with_half_the_ways_broken(world: World, broken: str) -> None:
    """The race ends the same whichever of gRPC and kill switch does not work."""
    world.peers.broken = broken == "grpc"
    if broken == "kills":
        for pod in world.pods.values():
            pod.kills.listen(lambda *_: None)
    connections = await race(world, [world.pods[name] for name in "abcabcabca"], ANN)
    left = world.left(connections)
    assert len(left) == 1
    assert await world.holder() == left[0].lock_value


async def test_race_of_admins_under_reject(world: World) -> None:
    """Of admins who come at once one gets in; the others are refused, and it stays."""
    connections = await race(world, [world.pods[name] for name in "abcabcabca"], ROOT)
    left = world.left(connections)
    assert len(left) == 1
    assert await world.holder(ROOT) == left[0].lock_value


async def test_hundred_identities_race_at_once(world: World) -> None:
    """Races of different identities do not disturb each other."""
    everybody = [principal.user("acme", "bot", f"u{n}", 1e12) for n in range(100)]
    runners = [world.pods[name] for name in "abc"]
    results = await asyncio.gather(*(race(world, runners, who) for who in everybody))
    for who, connections in zip(everybody, results, strict=True):
        left = world.left(connections)
        assert len(left) == 1
        assert await world.holder(who) == left[0].lock_value
