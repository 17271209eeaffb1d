"""The reader: what it hands on, when it acknowledges, and how another pod goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from nats.aio.client import Client as NatsClient
from redis.asyncio import Redis

from daisi_ws.app.ingest import Reading
from daisi_ws.domain.subjects import Address
from tests.app.pods import InProcessPod, pod, publish, roles, until


def newest(of: InProcessPod) -> int:
    """Return the highest sequence of what a pod has read and does not hand on yet."""
    return of.parts.ingest._events.newest(0)


async def test_both_pods_deliver_what_one_reads(pods: list[InProcessPod], nats: NatsClient) -> None:
    """Each event reaches the clients of both pods once, in order, threads included."""
    first, second = await pods[0].user("ann"), await pods[1].user("bob")
    admin = await pods[1].admin("root", company="acme")
    await second.choose("chat-1")
    chat = [await publish(nats) for _ in range(20)]
    thread = [await publish(nats, "messages.chat-1") for _ in range(5)]
    agents = [await publish(nats, "agents"), await publish(nats, "agents", "beta.bot")]
    await until(lambda: second.seqs() == chat + thread and first.seqs() == chat)
    await until(lambda: admin.seqs() == agents[:1])


async def test_an_event_is_acknowledged_when_every_owner_has_accepted(
    pods: list[InProcessPod], nats: NatsClient
) -> None:
    """While the other pod does not accept, the acknowledgement floor stays before the event."""
    reader, other = await roles(pods, nats)
    tab, near = await other.user("bob"), await reader.user("ann")
    other.parts.delivery.shut(True)
    seq = await publish(nats)
    await until(lambda: near.seqs() == [seq])
    assert await reader.parts.stream.ack_floor() < seq
    assert tab.seqs() == []
    other.parts.delivery.shut(False)
    await until(lambda: tab.seqs() == [seq])
    async with asyncio.timeout(5):
        while await reader.parts.stream.ack_floor() < seq:
            await asyncio.sleep(0.01)


async def test_what_is_no_event_is_put_aside(pods: list[InProcessPod], nats: NatsClient) -> None:
    """It is kept with its reason and acknowledged, and what follows is delivered."""
    tab = await pods[0].user("ann")
    for subject, payload in [
        ("websocket.acme.bot.unknown", b"{}"),
        ("websocket.acme.bot.chats", b"not json"),
        ("websocket.acme.bot.chats", b'{"event_id":"e","company_id":"beta","row_data":{}}'),
    ]:
        await nats.jetstream().publish(subject, payload)
    seq = await publish(nats)
    await until(lambda: tab.seqs() == [seq])
    jetstream = nats.jetstream()
    async with asyncio.timeout(5):
        while (await jetstream.consumer_info("wa_stream", "ws_fanout")).ack_floor.stream_seq < seq:
            await asyncio.sleep(0.01)
    letters = [await jetstream.get_msg("wa_stream_dead_letters", n) for n in (1, 2, 3)]
    reasons = [letter.headers["Daisi-Reason"] for letter in letters if letter.headers]
    assert sorted(reasons) == ["bad_json", "bad_subject", "ids_contradict"]


async def test_what_the_last_reader_left_is_read_again(
    pods: list[InProcessPod], nats: NatsClient
) -> None:
    """Events it had taken and nobody accepted are delivered by the next reader, in order."""
    reader, other = await roles(pods, nats)
    tab = await other.user("bob")
    reader.parts.delivery.hold()
    left = [await publish(nats) for _ in range(5)]
    await until(lambda: newest(reader) == left[-1])
    await reader.parts.stream.resign()
    reader.parts.ingest.stop()
    after = await publish(nats)
    await until(lambda: tab.seqs() == [*left, after])
    assert other.parts.ingest.state is Reading.READER


async def test_a_reader_that_was_steps_down(
    pods: list[InProcessPod], nats: NatsClient, redis: Redis
) -> None:
    """Once a newer reader is known it hands nothing on, and takes part again as any other."""
    reader, other = await roles(pods, nats)
    tab = await other.user("bob")
    record = reader.parts.ingest.record
    assert record is not None
    await redis.set("reader_epoch:wa_stream", record.epoch + 1_000_000)
    await reader.parts.ingest.verify()
    assert reader.parts.ingest.state is Reading.STANDBY
    seq = await publish(nats)
    await until(lambda: seq in tab.seqs())
    records = [p.parts.ingest.record for p in pods if p.parts.ingest.record is not None]
    assert len(records) == 1
    assert records[0].epoch > record.epoch + 1_000_000


async def test_what_the_last_reader_was_given_precedes_what_is_new(
    pods: list[InProcessPod], nats: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message of it comes again and pins the next reader: the rest is not waited for."""
    reader, other = await roles(pods, nats)
    tab = await other.user("bob")
    reader.parts.delivery.hold()
    left = [await publish(nats) for _ in range(5)]
    await until(lambda: newest(reader) == left[-1])
    await reader.parts.stream.resign()
    reader.parts.ingest.stop()
    again = (await other.parts.stream.read(left[0] - 1, left[0]))[0]

    async def pinned() -> bool:
        return True

    monkeypatch.setattr(other.parts.stream, "pinned", pinned)
    other.parts.ingest.on_pinned(other.parts.jetstream.identity)
    other.parts.ingest.on_received(again)
    await until(lambda: tab.seqs() == left)


