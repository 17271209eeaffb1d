"""The incoming half of a WebSocket: what a client sends, until it ends."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from typing import Final

from aiohttp import WSMsgType
from aiohttp._websocket.reader import WebSocketDataQueue
from aiohttp.http import WebSocketError

from daisi_ws.adapters.http_limits import Limits
from daisi_ws.adapters.http_protocol import HttpSettings
from daisi_ws.adapters.ws_guard import Guard
from daisi_ws.adapters.ws_sink import WebSocketSink
from daisi_ws.app.connection import BACKLOG_BYTES, Connection, State
from daisi_ws.app.gateway_ports import Gateway
from daisi_ws.domain import frames
from daisi_ws.domain.bucket import Bucket, Verdict
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.errors import BadRequest, RateLimitExceeded, Refusal
from daisi_ws.domain.wire import pong_frame
from daisi_ws.metrics import Metrics

FREE_PONG_SECONDS: Final = 1.0
"""One pong in this time is an answer to our pings; more count as messages."""

_NO_CODE: Final = 0
_LEFT: Final = frozenset({_NO_CODE, 1000, 1001})
_REASONS: Final = {1007: CloseReason.INVALID_DATA, 1009: CloseReason.MESSAGE_TOO_BIG}


class Reader:
    """Reads one client's frames in order and hands its messages to the gateway.

    :param settings: read for each message, so that changes reach open connections.
    :ivar peer_done: nothing more comes: the client has sent its close frame, or has gone.
    """

    __slots__ = (
        "_bucket",
        "_chats",
        "_connection",
        "_gateway",
        "_guard",
        "_incoming",
        "_limits",
        "_metrics",
        "_ponged",
        "_settings",
        "_sink",
        "peer_done",
    )

    def __init__(
        self,
        *,
        incoming: WebSocketDataQueue,
        guard: Guard,
        sink: WebSocketSink,
        connection: Connection,
        gateway: Gateway,
        settings: Callable[[], HttpSettings],
        metrics: Metrics,
        limits: Limits,
    ) -> None:
        self._incoming = incoming
        self._guard = guard
        self._sink = sink
        self._connection = connection
        self._gateway = gateway
        self._settings = settings
        self._metrics = metrics
        self._limits = limits
        self._bucket: Bucket | None = None
        self._chats: Bucket | None = None
        self._ponged = float("-inf")
        self.peer_done = False
        guard.on_pong = self._pong

    async def read(self) -> CloseReason:
        """Read until the client's end, or until it violates the protocol; return the reason."""
        while True:
            try:
                message = await self._incoming.read()
            except Exception as error:  # noqa: BLE001 - the library tells every end by some error
                return self._end(error)
            match message.type:
                case WSMsgType.TEXT:
                    await self._text(message.data)
                case WSMsgType.BINARY:
                    self._binary()
                case WSMsgType.PING:
                    self._ping(message.data)
                case WSMsgType.PONG:
                    self._pong()
                case _:
                    return self._peer_closed(message.data)

    async def _text(self, text: str) -> None:
        if not self._allowed():
            return
        try:
            message = frames.parse_client_message(text)
        except BadRequest as refusal:
            self._count("invalid")
            self._refuse(refusal)
            return
        try:
            if isinstance(message, frames.SelectChat):
                if not self._may_select():
                    return
                self._count("select_chat")
                await self._gateway.select_chat(self._connection, message)
            elif isinstance(message, frames.ResumeFrom):
                self._count("resume")
                await self._gateway.resume(self._connection, message)
            else:
                self._count("token")
                await self._gateway.refresh_token(self._connection, message)
        except Refusal as refusal:
            self._refuse(refusal)

    def _binary(self) -> None:
        if self._allowed():
            self._count("invalid")
            self._refuse(BadRequest("binary frames are not served", details="send JSON as text"))

    def _ping(self, payload: bytes) -> None:
        # Whoever does not read its pongs gets no more of them: they would pile up.
        if self._allowed() and self._sink.backlog() <= BACKLOG_BYTES:
            self._count("ping")
            self._sink.write(pong_frame(bytes(payload)))

    def _pong(self) -> None:
        now = time.monotonic()
        if now - self._ponged >= FREE_PONG_SECONDS or self._allowed():
            self._ponged = now
            self._metrics.tally.pongs += 1

    def _allowed(self) -> bool:
        """Tell whether a message is to be handled: not after a close, not over the limit."""
        if self._connection.state is not State.OPEN:
            return False
        now, settings = time.monotonic(), self._settings()
        rate, burst = settings.max_messages_per_second, settings.message_burst
        if not rate:
            return True
        if self._bucket is None:
            self._bucket = Bucket(burst, now)
        return self._within(self._bucket.take(now, rate, burst), "messages", rate, burst)

    def _may_select(self) -> bool:
        """Tell whether a chat may be selected: not over the limit."""
        now, limits = time.monotonic(), self._settings().limits
        rate, burst = limits.chats_per_second, limits.chat_burst
        if not rate:
            return True
        if self._chats is None:
            self._chats = Bucket(burst, now)
        return self._within(self._chats.take(now, rate, burst), "chats", rate, burst)

    def _within(self, verdict: Verdict, what: str, rate: float, burst: int) -> bool:
        if verdict is Verdict.ACCEPT:
            return True
        self._count("over_limit")
        self._over(what)
        if verdict is Verdict.FLOOD:
            self._connection.close(CloseReason.RATE_LIMITED)
        elif verdict is Verdict.REFUSE:
            details = f"at most {rate:g} a second, {burst} at once; this one was ignored"
            self._refuse(RateLimitExceeded(f"too many {what}", details=details))
        return False

    def _over(self, limit: str) -> None:
        self._limits.reached(limit, identity=self._connection.principal.identity)

    def _refuse(self, refusal: Refusal) -> None:
        self._metrics.messages_sent.labels("error").inc()
        self._connection.send(frames.error(refusal))

    def _count(self, kind: str) -> None:
        self._metrics.messages_received.labels(kind).inc()

    def _end(self, error: Exception) -> CloseReason:
        if isinstance(error, WebSocketError):
            if error.code == CloseReason.MESSAGE_TOO_BIG.code:
                self._over("message_size")
            return _REASONS.get(error.code, CloseReason.PROTOCOL_ERROR)
        if isinstance(error, zlib.error):
            return CloseReason.INVALID_DATA
        if self._guard.violation is not None:
            if self._guard.violation is CloseReason.RATE_LIMITED:
                self._over("frames")
            return self._guard.violation
        self.peer_done = True
        return CloseReason.ABNORMAL

    def _peer_closed(self, code: int) -> CloseReason:
        # The library lets these through; they never travel (RFC 6455 section 7.4).
        if code == 1006 or code >= 5000:
            return CloseReason.PROTOCOL_ERROR
        self.peer_done = True
        self._sink.peer_code = code or 1000
        return CloseReason.CLIENT_LEFT if code in _LEFT else CloseReason.ABNORMAL
