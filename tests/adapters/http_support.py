"""A running HTTP server with doubles for the use cases, and a client made of a raw socket."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import json
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self

from aiohttp import web

from daisi_ws.adapters.http_protocol import HttpSettings
from daisi_ws.adapters.http_server import HttpServer
from daisi_ws.app.connection import Connection
from daisi_ws.app.ports import Sink
from daisi_ws.config import testing_config
from daisi_ws.domain import frames, principal
from daisi_ws.domain.census import Census
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.errors import BadRequest, InvalidAPIKey, InvalidToken, Refusal
from daisi_ws.domain.frames import ClientMessage, RefreshToken, ResumeFrom, SelectChat
from daisi_ws.domain.outbox import Outbox
from daisi_ws.domain.principal import Kind, Principal
from daisi_ws.domain.resume import Claim
from daisi_ws.metrics import Metrics
from tests.app.connections import flush

KEYS: Mapping[Kind, str] = {"user": "the-user-api-key", "admin": "the-admin-api-key"}
WEBSOCKET_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""What RFC 6455 section 1.3 says that a server answers to this key."""

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
DEADLINE = 5.0


class FakeAuthenticator:
    """Knows two keys; a token is `kind:ids`, in clear."""

    def check_api_key(self, kind: Kind, presented: str | None) -> None:
        if not hmac.compare_digest(presented or "", KEYS[kind]):
            raise InvalidAPIKey("the API key is missing or wrong")

    async def principal(
        self, kind: Kind, token: str | None, path: tuple[str, str] | None
    ) -> Principal:
        match (token or "").split(":"):
            case ["user", company, agent, user] if kind == "user" and path == (company, agent):
                return principal.user(company, agent, user, time.time() + 3600)
            case ["admin", admin] if kind == "admin":
                return principal.admin(admin, time.time() + 3600)
        raise InvalidToken("the token is not valid")

    def issue_user(self, body: bytes) -> str:
        return self._issue("user", body)

    def issue_admin(self, body: bytes) -> str:
        return self._issue("admin", body)

    def _issue(self, kind: Kind, body: bytes) -> str:
        try:
            return f"{kind}:{json.loads(body)['id']}"
        except (ValueError, KeyError):
            raise BadRequest("body is not as it should be") from None


@dataclass
class FakeGateway:
    """Admits everybody with real connections; what happens to them can be set."""

    is_accepting: bool = True
    refusal: Refusal | Exception | None = None
    message_refusal: Refusal | Exception | None = None
    may_admit: asyncio.Event = field(default_factory=asyncio.Event)
    admitting: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    admitted: list[Connection] = field(default_factory=list)
    messages: asyncio.Queue[ClientMessage] = field(default_factory=asyncio.Queue)
    left: asyncio.Queue[tuple[Connection, CloseReason]] = field(default_factory=asyncio.Queue)
    displace_in_admit: bool = False

    def __post_init__(self) -> None:
        self.may_admit.set()
        self._numbers = itertools.count()

    def accepting(self) -> bool:
        return self.is_accepting

    async def admit(
        self, principal: Principal, request_id: str, claim: Claim | None = None
    ) -> Connection:
        self.admitting.set()
        try:
            await self.may_admit.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.refusal is not None:
            raise self.refusal
        outbox = Outbox(100, 2**20, "drop_oldest")
        number = next(self._numbers)
        connection = Connection(
            connection_id=f"c{number}",
            pod_id="pod",
            principal=principal,
            request_id=request_id,
            outbox=outbox,
            queue=self._queue,
        )
        self.admitted.append(connection)
        if self.displace_in_admit:
            connection.close(CloseReason.DISPLACED)
        return connection

    def open(self, connection: Connection, sink: Sink) -> None:
        ready = frames.ready("stream", 7, connection.connection_id)
        connection.open(sink, ready, 0, time.monotonic())

    async def select_chat(self, connection: Connection, message: SelectChat) -> None:
        self._take(message)

    async def resume(self, connection: Connection, message: ResumeFrom) -> None:
        self._take(message)

    async def refresh_token(self, connection: Connection, message: RefreshToken) -> None:
        self._take(message)

    async def leave(self, connection: Connection, reason: CloseReason) -> None:
        self.left.put_nowait((connection, reason))

    def writable(self, connection: Connection) -> None:
        connection.behind_since = None
        self._queue(connection)

    def _take(self, message: ClientMessage) -> None:
        if self.message_refusal is not None:
            raise self.message_refusal
        self.messages.put_nowait(message)

    def _queue(self, connection: Connection) -> None:
        asyncio.get_running_loop().call_soon(lambda: flush(connection, time.monotonic()))

    async def next_left(self) -> tuple[Connection, CloseReason]:
        """Return the next connection that left, and why."""
        async with asyncio.timeout(DEADLINE):
            return await self.left.get()


