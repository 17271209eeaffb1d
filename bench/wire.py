"""A WebSocket client that costs next to nothing: raw bytes in, event numbers out.

An event carries its number as `event_id`. A client notes which numbers came and when its socket
was read; everything else is worked out when the load is over.
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

import msgspec

clock: Final = time.perf_counter

_EVENT: Final = b'{"type":"event"'
_NUMBER: Final = b'"event_id":"'
_QUOTE: Final = b'"'
_PING: Final = 0x89
_CLOSE: Final = 0x88
_CACHED: Final = 256


class Frame(msgspec.Struct):
    """What a client reads of messages that are no events."""

    type: str = ""
    stream: str = ""
    seq: int = 0
    recovered: bool | None = None


_frame = msgspec.json.Decoder(Frame)


@dataclass(frozen=True, slots=True)
class Chunk:
    """What some bytes of a stream contained: event numbers, other frames, bytes used."""

    numbers: list[int]
    others: list[tuple[int, bytes]]
    used: int


def parse(data: bytes) -> Chunk:
    """Take frames apart (RFC 6455 section 5.2; a server does not mask)."""
    numbers: list[int] = []
    others: list[tuple[int, bytes]] = []
    at, end = 0, len(data)
    while end - at >= 2:
        size, body = data[at + 1], at + 2
        if size > 125:
            body += 2 if size == 126 else 8
            if body > end:
                break
            size = int.from_bytes(data[at + 2 : body], "big")
        stop = body + size
        if stop > end:
            break
        if data.startswith(_EVENT, body):
            start = data.index(_NUMBER, body) + 12
            numbers.append(int(data[start : data.index(_QUOTE, start)]))
        else:
            others.append((data[at], data[body:stop]))
        at = stop
    return Chunk(numbers, others, at)


class Shared:
    """What the clients of one load have in common.

    :ivar got: deliveries so far, of all clients.
    :ivar alike: many clients read the same bytes: each piece is parsed once.
    """

    def __init__(self) -> None:
        self.got = 0
        self.alike = False
        self._seen: dict[bytes, Chunk] = {}

    def parse(self, data: bytes) -> Chunk:
        """Parse a piece of a stream."""
        if not self.alike:
            return parse(data)
        chunk = self._seen.get(data)
        if chunk is None:
            if len(self._seen) >= _CACHED:
                self._seen.clear()
            chunk = self._seen[data] = parse(data)
        return chunk


class Client(asyncio.Protocol):
    """One connection, from TCP to whatever ends it.

    :param head: the bytes of the upgrade request.
    :param hello: a message to be sent after `ready`, whose `done` is waited for; empty for none.
    :ivar ready_at: when the connection was ready (or its hello done), 0 before.
    """

    __slots__ = (
        "_head", "_hello", "_rest", "_shared", "_transport", "_upgraded",
        "counts", "dropped_told", "ended", "numbers", "opened", "problem", "ready", "ready_at",
        "response", "started_at", "times",
    )  # fmt: skip

    def __init__(self, shared: Shared, head: bytes, hello: bytes) -> None:
        self._shared = shared
        self._head = head
        self._hello = hello
        self._rest = b""
        self._upgraded = False
        self._transport: asyncio.Transport | None = None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.started_at = clock()
        self.ready_at = 0.0
        self.ready = Frame()
        self.response = b""
        self.problem = ""
        self.ended = False
        self.dropped_told = 0
        self.numbers: list[int] = []
        self.times: list[float] = []
        self.counts: list[int] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit it
        self._transport.write(self._head)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self._fail(f"connection lost: {exc or self.response[:200]!r}")

    def data_received(self, data: bytes) -> None:
        now = clock()
        if self._rest:
            data = self._rest + data
        if not self._upgraded:
            self._upgrade(data)
            return
        chunk = self._shared.parse(data)
        self._rest = data[chunk.used :] if chunk.used < len(data) else b""
        if chunk.numbers:
            self.numbers += chunk.numbers
            self.times.append(now)
            self.counts.append(len(chunk.numbers))
            self._shared.got += len(chunk.numbers)
        for first, body in chunk.others:
            self._take(first, body, now)

    def abort(self) -> None:
        """End the connection without a word."""
        if self._transport is not None:
            self._transport.abort()

    def forget(self) -> None:
        """Forget what came, and what was told."""
        self.numbers, self.times, self.counts = [], [], []
        self.dropped_told = 0

    def _upgrade(self, data: bytes) -> None:
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            self._rest = data
            return
        self.response = head
        if not head.startswith(b"HTTP/1.1 101"):
            self._fail(f"refused: {data[:300]!r}")
            self.abort()
            return
        self._upgraded = True
        self._rest = b""
        if rest:
            self.data_received(rest)

    def _take(self, first: int, body: bytes, now: float) -> None:
        if first == _PING:
            self._send(0x8A, body)
        elif first == _CLOSE:
            self._fail(f"closed: {body!r}")
            self._send(_CLOSE, body[:2])
        else:
            self._message(body, now)

    def _message(self, body: bytes, now: float) -> None:
        frame = _frame.decode(body)
        if frame.type == "ready":
            self.ready = frame
            if self._hello and b"permessage-deflate" in self._head:
                self._send(0xC1, deflated(self._hello))
            elif self._hello:
                self._send(0x81, self._hello)
            else:
                self._open(now)
        elif frame.type == "done":
            self._open(now)
        elif frame.type in ("error", "gap"):
            if b"dropped" in body:
                self.dropped_told += 1
            self.problem = self.problem or body.decode()

    def _open(self, now: float) -> None:
        self.ready_at = now
        if not self.opened.done():
            self.opened.set_result(None)

    def _fail(self, problem: str) -> None:
        self.problem = self.problem or problem
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(self.problem))
            self.opened.exception()

    def _send(self, first: int, body: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(client_frame(first, body))


def client_frame(first: int, body: bytes) -> bytes:
    """Return a masked frame; its mask of zeros leaves the body as it is."""
    size = len(body)
    head = (
        bytes((first, 0x80 | size)) if size < 126 else bytes((first, 0xFE, size >> 8, size & 255))
    )
    return head + b"\0\0\0\0" + body


def deflated(body: bytes) -> bytes:
    """Return a message compressed for itself (RFC 7692 section 7.2.1)."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return (packer.compress(body) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


async def open_client(make: Callable[[], Client], host: str, port: int, timeout: float) -> Client:
    """Connect; return once the client is ready.

    :raises ConnectionError, TimeoutError, OSError: it did not become so.
    """
    client = make()
    async with asyncio.timeout(timeout):
        await asyncio.get_running_loop().create_connection(lambda: client, host, port)
        await client.opened
    return client


def upgrade_request(path: str, headers: dict[str, str]) -> bytes:
    """Return the bytes of an upgrade request (RFC 6455 section 4.1)."""

    fields = {
        "Host": "127.0.0.1",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "json.v1",
        **headers,
    }
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
