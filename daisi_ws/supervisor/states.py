"""The states of slots and workers, and the actions that the rules ask for."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Literal

from daisi_ws.domain.slots import LANES, BootFailed

Level = Literal["info", "warning", "error"]


class Phase(Enum):
    """What a worker process was last told or known to do. It only moves downward."""

    BOOTING = auto()
    """No sign of life yet."""
    RUNNING = auto()
    """Heartbeats come; it may be ready or not."""
    LEAVING = auto()
    """Asked to end, or ends on its own; SIGKILL at the deadline."""
    KILLED = auto()
    """SIGKILL was sent; only its death can follow."""


class Role(Enum):
    """What a process is in its slot."""

    CURRENT = auto()
    """It serves, or starts to."""
    SUCCESSOR = auto()
    """It starts while the current one still serves."""
    LEAVING = auto()
    """It has been replaced and ends."""


@dataclass(slots=True)
class Life:
    """One worker process.

    :param heard: when its last report came (or when it was forked).
    :param ready_since: since when it has been ready without interruption.
    :param deadline: when SIGKILL follows, while it is leaving.
    :param why_not_ready: its own word on why it does not deliver.
    :param boot_failed: its own word on why it cannot start.
    :param reload_due: a SIGHUP waits for its first sign of life.
    """

    slot: int
    generation: int
    lane: int
    pod_id: str
    predecessor: str | None
    started: float
    heard: float
    pid: int = 0
    phase: Phase = Phase.BOOTING
    ready_since: float | None = None
    was_ready: bool = False
    deadline: float | None = None
    why_not_ready: str = ""
    boot_failed: BootFailed | None = None
    reload_due: bool = False

    @property
    def up(self) -> bool:
        """Whether it is not on its way out."""
        return self.phase in (Phase.BOOTING, Phase.RUNNING)


@dataclass(slots=True)
class Slot:
    """A place for one worker: who fills it, who comes, who goes.

    :param failures: deaths in a row without a stable life between them; sets the backoff.
    :param retry_at: when the empty slot is filled again.
    :param last_pod: pod ID of the last process here that may have left a lease behind.
    """

    number: int
    current: Life | None = None
    successor: Life | None = None
    leaving: list[Life] = field(default_factory=list)
    failures: int = 0
    crashes_at_start: int = 0
    retry_at: float | None = None
    was_ready: bool = False
    generation: int = 0
    last_lane: int = LANES - 1
    last_pod: str | None = None

    def remove(self, life: Life) -> Role:
        """Take a process out that is gone and return what it was here."""
        if life is self.current:
            self.current = None
            return Role.CURRENT
        if life is self.successor:
            self.successor = None
            return Role.SUCCESSOR
        self.leaving.remove(life)
        return Role.LEAVING

    def lives(self) -> Iterator[Life]:
        """Yield every living process of the slot: at most one for each lane."""
        if self.current is not None:
            yield self.current
        if self.successor is not None:
            yield self.successor
        yield from self.leaving

    def free_lane(self) -> int | None:
        """Return a lane that no living process uses, or None.

        Another than the last one where possible: a port that was taken by a stranger does not
        stop the slot for ever.
        """
        used = {life.lane for life in self.lives()}
        order = [(self.last_lane + step) % LANES for step in range(1, LANES + 1)]
        return next((lane for lane in order if lane not in used), None)


@dataclass(frozen=True, slots=True)
class Fork:
    """Start a process for this life; answer with `Fleet.forked` or `Fleet.fork_failed`."""

    life: Life


@dataclass(frozen=True, slots=True)
class Send:
    """Send a signal to a worker."""

    pid: int
    signal: signal.Signals


@dataclass(frozen=True, slots=True)
class Forget:
    """The process is gone: close its pipe, drop the live gauges of its lane."""

    pid: int
    slot: int
    lane: int


@dataclass(frozen=True, slots=True)
class Say:
    """Write one log line."""

    level: Level
    event: str
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Exit:
    """All workers are gone: the supervisor ends with this code."""

    code: int


Action = Fork | Send | Forget | Say | Exit


@dataclass(frozen=True, slots=True)
class Death:
    """How a process ended: its exit code, or the signal that ended it."""

    code: int | None = None
    signal: int | None = None

    def fields(self) -> dict[str, object]:
        """Return the log fields that say it."""
        if self.signal is None:
            return {"exit_code": self.code}
        try:
            return {"signal": signal.Signals(self.signal).name}
        except ValueError:  # real-time signals have numbers only
            return {"signal": self.signal}
