"""The outgoing half of a WebSocket: ready frames onto the transport, and one close frame."""

from __future__ import annotations

import asyncio
from typing import Final

from daisi_ws.adapters.http_protocol import HttpProtocol
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.deadlines import CLIENT_CLOSE_SECONDS
from daisi_ws.domain.wire import close_frame

BEHIND_CLOSE_SECONDS: Final = 0.5
"""Close wait for a client that does not read: it hardly sees the close frame anyway."""


class WebSocketSink:
    """Implements :class:`daisi_ws.app.ports.Sink` over an upgraded connection.

    :param head: the answer to the handshake, which goes out with the first frame.
    :ivar bytes_written: all bytes of frames handed over, their headers included.
    :ivar peer_code: status code of the peer's close frame, which ours then repeats (RFC 6455
        section 5.5.1).
    """

    __slots__ = (
        "_closed",
        "_head",
        "_owes_answer",
        "_protocol",
        "_transport",
        "bytes_written",
        "peer_code",
    )

    def __init__(
        self, protocol: HttpProtocol, transport: asyncio.Transport, head: bytes = b""
    ) -> None:
        self._protocol = protocol
        self._transport = transport
        self._head = head
        self._closed = False
        self._owes_answer = False
        self.bytes_written = 0
        self.peer_code: int | None = None

    def write(self, data: bytes) -> None:
        """Hand over whole frames; after a close it does nothing."""
        transport = self._transport
        if self._closed or transport.is_closing():
            return
        self.bytes_written += len(data)
        if self._head:
            data, self._head = self._head + data, b""
        transport.write(data)

    def backlog(self) -> int:
        """Return how many bytes were handed over and not yet taken by the kernel."""
        return self._transport.get_write_buffer_size()

    def finish(self) -> None:
        """Answer the peer's close frame if it came first; end TCP once that has been taken."""
        if self._owes_answer and self.peer_code is not None:
            self._owes_answer = self._closed = False
            self.write(close_frame(self.peer_code, ""))
            self._closed = True
        self._transport.close()

    def close(self, reason: CloseReason) -> None:
        """Send the close frame once; whoever does not answer it in time is aborted.

        A close frame of the peer is answered by :meth:`finish`, when the session has been given
        up: who has the answer may open the next one at once.
        """
        if self._closed:
            return
        if reason is CloseReason.ABNORMAL and self.peer_code is None:
            self._closed = True
            self._transport.abort()
            return
        wait = BEHIND_CLOSE_SECONDS if self._protocol.writing_paused else CLIENT_CLOSE_SECONDS
        self._owes_answer = self.peer_code is not None
        if not self._owes_answer:
            self.write(close_frame(reason.code, reason.text))
        self._closed = True
        asyncio.get_running_loop().call_later(wait, self._transport.abort)
