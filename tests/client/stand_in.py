"""A gateway made of scripts: what it says on its n-th connection is up to the test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Self

import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer

POD_HEADER = "X-Daisi-Pod"

Script = Callable[["Connection"], Awaitable[None]]


class Connection:
    """The server's side of one WebSocket; when the script returns the socket is closed."""

    def __init__(self, request: web.Request, ws: web.WebSocketResponse, number: int) -> None:
        self.request = request
        self.ws = ws
        self.number = number

    async def ready(self, seq: int = 0, stream: str = "s@1", **more: object) -> None:
        ready = {"type": "ready", "stream": stream, "seq": seq, "connection": "0-a"}
        await self.say({**ready, **more})

    async def resumed(self, seq: int, replayed: int, **more: object) -> None:
        answer = {"type": "resumed", "stream": "s@1", "seq": seq}
        await self.say({**answer, "recovered": True, "replayed": replayed, **more})

    async def gap(self, first: int, last: int) -> None:
        lost = {"from_seq": first, "to_seq": last, "dropped": last + 1 - first}
        await self.say({"type": "gap", "payload": lost})

    async def done(self, message: dict[str, object], seq: int) -> None:
        await self.say({"type": "done", "id": message["id"], "payload": {"seq": seq}})

    async def event(self, seq: int | None, text: str = "", kind: str = "chat") -> None:
        payload = {"event_id": text or f"e{seq}", "event_type": kind}
        frame: dict[str, object] = {"type": "event", "payload": payload}
        await self.say(frame if seq is None else {**frame, "seq": seq})

    async def say(self, message: object) -> None:
        await self.ws.send_str(msgspec.json.encode(message).decode())

    async def hear(self) -> dict[str, object]:
        """Return the client's next message."""
        heard: dict[str, object] = msgspec.json.decode(await self.ws.receive_str(timeout=10))
        return heard

    async def until_closed(self) -> int | None:
        """Read until the client has gone; return its close code."""
        async for _ in self.ws:
            pass
        return self.ws.close_code

    async def close(self, code: int, reason: str = "") -> None:
        await self.ws.close(code=code, message=reason.encode())

    def drop(self) -> None:
        """End the connection without a close frame."""
        transport = self.request.transport
        assert transport is not None
        transport.abort()


class StandIn:
    """The scripts of connections 0, 1, …; the last one serves all later ones."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = scripts
        self.requests: list[web.Request] = []
        self.autoping = True
        app = web.Application()
        app.router.add_get("/{path:.*}", self._serve)
        self._server = TestServer(app)

    @property
    def url(self) -> str:
        return str(self._server.make_url("/ws/acme/sales"))

    async def __aenter__(self) -> Self:
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        number = len(self.requests)
        self.requests.append(request)
        script = self.scripts[min(number, len(self.scripts) - 1)]
        ws = web.WebSocketResponse(protocols=("json.v1",), autoping=self.autoping)
        ws.headers[POD_HEADER] = f"pod-{number}"
        await ws.prepare(request)
        await script(Connection(request, ws, number))
        return ws


def refusing(status: int, body: object) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return a handler that answers everything with this status and JSON body."""

    async def handler(_: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    return handler
