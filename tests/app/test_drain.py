"""Leaving in waves, within a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from daisi_ws.app.connection import Connection, State
from daisi_ws.app.drain import Drain
from daisi_ws.app.hub import Hub
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.errors import Unavailable
from daisi_ws.metrics import Metrics
from tests.app.connections import Made, flush

PACE = 500.0


class Farewells:
    """Remembers who was announced; `broken`: nobody can be."""

    def __init__(self) -> None:
        self.announced: list[tuple[str, str]] = []
        self.broken = False

    async def announce(self, leases: Sequence[tuple[str, str]], ttl_seconds: float) -> None:
        """See :meth:`daisi_ws.app.ports.Farewells.announce`."""
        assert ttl_seconds >= 1
        if self.broken:
            raise Unavailable("away")
        self.announced += leases


class Stage:
    """A hub with open connections, which leave it when closed, if `leaving`, and its drain."""

    def __init__(
        self,
        count: int,
        *steps: Callable[[], Awaitable[None]],
        leaving: bool = True,
        positions: bool = False,
        pace: float = PACE,
        handshakes: Callable[[], int] = lambda: 0,
    ) -> None:
        self.hub = Hub()
        self.made = [Made(f"c{n}") for n in range(count)]
        self.farewells = Farewells()
        self.metrics = Metrics()
        self.stopped = 0
        for one in self.made:
            self.join(one, leaving)
            one.open()
            one.connection.positions = positions
        self.drain = Drain(
            self.hub,
            list(steps),
            farewells=self.farewells,
            metrics=self.metrics,
            pace=lambda: pace,
            handshakes=handshakes,
            stop_admitting=self._stop,
        )

    def join(self, one: Made, leaving: bool = True) -> None:
        """Add a connection."""
        self.hub.join(one.connection)
        if leaving:
            one.connection.on_close = lambda _: self._leave(one.connection)

    def codes(self) -> list[list[CloseReason]]:
        """Return what each socket was closed with."""
        return [one.sink.closed for one in self.made]

    def counted(self, outcome: str) -> float | None:
        """Return how many were sent away so."""
        return self.metrics.registry.get_sample_value(
            "dws_drain_connections_total", {"outcome": outcome}
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something to be so."""
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)

    def _leave(self, connection: Connection) -> None:
        self.hub.leave(connection)

    def _stop(self) -> None:
        self.stopped += 1


def hints(one: Made) -> list[int]:
    """Return the pauses that a client was told."""
    flush(one.connection, 0.0)
    told = [m for m in one.sink.messages() if m["type"] == "reconnect"]
    pauses = [m["payload"]["after_ms"] for m in told]  # type: ignore[index]  # it is an object
    return [int(pause) for pause in pauses]


async def test_everybody_is_sent_away_after_the_steps() -> None:
    """First what must come first, then every client with 1001."""
    order = []

    async def step() -> None:
        order.append(len(stage.hub))

    stage = Stage(5, step)
    await stage.drain.run(5.0)
    assert order == [5]
    assert stage.codes() == [[CloseReason.GOING_AWAY]] * 5
    assert stage.counted("closed") == 5
    assert stage.farewells.announced == []


async def test_many_are_sent_in_waves() -> None:
    """No more than the pace allows go at once while there is time."""
    stage = Stage(200)
    sizes: list[int] = []
    draining = asyncio.create_task(stage.drain.run(10.0))
    while not draining.done():
        before = len(stage.hub)
        await asyncio.sleep(0.01)
        if before != len(stage.hub):
            sizes.append(before - len(stage.hub))
    await draining
    # A late wave may be twice as large.
    assert max(sizes) <= PACE * 0.1 + 1
    assert len(stage.hub) == 0


async def test_it_ends_in_time_with_clients_that_stay() -> None:
    """Who never answers the close does not hold the drain up."""
    stage = Stage(3, leaving=False)
    async with asyncio.timeout(2):
        await stage.drain.run(0.5)
    assert len(stage.hub) == 3


async def test_a_step_that_hangs_is_left() -> None:
    """A step has no more than the time that is left."""

    async def step() -> None:
        await asyncio.Event().wait()

    stage = Stage(1, step)
    async with asyncio.timeout(2):
        await stage.drain.run(0.3)
    assert stage.codes() == [[CloseReason.GOING_AWAY]]


