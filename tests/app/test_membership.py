"""A pod among others: absence, return, and a Redis that came back empty."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from nats.aio.client import Client as NatsClient
from redis.asyncio import Redis

from daisi_ws.app import membership
from daisi_ws.app.ports import PodRecord, Received
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.errors import Unavailable
from tests.app.pods import InProcessPod, pod, publish, roles, until

GHOST = "ghost-0-1000000000000"


async def acknowledged(reader: InProcessPod, upto: int) -> None:
    """Wait until nobody would be given these events again."""
    async with asyncio.timeout(10):
        while await reader.parts.stream.ack_floor() < upto:
            await asyncio.sleep(0.01)


async def lose_lease(lost: InProcessPod, reader: InProcessPod, redis: Redis) -> None:
    """Have a pod stand still until the others have taken it for dead."""
    await lost.tasks.cancel("membership")
    lost.parts.delivery.shut(True)
    await redis.delete(f"pod:{lost.pod_id}")
    await until(lambda: lost.pod_id not in reader.parts.membership.known)


async def test_pods_know_each_other(pods: list[InProcessPod]) -> None:
    """Each sees the other's address; a pod that leaves is forgotten."""
    first, second = pods
    await until(lambda: second.pod_id in first.parts.membership.known)
    address = await first.parts.membership.address_of(second.pod_id)
    assert address is not None
    assert address.startswith("127.0.0.1:")
    assert await first.parts.membership.address_of("nobody-0-1") is None


async def test_a_pod_taken_for_dead_catches_up(
    pods: list[InProcessPod], nats: NatsClient, redis: Redis
) -> None:
    """Its clients stay connected and get what was published meanwhile, once and in order."""
    reader, other = await roles(pods, nats)
    tab = await other.user("bob")
    before = await publish(nats)
    await until(lambda: tab.seqs() == [before])
    await lose_lease(other, reader, redis)
    missed = [await publish(nats) for _ in range(30)]
    await acknowledged(reader, missed[-1])
    assert tab.seqs() == [before]
    other.parts.delivery.shut(False)
    other.tasks.spawn("membership again", other.parts.membership.run())
    after = await publish(nats)
    await until(lambda: tab.seqs()[-1] >= after)  # type: ignore[operator]
    later = await publish(nats)
    await until(lambda: tab.seqs() == [before, *missed, after, later])
    assert tab.sink.closed == []


