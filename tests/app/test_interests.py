"""Routes of a pod, and the barrier: who is told ready misses nothing that comes after."""

from __future__ import annotations

import asyncio

import msgspec
import nats
import pytest
from nats.aio.client import Client as NatsClient
from redis.asyncio import Redis

from daisi_ws.app.ports import ReaderRecord
from daisi_ws.domain import principal
from daisi_ws.domain.errors import (
    InternalServerError,
    SubscriptionFailure,
    Unavailable,
)
from daisi_ws.domain.subjects import chats
from daisi_ws.embedded import NatsServer, RedisServer
from tests.app.connections import FOREVER
from tests.app.pods import InProcessPod, pod, publish, roles, until

CHATS_KEY = "route:acme:bot:chats"
GHOST = "ghost-0-1000000000001"


async def test_whoever_is_ready_gets_the_next_event(
    pods: list[InProcessPod], nats: NatsClient
) -> None:
    """Two hundred times: the route was known as empty, a client comes, the next event is its."""
    _, other = await roles(pods, nats)
    for number in range(200):
        agent = f"acme.bot{number % 10}"
        await publish(nats, agent=agent)
        tab = await other.user("bob", agent=agent.split(".")[1])
        seq = await publish(nats, agent=agent)
        await until(lambda tab=tab, seq=seq: seq in tab.seqs())  # type: ignore[misc]
        await tab.leave()


async def test_routes_follow_the_first_and_the_last(pods: list[InProcessPod], redis: Redis) -> None:
    """A pod is in a route from its first client that wants it to its last."""
    first, second = await pods[0].user("ann"), await pods[0].user("bob")
    assert await redis.smembers(CHATS_KEY) == {pods[0].pod_id.encode()}
    third = await pods[1].user("carl")
    assert await redis.smembers(CHATS_KEY) == {p.pod_id.encode() for p in pods}
    await first.leave()
    await third.leave()
    async with asyncio.timeout(5):
        while await redis.smembers(CHATS_KEY) != {pods[0].pod_id.encode()}:
            await asyncio.sleep(0.01)
    await second.leave()
    async with asyncio.timeout(5):
        while await redis.exists(CHATS_KEY):
            await asyncio.sleep(0.01)


async def test_selecting_a_chat_leaves_the_other(
    pods: list[InProcessPod], nats: NatsClient, redis: Redis
) -> None:
    """Only the chat looked at is delivered, and only its route is kept."""
    tab = await pods[0].user("ann")
    await tab.choose("one")
    await tab.choose("two")
    await publish(nats, "messages.one")
    seq = await publish(nats, "messages.two")
    await until(lambda: tab.seqs() == [seq])
    async with asyncio.timeout(5):
        while await redis.exists("route:acme:bot:messages:one"):
            await asyncio.sleep(0.01)
    assert await redis.exists("route:acme:bot:messages:two")


async def test_a_dead_reader_does_not_keep_clients_waiting(
    redis_url: str, nats_url: str, redis: Redis
) -> None:
    """Without lease it cannot know of us: it is fenced, and the client is ready."""
    async with pod(redis_url, nats_url) as only:
        epoch = await only.parts.pods.claim_reader("dead-0-1", "wa_stream@x", 1.0)
        async with asyncio.timeout(3):
            tab = await only.user("ann")
        assert tab.sink.messages()[0]["type"] == "ready"
        assert only.parts.delivery.epoch == epoch + 1


async def test_a_reader_that_reads_no_more_keeps_nobody_waiting(
    pods: list[InProcessPod], nats: NatsClient
) -> None:
    """On an idle stream its record stays after it was unpinned; whoever asks it hears so."""
    reader, other = await roles(pods, nats)
    reader.parts.ingest.on_unpinned()
    reader.parts.stream.stand_by()
    async with asyncio.timeout(1):
        tabs = [await other.user("bob"), await reader.user("ann")]
    seq = await publish(nats)
    await until(lambda: tabs[0].seqs() == tabs[1].seqs() == [seq])


async def test_a_reader_that_does_not_answer_is_a_failure(
    redis_url: str, nats_url: str, redis: Redis
) -> None:
    """Alive by its lease, but not there: the client is refused in time and no route stays."""
    async with pod(redis_url, nats_url, app__barrier_timeout_seconds=0.5) as only:
        await only.parts.pods.claim_reader("mute-0-1", "wa_stream@x", 1.0)
        await redis.set("pod:mute-0-1", b"{}")
        with pytest.raises(SubscriptionFailure):
            await only.user("ann")
        assert len(only.parts.hub) == 0
        async with asyncio.timeout(5):
            while await redis.exists(CHATS_KEY):
                await asyncio.sleep(0.01)


