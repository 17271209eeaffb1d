"""What readiness asks of the parts on the way from the stream to a socket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from daisi_ws.app.ports import Position, ReaderRecord
from daisi_ws.domain.errors import Unavailable


class FilesUsedUp(Unavailable):
    """This process has as many files open as it may."""


@dataclass(frozen=True, slots=True)
class ConsumerState:
    """The durable consumer as the server sees it.

    :param pending: messages of the stream that nobody was given yet.
    :param unacknowledged: messages that were given and not acknowledged.
    :param delivered: how many deliveries there were; grows with each.
    :param pulled: whether somebody asks for messages now.
    """

    pending: int
    unacknowledged: int
    delivered: int
    pulled: bool


class Connected(Protocol):
    """A connection that is kept up in the background."""

    @property
    def problem(self) -> str:
        """Return why it is not there."""

    @property
    def up(self) -> bool:
        """Tell whether it is there."""


class ConsumerView(Protocol):
    """The stream's consumer, as this pod has it.

    :ivar problem: why it cannot be used; `stream_problem`: why the stream cannot.
    :ivar stream_seen: grows each time the server shows that the stream exists.
    """

    problem: str
    stream_problem: str
    stream_seen: int

    @property
    def bound(self) -> bool:
        """Tell whether this pod has found or made it, and is connected."""

    @property
    def pulling(self) -> bool:
        """Tell whether this pod asks for messages, or need not."""

    async def look(self, timeout: float) -> ConsumerState:
        """Ask the server about it; one that is gone is made again by itself.

        :param timeout: seconds.
        :raises Unavailable: no answer, or it is gone.
        """


class Registry(Protocol):
    """Who is there, in Redis."""

    async def reader(self) -> ReaderRecord | None:
        """Return the last reader that was written."""

    async def leases(self, pod_ids: Sequence[str]) -> list[bool]:
        """Tell for each pod whether it has a lease."""


class Invalidations(Protocol):
    """What tells this pod that a route has changed."""

    async def check(self) -> bool:
        """Tell whether that works; it is begun anew if not.

        :raises Unavailable: Redis is away.
        """


class Questions(Protocol):
    """What can be asked of other pods."""

    async def barrier(
        self, pod_id: str, interests: Sequence[str], timeout: float
    ) -> Position | None:
        """See :meth:`daisi_ws.app.ports.Peers.barrier`."""

    def revive(self, pod_id: str) -> None:
        """Try a pod again now that its breaker had given up."""
