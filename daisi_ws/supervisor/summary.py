"""The state of the fleet in one line, for whoever asks the service manager."""

from __future__ import annotations

from collections.abc import Sequence

from daisi_ws.supervisor.states import Slot


def summary(slots: Sequence[Slot], *, living: int, stopping: bool, rolling: Slot | None) -> str:
    """Return one line without secrets.

    :param living: processes that have not ended.
    :param rolling: the slot whose turn it is in a rolling restart, if one runs.
    """
    if stopping:
        return f"stopping, {living} of {len(slots)} workers left"
    ready = sum(slot.current is not None and slot.current.ready_since is not None for slot in slots)
    said = f"{ready} of {len(slots)} workers ready"
    if rolling is not None:
        return f"{said}, rolling restart of worker {rolling.number}"
    reasons = (slot.current.why_not_ready for slot in slots if slot.current is not None)
    why = next(filter(None, reasons), "")
    return f"{said}: {why}" if why else said
