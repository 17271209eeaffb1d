"""The state of the fleet and the few steps that all of its rules are made of."""

from __future__ import annotations

import signal
from collections.abc import Callable

from daisi_ws.domain.slots import EXIT_CLEAN
from daisi_ws.supervisor.settings import EXIT_KILLED, Timings
from daisi_ws.supervisor.states import Action, Fork, Level, Life, Phase, Say, Send, Slot

BACKOFF_BASE_SECONDS = 0.05
BACKOFF_CAP_SECONDS = 10.0


class Core:
    """Slots, living processes, and the actions asked for since the last event.

    :param name: first part of every pod ID.
    :param epoch: returns a number that grows with wall time, for generations.
    :param chance: returns a random number from 0 to 1, for the jitter.
    """

    def __init__(
        self,
        name: str,
        workers: int,
        timings: Timings,
        epoch: Callable[[], int],
        chance: Callable[[], float],
    ) -> None:
        self.timings = timings
        self.slots = [Slot(number) for number in range(workers)]
        self.lives: dict[int, Life] = {}
        self.stopping = False
        self.exit_code = EXIT_CLEAN
        self._name = name
        self._epoch = epoch
        self._chance = chance
        self._actions: list[Action] = []

    def do(self, action: Action) -> None:
        """Ask for an action."""
        self._actions.append(action)

    def take(self) -> list[Action]:
        """Return what was asked for, once."""
        actions, self._actions = self._actions, []
        return actions

    def say(self, level: Level, event: str, life: Life | None = None, **fields: object) -> None:
        """Ask for a log line, with the process it is about."""
        if life is not None:
            about = {"slot": life.slot, "worker_pid": life.pid, "pod_id": life.pod_id}
            fields = {**about, **fields}
        self.do(Say(level, event, fields))

    def fork(self, slot: Slot, now: float) -> Life:
        """Ask for a new process in a free lane of the slot."""
        lane = slot.free_lane()
        if lane is None:
            raise AssertionError("a slot is filled only while one of its lanes is free")
        slot.generation = max(slot.generation + 1, self._epoch())
        slot.last_lane = lane
        slot.retry_at = None
        pod_id = f"{self._name}-{slot.number}-{slot.generation}"
        life = Life(slot.number, slot.generation, lane, pod_id, slot.last_pod, now, now)
        self.do(Fork(life))
        return life

    def retry(self, slot: Slot, now: float) -> float:
        """Fill the empty slot again after a pause; return the pause (seconds, full jitter)."""
        longest = min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2.0 ** min(slot.failures, 20))
        slot.failures += 1
        pause = self._chance() * longest
        slot.retry_at = now + pause
        return pause

    def send(self, life: Life, signum: signal.Signals) -> None:
        """Ask for a signal to a process."""
        if life.pid <= 0:
            raise AssertionError("process 0 would be the whole process group")
        self.do(Send(life.pid, signum))

    def ask_to_leave(self, life: Life, signum: signal.Signals, deadline: float) -> None:
        """Signal a process that is not leaving yet; SIGKILL follows at the deadline.

        One that is leaving already is left alone: a second SIGTERM would mean a quick stop.
        """
        if life.up:
            life.phase = Phase.LEAVING
            life.deadline = deadline
            self.send(life, signum)

    def let_go(self, slot: Slot, life: Life, now: float) -> None:
        """Drain a process of the slot that has been replaced or is not wanted."""
        slot.leaving.append(life)
        self.ask_to_leave(life, signal.SIGTERM, now + self.timings.kill)

    def kill(self, life: Life, why: str) -> None:
        """End a process that had its chance."""
        if life.phase is not Phase.KILLED:
            life.phase = Phase.KILLED
            life.deadline = None
            if self.stopping and self.exit_code == EXIT_CLEAN:
                self.exit_code = EXIT_KILLED
            self.say("error", "worker killed", life, why=why)
            self.send(life, signal.SIGKILL)