async def test_a_hurried_drain_sends_all_at_once() -> None:
    """After `hurry` nobody is waited for, and nobody is told to move first."""
    stage = Stage(300, leaving=False, positions=True)
    stage.drain.hurry()
    async with asyncio.timeout(1):
        await stage.drain.run(30.0)
    assert stage.codes() == [[CloseReason.GOING_AWAY]] * 300
    assert stage.stopped == 1


async def test_who_asked_for_positions_is_told_and_served() -> None:
    """It gets one jittered hint after it was announced, and stays open; others are closed."""
    stage = Stage(2)
    asked, plain = stage.made
    asked.connection.positions = True
    draining = asyncio.create_task(stage.drain.run(30.0))
    await stage.until(lambda: len(hints(asked)) == 1)
    assert 0 <= hints(asked)[0] < 50
    assert asked.connection.state is State.OPEN
    assert asked.connection.leaving
    principal = asked.connection.principal
    assert stage.farewells.announced == [(principal.session_key, asked.connection.lock_value)]
    assert plain.sink.closed == [CloseReason.GOING_AWAY]
    assert hints(plain) == []
    # It is served until its session has moved; then the drain has nobody left.
    asked.connection.close(CloseReason.MOVED)
    await asyncio.wait_for(draining, 5)
    assert len(hints(asked)) == 1
    assert (stage.counted("told"), stage.counted("moved")) == (1, 1)
    assert (stage.counted("closed"), stage.counted("stayed")) == (1, 0)


async def test_hints_are_paced() -> None:
    """They count like closes: in the first half of a second no more than half the pace."""
    stage = Stage(100, positions=True, pace=20)
    draining = asyncio.create_task(stage.drain.run(30.0))
    loop = asyncio.get_running_loop()
    began = loop.time()
    await stage.until(lambda: any(one.connection.leaving for one in stage.made))
    await stage.until(lambda: sum(one.connection.leaving for one in stage.made) >= 10)
    assert loop.time() - began > 0.3
    stage.drain.hurry()
    await draining


async def test_who_stays_is_closed_before_the_end() -> None:
    """A client that was told and does not go gets 1001 when the time is nearly over."""
    stage = Stage(3, positions=True)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await stage.drain.run(2.0)
    assert 0.95 < loop.time() - began < 2.5
    assert stage.codes() == [[CloseReason.GOING_AWAY]] * 3
    assert (stage.counted("told"), stage.counted("stayed")) == (3, 3)


async def test_without_redis_they_are_told_all_the_same() -> None:
    """The announcement is for newcomers; whoever must go must know."""
    stage = Stage(1, positions=True)
    stage.farewells.broken = True
    draining = asyncio.create_task(stage.drain.run(30.0))
    await stage.until(lambda: len(hints(stage.made[0])) == 1)
    stage.drain.hurry()
    await draining


async def test_who_is_joining_gets_its_ready_first() -> None:
    """An admission on its way is neither refused nor cut off; then it is sent away."""
    stage = Stage(1)
    joining = Made("late")
    stage.join(joining)
    draining = asyncio.create_task(stage.drain.run(30.0))
    await stage.until(lambda: len(stage.hub) == 1)
    assert joining.connection.state is State.JOINING
    joining.open()
    await asyncio.wait_for(draining, 5)
    assert joining.sink.closed == [CloseReason.GOING_AWAY]


async def test_a_request_on_its_way_is_waited_for() -> None:
    """A connection that was accepted before may still send its request; not for long."""
    waiting = 1
    stage = Stage(0, handshakes=lambda: waiting)
    draining = asyncio.create_task(stage.drain.run(30.0))
    await asyncio.sleep(0.3)
    assert not draining.done()
    assert stage.stopped == 0
    waiting = 0
    await asyncio.wait_for(draining, 5)
    assert stage.stopped == 1


async def test_silent_connections_are_not_waited_for() -> None:
    """Who has connected and says nothing does not hold the drain up."""
    async with asyncio.timeout(10):
        await Stage(0, handshakes=lambda: 1).drain.run(30.0)


async def test_a_silent_socket_is_closed_with_the_drain() -> None:
    """A socket that moved at the last moment is closed with the others."""
    stage = Stage(1, positions=True)
    (one,) = stage.made
    one.connection.leaving = True
    one.connection.mute(CloseReason.MOVED)
    assert one.sink.closed == []
    stage.hub.join(one.connection)
    await stage.drain.run(0.2)
    assert one.sink.closed == [CloseReason.MOVED]
