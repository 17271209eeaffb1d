"""What holds for the rules whatever happens in whatever order."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from daisi_ws.domain.slots import LANES, BootFailed, Draining, Heartbeat, NotReady, Ready
from tests.supervisor.stage import TIMINGS, Stage

REPORTS = (Heartbeat(), Ready(), NotReady("redis is away"), BootFailed("no"), Draining())


class AnyHistory(RuleBasedStateMachine):
    """Reports, deaths, signals and time in any order, against three slots."""

    def __init__(self) -> None:
        super().__init__()
        self.room = True
        self.stage = Stage(3, fork_works=lambda _: self.room)
        self.forks_at_stop: int | None = None

    def _some(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.stage.alive)))

    @precondition(lambda self: self.stage.alive)
    @rule(data=st.data(), report=st.sampled_from(REPORTS))
    def report(self, data: st.DataObject, report: Ready) -> None:
        """A worker says something."""
        self.stage.report(self._some(data), report)

    @precondition(lambda self: self.stage.alive)
    @rule(data=st.data(), code=st.sampled_from([0, 1, 3]), killed=st.booleans())
    def die(self, data: st.DataObject, code: int, killed: bool) -> None:
        """A worker ends."""
        self.stage.die(self._some(data), code, 9 if killed else None)

    @rule(seconds=st.sampled_from([0.05, 1.0, 12.0, 40.0]), heartbeats=st.booleans())
    def wait(self, seconds: float, heartbeats: bool) -> None:
        """Time passes."""
        self.stage.pass_time(seconds, heartbeats=heartbeats)

    @rule()
    def roll(self) -> None:
        """SIGUSR2 arrives."""
        self.stage.do(self.stage.fleet.roll(self.stage.now))

    @rule()
    def reload(self) -> None:
        """SIGHUP arrives."""
        self.stage.do(self.stage.fleet.reload(TIMINGS))

    @rule(room=st.booleans())
    def change_room(self, room: bool) -> None:
        """The system has room for processes, or not."""
        self.room = room

    @precondition(lambda self: self.stage.exit_code is None and len(self.stage.forks) > 6)
    @rule()
    def stop(self) -> None:
        """SIGTERM arrives."""
        self.stage.do(self.stage.fleet.stop("SIGTERM", self.stage.now))

    @invariant()
    def lanes_are_exclusive(self) -> None:
        """No two living processes of a slot share a port or metric files."""
        taken = [(life.slot, life.lane) for life in self.stage.alive.values()]
        assert len(taken) == len(set(taken))
        assert all(lane < LANES for _, lane in taken)

    @invariant()
    def pods_are_unique(self) -> None:
        """No pod ID is ever used twice."""
        pods = [life.pod_id for life in self.stage.forks]
        assert len(pods) == len(set(pods))

    @invariant()
    def nothing_starts_while_stopping(self) -> None:
        """After the stop no process is forked."""
        if self.stage.fleet.stopping:
            if self.forks_at_stop is None:
                self.forks_at_stop = len(self.stage.forks)
            assert len(self.stage.forks) == self.forks_at_stop

    @invariant()
    def every_slot_has_a_future(self) -> None:
        """While not stopping, each slot has a worker that stays, or one is due."""
        if self.stage.fleet.stopping:
            return
        for slot in self.stage.fleet.slots:
            assert slot.current or slot.successor or slot.retry_at is not None

    @invariant()
    def end_comes(self) -> None:
        """Stopping, and all workers gone: the exit code is known."""
        if self.stage.fleet.stopping and not self.stage.alive:
            assert self.stage.exit_code is not None

    def teardown(self) -> None:
        """Whatever happened, everyone is dead at most one drain time after a stop."""
        stage = self.stage
        if not stage.fleet.stopping:
            stage.do(stage.fleet.stop("SIGTERM", stage.now))
        stage.pass_time(TIMINGS.kill + 2, heartbeats=False)
        killed = {pid for pid, signum in stage.sent if signum == 9}
        assert set(stage.alive) <= killed


AnyHistory.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnyHistory = AnyHistory.TestCase