async def test_a_pin_that_is_over_ends_nobodys_reading(
    pods: list[InProcessPod], nats: NatsClient, redis: Redis
) -> None:
    """What a pod is sent on a connection that stood still may name a pin that it has lost since: it
    asks the server before it tells everybody that it reads."""
    reader, other = await roles(pods, nats)
    tab = await other.user("bob")
    record = await redis.get("reader:wa_stream")
    other.parts.ingest.on_pinned(other.parts.jetstream.identity)
    await until(lambda: other.parts.ingest.state is Reading.STANDBY)
    assert await redis.get("reader:wa_stream") == record
    assert reader.parts.ingest.state is Reading.READER
    seq = await publish(nats)
    await until(lambda: tab.seqs() == [seq])


async def test_a_reader_refused_while_it_reads_routes_reads_again(
    redis_url: str, nats_url: str, nats: NatsClient
) -> None:
    """It steps down in the turn in which it asked for a route; as the next reader it goes on."""
    async with pod(redis_url, nats_url) as only:
        tab = await only.user("ann")
        first = await publish(nats)
        await until(lambda: tab.seqs() == [first])
        ingest = only.parts.ingest
        only.parts.delivery.hold()
        known, unknown = await publish(nats), await publish(nats, agent="acme.unknown")
        await until(lambda: newest(only) == unknown)
        assert unknown > known
        only.parts.delivery.fence(only.parts.delivery.epoch + 1)
        only.parts.delivery.release()
        await until(lambda: ingest.state is not Reading.READER)
        last = await publish(nats)
        await until(lambda: tab.seqs() == [first, known, last])


async def test_an_event_that_cannot_be_handed_on_stops_nothing(
    pods: list[InProcessPod], nats: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is wrong with it, it is put aside, and those around it are delivered."""
    reader, _ = await roles(pods, nats)
    tab, count = await reader.user("ann"), reader.parts.ingest._events._count

    def fail(address: Address) -> None:
        if address.agent_id == "odd":
            raise KeyError(address)
        count(address)

    monkeypatch.setattr(reader.parts.ingest._events, "_count", fail)
    reader.parts.delivery.hold()
    before, odd = await publish(nats), await publish(nats, agent="acme.odd")
    after = await publish(nats)
    await until(lambda: newest(reader) == after)
    reader.parts.delivery.release()
    await until(lambda: tab.seqs() == [before, after])
    async with asyncio.timeout(5):
        while await reader.parts.stream.ack_floor() < after:
            await asyncio.sleep(0.01)
    letter = await nats.jetstream().get_msg("wa_stream_dead_letters", 1)
    assert letter.headers is not None
    assert letter.headers["Daisi-Seq"] == str(odd)


async def test_a_takeover_that_fails_is_tried_again(
    pods: list[InProcessPod], nats: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pinned pod keeps everybody else from reading: it does not give up."""
    tab = await pods[0].user("ann")
    failures = iter([KeyError("one"), ValueError("two")])
    for each in pods:
        stream = each.parts.stream

        async def outstanding(
            really: Callable[[], Awaitable[tuple[int, int]]] = stream.outstanding,
        ) -> tuple[int, int]:
            for failure in failures:
                raise failure
            return await really()

        monkeypatch.setattr(stream, "outstanding", outstanding)
    seq = await publish(nats)
    await until(lambda: tab.seqs() == [seq])


async def test_the_largest_message_is_put_aside(pods: list[InProcessPod], nats: NatsClient) -> None:
    """With its reason beside it it would be over the server's limit: it is cut to fit."""
    tab = await pods[0].user("ann")
    largest = b"x" * nats.max_payload
    await nats.jetstream().publish("websocket.acme.bot.chats", largest)
    seq = await publish(nats)
    await until(lambda: tab.seqs() == [seq])
    async with asyncio.timeout(5):
        while (await nats.jetstream().consumer_info("wa_stream", "ws_fanout")).num_ack_pending:
            await asyncio.sleep(0.01)
    letter = await nats.jetstream().get_msg("wa_stream_dead_letters", 1)
    assert letter.headers is not None
    assert letter.headers["Daisi-Reason"] == "bad_json"
    assert letter.headers["Daisi-Size"] == str(len(largest))
    assert letter.data is not None
    assert largest.startswith(letter.data)
    assert len(letter.data) > len(largest) / 2
