"""Raw clients for deploys: what they got, when they were without a `ready` socket."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import aiohttp
import msgspec

Kind = Literal["moves", "resumes", "plain"]
"""`moves`: asks for positions, opens the next socket first when told to (make before break).
`resumes`: asks for positions, reconnects when it is closed. `plain`: asks for nothing."""

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 2.0
READY_SECONDS: Final = 20.0


class _Envelope(msgspec.Struct):
    type: str
    seq: int = 0
    stream: str = ""
    recovered: bool | None = None
    payload: msgspec.Raw = msgspec.Raw(b"null")


class _Hint(msgspec.Struct):
    after_ms: int


_envelope = msgspec.json.Decoder(_Envelope)
_hint = msgspec.json.Decoder(_Hint)

WebSocket = aiohttp.ClientWebSocketResponse[Any]


class Ended(Exception):
    """A socket ended before its `ready`."""


class Socket:
    """One connection: read by a task of its own.

    :ivar last: the newest sequence it brought; each must be higher.
    """

    def __init__(self, owner: Mover, websocket: WebSocket) -> None:
        self._owner = owner
        self._websocket = websocket
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[_Envelope] = loop.create_future()
        self.hint: asyncio.Future[float] = loop.create_future()
        self.last = 0
        self.reader = asyncio.create_task(self._read())

    async def close(self) -> None:
        """Leave it."""
        await self._websocket.close()
        await self.reader

    async def _read(self) -> None:
        # A pong that finds the socket closing is its end, too.
        with suppress(aiohttp.ClientError):
            await self._read_on()
        if self.ready.done():
            self._owner.ended(self._websocket.close_code)
        else:
            self.ready.set_exception(Ended(f"closed with {self._websocket.close_code}"))
            self.ready.exception()

    async def _read_on(self) -> None:
        async for message in self._websocket:
            frame = _envelope.decode(message.data)
            match frame.type:
                case "event":
                    self._owner.event(self, frame.seq)
                case "ready":
                    self.last = frame.seq
                    self._owner.opened(self, frame)
                    self.ready.set_result(frame)
                case "reconnect":
                    self.hint.set_result(_hint.decode(frame.payload).after_ms / 1000)


@dataclass
class Record:
    """What one client saw.

    :param got: sequences in the order in which they passed the guard.
    :param times: when each came, monotonic seconds.
    :param guarded: how many the guard removed: another socket had brought them.
    :param wrong: events that were not newer than the one before on the same socket.
    :param excused: ranges `(after, upto)` that the plain contract does not promise.
    :param unready: how long it was without a `ready` socket, each time, in seconds.
    :param dials: when it began to connect again, where that led to `ready`, monotonic seconds.
    """

    first: int = 0
    got: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    guarded: int = 0
    wrong: int = 0
    excused: list[tuple[int, int]] = field(default_factory=list)
    unready: list[float] = field(default_factory=list)
    dials: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    codes: list[int | None] = field(default_factory=list)
    hints: int = 0
    recovered: list[bool | None] = field(default_factory=list)


class Mover:
    """A client that stays connected, one way or another.

    :param group: of clients that get the same events.
    """

    def __init__(
        self,
        kind: Kind,
        group: tuple[str, str],
        url: str,
        headers: dict[str, str],
        session: aiohttp.ClientSession,
    ) -> None:
        self.kind = kind
        self.group = group
        self.record = Record()
        self.position: int | None = None
        self.is_ready = asyncio.Event()
        self._url = url
        self._headers = headers
        self._session = session
        self._open = 0
        self._dialled_at = 0.0
        self._without_since: float | None = None
        self._sockets: set[Socket] = set()
        self._living: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect, and stay connected until :meth:`stop`."""
        self._living = asyncio.create_task(self._live())

    async def stop(self) -> None:
        """Leave."""
        if self._living is not None:
            self._living.cancel()
            await asyncio.gather(self._living, return_exceptions=True)
        await asyncio.gather(*(socket.close() for socket in self._sockets))

    # -- what sockets say -------------------------------------------------------------------------

    def opened(self, socket: Socket, frame: _Envelope) -> None:
        """A socket is `ready`."""
        now = time.monotonic()
        self._open += 1
        if self.position is None:
            self.record.first = self.position = frame.seq
        else:
            self.record.dials.append(self._dialled_at)
            self.record.recovered.append(frame.recovered)
            if not frame.recovered and frame.seq > self.position:
                self.record.excused.append((self.position, frame.seq))
                self.position = frame.seq
        if self._without_since is not None:
            self.record.unready.append(now - self._without_since)
            self._without_since = None
        self.is_ready.set()

    def event(self, socket: Socket, seq: int) -> None:
        """An event came: the guard lets through what is newer than all before."""
        if seq <= socket.last:
            self.record.wrong += 1
        socket.last = max(socket.last, seq)
        if self.position is not None and seq <= self.position:
            self.record.guarded += 1
            return
        self.position = seq
        self.record.got.append(seq)
        self.record.times.append(time.monotonic())

    def ended(self, code: int | None) -> None:
        """A socket that was `ready` has ended."""
        self.record.codes.append(code)
        self._open -= 1
        if self._open == 0:
            self._without_since = time.monotonic()
            self.is_ready.clear()

    # -- connecting -------------------------------------------------------------------------------

    async def _live(self) -> None:
        socket = await self._dial()
        while True:
            waiting: set[asyncio.Future[Any]] = {socket.reader}
            if self.kind == "moves":
                waiting.add(socket.hint)
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if socket.reader.done():
                self._sockets.discard(socket)
                await asyncio.sleep(random.uniform(0, FIRST_PAUSE_SECONDS))
                socket = await self._dial()
            else:
                self.record.hints += 1
                await asyncio.sleep(socket.hint.result())
                old, socket = socket, await self._dial()
                await old.close()
                self._sockets.discard(old)

    async def _dial(self) -> Socket:
        """Return a socket that is `ready`; try until there is one."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._dial_once()
            except (aiohttp.ClientError, Ended, TimeoutError) as error:
                self.record.refused.append(repr(error))
            await asyncio.sleep(random.uniform(0, pause))
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _dial_once(self) -> Socket:
        query = {}
        if self.kind != "plain":
            query["last_seq"] = "" if self.position is None else str(self.position)
        self._dialled_at = time.monotonic()
        async with asyncio.timeout(READY_SECONDS):
            websocket = await self._session.ws_connect(
                self._url, headers=self._headers, params=query, max_msg_size=0
            )
            socket = Socket(self, websocket)
            self._sockets.add(socket)
            try:
                await socket.ready
            except BaseException:
                self._sockets.discard(socket)
                await socket.close()
                raise
            return socket
