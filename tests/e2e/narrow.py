"""Clients with narrow sockets that read as slowly as a test says, or not at all."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from tests.cluster import Cluster

NARROW_BYTES: Final = 4096
WIDER_BYTES: Final = 16 * 1024
"""Enough for some hundred KiB a second."""

SEGMENT_BYTES: Final = 1400
"""As over the internet; loopback's own segments of 64 KiB would make the kernel buffer megabytes
for a client that does not read."""

_TEXT, _CLOSE = 1, 8


@dataclass
class Told:
    """What a client was sent.

    :ivar seqs: of events, in the order they came.
    :ivar gaps: what was told as lost: from, to, how many; `by` what kind of message.
    :ivar order: whether each gap was told before the events behind it.
    """

    ready: int = 0
    seqs: list[int] = field(default_factory=list)
    gaps: list[tuple[int, int, int]] = field(default_factory=list)
    by: set[str] = field(default_factory=set)
    late: list[tuple[int, int]] = field(default_factory=list)
    code: int | None = None

    @property
    def lost(self) -> int:
        """How many events it was told to have lost."""
        return sum(count for _, _, count in self.gaps)

    @property
    def upto(self) -> int:
        """The last sequence that it knows of."""
        return max([self.ready, *self.seqs[-1:], *(to for _, to, _ in self.gaps[-1:])])

    def take(self, message: dict[str, Any]) -> None:
        """Note a message."""
        match message:
            case {"type": "event", "seq": int(seq)}:
                self.seqs.append(seq)
            case {"type": "ready", "seq": int(seq)}:
                self.ready = seq
            case {"type": "gap", "payload": gap}:
                self._gap("gap", gap)
            case {"type": "error", "payload": {"code": "EventsDropped", "details": gap}}:
                self._gap("error", gap)

    def _gap(self, by: str, gap: dict[str, int]) -> None:
        self.by.add(by)
        if self.seqs and self.seqs[-1] >= gap["from_seq"]:
            self.late.append((self.seqs[-1], gap["from_seq"]))
        self.gaps.append((gap["from_seq"], gap["to_seq"], gap["dropped"]))


class NarrowClient:
    """A user's connection over a socket that buffers little.

    :ivar told: what it has been sent, as far as it has read.
    """

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw
        self._loop = asyncio.get_running_loop()
        self._data = b""
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self.told = Told()

    @classmethod
    async def connect(
        cls, on: Cluster, user: str, query: str = "", *, receive_bytes: int = NARROW_BYTES
    ) -> NarrowClient:
        """Connect a user of `acme` and its agent `bot` to the first host; nothing is read yet."""
        host, keys = on.hosts[0], on.keys
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
        raw.setblocking(False)
        made = cls(raw)
        try:
            await made._loop.sock_connect(raw, ("127.0.0.1", host.http_port))
            await made._shake_hands(
                f"GET /ws/acme/bot{query} HTTP/1.1\r\n"
                f"Host: 127.0.0.1:{host.http_port}\r\n"
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
                f"X-API-Key: {keys.secret_token}\r\n"
                f"Authorization: Bearer {keys.user_token('acme', 'bot', user)}\r\n\r\n"
            )
        except BaseException:
            raw.close()
            raise
        return made

    def read(self, pause: float = 0.0) -> None:
        """Read on in the background, with a pause of so many seconds after each few KiB."""
        self._task = asyncio.create_task(self._read(pause))

    async def stop(self) -> None:
        """Read no more; the connection stays."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def reached(self, seq: int) -> None:
        """Return once it knows of everything up to a sequence, or has been closed."""
        while self.told.upto < seq and self.told.code is None:
            self._changed.clear()
            await self._changed.wait()

    async def close(self) -> None:
        """Drop the connection."""
        await self.stop()
        self._raw.close()

    async def _shake_hands(self, request: str) -> None:
        await self._loop.sock_sendall(self._raw, request.encode())
        while b"\r\n\r\n" not in self._data:
            self._data += await self._loop.sock_recv(self._raw, NARROW_BYTES)
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head

    async def _read(self, pause: float) -> None:
        self._take()
        while self.told.code is None:
            try:
                data = await self._loop.sock_recv(self._raw, NARROW_BYTES)
            except ConnectionResetError:
                data = b""
            if not data:
                self.told.code = self.told.code or 1006
            self._data += data
            self._take()
            if pause:
                await asyncio.sleep(pause)
        self._changed.set()

    def _take(self) -> None:
        while (size := _size(self._data)) is not None:
            start, end = size
            if len(self._data) < end:
                return
            opcode, body = self._data[0] & 0x0F, self._data[start:end]
            self._data = self._data[end:]
            if opcode == _TEXT:
                self.told.take(msgspec.json.decode(body))
                self._changed.set()
            elif opcode == _CLOSE:
                self.told.code = int.from_bytes(body[:2], "big")


def _size(data: bytes) -> tuple[int, int] | None:
    """Return where the first frame's payload begins and ends, None if its header is not whole."""
    if len(data) < 2:
        return None
    extra = {126: 2, 127: 8}.get(data[1], 0)
    if len(data) < 2 + extra:
        return None
    size = int.from_bytes(data[2 : 2 + extra], "big") if extra else data[1]
    return 2 + extra, 2 + extra + size
