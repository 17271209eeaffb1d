"""One TCP connection: aiohttp's HTTP protocol with deadlines, and a guard on WebSocket bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Self

import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage, WebSocketReader
from aiohttp.streams import StreamReader

from daisi_ws.adapters.http_request import MAX_BODY_BYTES
from daisi_ws.adapters.ws_guard import FRAMES_PER_MESSAGE, Guard
from daisi_ws.app.connection import BACKLOG_BYTES
from daisi_ws.config import Config

log = structlog.get_logger()

IDLE_SECONDS: Final = 75.0
"""How long a kept-alive HTTP connection may be idle: longer than load balancers keep theirs."""

LINGER_SECONDS: Final = 1.0
"""How long the rest of a refused request is read, so that the client sees the answer."""

MAX_HEADERS: Final = 64
ErrorAnswer = Callable[[web.BaseRequest, int, BaseException | None], web.StreamResponse]


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """What the configuration says about clients; times in seconds."""

    allowed_origins: tuple[str, ...]
    handshake_timeout: float
    max_header_bytes: int
    max_message_bytes: int
    max_messages_per_second: float
    message_burst: int
    compression_mode: str

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Take the settings from a checked configuration."""
        server = config.server
        return cls(
            allowed_origins=server.allowed_origins,
            handshake_timeout=server.handshake_timeout_seconds,
            max_header_bytes=server.max_header_bytes,
            max_message_bytes=server.max_message_bytes,
            max_messages_per_second=server.max_messages_per_second,
            message_burst=server.message_burst,
            compression_mode=config.app.websocket_compression_mode,
        )


class HttpProtocol(web.RequestHandler):
    """Reads requests until one is upgraded; then the socket of a WebSocket.

    :ivar guard: set by the upgrade.
    :ivar on_writable: called when a client that was behind has taken what was buffered.
    """

    __slots__ = (
        "_answer_error",
        "_deadline",
        "_lost",
        "_settings",
        "_stuck",
        "_upgraded_transport",
        "guard",
        "on_writable",
    )

    def __init__(
        self,
        manager: web.Server,
        loop: asyncio.AbstractEventLoop,
        settings: HttpSettings,
        answer_error: ErrorAnswer,
    ) -> None:
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=IDLE_SECONDS,
            access_log=None,  # type: ignore[arg-type] # what AppRunner passes for "no log"
            max_line_size=settings.max_header_bytes,
            max_field_size=settings.max_header_bytes,
            max_headers=MAX_HEADERS,
            lingering_time=LINGER_SECONDS,
            auto_decompress=False,
        )
        self._settings = settings
        self._answer_error = answer_error
        self._deadline: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None
        self._lost: asyncio.Future[None] | None = None
        self._upgraded_transport: asyncio.Transport | None = None
        self.guard: Guard | None = None
        self.on_writable: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give the client until the handshake timeout to send its first request whole."""
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.set_write_buffer_limits(high=BACKLOG_BYTES)
        timeout = self._settings.handshake_timeout
        self._deadline = self._loop.call_later(timeout, self.force_close)

    @property
    def is_new(self) -> bool:
        """Tell whether the first request is not whole yet."""
        return self._deadline is not None

    def request_arrived(self) -> None:
        """Lift the deadline: the first request is whole."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def outlive_requests(self) -> None:
        """Go on as a WebSocket when the request is done, without all that belongs to requests.

        Task, parser, request and headers cost more memory than the rest of an idle connection.
        """
        self._upgraded_transport, self.transport = self.transport, None
        self._parser = None

    async def start(self) -> None:
        """Serve requests until the last; a transport that is still set then gets closed."""
        await super().start()
        self._flush_or_abort(self.transport)
        if self._upgraded_transport is not None:
            self.transport, self._upgraded_transport = self._upgraded_transport, None

    def force_close(self) -> None:
        """End the connection; what was written gets a moment to be taken."""
        transport = self.transport
        super().force_close()
        self._flush_or_abort(transport)

    def _flush_or_abort(self, transport: asyncio.Transport | None) -> None:
        if transport is not None and transport.get_write_buffer_size():
            self._loop.call_later(LINGER_SECONDS, transport.abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Wake who waits for the end."""
        self.request_arrived()
        self.on_writable = self._upgraded_transport = None
        super().connection_lost(exc)
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    async def wait_lost(self) -> None:
        """Wait until the TCP connection has ended."""
        if self.transport is not None or self._upgraded_transport is not None:
            self._lost = self._loop.create_future()
            await self._lost

    def pause_writing(self) -> None:
        """The client does not read: one that never reads an answer is cut off."""
        super().pause_writing()
        if self.guard is None and self.transport is not None:
            timeout = self._settings.handshake_timeout
            self._stuck = self._loop.call_later(timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """The kernel has taken what was buffered."""
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
        if self.on_writable is not None:
            self.on_writable()

    def set_parser(
        self, parser: WebSocketReader, data_received_cb: Callable[[], None] | None = None
    ) -> None:
        """Put a guard before the frame parser; it sees what came with the handshake too."""
        messages = self._settings.message_burst + self._settings.max_messages_per_second
        self.guard = Guard(parser, FRAMES_PER_MESSAGE * messages)
        super().set_parser(self.guard, data_received_cb)  # type: ignore[arg-type] # duck-typed

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no request, or a request that failed."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is on its way already")
        response = self._answer_error(request, status, exc)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log what nobody handled."""
        log.error("request failed", exc_info=kw.get("exc_info", True))


class HttpProtocols(web.Server):
    """Makes a protocol for each TCP connection.

    :param settings: read anew for each.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        settings: Callable[[], HttpSettings],
        answer_error: ErrorAnswer,
    ) -> None:
        self._running = asyncio.get_running_loop()
        # Who has gone is not admitted: a ghost would displace the session of its own next try.
        super().__init__(
            handler, request_factory=self._request, handler_cancellation=True, loop=self._running
        )
        self._settings = settings
        self._answer_error = answer_error

    def __call__(self) -> HttpProtocol:
        """Return the protocol of a new TCP connection."""
        return HttpProtocol(self, self._running, self._settings(), self._answer_error)

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        return web.BaseRequest(
            message,
            payload,
            protocol,
            writer,
            task,
            self._running,
            client_max_size=MAX_BODY_BYTES,
        )
