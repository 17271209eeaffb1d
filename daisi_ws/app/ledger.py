"""What was taken from the stream and is not acknowledged yet, and what is put aside."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog

from daisi_ws.app.ports import Received, Stream
from daisi_ws.domain.errors import Unavailable
from daisi_ws.domain.tracing import TRACEPARENT, parted
from daisi_ws.metrics import Metrics

DEAD_LETTER_RETRY_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)


class Ledger:
    """Acknowledges what every owner has accepted, and not before a dead letter is stored.

    :param changed: called when more may be acknowledged.
    :param ordered: messages come in stream order, and one acknowledgement is for all before it.
    """

    def __init__(
        self, stream: Stream, metrics: Metrics, changed: Callable[[], None], *, ordered: bool
    ) -> None:
        self._stream = stream
        self._metrics = metrics
        self._changed = changed
        self._ordered = ordered
        self._unacked: deque[tuple[int, str]] = deque()
        self._dead: set[int] = set()
        self._letters: set[asyncio.Task[None]] = set()

    def __bool__(self) -> bool:
        return bool(self._unacked or self._letters)

    def take(self, message: Received) -> None:
        """Note a message that was handed on, is known already, or is put aside."""
        if message.reply:
            self._unacked.append((message.seq, message.reply))

    def acknowledge(self, floor: int) -> None:
        """Acknowledge what can be.

        :param floor: sequence up to which every owner has accepted.
        """
        floor = min(floor, min(self._dead, default=floor + 1) - 1)
        unacked = self._unacked
        if self._ordered:
            done = []
            while unacked and unacked[0][0] <= floor:
                done.append(unacked.popleft())
            # What came again is behind what it comes before.
            replies = [max(done)[1]] if done else []
        else:
            replies = [reply for seq, reply in unacked if seq <= floor]
            self._unacked = deque((seq, reply) for seq, reply in unacked if seq > floor)
        if replies:
            self._stream.ack(replies)

    def bury(self, message: Received, reason: str, problem: str) -> None:
        """Put aside what can never be delivered.

        :param reason: metric label, from an enumeration; `problem`: what was wrong.
        """
        self._metrics.dead_letters.labels(reason).inc()
        request_id, parent = parted(message.request_id)
        log.warning(
            "dead letter",
            seq=message.seq,
            subject=message.subject[:200],
            reason=reason,
            problem=problem[:300],
            request_id=request_id or None,
            **({TRACEPARENT: parent} if parent else {}),
        )
        self._dead.add(message.seq)
        letter = asyncio.create_task(self._keep_letter(message, reason, problem))
        self._letters.add(letter)
        letter.add_done_callback(self._letters.discard)

    def clear(self) -> None:
        """Forget everything: what is unfinished is somebody else's."""
        self._unacked.clear()
        self._dead.clear()
        for letter in self._letters:
            letter.cancel()

    async def _keep_letter(self, message: Received, reason: str, problem: str) -> None:
        while True:
            try:
                await self._stream.dead_letter(message, reason, problem)
                break
            except Unavailable:
                pass
            except Exception:  # without a letter nothing more would be acknowledged
                log.exception("dead letter not stored", seq=message.seq)
            await asyncio.sleep(DEAD_LETTER_RETRY_SECONDS)
        self._dead.discard(message.seq)
        self._changed()
