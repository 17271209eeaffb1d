"""What can be asked of the durable consumer and its stream, beside being given messages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from daisi_ws.adapters.nats_binding import ConsumerGone, NatsBinding, StreamGone
from daisi_ws.adapters.nats_connection import API_TIMEOUT_SECONDS
from daisi_ws.adapters.nats_stream import JetStream
from daisi_ws.app.ports import Bounds, Received
from daisi_ws.app.readiness_ports import ConsumerState
from daisi_ws.domain.subjects import FILTER


class NatsConsumerView(ABC):
    """The part of :class:`daisi_ws.app.ports.Stream` that asks.

    :ivar stream_problem: what is wrong with the stream; empty: nothing is known to be.
    :ivar stream_seen: how often it was seen to be there.
    """

    def __init__(self, stream: JetStream, binding: NatsBinding) -> None:
        self._stream = stream
        self._binding = binding
        self.stream_problem = ""
        self.stream_seen = 0

    async def info(self, timeout: float = API_TIMEOUT_SECONDS) -> dict[str, Any]:
        """Return the consumer's info.

        :param timeout: seconds.
        :raises Unavailable: NATS does not answer, or the consumer is gone.
        """
        try:
            info = await self._binding.info(timeout)
        except ConsumerGone as problem:
            self._saw_stream()
            self._lose(str(problem))
            raise
        except StreamGone as problem:
            self.stream_problem = str(problem)
            self._lose(str(problem))
            raise
        self._saw_stream()
        return info

    async def look(self, timeout: float) -> ConsumerState:
        """See :meth:`ConsumerView.look`."""
        info = await self.info(timeout)
        await self._binding.give_again(info)
        return ConsumerState(
            pending=int(info["num_pending"]),
            unacknowledged=int(info["num_ack_pending"]),
            delivered=int(info["delivered"]["consumer_seq"]),
            pulled=bool(info.get("num_waiting") or info.get("push_bound")),
        )

    async def ack_floor(self) -> int:
        """See :meth:`Stream.ack_floor`."""
        return int((await self.info())["ack_floor"]["stream_seq"])

    async def unread_after(self) -> tuple[int, bool]:
        """See :meth:`Stream.unread_after`."""
        info = await self.info()
        groups = info.get("priority_groups") or ()
        pinned = any(group.get("pinned_client_id") for group in groups)
        return int(info["ack_floor"]["stream_seq"]), pinned

    async def outstanding(self) -> tuple[int, int]:
        """See :meth:`Stream.outstanding`."""
        info = await self.info()
        return int(info["ack_floor"]["stream_seq"]), int(info["delivered"]["stream_seq"])

    async def read(
        self, after: int, upto: int, subject: str = FILTER, limit: int | None = None
    ) -> list[Received]:
        """See :meth:`Stream.read`."""
        return await self._stream.read(after, upto, subject, limit)

    async def bounds(self) -> Bounds:
        """See :meth:`Stream.bounds`."""
        return await self._stream.bounds()

    async def dead_letter(self, message: Received, reason: str, problem: str) -> None:
        """See :meth:`Stream.dead_letter`."""
        await self._stream.dead_letter(message, reason, problem)

    def _saw_stream(self) -> None:
        self.stream_problem = ""
        self.stream_seen += 1

    @abstractmethod
    def _lose(self, problem: str) -> None:
        """Take notice that the consumer is gone."""
