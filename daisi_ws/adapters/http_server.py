"""The HTTP server of a worker: its paths, and its life on the listening sockets it was given."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from daisi_ws import metrics as prometheus
from daisi_ws.adapters.http_answers import (
    SERVER_NAME,
    Refusals,
    Rejection,
    json_answer,
    not_found,
    wrong_method,
)
from daisi_ws.adapters.http_limits import Limits
from daisi_ws.adapters.http_protocol import HttpProtocol, HttpSettings
from daisi_ws.adapters.http_protocols import HttpProtocols
from daisi_ws.adapters.http_request import (
    api_key_of,
    check_origin,
    check_upgrade,
    claim_of,
    read_body,
    remote_of,
    request_id_of,
    segments_of,
    token_of,
    trace_of,
)
from daisi_ws.adapters.ws_server import WebSocketServer
from daisi_ws.app.connection import Connection
from daisi_ws.app.gateway_ports import Authenticator, Gateway, Probes
from daisi_ws.domain.census import Census
from daisi_ws.domain.deadlines import CLIENT_CLOSE_SECONDS
from daisi_ws.domain.errors import BadRequest, InternalServerError, InvalidAPIKey, Refusal
from daisi_ws.domain.ids import check_id
from daisi_ws.domain.principal import Kind
from daisi_ws.metrics import Metrics

log = structlog.get_logger()

BACKLOG: Final = 2048
"""Connections that may wait to be accepted; the kernel's `net.core.somaxconn` bounds it."""

FINISH_SECONDS: Final = 1.0
"""How long :meth:`HttpServer.close` lets requests that are being answered finish."""

