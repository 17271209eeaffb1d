"""Route sets, leases and the reader's record on a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from redis.asyncio import Redis

from daisi_ws.adapters.pods_redis import PodsRedis
from daisi_ws.adapters.redis_connect import RedisOpener
from daisi_ws.adapters.redis_link import RedisLink
from daisi_ws.adapters.redis_wire import Argument, Reply
from daisi_ws.adapters.routes_redis import RoutesRedis
from daisi_ws.app.ports import PodRecord
from daisi_ws.config import testing_config
from daisi_ws.domain import subjects

CHATS = subjects.chats("c1", "a1")
THREAD = subjects.thread("c1", "a1", "chat-1")
ADMINS = subjects.admin_pattern("c1", "*")


def record(pod_id: str = "host-0-1", **fields: object) -> PodRecord:
    """Return a pod's record."""
    values: dict[str, object] = {
        "pod_id": pod_id,
        "host": "host",
        "slot": 0,
        "generation": 1,
        "address": "127.0.0.1:50051",
        "http_port": 8080,
        "started": 1.0,
        "version": "0",
        "pid": 1,
    }
    return PodRecord(**(values | fields))  # type: ignore[arg-type]


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    """A connection to the emptied Redis."""
    link = RedisLink(RedisOpener(testing_config(redis__address=redis_url).redis).primary, 1.0)
    yield link
    await link.aclose()


@pytest.fixture
async def routes(link: RedisLink) -> RoutesRedis:
    """The routes of pod `host-0-1`."""
    routes = RoutesRedis(link, "host-0-1", "wa_stream", lambda: 300.0, shared=False)
    link.start()
    await link.wait_up()
    return routes


@pytest.fixture
async def pods(link: RedisLink, routes: RoutesRedis) -> PodsRedis:
    """The registry of pods, with leases of a tenth of a second."""
    del routes
    return PodsRedis(link, "wa_stream", lambda: 0.1)


async def test_add_uses_the_contracts_keys(routes: RoutesRedis, redis: Redis) -> None:
    """A pod is a member of the documented SETs, which expire."""
    await routes.add([CHATS, THREAD, ADMINS])
    for key in ("route:c1:a1:chats", "route:c1:a1:messages:chat-1", "admin_route:c1:*"):
        assert await redis.smembers(key) == {b"host-0-1"}
        assert 299_000 < await redis.pttl(key) <= 300_000


async def test_owners_reads_many_at_once(routes: RoutesRedis, redis: Redis) -> None:
    """Owners come in the order asked for; a route nobody has is empty."""
    await redis.sadd("route:c1:a1:chats", "p1", "p2")
    assert await routes.owners([THREAD, CHATS]) == [frozenset(), frozenset({"p1", "p2"})]


async def test_a_change_after_a_read_is_told(routes: RoutesRedis, redis: Redis) -> None:
    """Whoever changes a route that was read, its interest is told as invalid."""
    told: asyncio.Queue[Sequence[str] | None] = asyncio.Queue()
    routes.on_invalidated(told.put_nowait)
    await routes.owners([CHATS, ADMINS])
    await redis.sadd("route:c1:a1:chats", "p9")
    assert await asyncio.wait_for(told.get(), 5) == [CHATS]
    await redis.sadd("admin_route:c1:*", "p9")
    assert await asyncio.wait_for(told.get(), 5) == [ADMINS]


async def test_an_emptied_redis_invalidates_everything(routes: RoutesRedis, redis: Redis) -> None:
    """FLUSHALL tells None: forget all."""
    told: asyncio.Queue[Sequence[str] | None] = asyncio.Queue()
    routes.on_invalidated(told.put_nowait)
    await routes.owners([CHATS])
    await redis.flushall()
    assert await asyncio.wait_for(told.get(), 5) is None


async def test_renewal_of_what_is_there_writes_nothing(routes: RoutesRedis, redis: Redis) -> None:
    """Renewing a young route does not invalidate it; a route that was lost is added again."""
    told: asyncio.Queue[Sequence[str] | None] = asyncio.Queue()
    await routes.add([CHATS, THREAD])
    routes.on_invalidated(told.put_nowait)
    await routes.owners([CHATS, THREAD])
    await redis.delete("route:c1:a1:messages:chat-1")
    await routes.renew([(CHATS, 300.0), (THREAD, 900.0)])
    await routes.owners([CHATS])
    assert await asyncio.wait_for(told.get(), 5) == [THREAD]
    assert told.empty()
    assert await redis.smembers("route:c1:a1:messages:chat-1") == {b"host-0-1"}
    assert await redis.pttl("route:c1:a1:messages:chat-1") > 899_000


async def test_add_tells_the_reader_as_of_after_the_addition(
    routes: RoutesRedis, pods: PodsRedis
) -> None:
    """The same round trip that adds a route reads who must be told; there may be nobody."""
    reader, _ = await routes.add([CHATS])
    assert reader is None
    epoch = await pods.claim_reader("host-0-7", "wa_stream@x", 12.5)
    reader, _ = await routes.add([THREAD], removed=[CHATS])
    assert reader is not None
    assert (reader.pod_id, reader.epoch, reader.stream) == ("host-0-7", epoch, "wa_stream@x")
    assert await routes.owners([CHATS]) == [frozenset()]


