"""When the reading of the stream counts as broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from daisi_ws.app.ingest import Reading
from daisi_ws.app.ports import Position, ReaderRecord
from daisi_ws.app.readiness import SILENCE_SECONDS
from daisi_ws.app.readiness_ports import ConsumerState
from daisi_ws.app.readiness_reader import HEARD_SECONDS, ReaderPart
from daisi_ws.domain.errors import Unavailable
from tests.app.test_readiness import Time

HERE, THERE = Position(1, "s", 0), "there-0-1"


@dataclass
class World:
    """Everything that the part looks at but the consumer."""

    time: Time = field(default_factory=Time)
    state: Any = Reading.STANDBY
    record: ReaderRecord | None = None
    asked: bool = True
    stalled_since: float | None = None
    answer: Position | Exception | None = HERE
    leased: bool = True
    heard: int = 0
    barriers: int = 0
    revived: int = 0
    newest: ReaderRecord | None = None

    async def barrier(
        self, pod_id: str, interests: Sequence[str], timeout: float
    ) -> Position | None:
        assert (pod_id, tuple(interests)) == (THERE, ())
        assert timeout > 0
        self.barriers += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def revive(self, pod_id: str) -> None:
        assert pod_id == THERE
        self.revived += 1

    async def reader(self) -> ReaderRecord | None:
        return self.newest or self.record

    async def leases(self, pod_ids: Sequence[str]) -> list[bool]:
        return [self.leased for _ in pod_ids]


class Consumer:
    """How far was read."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.state = ConsumerState(3, 0, 0, pulled=True)

    @property
    def stalled_since(self) -> float | None:
        return self._world.stalled_since


def part(world: World, *, shared: bool = False) -> tuple[ReaderPart, Consumer]:
    """Return the part of pod `here-0-1`, and its consumer."""
    consumer = Consumer(world)
    everything: Any = world
    made = ReaderPart(
        pod_id="here-0-1",
        shared=shared,
        ingest=everything,
        inbound=everything,
        peers=world,
        registry=world,
        redis=everything,
        consumer=consumer,  # type: ignore[arg-type]
        handover=2.0,
        most_unacknowledged=100,
    )
    return made, consumer


def reads(pod_id: str = THERE, epoch: int = 1) -> ReaderRecord:
    """Return the record of a reader."""
    return ReaderRecord(pod_id=pod_id, epoch=epoch, stream="s", since=0)


async def well(world: World) -> ReaderPart:
    """Return the part while another pod reads, answers, and is heard."""
    world.record = reads()
    made, _ = part(world)
    await made.ask(world.time)
    assert not made.look(world.time()).problem
    return made


async def hears(world: World, made: ReaderPart, seconds: float) -> None:
    """Let time pass in which the reader answers and is heard."""
    world.time.passes(seconds)
    world.heard += 1
    await made.ask(world.time)
    assert not made.look(world.time()).problem


def test_nobody_reads_before_the_first_event() -> None:
    """That is no fault, once it is known."""
    world = World(asked=False)
    made, _ = part(world)
    assert "not known" in made.look(world.time()).problem
    world.asked = True
    assert not made.look(world.time()).problem
    assert not made.applies()


def test_who_reads_itself_needs_no_answer() -> None:
    """Nor does one that is about to, for a moment."""
    world = World(state=Reading.READER, record=reads("here-0-1"))
    made, _ = part(world)
    assert not made.look(world.time()).problem
    world.state = Reading.TAKING_OVER
    assert not made.look(world.time()).problem
    world.time.passes(SILENCE_SECONDS + 0.1)
    assert "taking over" in made.look(world.time()).problem
    world.state = Reading.READER
    assert not made.look(world.time()).problem


async def test_a_reader_must_answer() -> None:
    """Before the first answer, and whenever it stops answering."""
    world = World(record=reads())
    made, _ = part(world)
    assert "has not been asked" in made.look(world.time()).problem
    made = await well(world)
    await hears(world, made, 1.0)
    world.answer = Unavailable("no answer")
    world.time.passes(SILENCE_SECONDS + 0.1)
    world.heard += 1
    with pytest.raises(Unavailable):
        await made.ask(world.time)
    assert f"{THERE}, which reads, does not answer" in made.look(world.time()).problem
    assert world.revived == 1
    world.answer = HERE
    await hears(world, made, 0.1)


async def test_a_reader_must_be_heard() -> None:
    """One that answers and does not reach this pod delivers nothing to it."""
    world = World()
    made = await well(world)
    for _ in range(3):
        await hears(world, made, 1.0)
    world.time.passes(HEARD_SECONDS + 0.1)
    await made.ask(world.time)
    assert "does not reach this pod" in made.look(world.time()).problem
    await hears(world, made, 0.1)


async def test_a_reader_without_lease_is_none() -> None:
    """It is not asked for ever; one that comes back is."""
    world = World()
    made = await well(world)
    world.answer, world.leased = Unavailable("no lease"), False
    world.time.passes(5)
    with pytest.raises(Unavailable):
        await made.ask(world.time)
    assert not made.look(world.time()).problem
    before = world.barriers
    await made.ask(world.time)
    assert world.barriers == before
    assert world.revived == 0
    world.answer, world.leased = HERE, True
    await hears(world, made, 0.1)
    assert world.barriers == before + 1


async def test_a_pod_that_says_it_does_not_read_is_no_reader() -> None:
    """The next event will choose one."""
    world = World()
    made = await well(world)
    world.answer = None
    await made.ask(world.time)
    world.time.passes(60)
    assert not made.look(world.time()).problem


async def test_the_next_reader_has_time() -> None:
    """Who does not answer has perhaps been replaced: that is looked up at once."""
    world = World()
    made = await well(world)
    world.answer, world.newest = Unavailable("gone"), reads("third-0-1", epoch=2)
    world.time.passes(5)
    with pytest.raises(Unavailable):
        await made.ask(world.time)
    assert world.record == world.newest
    assert not made.look(world.time()).problem
    world.time.passes(SILENCE_SECONDS + 0.1)
    assert "third-0-1" in made.look(world.time()).problem


def test_events_that_wait_and_are_not_read() -> None:
    """Longer than a takeover takes; not while clients hold up the acknowledgements."""
    world = World()
    made, consumer = part(world)
    world.stalled_since = world.time()
    world.time.passes(2.0)
    assert not made.look(world.time()).problem
    world.time.passes(0.6)
    assert "events wait" in made.look(world.time()).problem
    consumer.state = ConsumerState(3, 100, 0, pulled=True)
    assert not made.look(world.time()).problem


def test_in_shared_mode_every_pod_reads() -> None:
    """And looks at nobody else."""
    world = World(record=reads())
    made, _ = part(world, shared=True)
    assert "does not read" in made.look(world.time()).problem
    world.state = Reading.READER
    assert not made.look(world.time()).problem
    assert not made.applies()