LONGEST_SHOWN: Final = 40
"""Characters of a part of a path that a log line may have."""

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class HttpServer:
    """All endpoints of the wire protocol, on one listening socket; scrapes may have their own.

    :param settings: read when needed, so that changes apply.
    :param writable: told when a client that was behind reads again.
    :param census: where the clients of the whole host are counted.
    """

    def __init__(
        self,
        *,
        settings: Callable[[], HttpSettings],
        authenticator: Authenticator,
        gateway: Gateway,
        probes: Probes,
        metrics: Metrics,
        writable: Callable[[Connection], None],
        census: Census | None = None,
    ) -> None:
        self._settings = settings
        self._authenticator = authenticator
        self._gateway = gateway
        self._probes = probes
        self._metrics = metrics
        self._refusals = Refusals()
        self._limits = Limits(settings, metrics, census or Census())
        self._websockets = WebSocketServer(settings, gateway, metrics, writable, self._limits)
        self._protocols: HttpProtocols | None = None
        self._server: asyncio.Server | None = None
        self._metrics_protocols: HttpProtocols | None = None
        self._metrics_server: asyncio.Server | None = None
        self._scraping = asyncio.Lock()

    async def start(
        self,
        listener: socket.socket,
        metrics_listener: socket.socket | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Accept connections on `listener`, which stays the caller's.

        :param metrics_listener: where `/metrics` is served instead, alone and in plain text; other
            processes may accept on it as well.
        :param tls: what is spoken on `listener`; None: plain text.
        """
        # It would log subprotocols that clients offer, where some put their tokens.
        logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)
        self._protocols = HttpProtocols(self._handle, self._settings, self._failed, self._limits)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._protocols,
            sock=listener.dup(),
            backlog=BACKLOG,
            ssl=tls,
            # Without it a client may take a minute; the request has as long again.
            ssl_handshake_timeout=self._settings().handshake_timeout if tls else None,
            ssl_shutdown_timeout=CLIENT_CLOSE_SECONDS if tls else None,
        )
        if metrics_listener is not None:
            scrapes = partial(self._handle, only="metrics")
            self._metrics_protocols = HttpProtocols(scrapes, self._settings, self._failed, None)
            self._metrics_server = await loop.create_server(
                self._metrics_protocols, sock=metrics_listener.dup(), backlog=BACKLOG
            )

    def stop_accepting(self) -> None:
        """Leave waiting and new TCP connections to whoever else holds the listening socket.

        Open connections and requests on their way go on, and so do scrapes at their own port.
        """
        if self._server is not None:
            self._server.close()
            self._server = None

    def handshakes(self) -> int:
        """Return how many TCP connections are open whose first request is not whole yet."""
        protocols = [] if self._protocols is None else self._protocols.connections
        return sum(isinstance(p, HttpProtocol) and p.is_new for p in protocols)

    async def close(self) -> None:
        """End every connection: WebSockets by a close frame, the rest after its answer."""
        self.stop_accepting()
        await self._websockets.close()
        if self._metrics_server is not None:
            self._metrics_server.close()
        for protocols in (self._protocols, self._metrics_protocols):
            if protocols is not None:
                await protocols.shutdown(FINISH_SECONDS)

    async def _handle(self, request: web.BaseRequest, only: str = "") -> web.StreamResponse:
        protocol = request.protocol
        assert isinstance(protocol, HttpProtocol)
        protocol.request_arrived()
        request_id = request_id_of(request)
        structlog.contextvars.bind_contextvars(request_id=request_id, **trace_of(request))
        try:
            response = await self._route(request, only)(request)
        except Rejection as rejection:
            response = self._refuse(request, rejection)
        except Refusal as refusal:
            # What follows a refused upgrade is no HTTP.
            closing = "Upgrade" in request.headers
            response = self._refuse(request, Rejection(refusal, refusal.http_status, close=closing))
        if not response.prepared:
            response.headers["X-Request-ID"] = request_id
            response.headers["Server"] = SERVER_NAME
            if self._server is None:
                response.force_close()
        return response

    def _route(self, request: web.BaseRequest, only: str) -> Answer:
        allowed: str
        answer: Answer
        segments = segments_of(request)
        if only and segments != [only]:
            raise not_found()
        match segments:
            case ["ws", "admin"]:
                allowed, answer = "GET", partial(self._websocket, kind="admin", path=None)
            case ["ws", company, agent]:
                path = (company, agent)
                allowed, answer = "GET", partial(self._websocket, kind="user", path=path)
            case ["generate-token"]:
                allowed, answer = "POST", partial(self._token, kind="user")
            case ["admin", "generate-token"]:
                allowed, answer = "POST", partial(self._token, kind="admin")
            case ["health"]:
                allowed, answer = "GET, HEAD", partial(self._probe, probe=self._probes.health)
            case ["ready"]:
                allowed, answer = "GET, HEAD", partial(self._probe, probe=self._probes.ready)
            case ["metrics"] if only or self._metrics_server is None:
                allowed, answer = "GET, HEAD", self._scrape
            case _:
                raise not_found()
        if request.method not in allowed.split(", "):
            raise wrong_method(allowed)
        return answer

    async def _websocket(
        self, request: web.BaseRequest, *, kind: Kind, path: tuple[str, str] | None
    ) -> web.StreamResponse:
        check_upgrade(request)
        if not self._gateway.accepting():
            refusal = InternalServerError("this server is going away", reason="draining")
            raise Rejection(refusal, 503, headers={"Retry-After": "1"}, close=True)
        remote = self._checked_remote(request)
        self._limits.check_address(remote)
        check_origin(request, self._settings().allowed_origins)
        claim = claim_of(request)
        self._authenticator.check_api_key(kind, api_key_of(request))
        if path is not None:
            path = (check_id("company_id", path[0]), check_id("agent_id", path[1]))
        principal = await self._authenticator.principal(kind, token_of(request), path)
        self._limits.check_identity(principal, remote)
        request_id = structlog.contextvars.get_contextvars()["request_id"]
        return await self._websockets.serve(request, principal, request_id, claim, remote)

    async def _token(self, request: web.BaseRequest, *, kind: Kind) -> web.StreamResponse:
        self._checked_remote(request)
        try:
            self._authenticator.check_api_key(kind, api_key_of(request))
        except InvalidAPIKey as refusal:
            raise Rejection(refusal, 403) from None
        body = await read_body(request, self._settings().handshake_timeout)
        issue = {"user": self._authenticator.issue_user, "admin": self._authenticator.issue_admin}
        return json_answer(200, {"token": issue[kind](body)})

    async def _probe(
        self, request: web.BaseRequest, *, probe: Callable[[], tuple[int, dict[str, object]]]
    ) -> web.StreamResponse:
        return json_answer(*probe())

    async def _scrape(self, request: web.BaseRequest) -> web.StreamResponse:
        async with self._scraping:
            self._metrics.fold()
            # All workers' files are read: too long for the loop.
            loop = asyncio.get_running_loop()
            body = await loop.run_in_executor(None, self._metrics.exposition)
        return web.Response(body=body, headers={"Content-Type": prometheus.CONTENT_TYPE})

    def _remote(self, request: web.BaseRequest) -> str:
        """Return the client's address, as far as it is known for sure."""
        return remote_of(request, self._settings().trusted_proxies)

    def _checked_remote(self, request: web.BaseRequest) -> str:
        """Return the same, of a connection that is not over the limit.

        :raises Rejection: 429.
        """
        remote, protocol = self._remote(request), request.protocol
        assert isinstance(protocol, HttpProtocol)
        self._limits.check_accepted(protocol.over_limit, remote)
        return remote

    def _refuse(self, request: web.BaseRequest, rejection: Rejection) -> web.Response:
        return self._refusals.answer(
            rejection, self._remote(request), method=request.method[:16], path=_shown(request.path)
        )

    def _failed(
        self, request: web.BaseRequest, status: int, exc: BaseException | None
    ) -> web.StreamResponse:
        if status < 500:
            details = type(exc).__name__ if exc is not None else None
            remote, reason = self._remote(request), "malformed"
            if isinstance(exc, LineTooLong):
                reason = "header_size"
                self._limits.reached(reason, remote=remote)
            refusal = BadRequest("malformed HTTP request", details=details, reason=reason)
            response = self._refusals.answer(Rejection(refusal, status, close=True), remote)
        else:
            if not isinstance(exc, ConnectionError):
                log.error("request failed", exc_info=exc)
            body = InternalServerError("something failed here; try again").body()
            response = json_answer(500, body)
        response.headers["X-Request-ID"] = request_id_of(request)
        response.headers["Server"] = SERVER_NAME
        return response


def _shown(path: str) -> str:
    """Return a path for the log. What is as long as a key or a token may be one, put there by
    mistake: longer parts are left out."""
    return "/".join(part if len(part) <= LONGEST_SHOWN else "…" for part in path.split("/"))[:200]
