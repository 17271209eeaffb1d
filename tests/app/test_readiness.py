"""When trouble of a part costs readiness, and how parts are asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from structlog.testing import capture_logs

from daisi_ws.app import readiness
from daisi_ws.app.readiness import (
    PATIENCE_SECONDS,
    PERIOD_SECONDS,
    Clock,
    Look,
    Probe,
    Readiness,
    State,
)
from daisi_ws.app.readiness_reader import HEARD_SECONDS
from daisi_ws.domain.errors import Unavailable


class Time:
    """A clock that goes as told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


class Dependency:
    """A part whose trouble is set."""

    def __init__(self, name: str, dependency: str = "", problem: str = "") -> None:
        self.name = name
        self.dependency = dependency
        self.problem = problem
        self.at_once = False
        self.seen: float | None = None

    def look(self, now: float) -> Look:
        del now
        return Look(self.problem, self.seen, self.at_once)


class Question:
    """A probe that answers as told."""

    def __init__(self, error: Exception | None = None, *, hangs: bool = False) -> None:
        self.error = error
        self.hangs = hangs
        self.asked = 0
        self.open = True

    def applies(self) -> bool:
        return self.open

    async def ask(self, clock: Callable[[], float]) -> None:
        clock()
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error


def only(part: Dependency, time: Time) -> Callable[[], State]:
    """Return what tells the state of the only part."""
    made = Readiness([part], [], Clock(time))
    return lambda: made.states()[part.name]


def test_short_trouble_is_told_and_costs_nothing() -> None:
    """It costs readiness once it has lasted; the first good answer ends it."""
    part, time = Dependency("redis"), Time()
    state = only(part, time)
    assert state() == State(True, 0.0, "")
    part.problem = "away"
    assert state() == State(True, 0.0, "away")
    time.passes(PATIENCE_SECONDS / 2)
    assert state().ready
    time.passes(PATIENCE_SECONDS / 2)
    assert state() == State(False, PATIENCE_SECONDS, "away")
    part.problem = ""
    assert state() == State(True, 0.0, "")
    part.problem = "away"
    assert state().ready


def test_what_has_never_worked_is_not_ready() -> None:
    """At the start there is nothing to be patient about."""
    part, time = Dependency("redis", problem="not connected yet"), Time()
    state = only(part, time)
    assert not state().ready
    part.problem = ""
    assert state().ready


def test_some_trouble_costs_readiness_at_once() -> None:
    """Where it is known that nothing is delivered."""
    part, time = Dependency("loop"), Time()
    state = only(part, time)
    assert state().ready
    part.problem, part.at_once = "stood still", True
    assert not state().ready


def test_the_age_is_since_it_was_last_known_to_work() -> None:
    """Before and after it broke."""
    part, time = Dependency("redis"), Time()
    state = only(part, time)
    part.seen = time.now - 0.5
    assert state().age == 0.5
    part.problem = "away"
    time.passes(0.7)
    assert round(state().age, 3) == 1.2


def test_a_stopped_process_blames_nobody() -> None:
    """While it was stopped nobody could have answered it."""
    time = Time()
    clock = Clock(time)
    began = clock()
    for _ in range(10):
        time.passes(0.5)
        clock()
    assert clock() - began == 5.0
    time.passes(20.0)
    assert clock() - began < 5.5
    time.passes(0.5)
    assert 0.5 <= clock() - began - 5.0 < 1.0


async def asked(*probes: Probe, until: Callable[[], bool]) -> None:
    """Ask until a condition holds."""
    running = asyncio.create_task(Readiness([], probes, Clock()).run())
    try:
        async with asyncio.timeout(20):
            while not until():
                assert not running.done()
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_questions_are_asked_about_once_a_second() -> None:
    """Sooner where the answer was not good; not where there is nobody to ask."""
    good, bad, nobody = Question(), Question(Unavailable("no")), Question()
    nobody.open = False
    began = asyncio.get_running_loop().time()
    await asked(good, bad, nobody, until=lambda: good.asked == 3)
    assert asyncio.get_running_loop().time() - began >= 2 * PERIOD_SECONDS * 0.8
    assert bad.asked > 3
    assert nobody.asked == 0


async def test_one_that_hangs_holds_up_no_other() -> None:
    """It is given up after a while, and asked again."""
    good, hanging = Question(), Question(hangs=True)
    await asked(good, hanging, until=lambda: hanging.asked == 2)
    assert good.asked >= 2


async def test_an_unexpected_error_is_logged_and_survived() -> None:
    """A probe that is wrong does not end the others, nor itself."""
    wrong = Question(ValueError("what"))
    with capture_logs() as logs:
        await asked(wrong, until=lambda: wrong.asked == 2)
    assert {line["event"] for line in logs} == {"probe failed"}


def test_breaks_are_told_in_time() -> None:
    """The figures of docs/operations.md: at most 3 s from a break to NOT_READY."""
    silence = readiness.SILENCE_SECONDS + PATIENCE_SECONDS
    assert silence < 2.5
    assert PERIOD_SECONDS < readiness.SILENCE_SECONDS
    assert PERIOD_SECONDS + readiness.ANSWER_SECONDS + PATIENCE_SECONDS < 3
    assert 1.5 < HEARD_SECONDS < 3 - PATIENCE_SECONDS
