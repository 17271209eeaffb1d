"""WebSocket connections from admission to their end (RFC 6455).

Incoming frames are parsed by aiohttp. Outgoing ones are written to the transport as they are:
no task and no future for a frame.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog
from aiohttp import hdrs, web
from multidict import CIMultiDict

from daisi_ws.adapters.http_answers import SERVER_NAME
from daisi_ws.adapters.http_limits import Limits
from daisi_ws.adapters.http_protocol import HttpProtocol, HttpSettings
from daisi_ws.adapters.http_request import SUBPROTOCOL
from daisi_ws.adapters.ws_reader import Reader
from daisi_ws.adapters.ws_sink import WebSocketSink
from daisi_ws.app.connection import Connection, State
from daisi_ws.app.gateway_ports import Gateway
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.deadlines import CLIENT_CLOSE_SECONDS
from daisi_ws.domain.errors import BadRequest
from daisi_ws.domain.principal import Principal
from daisi_ws.domain.resume import Claim
from daisi_ws.metrics import Metrics

log = structlog.get_logger()


NO_CONTEXT_TAKEOVER: Final = (
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
)
"""Each message is compressed for itself (RFC 7692 section 7.1.1). A client that did not offer so
has to take it all the same."""


class Upgrade(web.WebSocketResponse):
    """aiohttp's handshake and incoming half; every outgoing frame goes through the sink.

    :param max_message_bytes: of one message from the client, all fragments together, and also when
        it is uncompressed.
    :param deflate: agree to permessage-deflate, if the client offers it with the whole window.
    """

    def __init__(self, max_message_bytes: int, *, deflate: bool) -> None:
        super().__init__(
            protocols=(SUBPROTOCOL,),
            autoping=False,
            autoclose=False,
            compress=deflate,
            # The library refuses a message of exactly its limit, and takes 0 for none.
            max_msg_size=max_message_bytes and max_message_bytes + 1,
        )

    def _handshake(
        self, request: web.BaseRequest
    ) -> tuple[CIMultiDict[str], str | None, int, bool]:
        headers, protocol, window_bits, _ = super()._handshake(request)
        if window_bits == zlib.MAX_WBITS:
            headers[hdrs.SEC_WEBSOCKET_EXTENSIONS] = NO_CONTEXT_TAKEOVER
        else:
            headers.pop(hdrs.SEC_WEBSOCKET_EXTENSIONS, None)
            window_bits = 0
        return headers, protocol, window_bits, True

    async def close(self, *, code: int = 1000, message: bytes = b"", drain: bool = True) -> bool:
        """Do nothing: the library calls it where the sink sends the one close frame."""
        return False

    async def write_eof(self, data: bytes = b"") -> None:
        """End the request, not the connection; only what reading needs is kept."""
        request = self._req
        assert request is not None
        assert isinstance(request.protocol, HttpProtocol)
        request.protocol.outlive_requests()
        self._req = self._payload_writer = self._writer = None
        self.headers.clear()


class _Client:
    """An upgraded connection."""

    __slots__ = ("connection", "protocol", "reader", "remote", "sink", "socket")

    def __init__(
        self,
        connection: Connection,
        protocol: HttpProtocol,
        socket: Upgrade,
        sink: WebSocketSink,
        reader: Reader,
        *,
        remote: str,
    ) -> None:
        self.connection = connection
        self.protocol = protocol
        self.socket = socket
        self.sink = sink
        self.reader = reader
        self.remote = remote


class WebSocketServer:
    """Serves admitted principals, users and admins alike.

    :param settings: read when needed, so that changes apply.
    :param writable: told when a client that was behind reads again.
    """

    def __init__(
        self,
        settings: Callable[[], HttpSettings],
        gateway: Gateway,
        metrics: Metrics,
        writable: Callable[[Connection], None],
        limits: Limits,
    ) -> None:
        self._settings = settings
        self._gateway = gateway
        self._metrics = metrics
        self._writable = writable
        self._limits = limits
        self._tasks: set[asyncio.Task[object]] = set()
        self._connections: set[Connection] = set()
        self._closing = False

    async def serve(
        self,
        request: web.BaseRequest,
        principal: Principal,
        request_id: str,
        claim: Claim | None,
        remote: str,
    ) -> web.StreamResponse:
        """Admit and upgrade a client; a task of its own then serves it until it has gone.

        :param claim: the position that it came with.
        :param remote: its address.
        :raises Refusal: it was not admitted.
        :raises ConnectionError: it left before it was upgraded.
        """
        settings = self._settings()
        deflate = settings.compression_mode != "disabled"
        socket = Upgrade(settings.max_message_bytes, deflate=deflate)
        if not socket.can_prepare(request):
            raise BadRequest("malformed WebSocket handshake", reason="bad_handshake")
        task = asyncio.current_task()
        assert task is not None
        self._limits.enter(remote)
        self._tasks.add(task)
        try:
            connection = await self._gateway.admit(principal, request_id, claim)
            try:
                client = await self._upgrade(request, socket, connection, remote)
            except BaseException:
                await self._leave(connection, CloseReason.ABNORMAL)
                self._log_end(connection, remote, 0.0, 0)
                raise
        except BaseException:
            self._limits.leave()
            raise
        finally:
            self._tasks.discard(task)
        living = asyncio.create_task(self._live(client))
        self._tasks.add(living)
        living.add_done_callback(self._tasks.discard)
        return client.socket

    async def close(self) -> None:
        """End what is left: 1001, the close wait, then abort. Every connection leaves."""
        self._closing = True
        for connection in list(self._connections):
            connection.close(CloseReason.GOING_AWAY)
        await self._wait_tasks(CLIENT_CLOSE_SECONDS + 0.5)
        for task in self._tasks:
            task.cancel()
        await self._wait_tasks(CLIENT_CLOSE_SECONDS)

    async def _wait_tasks(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._tasks and (left := deadline - time.monotonic()) > 0:
            # Meanwhile admissions become connections: tasks that were not there before.
            await asyncio.wait(self._tasks, timeout=left)

    async def _live(self, client: _Client) -> None:
        connection, started = client.connection, time.monotonic()
        self._connections.add(connection)
        reason = CloseReason.GOING_AWAY
        try:
            reason = await client.reader.read()
        except Exception:
            log.exception("connection failed")
            reason = CloseReason.INTERNAL_ERROR
        finally:
            self._connections.discard(connection)
            self._limits.leave()
            await self._leave(connection, reason)
            self._measure_end(client, time.monotonic() - started)
        if not client.reader.peer_done:
            # The client may still be sending: a reset now would cost it the close frame.
            await client.protocol.wait_lost()
        client.sink.finish()

    async def _leave(self, connection: Connection, reason: CloseReason) -> None:
        connection.close(reason)
        await self._gateway.leave(connection, connection.reason or reason)

    async def _upgrade(
        self, request: web.BaseRequest, socket: Upgrade, connection: Connection, remote: str
    ) -> _Client:
        protocol = request.protocol
        assert isinstance(protocol, HttpProtocol)
        socket.headers["X-Request-ID"] = connection.request_id
        socket.headers["Server"] = SERVER_NAME
        socket.headers["X-Daisi-Pod"] = connection.lock_value.partition("#")[0]
        await socket.prepare(request)
        transport, guard = protocol.transport, protocol.guard
        if transport is None or guard is None:
            raise ConnectionResetError("the client left during the handshake")
        sink = WebSocketSink(protocol, transport)
        reader = Reader(
            socket=socket,
            guard=guard,
            sink=sink,
            connection=connection,
            gateway=self._gateway,
            settings=self._settings,
            metrics=self._metrics,
            limits=self._limits,
        )
        guard.connection = connection
        connection.deflated = bool(socket.compress)
        protocol.on_writable = partial(self._writable, connection)
        if self._closing:
            connection.close(CloseReason.GOING_AWAY)
        self._gateway.open(connection, sink)
        self._metrics.connections.labels(connection.principal.kind).inc()
        if connection.state is State.OPEN:
            self._metrics.messages_sent.labels("ready").inc()
        return _Client(connection, protocol, socket, sink, reader, remote=remote)

    def _measure_end(self, client: _Client, seconds: float) -> None:
        reason = client.connection.reason or CloseReason.ABNORMAL
        self._metrics.closed.labels(reason.label).inc()
        self._metrics.connection_duration.observe(seconds)
        self._log_end(client.connection, client.remote, seconds, client.sink.bytes_written)

    def _log_end(
        self, connection: Connection, remote: str, seconds: float, bytes_sent: int
    ) -> None:
        principal, reason = connection.principal, connection.reason or CloseReason.ABNORMAL
        log.info(
            "connection ended",
            kind=principal.kind,
            remote=remote,
            company_id=principal.company_id,
            agent_id=principal.agent_id,
            **{f"{principal.kind}_id": principal.principal_id},
            reason=reason.label,
            code=reason.code,
            seconds=round(seconds, 3),
            bytes_sent=bytes_sent,
            dropped=connection.dropped,
        )
