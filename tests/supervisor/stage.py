"""A stage for the rules: plays the shell, with a clock of its own and process IDs made up."""

from __future__ import annotations

import signal
from collections.abc import Callable

from daisi_ws.domain.slots import BootFailed, Heartbeat, Ready, Report
from daisi_ws.supervisor.fleet import Fleet
from daisi_ws.supervisor.settings import Timings
from daisi_ws.supervisor.states import Action, Death, Exit, Forget, Fork, Life, Say, Send

TIMINGS = Timings(kill=35.0, boot=60.0, silence=30.0)


class Stage:
    """Does what the fleet asks for and remembers it.

    :param chance: the jitter, 1.0 for the longest pauses.
    :param fork_works: asked before each fork.
    """

    def __init__(
        self,
        workers: int = 2,
        timings: Timings = TIMINGS,
        *,
        chance: float = 1.0,
        fork_works: Callable[[Life], bool] = lambda _: True,
    ) -> None:
        self.now = 1000.0
        self.fleet = Fleet("host", workers, timings, epoch=lambda: 7, chance=lambda: chance)
        self.alive: dict[int, Life] = {}
        self.forks: list[Life] = []
        self.sent: list[tuple[int, signal.Signals]] = []
        self.forgotten: list[Forget] = []
        self.said: list[Say] = []
        self.exit_code: int | None = None
        self.refused_forks = 0
        self._fork_works = fork_works
        self._next_pid = 100
        self.do(self.fleet.start(self.now))

    def do(self, actions: list[Action]) -> None:
        """Act as the shell does."""
        for action in actions:
            match action:
                case Fork(life=life):
                    self._fork(life)
                case Send(pid=pid, signal=signum):
                    assert pid in self.alive, "a signal to a process that is gone"
                    self.sent.append((pid, signum))
                case Forget():
                    self.forgotten.append(action)
                case Say():
                    self.said.append(action)
                case Exit(code=code):
                    assert self.exit_code is None, "the end comes once"
                    assert not self.alive, "the end comes after the last worker"
                    self.exit_code = code

    def _fork(self, life: Life) -> None:
        if self.fleet.stopping:
            self.refused_forks += 1
            return
        living = {other.pod_id for other in self.alive.values()}
        assert life.predecessor not in living, "the lease of a living pod would be removed"
        if not self._fork_works(life):
            self.do(self.fleet.fork_failed(life, "no room", self.now))
            return
        self._next_pid += 1
        self.alive[self._next_pid] = life
        self.forks.append(life)
        self.do(self.fleet.forked(life, self._next_pid))

    def pid(self, slot: int) -> int:
        """Return the process ID of the slot's current worker."""
        life = self.fleet.slots[slot].current
        assert life is not None, f"slot {slot} is empty"
        return life.pid

    def successor(self, slot: int) -> int:
        """Return the process ID of the slot's successor."""
        life = self.fleet.slots[slot].successor
        assert life is not None, f"slot {slot} has no successor"
        return life.pid

    def report(self, pid: int, report: Report) -> None:
        """A worker reports."""
        self.do(self.fleet.report(pid, report, self.now))

    def ready(self, *pids: int) -> None:
        """Workers (all living ones if none are named) report that they are ready."""
        for pid in pids or tuple(self.alive):
            self.report(pid, Ready())

    def die(self, pid: int, code: int | None = None, signum: int | None = None) -> None:
        """A worker ends, cleanly if nothing else is said."""
        del self.alive[pid]
        death = Death(signal=signum) if signum is not None else Death(code=code or 0)
        self.do(self.fleet.exited(pid, death, self.now))

    def fail_boot(self, pid: int, problem: str = "no such stream", exit_code: int = 3) -> None:
        """A worker says that it cannot start, and exits."""
        self.report(pid, BootFailed(problem, "make one", exit_code))
        self.die(pid, 3)

    def pass_time(self, seconds: float, *, heartbeats: bool = True, step: float = 1.0) -> None:
        """Let time pass, with a tick (and a heartbeat of each worker) every step."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + step)
            if heartbeats:
                for pid in self.alive:
                    self.report(pid, Heartbeat())
            self.do(self.fleet.tick(self.now))

    def signals(self, pid: int) -> list[signal.Signals]:
        """Return what was sent to a process."""
        return [signum for to, signum in self.sent if to == pid]

    def events(self) -> list[str]:
        """Return the events of the log lines."""
        return [say.event for say in self.said]

    def line(self, event: str) -> Say:
        """Return the last log line of an event."""
        return next(say for say in reversed(self.said) if say.event == event)