async def test_add_of_hundreds(routes: RoutesRedis, pods: PodsRedis, redis: Redis) -> None:
    """However many there are, each is added, with its TTL, and the reader is told."""
    await pods.claim_reader("host-0-7", "wa_stream@x", 12.5)
    interests = [subjects.thread("c1", "a1", f"chat-{n}") for n in range(450)]
    reader, _ = await routes.add(interests)
    assert reader is not None
    assert reader.pod_id == "host-0-7"
    assert await routes.owners(interests) == [frozenset({"host-0-1"})] * 450
    assert 290_000 < await redis.pttl("route:c1:a1:messages:chat-449") <= 300_000


async def test_a_living_pod_is_not_forgotten(
    routes: RoutesRedis, pods: PodsRedis, redis: Redis
) -> None:
    """A pod leaves a route only while it has no lease."""
    await routes.add([CHATS])
    await redis.set("pod:host-0-1", "{}")
    await routes.forget_pod(CHATS, "host-0-1")
    assert await routes.owners([CHATS]) == [frozenset({"host-0-1"})]
    await pods.remove("host-0-1")
    await routes.forget_pod(CHATS, "host-0-1")
    assert await routes.owners([CHATS]) == [frozenset()]


async def test_a_lease_ends_and_that_is_noticed(pods: PodsRedis, redis: Redis) -> None:
    """`refresh` tells whether there was a lease; without refresh it ends."""
    assert not await pods.refresh(record())
    assert await pods.refresh(record(connections=3))
    assert [r.connections for r in await pods.records()] == [3]
    assert await pods.leases(["host-0-1", "host-0-2"]) == [True, False]
    async with asyncio.timeout(5):
        while await redis.exists("pod:host-0-1"):
            await asyncio.sleep(0.01)
    assert await pods.get("host-0-1") is None
    assert await pods.records() == []
    assert not await pods.refresh(record())


async def test_a_pod_that_comes_back_while_it_is_found_gone_stays_known(
    link: RedisLink, pods: PodsRedis, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever looks next would take it for gone, and drop what waits for it."""
    await redis.sadd("pods", "host-0-1", "host-0-2")
    call = link.call

    async def called(*command: Argument) -> Reply:
        reply = await call(*command)
        if command[0] == "MGET":
            await pods.refresh(record())
        return reply

    monkeypatch.setattr(link, "call", called)
    await pods.records()
    assert await redis.smembers("pods") == {b"host-0-1"}


async def test_a_member_that_is_no_text_holds_nobody_up(
    routes: RoutesRedis, pods: PodsRedis, redis: Redis
) -> None:
    """Routes are read, and pods found, beside it."""
    await redis.sadd("route:c1:a1:chats", b"\xff", "p1")
    assert "p1" in (await routes.owners([CHATS]))[0]
    await pods.refresh(record())
    await redis.sadd("pods", b"\xff")
    assert [found.pod_id for found in await pods.records()] == ["host-0-1"]


async def test_the_readers_epoch_only_grows(pods: PodsRedis, redis: Redis) -> None:
    """Each claim has a higher epoch, also after Redis came back empty."""
    first = await pods.claim_reader("p1", "s", 1.0)
    second = await pods.claim_reader("p2", "s", 2.0)
    await redis.flushall()
    third = await pods.claim_reader("p1", "s", 3.0)
    assert first < second < third
    reader = await pods.reader()
    assert reader is not None
    assert (reader.pod_id, reader.epoch) == ("p1", third)
    ahead = third + 10**12
    assert await pods.claim_reader("p2", "s", 4.0, known=ahead) > ahead


async def test_a_reader_that_was_is_told_so(pods: PodsRedis, redis: Redis) -> None:
    """`keep_reader` restores a missing record, and refuses one that a newer reader replaced."""
    await pods.claim_reader("p1", "s", 1.0)
    mine = await pods.reader()
    assert mine is not None
    await redis.flushall()
    assert await pods.keep_reader(mine)
    assert await pods.reader() == mine
    await pods.claim_reader("p2", "s", 2.0)
    assert not await pods.keep_reader(mine)
    await pods.resign_reader("p1")
    reader = await pods.reader()
    assert reader is not None
    assert reader.pod_id == "p2"
    await pods.resign_reader("p2")
    assert await pods.reader() is None


async def test_the_incarnation_changes_with_the_data(pods: PodsRedis, redis: Redis) -> None:
    """It is the same for all who ask, until the data is another."""
    first = await pods.incarnation()
    assert await pods.incarnation() == first
    await redis.flushall()
    assert await pods.incarnation() != first


async def test_a_host_name_has_one_supervisor(pods: PodsRedis) -> None:
    """The second supervisor of a name is told who has it, until that one gives it back."""
    assert await pods.claim_host("host", "s1@m#1") is None
    assert await pods.claim_host("host", "s1@m#1") is None
    assert await pods.claim_host("host", "s2@m#2") == "s1@m#1"
    await pods.release_host("host", "s1@m#1")
    assert await pods.claim_host("host", "s2@m#2") is None


async def test_without_tracking_nothing_may_be_cached(redis: Redis, redis_url: str) -> None:
    """A Redis user who may not track: that is said, instead of going by what is out of date."""
    await redis.execute_command(  # type: ignore[no-untyped-call]
        "ACL", "SETUSER", "weak", "on", ">secret", "~*", "&*", "+@all", "-client|tracking"
    )
    config = testing_config(
        redis__address=redis_url, redis__username="weak", redis__password="secret"
    )
    link = RedisLink(RedisOpener(config.redis).primary, 1.0)
    try:
        routes = RoutesRedis(link, "host-0-1", "wa_stream", lambda: 300.0, shared=False)
        link.start()
        await link.wait_up()
        assert not routes.tracking
    finally:
        await link.aclose()
        await redis.execute_command("ACL", "DELUSER", "weak")  # type: ignore[no-untyped-call]
