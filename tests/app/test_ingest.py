"""The reader: what it hands on, when it acknowledges, and how another pod goes on."""

from __future__ import annotations

import asyncio

from nats.aio.client import Client as NatsClient
from redis.asyncio import Redis

from daisi_ws.app.ingest import Reading
from tests.app.pods import InProcessPod, publish, roles, until


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
    reader.parts.ingest.hold(True)
    left = [await publish(nats) for _ in range(5)]
    await until(lambda: reader.parts.stream.lag == 0 and reader.parts.ingest.received >= 5)
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
