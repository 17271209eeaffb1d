"""What clients may not send, found before the library's frame parser sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from aiohttp.http import WebSocketReader

from daisi_ws.app.connection import Connection
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.wire import FrameCheck

FRAMES_PER_MESSAGE: Final = 20
"""Fragments and control frames that a client may send for each message it may send."""


class Guard:
    """Stands before the library's frame parser and stops what it would let through.

    :param parser: gets the bytes unless they violate something; then it gets the end.
    :param frames_per_second: more is a flood, in whatever frames it comes.
    :ivar violation: why the client is cut off.
    :ivar on_pong: called for a pong that comes alone, as nearly all do: a parser, a queue and a
        task need not be troubled for it.
    :ivar connection: whose sign of life incoming bytes are.
    """

    __slots__ = ("_frames", "_limit", "_parser", "_window", "connection", "on_pong", "violation")

    def __init__(self, parser: WebSocketReader, frames_per_second: float) -> None:
        self._parser = parser
        self._limit = frames_per_second
        self._frames = FrameCheck()
        self._window = 0.0
        self.violation: CloseReason | None = None
        self.connection: Connection | None = None
        self.on_pong: Callable[[], None] | None = None

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take bytes from the client; the first value tells that no more are wanted."""
        now = time.monotonic()
        if self.connection is not None:
            self.connection.last_seen = now
        is_pong = self.on_pong is not None and self._frames.is_pong(data)
        if self.violation is None:
            self.violation = self._judge(data, now)
        if self.violation is not None:
            self._parser.feed_eof()
            return True, b""
        if is_pong and self.on_pong is not None:
            self.on_pong()
            return False, b""
        return self._parser.feed_data(data)

    def feed_eof(self) -> None:
        """Take the end of the client's bytes."""
        self._parser.feed_eof()

    def _judge(self, data: bytes, now: float) -> CloseReason | None:
        if now - self._window >= 1.0:
            self._window = now
            self._frames.frames = 0
        if self._frames.refuses(data):
            return CloseReason.PROTOCOL_ERROR
        return CloseReason.RATE_LIMITED if self._frames.frames > self._limit else None
