"""One WebSocket connection to the gateway, from dialling to its end."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self

import aiohttp

from daisi_ws.client.ending import ABNORMAL_CLOSURE, FINAL_CLOSE_CODES, Ended, Unreachable
from daisi_ws.client.frames import Frame, Ready, decode
from daisi_ws.client.handshake import WebSocket, dial

_TEXT: Final = aiohttp.WSMsgType.TEXT
_Message = aiohttp.WSMessage | aiohttp.http.WSMessageTextBytes


@dataclass(frozen=True, slots=True)
class Ending:
    """How the connection ended: WebSocket close code and the gateway's words."""

    code: int
    reason: str


class Link:
    """A connection that is `ready`.

    :ivar ready: the frame that said so.
    :ivar ready_at: when it came, monotonic seconds.
    """

    def __init__(self, ws: WebSocket, ready: Ready) -> None:
        self._ws = ws
        self.ready = ready
        self.ready_at = time.monotonic()

    @classmethod
    async def open(
        cls,
        session: aiohttp.ClientSession,
        url: str,
        headers: Mapping[str, str],
        *,
        heartbeat: float | None,
        timeout: float,
        on_early: Callable[[Frame], None],
    ) -> Self:
        """Dial and wait for `ready`.

        :param timeout: seconds for both.
        :param on_early: called with each frame before `ready`.
        :raises Ended: refused, or closed, for good.
        :raises Unreachable: no connection, or none that became ready in time.
        """
        ws: WebSocket | None = None
        try:
            async with asyncio.timeout(timeout):
                ws, pod = await dial(session, url, headers, heartbeat)
                ready = await _until_ready(ws, on_early)
        except BaseException as error:
            if ws is not None:
                await ws.close()
            if isinstance(error, TimeoutError):
                raise Unreachable(f"{url} was not ready within {timeout:g} s") from None
            raise
        ready.pod = pod or ready.pod
        return cls(ws, ready)

    async def next(self) -> Frame | Ending:
        """Return the next frame, or how the connection ended."""
        try:
            message = await self._ws.receive()
        except (aiohttp.ClientError, OSError) as error:  # a ping that cannot be answered any more
            return Ending(ABNORMAL_CLOSURE, f"the connection was lost: {error}")
        if message.type is _TEXT:
            return decode(message.data)
        return _ending(self._ws, message)

    async def send(self, text: str) -> None:
        """Send a text message.

        :raises Unreachable: the connection is gone.
        """
        try:
            await self._ws.send_str(text)
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"the connection was lost: {error}") from None

    def drop(self) -> None:
        """End the TCP connection without a close frame, as a network would that fails."""
        peer = self._ws.get_extra_info("socket")
        if peer is not None and peer.fileno() >= 0:
            # Neither asyncio nor uvloop hands out the socket itself.
            with socket.socket(fileno=os.dup(peer.fileno())) as same:
                same.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        """End the connection with code 1000, unless it has ended. Idempotent."""
        await self._ws.close()


async def _until_ready(ws: WebSocket, on_early: Callable[[Frame], None]) -> Ready:
    while True:
        try:
            message = await ws.receive()
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"closed before ready: {error}") from None
        if message.type is not _TEXT:
            ending = _ending(ws, message)
            if ending.code in FINAL_CLOSE_CODES:
                raise Ended(ending.code, ending.reason)
            raise Unreachable(f"closed before ready with {ending.code} {ending.reason}".rstrip())
        frame = decode(message.data)
        if isinstance(frame, Ready):
            return frame
        on_early(frame)


def _ending(ws: WebSocket, message: _Message) -> Ending:
    match message.type:
        case aiohttp.WSMsgType.CLOSE:
            # A close frame without a code counts as 1005 (RFC 6455 section 7.1.5).
            return Ending(int(message.data or 1005), message.extra or "")
        case aiohttp.WSMsgType.ERROR:
            # No close frame of the gateway, whatever code of its own the library notes.
            return Ending(ABNORMAL_CLOSURE, str(message.data))
        case aiohttp.WSMsgType.BINARY:
            return Ending(1003, "the gateway sent a binary message")
    return Ending(ABNORMAL_CLOSURE, "connection lost")
