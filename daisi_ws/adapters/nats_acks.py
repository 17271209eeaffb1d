"""Acknowledgements to a durable consumer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

ACK_SECONDS: Final = 0.01


class Acks:
    """Sends acknowledgements; where one is for all before it, one for those of ten milliseconds.

    What was not sent yet when this pod ends comes again, and is known.

    :param send: publishes an empty message.
    :param cumulative: an acknowledgement is for all messages before it, too.
    """

    def __init__(self, send: Callable[[str], None], *, cumulative: bool) -> None:
        self._send = send
        self._cumulative = cumulative
        self._last = ""
        self._timer: asyncio.TimerHandle | None = None

    def give(self, replies: Sequence[str]) -> None:
        """Acknowledge messages, in the order in which they came, by their reply subjects."""
        if not self._cumulative:
            for reply in replies:
                self._send(reply)
        elif replies:
            self._last = replies[-1]
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(ACK_SECONDS, self.flush)

    def flush(self) -> None:
        """Send now what waits."""
        if self._timer is not None:
            self.drop()
            self._send(self._last)

    def drop(self) -> None:
        """Send nothing of what waits: the consumer that it was for may be another one by now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