class FakeProbes:
    """Alive and READY, unless told otherwise."""

    status = 200
    padding = ""

    def health(self) -> tuple[int, dict[str, object]]:
        return 200, {"status": "OK", "padding": self.padding}

    def ready(self) -> tuple[int, dict[str, object]]:
        return self.status, {"status": "READY" if self.status == 200 else "NOT_READY"}


class Serving:
    """A server on a free port, with its doubles; `settings` may be exchanged while it runs."""

    def __init__(self, settings: HttpSettings) -> None:
        self.settings = settings
        self.gateway = FakeGateway()
        self.probes = FakeProbes()
        self.metrics = Metrics()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.server = self.make_server()

    def make_server(self, census: Census | None = None) -> HttpServer:
        """Make another server with the same doubles: a successor."""
        return HttpServer(
            settings=lambda: self.settings,
            authenticator=FakeAuthenticator(),
            gateway=self.gateway,
            probes=self.probes,
            metrics=self.metrics,
            writable=self.gateway.writable,
            census=census,
        )

    def open_protocols(self) -> list[web.RequestHandler]:
        """Return the server's ends of the TCP connections that are not over."""
        protocols = self.server._protocols
        assert protocols is not None
        return protocols.connections

    def count(self, name: str, **labels: str) -> float:
        """Return a metric's value, 0 where it has none."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def serving(
    metrics_listener: socket.socket | None = None,
    tls: ssl.SSLContext | None = None,
    /,
    **overrides: object,
) -> AsyncIterator[Serving]:
    """Run a server with a configuration that differs by `overrides` from the default."""
    running = Serving(HttpSettings.from_config(testing_config(**overrides)))
    try:
        await running.server.start(running.listener, metrics_listener, tls)
        yield running
    finally:
        await running.server.close()
        running.listener.close()


@dataclass
class Response:
    """An HTTP response as it came; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, object]:
        """Return the body, which must be declared as JSON and be an object."""
        assert self.headers["content-type"].startswith("application/json")
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


def masked(payload: bytes, key: bytes) -> bytes:
    """Apply a masking key (RFC 6455 section 5.3)."""
    return bytes(b ^ key[i % 4] for i, b in enumerate(payload))


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    mask: bool = True,
    rsv: int = 0,
    claimed: int | None = None,
) -> bytes:
    """Return a client's frame; everything about it can be wrong."""
    first = (fin << 7) | (rsv << 4) | opcode
    size = len(payload) if claimed is None else claimed
    bit = 0x80 if mask else 0
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 65536:
        head = bytes((first, bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, bit | 127)) + size.to_bytes(8, "big")
    if not mask:
        return head + payload
    key = os.urandom(4)
    return head + key + masked(payload, key)


def close_payload(code: int, text: bytes = b"") -> bytes:
    """Return the payload of a close frame."""
    return code.to_bytes(2, "big") + text


