"""All TCP connections of a worker's HTTP server, and the requests on them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader

from daisi_ws.adapters.http_limits import Limits
from daisi_ws.adapters.http_protocol import ErrorAnswer, HttpProtocol, HttpSettings
from daisi_ws.adapters.http_proxied import ProxiedHttpProtocol
from daisi_ws.adapters.http_request import MAX_BODY_BYTES


class HttpProtocols(web.Server):
    """Makes a protocol for each TCP connection.

    :param settings: read anew for each.
    :param limits: None where no client comes, and no proxy stands before it.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        settings: Callable[[], HttpSettings],
        answer_error: ErrorAnswer,
        limits: Limits | None,
    ) -> None:
        self._running = asyncio.get_running_loop()
        # Who has gone is not admitted: a ghost would displace the session of its own next try.
        super().__init__(
            handler, request_factory=self._request, handler_cancellation=True, loop=self._running
        )
        self._settings = settings
        self._answer_error = answer_error
        self._limits = limits

    def __call__(self) -> HttpProtocol:
        """Return the protocol of a new TCP connection."""
        kind = HttpProtocol if self._limits is None else ProxiedHttpProtocol
        return kind(self, self._running, self._settings(), self._answer_error, self._limits)

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
