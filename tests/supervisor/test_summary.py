"""The state in one line, and when the first start is over."""

from __future__ import annotations

from daisi_ws.domain.slots import NotReady
from tests.supervisor.stage import TIMINGS, Stage


def test_says_how_many_are_ready_and_why_not_all() -> None:
    """The reason is a worker's own word; it goes when the worker is ready."""
    stage = Stage(workers=2)
    assert stage.fleet.status() == "0 of 2 workers ready"
    stage.ready(stage.pid(0))
    stage.report(stage.pid(1), NotReady("redis: no connection"))
    assert stage.fleet.status() == "1 of 2 workers ready: redis: no connection"
    stage.ready()
    assert stage.fleet.status() == "2 of 2 workers ready"


def test_says_whose_turn_it_is_and_who_is_left() -> None:
    """A rolling restart names its slot, a stop counts down."""
    stage = Stage(workers=2)
    stage.ready()
    stage.do(stage.fleet.roll(stage.now))
    assert stage.fleet.status() == "2 of 2 workers ready, rolling restart of worker 0"
    stage.die(stage.successor(0))
    stage.do(stage.fleet.stop("SIGTERM", stage.now))
    assert stage.fleet.status() == "stopping, 2 of 2 workers left"
    stage.die(stage.pid(0))
    assert stage.fleet.status() == "stopping, 1 of 2 workers left"


def test_started_when_all_were_ready() -> None:
    """Once is enough: what happens later is no start."""
    stage = Stage(workers=2)
    stage.ready(stage.pid(0))
    assert not stage.fleet.started(stage.now)
    stage.ready(stage.pid(1))
    assert stage.fleet.started(stage.now)
    stage.report(stage.pid(1), NotReady("redis"))
    assert stage.fleet.started(stage.now)


def test_started_without_a_slot_that_has_had_its_time() -> None:
    """Others serve meanwhile: one slot that waits does not hold up the service for ever."""
    stage = Stage(workers=2)
    stage.ready(stage.pid(0))
    stage.report(stage.pid(1), NotReady("it waits"))
    stage.pass_time(TIMINGS.boot - 1)
    assert not stage.fleet.started(stage.now)
    stage.pass_time(2)
    assert stage.fleet.started(stage.now)