async def test_a_pod_whose_refresh_was_done_and_not_answered_catches_up(
    pods: list[InProcessPod], nats: NatsClient, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease that the next refresh finds was not there all the time."""
    reader, other = await roles(pods, nats)
    tab = await other.user("bob")
    await lose_lease(other, reader, redis)
    missed = [await publish(nats) for _ in range(5)]
    await acknowledged(reader, missed[-1])
    refresh = other.parts.pods.refresh
    other.parts.membership._leased_at -= 100
    lost = 0

    async def without_answer(record: PodRecord) -> bool:
        nonlocal lost
        answer = await refresh(record)
        if not lost:
            lost += 1
            raise Unavailable("no reply within 0.5 s")
        return answer

    monkeypatch.setattr(other.parts.pods, "refresh", without_answer)
    other.parts.delivery.shut(False)
    other.tasks.spawn("membership again", other.parts.membership.run())
    await until(lambda: tab.seqs() == missed)
    assert lost


async def test_who_missed_too_much_lets_its_clients_go(
    pods: list[InProcessPod],
    nats: NatsClient,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More than is read again: the clients are sent away, never left with a hole."""
    monkeypatch.setattr(membership, "MAX_CATCH_UP", 3)
    reader, other = await roles(pods, nats)
    tab = await other.user("bob")
    await lose_lease(other, reader, redis)
    for _ in range(10):
        last = await publish(nats)
    await acknowledged(reader, last)
    other.tasks.spawn("membership again", other.parts.membership.run())
    await until(lambda: tab.sink.closed == [CloseReason.GOING_AWAY])


async def test_what_the_stream_drops_while_it_is_caught_up_leaves_no_hole(
    pods: list[InProcessPod],
    nats: NatsClient,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All was there when reading began: the clients are sent away all the same."""
    reader, other = await roles(pods, nats)
    tab = await other.user("bob")
    await lose_lease(other, reader, redis)
    missed = [await publish(nats) for _ in range(6)]
    await acknowledged(reader, missed[-1])
    read = other.parts.stream.read

    async def read_late(after: int, upto: int) -> list[Received]:
        await nats.jetstream().purge_stream("wa_stream", seq=missed[3])
        return await read(after, upto)

    monkeypatch.setattr(other.parts.stream, "read", read_late)
    other.tasks.spawn("membership again", other.parts.membership.run())
    await until(lambda: tab.sink.closed == [CloseReason.GOING_AWAY])
    assert tab.seqs() == []


async def test_an_emptied_redis_costs_nothing(
    pods: list[InProcessPod], nats: NatsClient, redis: Redis
) -> None:
    """Events published right after FLUSHALL reach everybody; routes, locks and leases return."""
    reader, other = await roles(pods, nats)
    tabs = [await other.user("bob"), await reader.user("ann")]
    await tabs[0].choose("chat-1")
    for _ in range(5):
        await redis.flushall()
        seqs = [await publish(nats), await publish(nats, "messages.chat-1"), await publish(nats)]
        await until(lambda seqs=seqs: tabs[0].seqs()[-3:] == seqs)  # type: ignore[misc]
        await until(lambda seqs=seqs: tabs[1].seqs()[-2:] == seqs[::2])  # type: ignore[misc]
    async with asyncio.timeout(10):
        while await redis.smembers("route:acme:bot:chats") != {p.pod_id.encode() for p in pods}:
            await asyncio.sleep(0.01)
        while not await redis.exists("session:acme:bot:bob", "reader:wa_stream"):
            await asyncio.sleep(0.01)
    assert [tab.sink.closed for tab in tabs] == [[], []]


async def test_a_dead_pod_holds_nobody_up(
    redis_url: str, nats_url: str, nats: NatsClient, redis: Redis
) -> None:
    """Events for a pod that vanished are acknowledged once its lease has ended."""
    async with pod(redis_url, nats_url, "a") as reader:
        await redis.sadd("route:acme:bot:chats", GHOST)
        await redis.set(f"pod:{GHOST}", reader_record(reader, "127.0.0.1:1"), px=1500)
        tab = await reader.user("ann")
        seq = await publish(nats)
        await until(lambda: tab.seqs() == [seq])
        async with asyncio.timeout(10):
            while await reader.parts.stream.ack_floor() < seq:
                await asyncio.sleep(0.01)
            while await redis.sismember("route:acme:bot:chats", GHOST):
                await asyncio.sleep(0.01)


async def test_redis_emptied_while_others_are_looked_for_buries_nobody(
    pods: list[InProcessPod], nats: NatsClient, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their leases are missing in data that is not the data they had one in."""
    reader, other = await roles(pods, nats)
    tab = await other.user("bob")
    await until(lambda: other.pod_id in reader.parts.membership.known)
    records, emptied = reader.parts.pods.records, asyncio.Event()

    async def just_too_late() -> list[PodRecord]:
        if not emptied.is_set():
            await redis.flushall()
            emptied.set()
        return await records()

    monkeypatch.setattr(reader.parts.pods, "records", just_too_late)
    await emptied.wait()
    seqs = [await publish(nats) for _ in range(20)]
    await until(lambda: tab.seqs() == seqs)


async def test_who_comes_back_while_it_is_taken_for_dead_misses_nothing(
    pods: list[InProcessPod], nats: NatsClient, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told from where on it is given everything: what waits for it is not dropped."""
    reader, other = await roles(pods, nats)
    tab = await other.user("bob")
    await until(lambda: other.pod_id in reader.parts.membership.known)
    records, looked = reader.parts.pods.records, asyncio.Event()
    seqs: list[int] = []

    async def before_it_came_back() -> list[PodRecord]:
        if looked.is_set():
            return await records()
        looked.set()
        await redis.delete(f"pod:{other.pod_id}")
        without_it = await records()
        caught_up = count(other, "complete")
        other.parts.membership.wake()
        await until(lambda: count(other, "complete") > caught_up)
        other.parts.delivery.shut(True)
        seqs.extend([await publish(nats) for _ in range(3)])
        await until(lambda: reader.parts.ingest.position == seqs[-1])
        return without_it

    monkeypatch.setattr(reader.parts.pods, "records", before_it_came_back)
    await until(lambda: bool(seqs) and looked.is_set() and reader.parts.ingest.position == seqs[-1])
    seqs.append(await publish(nats))
    await until(lambda: reader.parts.ingest.position == seqs[-1])
    other.parts.delivery.shut(False)
    await until(lambda: tab.seqs() == seqs)


def count(pod: InProcessPod, outcome: str) -> float:
    """Return how many catch-ups ended so."""
    return float(pod.parts.metrics.catch_ups.labels(outcome)._value.get())


async def test_a_pod_answers_for_itself_only(
    pods: list[InProcessPod], nats: NatsClient, redis: Redis
) -> None:
    """Whoever has the address of a dead pod by now must not let it pass for alive."""
    first, second = pods
    await redis.set(f"pod:{GHOST}", reader_record(first, second.parts._address), px=60_000)
    with pytest.raises(Unavailable):
        await first.parts.peers.barrier(GHOST, (), 2.0)
    assert await first.parts.peers.barrier(second.pod_id, (), 5.0) is None


def reader_record(of: InProcessPod, address: str) -> bytes:
    """Return the record of a pod that is not there."""
    record = msgspec.structs.replace(of.parts._record(), pod_id=GHOST, address=address)
    return msgspec.json.encode(record)


async def test_who_has_left_is_forgotten_at_once(pods: list[InProcessPod]) -> None:
    """A lease given up is no lease that is late: nobody waits for as long as one lasts."""
    first, second = pods
    await until(lambda: second.pod_id in first.parts.membership.known)
    await second.tasks.cancel("membership")
    await second.parts.membership.leave()
    await until(lambda: second.pod_id not in first.parts.membership.known, 1.0)
