"""Several event loops in one thread, on one simulated clock: each stands for a process.

A loop turns only when the :class:`Universe` lets it. One that is paused stands still as a stopped
process does: what is sent to it waits at its door, and its timers are late when it goes on. No
turn takes any time; time passes only between turns, when nobody has anything to do.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from math import inf
from typing import Any, TypeVar

_T = TypeVar("_T")

MOST_TURNS = 200_000
"""Turns of loops without time passing on; more is a loop that never rests."""


class _Selector:
    """Nothing is ever waited for: the universe calls a loop when it has something to do."""

    def select(self, timeout: float | None) -> list[object]:
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """The loop of one simulated process."""

    def __init__(self, universe: Universe) -> None:
        super().__init__()
        self._universe = universe
        self._selector = _Selector()
        self._clock_resolution = 1e-9
        self.failures: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.failures.append(context))

    def time(self) -> float:
        """Return the universe's time in seconds."""
        return self._universe.now

    def due_at(self) -> float | None:
        """Return when this loop has something to do; None for never."""
        if self._ready:  # type: ignore[attr-defined]
            return self._universe.now
        scheduled = self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0].cancelled():
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
        return float(scheduled[0].when()) if scheduled else None

    def turn(self) -> None:
        """Run what is ready now, once."""
        self.call_soon(self.stop)
        self.run_forever()

    def _process_events(self, events: list[object]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


class Process:
    """A simulated process: a loop, and a door at which what others send waits."""

    def __init__(self, universe: Universe, name: str) -> None:
        self.universe = universe
        self.name = name
        self.loop = VirtualLoop(universe)
        self.alive = True
        self.paused = False
        self._door: deque[Callable[[], None]] = deque()

    @property
    def runs(self) -> bool:
        """Tell whether this process turns."""
        return self.alive and not self.paused

    def hand(self, what: Callable[[], None]) -> None:
        """Something has arrived for this process, as bytes in a socket do."""
        if self.alive:
            self._door.append(what)

    def due_at(self) -> float | None:
        """Return when this process has something to do; None for never."""
        return self.universe.now if self._door else self.loop.due_at()

    def turn(self) -> None:
        """Take in what has arrived, then what is due: the order in which a loop does it."""
        while self._door:
            self.loop.call_soon(self._door.popleft(), context=Context())
        self.loop.turn()

    def spawn(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Start something in this process."""
        return self.loop.create_task(work)

    def kill(self) -> None:
        """End at once; nothing of it is seen by anybody."""
        self.alive = False
        self._door.clear()
        for _ in range(100):
            tasks = [t for t in asyncio.all_tasks(self.loop) if not t.done()]
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            self.loop.turn()
        self.loop.close()


class Universe:
    """The clock, the processes and everything that is on its way between them.

    :param seed: of all delays; each way has a source of its own, so that one message more does
        not change what happens on all others.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = 1000.0
        self.processes: list[Process] = []
        self.slow: dict[str, float] = {}
        """Seconds more that some ways take."""
        self._cut: dict[str, list[Callable[[], None]]] = {}
        self._on_its_way: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._chances: dict[str, random.Random] = {}
        self._arrivals: dict[str, float] = {}

    def wall(self) -> float:
        """Return Unix time in seconds."""
        return 1_700_000_000.0 + self.now

    def chance(self, way: str) -> random.Random:
        """Return the source of chance of one way."""
        if way not in self._chances:
            self._chances[way] = random.Random(f"{self.seed} {way}")
        return self._chances[way]

    def process(self, name: str) -> Process:
        """Start a process."""
        made = Process(self, name)
        self.processes.append(made)
        return made

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        """Have something happen later."""
        heapq.heappush(self._on_its_way, (self.now + seconds, next(self._numbers), what))

    def send(self, way: str, what: Callable[[], None]) -> None:
        """Have something happen after a short delay; on one way the order is kept."""
        if way in self._cut:
            self._cut[way].append(what)
            return
        delay = self.slow.get(way, 0.0) + self.chance(way).choice((0.0001, 0.0003, 0.001, 0.004))
        arrives = self.now + delay
        arrives = self._arrivals[way] = max(arrives, self._arrivals.get(way, 0.0))
        heapq.heappush(self._on_its_way, (arrives, next(self._numbers), what))

    def cut(self, *ways: str) -> None:
        """Have all that is sent on some ways wait, as bytes do that are sent again and again."""
        for way in ways:
            self._cut.setdefault(way, [])

    def mend(self, *ways: str) -> None:
        """Let everything through again on some ways; none: on all."""
        for way in ways or list(self._cut):
            for what in self._cut.pop(way, []):
                self.send(way, what)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.run_until(lambda: False, seconds)

    def run_until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Let time pass until something is so; False if it was not in time."""
        end = self.now + seconds
        turns = 0
        while not done():
            due = self._due()
            if due > end:
                self.now = end
                return done()
            turns = turns + 1 if due <= self.now else 0
            assert turns < MOST_TURNS, "something never rests"
            self.now = max(self.now, due)
            self._arrive()
            for process in list(self.processes):
                if process.runs and (process.due_at() or inf) <= self.now:
                    process.turn()
        return True

    def close(self) -> None:
        """End everything."""
        for process in self.processes:
            if process.alive:
                process.kill()

    def _due(self) -> float:
        times = [p.due_at() for p in self.processes if p.runs]
        known = [time for time in times if time is not None]
        if self._on_its_way:
            known.append(self._on_its_way[0][0])
        return min(known, default=inf)

    def _arrive(self) -> None:
        while self._on_its_way and self._on_its_way[0][0] <= self.now:
            heapq.heappop(self._on_its_way)[2]()
