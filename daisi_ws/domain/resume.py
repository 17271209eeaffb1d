"""What a client says of its position when it comes back, and what it is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

Reason = Literal[
    "other_stream",
    "future",
    "purged",
    "too_many",
    "too_large",
    "too_old",
    "unordered",
    "busy",
    "unavailable",
]
REASONS: Final[tuple[Reason, ...]] = (
    "other_stream",
    "future",
    "purged",
    "too_many",
    "too_large",
    "too_old",
    "unordered",
    "busy",
    "unavailable",
)

MAX_SEQ: Final = 2**63 - 1


class Claim(NamedTuple):
    """The position that a client claims.

    :param seq: it has everything up to here; None: it has no position yet, and wants one.
    :param stream: identity of the stream that this is a sequence of; empty: the present one.
    """

    seq: int | None
    stream: str = ""


class NotRecovered(Exception):
    """What a client missed cannot be given to it, or not all of it: so nothing is."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


class Replayed(NamedTuple):
    """An event read again: its sequence and its frame, shared by all who missed it."""

    seq: int
    frame: bytes


@dataclass(frozen=True, slots=True)
class Recovery:
    """The answer to a claim: all of `events`, or a reason and none.

    :param reason: why nothing is given; None: recovered.
    :param after: the claimed sequence.
    :param upto: what was missed up to here is among the events.
    :param stream: identity of the stream that these are sequences of; empty: nothing is given.
    :param others: of what else the client is subscribed to, what its pod has not been given yet:
        the events would overtake it.
    :param whole: nothing up to `upto` is missing of all that the client is subscribed to.
    """

    reason: Reason | None = None
    after: int = 0
    upto: int = 0
    events: Sequence[Replayed] = ()
    stream: str = ""
    others: Sequence[Replayed] = ()
    whole: bool = False

    @property
    def recovered(self) -> bool:
        """Tell whether the client gets everything after what it claimed."""
        return self.reason is None

    def fields(self) -> dict[str, object]:
        """Return what the answer says of it."""
        if self.recovered:
            return {"recovered": True, "replayed": len(self.events)}
        return {"recovered": False, "reason": self.reason}
