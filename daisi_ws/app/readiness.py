"""Whether this pod delivers: the parts of the way from the stream to a socket, watched by asking.

What is asked is asked in the background, about once a second, each question with a deadline; who
wants to know gets what is known by then. A part is not ready once its trouble has lasted for
:data:`PATIENCE_SECONDS`, and ready again with its first good answer. One that has never worked is
not ready from the start.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import structlog

from daisi_ws.app.waiting import TICK_SECONDS, end_tasks, until_tick
from daisi_ws.domain.errors import Unavailable

PERIOD_SECONDS: Final = 1.0
"""At most so long after one answer the next question is asked."""

ANSWER_SECONDS: Final = 0.8
"""How long one answer is waited for."""

SILENCE_SECONDS: Final = 1.4
"""A part that was asked and has not answered for this long is in trouble."""

PATIENCE_SECONDS: Final = 0.75
"""Trouble that ends sooner is told, but does not cost readiness."""

_DEADLINE_SECONDS: Final = 1.3
_RETRY_SECONDS: Final = 0.3
_STARTING_TICK_SECONDS: Final = 0.02
_STOOD_STILL_SECONDS: Final = 0.75

log = structlog.get_logger(__name__)


class Look(NamedTuple):
    """What is known of a part now.

    :param problem: empty while it works.
    :param seen: when it was last known to work, None: now.
    :param at_once: the problem costs readiness without patience.
    """

    problem: str = ""
    seen: float | None = None
    at_once: bool = False


class Part(Protocol):
    """One part of the way. `name` is what it is called, `dependency` which one it belongs to."""

    name: str
    dependency: str

    def look(self, now: float) -> Look:
        """Return what is known by now, without asking anybody."""


class Probe(Protocol):
    """What is asked regularly."""

    def applies(self) -> bool:
        """Tell whether there is somebody to ask."""

    async def ask(self, clock: Callable[[], float]) -> None:
        """Ask, and keep the answer; the caller bounds the time.

        :raises Unavailable: no good answer.
        """


class Clock:
    """Seconds in which this process ran. While it was stopped nobody could answer it.

    To be asked several times a second.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._lost = 0.0

    def __call__(self) -> float:
        """Return the seconds."""
        now = self._clock()
        gap, self._last = now - self._last, now
        if gap > _STOOD_STILL_SECONDS:
            self._lost += gap - TICK_SECONDS
        return now - self._lost


@dataclass(frozen=True, slots=True)
class State:
    """A part as it is told.

    :param age: seconds since it was last known to work.
    :param reason: what is wrong; while it is ready, what is about to be.
    """

    ready: bool
    age: float
    reason: str


class _Watch:
    """A part, since when it has been in trouble, and when it last worked."""

    __slots__ = ("_seen", "_since", "_worked", "part")

    def __init__(self, part: Part, now: float) -> None:
        self.part = part
        self._since: float | None = now
        self._seen = now
        self._worked = False

    def state(self, now: float) -> State:
        look = self.part.look(now)
        if not look.problem:
            self._worked = True
            self._since = None
            self._seen = now if look.seen is None else look.seen
            return State(True, max(0.0, now - self._seen), "")
        if self._since is None:
            self._since = now
        lasts = now - self._since >= PATIENCE_SECONDS
        red = lasts or look.at_once or not self._worked
        return State(not red, max(0.0, now - self._seen), look.problem)


class _Asking:
    """A probe, and when it is due."""

    __slots__ = ("_clock", "_due", "_probe", "_task")

    def __init__(self, probe: Probe, clock: Clock) -> None:
        self._probe = probe
        self._clock = clock
        self._due = 0.0
        self._task: asyncio.Task[None] | None = None

    def tick(self) -> None:
        if self._task is None and self._clock() >= self._due and self._probe.applies():
            self._task = asyncio.create_task(self._ask(), name="readiness probe")

    async def cancel(self) -> None:
        await end_tasks(self._task)

    async def _ask(self) -> None:
        pause = _RETRY_SECONDS
        try:
            async with asyncio.timeout(_DEADLINE_SECONDS):
                await self._probe.ask(self._clock)
            pause = PERIOD_SECONDS * random.uniform(0.8, 1.0)  # noqa: S311 - jitter
        except (Unavailable, TimeoutError):
            pass  # its part says so
        except Exception:  # the others go on
            log.exception("probe failed")
        finally:
            self._due = self._clock() + pause
            self._task = None


class Readiness:
    """The parts of one pod.

    :param parts: in the order in which they are told.
    :param probes: what the parts live on.
    :param clock: see :class:`Clock`.
    """

    def __init__(self, parts: Sequence[Part], probes: Sequence[Probe], clock: Clock) -> None:
        self._clock = clock
        now = clock()
        self._watches = [_Watch(part, now) for part in parts]
        self._asking = [_Asking(probe, clock) for probe in probes]
        self._was_ready = False

    @property
    def dependencies(self) -> dict[str, list[str]]:
        """Return the names of the parts of each dependency."""
        found: dict[str, list[str]] = {}
        for watch in self._watches:
            if watch.part.dependency:
                found.setdefault(watch.part.dependency, []).append(watch.part.name)
        return found

    def states(self) -> dict[str, State]:
        """Return each part's state by its name. Asks nobody."""
        now = self._clock()
        return {watch.part.name: watch.state(now) for watch in self._watches}

    async def run(self) -> None:
        """Ask until cancelled."""
        try:
            while True:
                for asking in self._asking:
                    asking.tick()
                self._was_ready = self._was_ready or all(s.ready for s in self.states().values())
                await asyncio.sleep(until_tick() if self._was_ready else _STARTING_TICK_SECONDS)
        finally:
            await asyncio.gather(*(asking.cancel() for asking in self._asking))
