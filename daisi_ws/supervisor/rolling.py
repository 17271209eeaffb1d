"""The rolling restart: slot by slot, the successor ready first, then the old process drains.

The next slot's turn comes when the old process is *gone*, not when it starts to drain: at any
moment at most one worker's clients are on the move, and at most one process more than usual runs.
"""

from __future__ import annotations

from enum import Enum, auto

from daisi_ws.supervisor.core import Core
from daisi_ws.supervisor.states import Life, Slot


class Awaited(Enum):
    """What the restart of a slot waits for."""

    LANE = auto()
    READY = auto()
    OLD_GONE = auto()


class Rolling:
    """A rolling restart, if one runs.

    A successor that does not become ready in `timings.boot` seconds, or dies before, ends the
    whole restart: the old processes stay.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._slot: Slot | None = None
        self._awaited = Awaited.LANE
        self._deadline: float | None = None
        self._queued = False
        self._started = 0.0

    @property
    def deadline(self) -> float | None:
        """When the successor must be ready."""
        return self._deadline

    @property
    def slot(self) -> Slot | None:
        """The slot whose turn it is."""
        return self._slot

    def request(self, now: float) -> None:
        """Start, or remember the request while one runs."""
        if self._slot is not None:
            self._queued = True
            self._core.say("info", "rolling restart queued")
            return
        self._core.say("info", "rolling restart started", workers=len(self._core.slots))
        self._started = now
        self._turn_of(0, now)

    def cancel(self) -> None:
        """Forget everything: all workers are being stopped."""
        self._slot, self._deadline, self._queued = None, None, False

    def ready(self, life: Life, now: float) -> None:
        """A process is ready: if it is the awaited successor, it takes the slot over."""
        slot = self._slot
        if slot is None or life is not slot.successor:
            return
        old, slot.current, slot.successor = slot.current, life, None
        self._deadline = None
        self._awaited = Awaited.OLD_GONE
        if old is not None:
            self._core.let_go(slot, old, now)
        else:
            self._turn_of(slot.number + 1, now)

    def left(self, slot: Slot, now: float) -> None:
        """A leaving process of a slot is gone."""
        if slot is not self._slot or slot.leaving:
            return
        if self._awaited is Awaited.LANE:
            self._fork(slot, now)
        elif self._awaited is Awaited.OLD_GONE:
            self._turn_of(slot.number + 1, now)

    def successor_died(self, slot: Slot, problem: str, now: float) -> None:
        """The successor is gone before it was ready."""
        if slot.current is None:
            self._core.retry(slot, now)
        self._abort(slot, problem, now)

    def current_died(self, slot: Slot, now: float) -> None:
        """The current process of a slot is gone: what has just been started may be no good."""
        if slot is self._slot and self._awaited is Awaited.OLD_GONE:
            self._abort(slot, "the successor died soon after it was ready", now)

    def forgive(self, gap: float) -> None:
        """Move the deadline by the seconds in which everything was stopped."""
        if self._deadline is not None:
            self._deadline += gap

    def tick(self, now: float) -> None:
        """Time has passed."""
        slot, deadline = self._slot, self._deadline
        if slot is None or deadline is None or now < deadline:
            return
        successor = slot.successor
        # One that is already being ended (it hung) aborts the restart by its death.
        self._deadline = None
        if successor is not None and successor.up:
            slot.successor = None
            if slot.current is None:
                slot.current = successor
            else:
                self._core.let_go(slot, successor, now)
            why = successor.why_not_ready or "it did not say why"
            problem = f"the successor was not ready in {self._core.timings.boot:g} s: {why}"
            self._abort(slot, problem, now)

    def _turn_of(self, number: int, now: float) -> None:
        self._deadline = None
        if number < len(self._core.slots):
            self._slot = self._core.slots[number]
            self._awaited = Awaited.LANE
            if not self._slot.leaving:
                self._fork(self._slot, now)
            return
        took = round(now - self._started, 3)
        self._core.say("info", "rolling restart done", workers=number, took_seconds=took)
        self._end(now)

    def _fork(self, slot: Slot, now: float) -> None:
        slot.successor = self._core.fork(slot, now)
        self._awaited = Awaited.READY
        self._deadline = now + self._core.timings.boot

    def _abort(self, slot: Slot, problem: str, now: float) -> None:
        self._core.say(
            "error",
            "rolling restart aborted",
            slot=slot.number,
            problem=problem,
            not_restarted=len(self._core.slots) - slot.number,
        )
        self._end(now)

    def _end(self, now: float) -> None:
        self._slot, self._deadline = None, None
        if self._queued:
            self._queued = False
            self.request(now)
