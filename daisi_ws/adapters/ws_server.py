"""WebSocket connections from admission to their end (RFC 6455).

Incoming frames are parsed by aiohttp. Outgoing ones are written to the transport as they are:
no task and no future for a frame.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

import structlog
from aiohttp import web

from daisi_ws.adapters.http_answers import SERVER_NAME
from daisi_ws.adapters.http_limits import Limits
from daisi_ws.adapters.http_protocol import HttpProtocol, HttpSettings
from daisi_ws.adapters.ws_reader import Reader
from daisi_ws.adapters.ws_sink import WebSocketSink
from daisi_ws.adapters.ws_upgrade import Upgrade
from daisi_ws.app.connection import Connection, State
from daisi_ws.app.gateway_ports import Gateway
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.deadlines import CLIENT_CLOSE_SECONDS
from daisi_ws.domain.errors import BadRequest
from daisi_ws.domain.principal import Principal
from daisi_ws.domain.resume import Claim
from daisi_ws.metrics import Metrics

log = structlog.get_logger()


class _Client:
    """An upgraded connection."""

    __slots__ = ("connection", "protocol", "reader", "remote", "sink")

    def __init__(
        self,
        connection: Connection,
        protocol: HttpProtocol,
        sink: WebSocketSink,
        reader: Reader,
        *,
        remote: str,
    ) -> None:
        self.connection = connection
        self.protocol = protocol
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
        if not Upgrade.is_possible(request):
            raise BadRequest("malformed WebSocket handshake", reason="bad_handshake")
        upgrade = Upgrade(request, deflate=deflate)
        task = asyncio.current_task()
        assert task is not None
        self._limits.enter(remote)
        self._tasks.add(task)
        try:
            connection = await self._gateway.admit(principal, request_id, claim)
            try:
                client = self._upgrade(request, upgrade, connection, remote)
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
        return upgrade

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

    def _upgrade(
        self, request: web.BaseRequest, upgrade: Upgrade, connection: Connection, remote: str
    ) -> _Client:
        protocol = request.protocol
        assert isinstance(protocol, HttpProtocol)
        transport = protocol.transport
        if transport is None:
            raise ConnectionResetError("the client left during the handshake")
        head = upgrade.head(
            {
                "X-Request-ID": connection.request_id,
                "Server": SERVER_NAME,
                "X-Daisi-Pod": connection.lock_value.partition("#")[0],
            }
        )
        incoming = upgrade.incoming(protocol, self._settings().max_message_bytes)
        guard = protocol.guard
        assert guard is not None
        sink = WebSocketSink(protocol, transport, head)
        reader = Reader(
            incoming=incoming,
            guard=guard,
            sink=sink,
            connection=connection,
            gateway=self._gateway,
            settings=self._settings,
            metrics=self._metrics,
            limits=self._limits,
        )
        guard.connection = connection
        connection.deflated = upgrade.deflated
        protocol.on_writable = partial(self._writable, connection)
        if self._closing:
            connection.close(CloseReason.GOING_AWAY)
        self._gateway.open(connection, sink)
        self._metrics.connections.labels(connection.principal.kind).inc()
        if connection.state is State.OPEN:
            self._metrics.messages_sent.labels("ready").inc()
        return _Client(connection, protocol, sink, reader, remote=remote)

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
