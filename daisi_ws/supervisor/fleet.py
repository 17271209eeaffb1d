"""The rules of the supervisor: events in, actions out; no I/O, and the clock is passed in.

Every public method of `Fleet` takes an event and returns what is to be done about it, in order.
`now` is in seconds of a monotonic clock.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

from daisi_ws.domain.deadlines import QUICK_STOP_SECONDS
from daisi_ws.domain.slots import BootFailed, Draining, NotReady, Ready, Report
from daisi_ws.supervisor.core import Core
from daisi_ws.supervisor.deaths import Deaths, Verdict, forget_failures
from daisi_ws.supervisor.rolling import Rolling
from daisi_ws.supervisor.settings import Timings
from daisi_ws.supervisor.states import Action, Death, Exit, Forget, Life, Phase, Slot
from daisi_ws.supervisor.summary import summary

ABORT_SECONDS = 1.0
"""From SIGABRT (the hung worker writes where it hangs) to SIGKILL."""

PAUSE_SECONDS = 5.0
"""A longer gap between two ticks means that this process itself was stopped."""


class Fleet:
    """The workers of one host.

    :param name: first part of every pod ID.
    :param epoch: returns a number that grows with wall time, for generations.
    :param chance: returns a random number from 0 to 1, for the jitter.
    """

    def __init__(
        self,
        name: str,
        workers: int,
        timings: Timings,
        *,
        epoch: Callable[[], int],
        chance: Callable[[], float],
    ) -> None:
        self._core = Core(name, workers, timings, epoch, chance)
        self._rolling = Rolling(self._core)
        self._deaths = Deaths(self._core, self._rolling)
        self._stop_requests = 0
        self._last_tick: float | None = None

    @property
    def slots(self) -> list[Slot]:
        """The slots, for inspection."""
        return self._core.slots

    @property
    def stopping(self) -> bool:
        """Whether no process is to be started any more."""
        return self._core.stopping

    def started(self, now: float) -> bool:
        """Return whether the first start is over: clients can be served."""
        return self._deaths.first_start_over(now) or all(s.was_ready for s in self._core.slots)

    def status(self) -> str:
        """Return the state in one line."""
        core = self._core
        return summary(
            core.slots,
            living=len(core.lives),
            stopping=core.stopping,
            rolling=self._rolling.slot,
        )

    def start(self, now: float) -> list[Action]:
        """Fill every slot."""
        for slot in self._core.slots:
            slot.current = self._core.fork(slot, now)
        return self._core.take()

    def forked(self, life: Life, pid: int) -> list[Action]:
        """Answer to `Fork`: the process exists."""
        life.pid = pid
        self._core.lives[pid] = life
        self._core.say("info", "worker started", life)
        return self._core.take()

    def fork_failed(self, life: Life, why: str, now: float) -> list[Action]:
        """Answer to `Fork`: the system refused."""
        self._bury(life, Death(), why, now)
        return self._core.take()

    def report(self, pid: int, report: Report, now: float) -> list[Action]:
        """A worker says something."""
        life = self._core.lives.get(pid)
        if life is None:
            return []
        life.heard = now
        if life.phase is Phase.BOOTING:
            life.phase = Phase.RUNNING
            if life.reload_due:
                self._core.send(life, signal.SIGHUP)
        match report:
            case Ready():
                self._ready(life, now)
            case NotReady(why=why):
                self._not_ready(life, why, now)
            case BootFailed():
                life.boot_failed = report
            case Draining():
                self._drains(life, now)
        return self._core.take()

    def exited(self, pid: int, death: Death, now: float) -> list[Action]:
        """A process is gone; the IDs of strangers are ignored."""
        life = self._core.lives.pop(pid, None)
        if life is not None:
            self._core.do(Forget(pid, life.slot, life.lane))
            self._bury(life, death, "", now)
        return self._core.take()

    def stop(self, cause: str, now: float) -> list[Action]:
        """Stop: asked once, by draining; asked again, quickly; asked a third time, at once."""
        self._stop_requests += 1
        lives = list(self._core.lives.values())
        if self._stop_requests == 1:
            self._drain_all(cause, now)
        elif self._stop_requests == 2:
            self._core.say("warning", "stopping quickly", cause=cause, remaining=len(lives))
            for life in lives:
                if life.phase is not Phase.KILLED:
                    life.phase = Phase.LEAVING
                    life.deadline = now + QUICK_STOP_SECONDS
                    self._core.send(life, signal.SIGINT)
        else:
            for life in lives:
                self._core.kill(life, "asked to stop a third time")
        return self._core.take()

    def roll(self, now: float) -> list[Action]:
        """Restart all workers one by one; a request while that runs is done after it, once."""
        if not self._core.stopping:
            self._rolling.request(now)
        return self._core.take()

    def reload(self, timings: Timings) -> list[Action]:
        """Take over new timings and tell the workers to load the configuration again."""
        self._core.timings = timings
        for life in self._core.lives.values():
            if life.phase is Phase.RUNNING:
                self._core.send(life, signal.SIGHUP)
            elif life.phase is Phase.BOOTING:
                life.reload_due = True
        return self._core.take()

    def tick(self, now: float) -> list[Action]:
        """Time has passed."""
        self._forgive_own_pause(now)
        for life in list(self._core.lives.values()):
            if life.deadline is not None and now >= life.deadline:
                self._core.kill(life, "did not end in time")
            elif life.up and now >= self._silent_at(life):
                self._hung(life, now)
        if not self._core.stopping:
            for slot in self._core.slots:
                self._refill(slot, now)
            self._rolling.tick(now)
        return self._core.take()

    def next_wakeup(self) -> float | None:
        """Return when `tick` has something to do if nothing else happens before."""
        return min(self._wakeups(), default=None)

    def _wakeups(self) -> Iterator[float]:
        for life in self._core.lives.values():
            if life.up:
                yield self._silent_at(life)
            elif life.deadline is not None:
                yield life.deadline
        for slot in self._core.slots:
            if slot.retry_at is not None and slot.free_lane() is not None:
                yield slot.retry_at
        if self._rolling.deadline is not None:
            yield self._rolling.deadline

    def _ready(self, life: Life, now: float) -> None:
        if not life.up or life.ready_since is not None:
            return
        slots, slot = self._core.slots, self._core.slots[life.slot]
        complete = all(each.was_ready for each in slots)
        life.ready_since = now
        life.why_not_ready = ""
        life.was_ready = slot.was_ready = True
        slot.last_pod = None
        if self._deaths.first_ready_at is None:
            self._deaths.first_ready_at = now
        self._core.say("info", "worker ready", life, after_seconds=round(now - life.started, 3))
        if not complete and all(each.was_ready for each in slots):
            self._core.say("info", "all workers ready", workers=len(slots))
        self._rolling.ready(life, now)

    def _not_ready(self, life: Life, why: str, now: float) -> None:
        if not life.up:
            return
        forget_failures(self._core.slots[life.slot], life, now)
        if life.ready_since is not None:
            self._core.say("warning", "worker not ready any more", life, why=why)
        life.ready_since = None
        life.why_not_ready = why

    def _drains(self, life: Life, now: float) -> None:
        """Replace a worker at once that drains unasked: somebody else told it to."""
        slot = self._core.slots[life.slot]
        if life is slot.current and life.up:
            life.phase = Phase.LEAVING
            life.deadline = now + self._core.timings.kill
            self._core.say("warning", "worker leaves on its own", life)
            slot.current = None
            slot.leaving.append(life)
            if slot.successor is None:
                slot.retry_at = now

    def _bury(self, life: Life, death: Death, why: str, now: float) -> None:
        verdict = self._deaths.bury(life, death, why, now)
        if verdict is Verdict.GIVE_UP:
            self._stop_requests = 1
            self._drain_all("a worker cannot start", now)
        elif self._core.stopping and not self._core.lives:
            self._core.do(Exit(self._core.exit_code))

    def _drain_all(self, cause: str, now: float) -> None:
        core = self._core
        core.stopping = True
        self._rolling.cancel()
        for slot in core.slots:
            slot.retry_at = None
        kill = core.timings.kill
        core.say("info", "stopping", cause=cause, workers=len(core.lives), kill_after_seconds=kill)
        for life in core.lives.values():
            core.ask_to_leave(life, signal.SIGTERM, now + kill)
        if not core.lives:
            core.do(Exit(core.exit_code))

    def _refill(self, slot: Slot, now: float) -> None:
        if slot.retry_at is None or now < slot.retry_at or slot.free_lane() is None:
            return
        slot.current = self._core.fork(slot, now)

    def _hung(self, life: Life, now: float) -> None:
        silent = round(now - life.heard, 3)
        self._core.say("error", "worker hung", life, silent_seconds=silent)
        self._core.ask_to_leave(life, signal.SIGABRT, now + ABORT_SECONDS)

    def _silent_at(self, life: Life) -> float:
        timings = self._core.timings
        return life.heard + (timings.boot if life.phase is Phase.BOOTING else timings.silence)

    def _forgive_own_pause(self, now: float) -> None:
        """Move every limit by the time in which this process was stopped, as they may have been."""
        gap = now - self._last_tick if self._last_tick is not None else 0.0
        self._last_tick = now
        if gap < PAUSE_SECONDS:
            return
        for life in self._core.lives.values():
            life.heard = min(life.heard + gap, now)
            if life.deadline is not None:
                life.deadline += gap
        self._rolling.forgive(gap)