async def test_without_redis_nobody_is_admitted(fresh_redis: RedisServer, nats_url: str) -> None:
    """The refusal says to try again, comes quickly, and leaves nothing behind."""
    async with pod(fresh_redis.url, nats_url) as only:
        fresh_redis.kill()
        await until(lambda: not only.parts.link.up)
        async with asyncio.timeout(1):
            with pytest.raises(InternalServerError):
                await only.user("ann")
        assert len(only.parts.hub) == 0
        fresh_redis.start()
        await until(lambda: only.parts.link.up)
        await only.user("ann")


async def test_what_is_being_given_back_is_registered_again(
    pods: list[InProcessPod], nats: NatsClient, redis: Redis
) -> None:
    """An event came that nobody here wants, and in the same turn somebody does want it."""
    _, other = await roles(pods, nats)
    other.parts.interests.unserved(chats("acme", "bot"))
    tab = await other.user("bob")
    assert await redis.smembers(CHATS_KEY) == {other.pod_id.encode()}
    seq = await publish(nats)
    await until(lambda: tab.seqs() == [seq])


async def test_whatever_goes_wrong_nobody_waits_for_ever(
    pods: list[InProcessPod], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody expects to be raised is a refusal, too, and the next one may succeed."""

    async def fail(*_: object) -> None:
        raise KeyError

    with monkeypatch.context() as broken:
        broken.setattr(pods[0].parts.routes, "add", fail)
        for _ in range(2):
            async with asyncio.timeout(1):
                with pytest.raises(SubscriptionFailure):
                    await pods[0].user("ann")
    await pods[0].user("ann")


async def test_a_record_that_is_none_harms_nobody(
    pods: list[InProcessPod], nats: NatsClient, redis: Redis
) -> None:
    """Somebody wrote something else among the pods' records: it counts as no pod."""
    await redis.set("pod:odd-0-1", b"{}")
    await redis.sadd("pods", "odd-0-1")
    tab = await pods[1].user("bob")
    for one in pods:
        one.parts.membership.wake()
    seq = await publish(nats)
    await until(lambda: tab.seqs() == [seq])
    assert await pods[0].parts.pods.get("odd-0-1") is None
    assert {record.pod_id for record in await pods[0].parts.pods.records()} == {
        one.pod_id for one in pods
    }


async def test_without_nats_clients_are_admitted(redis_url: str, fresh_nats: NatsServer) -> None:
    """There is nothing to read for now; what comes later reaches them."""
    async with pod(redis_url, fresh_nats.url) as only:
        fresh_nats.kill()
        await until(lambda: not only.parts.nats.up)
        async with asyncio.timeout(2):
            tab = await only.user("ann")
        fresh_nats.start()
        await until(lambda: only.parts.stream.bound)
        client = await nats.connect(fresh_nats.url)
        try:
            seq = await publish(client)
            await until(lambda: tab.seqs() == [seq])
        finally:
            await client.close()


async def test_a_pod_that_does_not_know_the_stream_yet_tells_nobody_ready(
    pods: list[InProcessPod], nats: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is started while nobody reads, and Redis answers before NATS: a position would be in no
    stream."""
    pod = pods[0]
    stream, pod.parts.delivery.stream = pod.parts.delivery.stream, ""
    looks, read = 0, pod.parts.pods.reader

    async def look() -> ReaderRecord | None:
        nonlocal looks
        looks += 1
        return await read()

    monkeypatch.setattr(pod.parts.pods, "reader", look)
    joining = asyncio.create_task(pod.user("ann"))
    await until(lambda: looks > 2)
    assert not joining.done()
    blind = principal.admin("root", FOREVER, "acme", company_restriction="umbrella")
    with pytest.raises(SubscriptionFailure, match="not admitted"):
        await pod.parts.admission.admit(blind, "request")
    pod.parts.delivery.start_at(stream, 0)
    async with asyncio.timeout(10):
        tab = await joining
    assert tab.connection.position.stream == stream
    seq = await publish(nats)
    await until(lambda: tab.seqs() == [seq])


async def test_without_nats_and_reader_nobody_is_told_ready(
    pods: list[InProcessPod], nats: NatsClient, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last reader may have acknowledged more than this pod has seen: it waits for NATS."""
    reader, other = await roles(pods, nats)
    await until(lambda: other.parts.delivery.mark > 0)
    other.parts.delivery.shut(True)
    last = [await publish(nats, agent="nobody.here") for _ in range(50)][-1]
    async with asyncio.timeout(5):
        while await reader.parts.stream.ack_floor() < last:
            await asyncio.sleep(0.01)
    await reader.tasks.cancel()
    await redis.delete("reader:wa_stream")
    assert other.parts.delivery.mark < last
    asked, ask = 0, other.parts.ingest.unread_after

    async def away() -> tuple[int, bool]:
        nonlocal asked
        asked += 1
        raise Unavailable("NATS is away")

    monkeypatch.setattr(other.parts.ingest, "unread_after", away)
    joining = asyncio.create_task(other.user("ann"))
    await until(lambda: asked > 2)
    assert not joining.done()

    async def nobody_reads() -> tuple[int, bool]:
        return (await ask())[0], False

    monkeypatch.setattr(other.parts.ingest, "unread_after", nobody_reads)
    tab = await asyncio.wait_for(joining, 10)
    assert tab.connection.position.seq >= last
    other.parts.delivery.shut(False)


async def test_the_second_of_an_interest_is_complete_where_the_first_is(
    pods: list[InProcessPod], nats: NatsClient
) -> None:
    """Although nothing has come to this pod since the reader knew of the first."""
    reader, other = await roles(pods, nats)
    last = [await publish(nats, agent="nobody.here") for _ in range(20)][-1]
    await until(lambda: reader.parts.ingest.position == last)
    first = await other.user("ann")
    second = await other.user("bob")
    assert first.connection.position.seq >= last
    assert second.connection.position.seq >= last


async def test_a_reader_that_redis_does_not_name_is_waited_for(
    pods: list[InProcessPod], nats: NatsClient, redis: Redis
) -> None:
    """Redis was emptied: a newcomer is complete from where that reader is, not from before."""
    reader, other = await roles(pods, nats)
    last = [await publish(nats, agent="nobody.here") for _ in range(20)][-1]
    await until(lambda: reader.parts.ingest.position == last)
    await reader.tasks.cancel("membership")
    await redis.delete("reader:wa_stream")
    joining = asyncio.create_task(other.user("ann"))
    done, _ = await asyncio.wait({joining}, timeout=0.3)
    assert not done
    reader.tasks.spawn("membership again", reader.parts.membership.run())
    tab = await asyncio.wait_for(joining, 5)
    assert tab.connection.position.seq >= last
    seq = await publish(nats)
    await until(lambda: tab.seqs() == [seq])


async def test_a_route_that_is_being_added_outlives_the_loss_of_the_data(
    pods: list[InProcessPod], nats: NatsClient, redis: Redis
) -> None:
    """Redis is emptied after it was written and before the reader knows of it: it is written again
    with everything else, and before this pod counts as registered.
    """
    reader, other = await roles(pods, nats)
    reader.parts.ingest._decided.clear()  # it answers no barrier for now
    joining = asyncio.create_task(other.user("ann"))
    async with asyncio.timeout(5):
        while not await redis.exists(CHATS_KEY):
            await asyncio.sleep(0.01)
    before = other.parts.membership._incarnation
    await redis.flushall()
    await until(lambda: other.parts.membership._incarnation != before)
    assert not joining.done()
    reader.parts.ingest._decided.set()
    tab = await asyncio.wait_for(joining, 5)
    assert await redis.smembers(CHATS_KEY) == {other.pod_id.encode()}
    seq = await publish(nats)
    await until(lambda: tab.seqs() == [seq])


async def test_a_route_that_could_not_be_removed_is_removed_later(
    redis_url: str, nats_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis was away when the last client left."""
    async with pod(redis_url, nats_url) as only:
        tab = await only.user("ann")
        failed = asyncio.Event()

        async def fail(*_: object) -> None:
            failed.set()
            raise Unavailable("Redis is away")

        with monkeypatch.context() as away:
            away.setattr(only.parts.routes, "remove", fail)
            await tab.leave()
            await asyncio.wait_for(failed.wait(), 5)
        assert await redis.exists(CHATS_KEY)
        await only.parts.interests.renew()
        async with asyncio.timeout(5):
            while await redis.exists(CHATS_KEY):
                await asyncio.sleep(0.01)


async def test_whoever_waits_long_for_its_session_is_complete_from_later_on(
    pods: list[InProcessPod], nats: NatsClient, redis: Redis
) -> None:
    """More came meanwhile than its buffer holds: `ready` tells from where none is missing."""
    _, other = await roles(pods, nats)
    record = msgspec.structs.replace(other.parts._record(), pod_id=GHOST, address="127.0.0.1:1")
    await redis.set(f"pod:{GHOST}", msgspec.json.encode(record), px=60_000)
    await redis.set("session:acme:bot:ann", f"{GHOST}#c1", ex=60)
    joining = asyncio.create_task(other.user("ann"))
    await until(lambda: other.parts.hub.wanted(chats("acme", "bot")))
    published = [await publish(nats) for _ in range(150)]
    tab = await asyncio.wait_for(joining, 5)
    ready, *events = tab.sink.messages()
    assert published[0] < ready["seq"] < published[-1]  # type: ignore[operator]
    assert [m["type"] for m in events] == ["event"] * 100
    await until(lambda: tab.seqs() == [seq for seq in published if seq > ready["seq"]])  # type: ignore[operator]
