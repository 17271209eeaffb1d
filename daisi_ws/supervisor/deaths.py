"""What follows the death of a worker."""

from __future__ import annotations

from enum import Enum, auto

from daisi_ws.domain.slots import EXIT_BOOT_FAILED
from daisi_ws.supervisor.core import Core
from daisi_ws.supervisor.rolling import Rolling
from daisi_ws.supervisor.states import Death, Life, Role, Slot

STABLE_SECONDS = 30.0
"""After so long ready, a worker's death counts as the first one again."""

CRASHES_AT_START = 3
"""So many deaths in a row of a slot that was never ready end the first start."""


class Verdict(Enum):
    """What the death means for the fleet."""

    GO_ON = auto()
    GIVE_UP = auto()
    """The cluster cannot start: stop the others, end with `Core.exit_code`."""


def forget_failures(slot: Slot, life: Life, now: float) -> None:
    """Start the backoff anew where the process was ready for long."""
    if life.ready_since is not None and now - life.ready_since >= STABLE_SECONDS:
        slot.failures = 0


class Deaths:
    """Decides by who died, how, and when.

    The first start lasts until every slot has been ready once, but no longer than `timings.boot`
    seconds after the first one was: then clients are being served, and a slot that cannot start
    no longer ends the others.
    """

    def __init__(self, core: Core, rolling: Rolling) -> None:
        self._core = core
        self._rolling = rolling
        self.first_ready_at: float | None = None

    def first_start_over(self, now: float) -> bool:
        """Return whether a slot that never was ready has had its time."""
        first = self.first_ready_at
        return first is not None and now >= first + self._core.timings.boot

    def bury(self, life: Life, death: Death, why: str, now: float) -> Verdict:
        """Take the process out of its slot and refill the slot where that is right.

        :param why: what the supervisor itself knows of the cause, may be empty.
        """
        core, slot = self._core, self._core.slots[life.slot]
        role = slot.remove(life)
        _remember_pod(slot, life, death)
        told = death.fields() | _told(life, why)
        if core.stopping:
            core.say("info", "worker stopped", life, **told, remaining=len(core.lives))
        elif role is Role.LEAVING:
            core.say("info", "worker stopped", life, **told)
            self._rolling.left(slot, now)
        elif role is Role.SUCCESSOR:
            core.say("error", "worker died", life, **told)
            self._rolling.successor_died(slot, str(told.get("problem", "it died")), now)
        else:
            return self._current(slot, life, death, told, now)
        return Verdict.GO_ON

    def _current(
        self, slot: Slot, life: Life, death: Death, told: dict[str, object], now: float
    ) -> Verdict:
        core = self._core
        lived = round(now - life.started, 3)
        forget_failures(slot, life, now)
        if self._ends_first_start(slot, life, death, now):
            core.say("error", "worker cannot start", life, **told, lived_seconds=lived)
            own = life.boot_failed.exit_code if life.boot_failed else 0
            core.exit_code = own or EXIT_BOOT_FAILED
            return Verdict.GIVE_UP
        if slot.successor is None:
            told["next_in_seconds"] = round(core.retry(slot, now), 3)
        core.say("error", "worker died", life, **told, lived_seconds=lived)
        self._rolling.current_died(slot, now)
        return Verdict.GO_ON

    def _ends_first_start(self, slot: Slot, life: Life, death: Death, now: float) -> bool:
        if slot.was_ready or self.first_start_over(now):
            return False
        if life.boot_failed is not None or death.code == EXIT_BOOT_FAILED:
            return True
        # One that waited long for Redis or NATS had booted; its death is no crash at start.
        lived_long = now - life.started >= STABLE_SECONDS
        slot.crashes_at_start = 0 if lived_long else slot.crashes_at_start + 1
        return slot.crashes_at_start >= CRASHES_AT_START


def _remember_pod(slot: Slot, life: Life, death: Death) -> None:
    """Keep the pod ID whose lease the next process may remove."""
    if death.code == 0:
        if life.was_ready:
            slot.last_pod = None
    elif life.was_ready or slot.last_pod is None:
        slot.last_pod = life.pod_id


def _told(life: Life, why: str) -> dict[str, object]:
    failed = life.boot_failed
    problem = failed.problem if failed else why
    told: dict[str, object] = {"problem": problem} if problem else {}
    if failed and failed.hint:
        told["hint"] = failed.hint
    return told
