"""What a reader hands on in a loop turn, and how far it acknowledges meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import pytest

from daisi_ws.app.connection import BACKLOG_BYTES
from daisi_ws.app.delivery import PAUSE_SECONDS, Delivery
from daisi_ws.app.handing_on import TURN_BYTES, TURN_EVENTS, HandingOn
from daisi_ws.app.hub import Hub
from daisi_ws.app.ports import Peers, ReaderRecord, Received, Stream
from daisi_ws.app.route import Router
from daisi_ws.domain.packets import Item
from daisi_ws.domain.subjects import chats
from daisi_ws.metrics import Metrics
from tests.app.connections import Made

STREAM = "wa_stream@1"
MINE, OTHERS = chats("acme", "bot"), chats("acme", "other")
PEER = "host-b-0-1700000000000"


def received(seq: int, subject: str = MINE, size: int = 0) -> Received:
    """Return an event as it comes from the stream; its acknowledgement says its sequence."""
    agent = subject.split(".")[2].encode()
    data = b'{"event_id":"%d","company_id":"acme","agent_id":"%b","row_data":{"x":"%b"}}'
    return Received(seq, 1, subject, data % (seq, agent, b"x" * size), str(seq), "", False)


@dataclass
class FakeStream:
    """Remembers what was acknowledged."""

    acked: list[int] = field(default_factory=list)

    def ack(self, replies: Sequence[str]) -> None:
        self.acked += map(int, replies)

    def pause(self, paused: bool) -> None:
        pass


@dataclass
class FakePeers:
    """One other pod, which has taken and withholds what the test says."""

    pushed: list[int] = field(default_factory=list)
    untaken: int | None = None
    withholds: int | None = None

    def push(self, pod_id: str, item: Item) -> None:
        assert pod_id == PEER
        self.pushed.append(item.seq)

    def reading(self, epoch: int, stream: str) -> None:
        pass

    def progress(self, upto: int) -> None:
        pass

    def floor(self) -> int | None:
        return self.untaken

    def withheld(self) -> int | None:
        return self.withholds

    def has_room(self) -> bool:
        return True

    def on_change(self, callback: object) -> None:
        pass


class FakeRouter:
    """Everything belongs to the other pod, too."""

    def owners(self, address: object) -> tuple[str, ...]:
        return (PEER,)

    def forget(self, interests: object) -> None:
        pass


class Reader:
    """A reader with one client of its own under policy `block`, with room for two events."""

    def __init__(self, withhold: int) -> None:
        self.stream, self.peers, metrics = FakeStream(), FakePeers(), Metrics()
        hub = Hub()
        self.now = 0.0
        self.delivery = Delivery(hub, metrics, lambda: self.now)
        self.made = Made(max_count=2, policy="block")
        self.made.connection._queue = self.delivery.queue
        hub.join(self.made.connection)
        hub.add(self.made.connection, MINE)
        self.made.open()
        self.events = HandingOn(
            shared=False,
            stream=cast("Stream", self.stream),
            router=cast("Router", FakeRouter()),
            delivery=self.delivery,
            peers=cast("Peers", self.peers),
            metrics=metrics,
            withhold=withhold,
            refused=lambda _: None,
            legacy=None,
        )
        record = ReaderRecord(pod_id="a-0-1", epoch=1, stream=STREAM, since=0.0)
        self.events.begin(record, 0, [])

    def read(self, *seqs: int, subject: str = MINE) -> None:
        """Take events, and hand them on."""
        for seq in seqs:
            self.events.take(received(seq, subject))
        self.events.turn()
        self.delivery.flush()

    def block(self) -> None:
        """Have the client stop reading."""
        self.made.sink.waiting = BACKLOG_BYTES + 1


async def test_what_a_client_has_no_room_for_is_not_acknowledged() -> None:
    """What is over its limit waits until it reads, or is gone."""
    reader = Reader(withhold=100)
    reader.block()
    reader.read(1)
    reader.read(2, 3)
    reader.read(4)
    assert reader.stream.acked[-1] == 2
    reader.made.sink.waiting = 0
    reader.delivery.writable(reader.made.connection)
    reader.delivery.flush()
    reader.events.turn()
    assert reader.stream.acked[-1] == 4


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_nobody_else_waits_for_a_client_without_room(where: str) -> None:
    """Beyond so many sequences the acknowledgement goes on: NATS never stops giving."""
    reader = Reader(withhold=10)
    if where == "here":
        reader.block()
        reader.read(1)
    reader.read(2)
    if where == "elsewhere":
        reader.peers.withholds = 3
    reader.read(*range(3, 8))
    assert reader.stream.acked[-1] == 2
    reader.read(*range(8, 31), subject=OTHERS)
    assert reader.stream.acked[-1] == 20


async def test_what_no_peer_has_taken_is_never_acknowledged() -> None:
    """However far behind: it is in nobody's outbox yet."""
    reader = Reader(withhold=10)
    reader.peers.untaken = 3
    reader.read(*range(1, 100))
    assert reader.stream.acked == [2]


async def test_on_leaving_no_room_is_waited_for() -> None:
    """A reader that goes away acknowledges what is in outboxes."""
    reader = Reader(withhold=100)
    reader.peers.withholds = 3
    reader.read(1, 2, 3, 4)
    assert reader.events
    reader.events.withhold_nothing()
    reader.events.turn()
    assert reader.stream.acked[-1] == 4
    assert not reader.events


async def test_a_process_that_stood_still_hands_on_and_acknowledges_nothing() -> None:
    """Neither what waits, nor what a peer has taken since; when it is sure it goes on by itself."""
    reader = Reader(withhold=0)
    reader.peers.untaken = 1
    reader.read(1)
    reader.now += PAUSE_SECONDS + 0.1
    reader.peers.untaken = None
    reader.read(2)
    assert (reader.peers.pushed, reader.stream.acked) == ([1], [])
    reader.delivery.trust(reader.now)
    async with asyncio.timeout(5):
        while not reader.stream.acked:
            await asyncio.sleep(0)
    assert (reader.peers.pushed, reader.stream.acked) == ([1, 2], [2])


@pytest.mark.parametrize(
    ("size", "first"), [(0, TURN_EVENTS), (TURN_BYTES // 4, 4)], ids=["count", "bytes"]
)
async def test_sockets_are_written_between_two_parts_of_a_burst(size: int, first: int) -> None:
    """A turn hands on a bounded part; the rest follows in the next ones, in order."""
    reader = Reader(withhold=0)
    for seq in range(1, 2 * TURN_EVENTS + 1):
        reader.events.take(received(seq, size=size if seq <= 8 else 0))
    reader.events.turn()
    assert reader.peers.pushed == list(range(1, first + 1))
    async with asyncio.timeout(5):
        while reader.stream.acked[-1] < 2 * TURN_EVENTS:
            await asyncio.sleep(0)
    assert reader.peers.pushed == list(range(1, 2 * TURN_EVENTS + 1))