class Wire:
    """A TCP connection to the server, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()
        try:
            await self.writer.wait_closed()
        except OSError:
            return

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)

    async def response(self, *, head: bool = False) -> Response:
        """Read one HTTP response."""
        async with asyncio.timeout(DEADLINE):
            raw = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = raw.decode().split("\r\n")[:-2]
            headers = {k.lower(): v.strip() for k, _, v in (li.partition(":") for li in lines)}
            status = int(first.split()[1])
            size = 0 if head or status == 101 else int(headers.get("content-length", "0"))
            return Response(status, headers, await self.reader.readexactly(size))

    async def request(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Response:
        """Send a request as it should be, and read the response."""
        lines = {"Host": "gateway.example", **(headers or {})}
        if body:
            lines["Content-Length"] = str(len(body))
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.send(f"{method} {target} HTTP/1.1\r\n{text}\r\n".encode() + body)
        return await self.response(head=method == "HEAD")

    async def next_frame(self) -> tuple[int, bytes]:
        """Read one whole, unmasked server frame; return its opcode and payload."""
        async with asyncio.timeout(DEADLINE):
            first, second = await self.reader.readexactly(2)
            assert first & 0xF0 == 0x80, "servers here send no fragments and no reserved bits"
            assert not second & 0x80, "servers do not mask"
            size = second
            if size > 125:
                extended = await self.reader.readexactly(2 if size == 126 else 8)
                size = int.from_bytes(extended, "big")
            return first & 0x0F, await self.reader.readexactly(size)

    async def message(self) -> dict[str, object]:
        """Read one text frame and return its JSON."""
        opcode, payload = await self.next_frame()
        assert opcode == TEXT, (opcode, payload)
        value = json.loads(payload)
        assert isinstance(value, dict)
        return value

    async def error_code(self) -> str:
        """Read one `error` message and return its code."""
        message = await self.message()
        assert message["type"] == "error"
        payload = message["payload"]
        assert isinstance(payload, dict)
        return str(payload["code"])

    async def close_code(self) -> int:
        """Skip to the close frame and return its code."""
        while True:
            opcode, payload = await self.next_frame()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big")

    async def ended(self, timeout: float = DEADLINE) -> bytes:
        """Read until the server has closed the TCP connection; return what came."""
        received = b""
        async with asyncio.timeout(timeout):
            try:
                while data := await self.reader.read(65536):
                    received += data
            except ConnectionError:
                return received
        return received


def upgrade_headers(kind: Kind = "user", **changes: str | None) -> dict[str, str]:
    """Return the headers of a right handshake; `changes` by name with `_` for `-`, None to omit."""
    headers: dict[str, str | None] = {
        "Host": "gateway.example",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": WEBSOCKET_KEY,
        "X-API-Key": KEYS[kind],
    }
    for name, value in changes.items():
        wanted = name.replace("_", "-").lower()
        headers = {k: v for k, v in headers.items() if k.lower() != wanted}
        headers[name.replace("_", "-")] = value
    return {name: value for name, value in headers.items() if value is not None}


def handshake(target: str = "/ws/acme/bot?token=user:acme:bot:ann", **changes: str | None) -> bytes:
    """Return the bytes of a user's handshake."""
    lines = "".join(f"{k}: {v}\r\n" for k, v in upgrade_headers("user", **changes).items())
    return f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode()


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something holds that no event tells of."""
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def open_wire(**overrides: object) -> AsyncIterator[tuple[Serving, Wire]]:
    """Run a server as :func:`serving` does, with a TCP connection to it."""
    async with serving(**overrides) as running, await Wire.connect(running.port) as wire:
        yield running, wire


@asynccontextmanager
async def open_websocket(**overrides: object) -> AsyncIterator[tuple[Serving, Wire]]:
    """Run a server as :func:`serving` does, with a WebSocket to it."""
    async with serving(**overrides) as running, websocket(running.port) as wire:
        yield running, wire


@asynccontextmanager
async def websocket(
    port: int, user: str = "ann", more: bytes = b"", **changes: str | None
) -> AsyncIterator[Wire]:
    """Open a user's WebSocket and read `ready`; `more` travels with the handshake."""
    async with await Wire.connect(port) as wire:
        wire.send(handshake(f"/ws/acme/bot?token=user:acme:bot:{user}", **changes) + more)
        response = await wire.response()
        assert response.status == 101, response
        assert (await wire.message())["type"] == "ready"
        yield wire
