"""One TCP connection: aiohttp's HTTP protocol with deadlines, and a guard on WebSocket bytes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

import structlog
from aiohttp import web
from aiohttp.http import WebSocketReader

from daisi_ws.adapters.http_limits import Limits
from daisi_ws.adapters.ws_guard import FRAMES_PER_MESSAGE, Guard
from daisi_ws.app.connection import BACKLOG_BYTES
from daisi_ws.config import Config
from daisi_ws.config import Limits as Figures
from daisi_ws.domain.client_address import TrustedProxies, plain_address

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
    trusted_proxies: TrustedProxies
    proxy_protocol: bool
    limits: Figures

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
            trusted_proxies=TrustedProxies(server.trusted_proxies),
            proxy_protocol=server.proxy_protocol,
            limits=config.limits,
        )


class HttpProtocol(web.RequestHandler):
    """Reads requests until one is upgraded; then the socket of a WebSocket.

    :ivar guard: set by the upgrade.
    :ivar peer: address of whoever made the TCP connection.
    :ivar over_limit: 0, or in how many seconds a connection would be served.
    :ivar on_writable: called when a client that was behind has taken what was buffered.
    """

    __slots__ = (
        "_answer_error",
        "_deadline",
        "_limits",
        "_lost",
        "_settings",
        "_stuck",
        "_upgraded_transport",
        "guard",
        "on_writable",
        "over_limit",
        "peer",
    )

    def __init__(
        self,
        manager: web.Server,
        loop: asyncio.AbstractEventLoop,
        settings: HttpSettings,
        answer_error: ErrorAnswer,
        limits: Limits | None,
    ) -> None:
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=IDLE_SECONDS,
            tcp_keepalive=False,  # idle connections end, WebSockets are pinged
            access_log=None,  # type: ignore[arg-type] # what AppRunner passes for "no log"
            max_line_size=settings.max_header_bytes,
            max_field_size=settings.max_header_bytes,
            max_headers=MAX_HEADERS,
            lingering_time=LINGER_SECONDS,
            auto_decompress=False,
        )
        self._settings = settings
        self._answer_error = answer_error
        self._limits = limits
        self.peer = ""
        self.over_limit = 0.0
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
        peer = transport.get_extra_info("peername")
        self.peer = plain_address(peer[0]) if peer else ""
        self.over_limit = 0.0 if self._limits is None else self._limits.accepts()
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
        settings = self._settings
        messages = settings.message_burst + settings.max_messages_per_second
        limited = settings.max_messages_per_second > 0
        self.guard = Guard(parser, FRAMES_PER_MESSAGE * messages if limited else math.inf)
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
