"""WebSocket framing that the gateway does itself (RFC 6455 section 5).

Server frames are built once per event, however many connections get them. Client frames are
parsed by the library; only what it is lenient about (masking, a message that begins while one with
an empty first fragment has not ended, marks of compression where none can be) is checked here.
"""

from __future__ import annotations

import zlib
from struct import Struct
from typing import Final

DEFLATE_FROM_BYTES: Final = 256
"""Shorter payloads are sent as they are: little is saved, at the price of a longer one."""

_TEXT: Final = 0x81
_DEFLATED_TEXT: Final = 0xC1
_CLOSE: Final = 0x88
_PING: Final = 0x89
_PONG: Final = 0x8A
_FINAL: Final = 0x80
_RSV1: Final = 0x40
"""Of a compressed message: on its first frame only (RFC 7692 section 6.1)."""
_OPCODE: Final = 0x0F
_BEGINNINGS: Final = (0x01, 0x02)
_CONTROL: Final = 0x08
"""Bit of the opcodes of control frames, which may come between fragments."""
_EXTENDED: Final = {126: 2, 127: 8}
"""Bytes of the extended payload length, by the length field (section 5.2)."""
_MASK_SIZE: Final = 4

_short = Struct(">BB").pack
_extended = Struct(">BBH").pack
_long = Struct(">BBQ").pack


def text_frame(payload: bytes) -> bytes:
    """Return one final, unmasked text frame (RFC 6455 section 5.2)."""
    return _header(_TEXT, len(payload)) + payload


class Deflater:
    """Compresses messages, each for itself: any client may get any of them, in any order.

    Source: RFC 7692 (permessage-deflate), sections 7.1.1.1 and 7.2.1.
    """

    __slots__ = ("_stream",)

    def __init__(self) -> None:
        # One for all messages: making it anew costs more than a short message's compression.
        self._stream = zlib.compressobj(level=1, wbits=-zlib.MAX_WBITS)

    def text_frame(self, payload: bytes) -> bytes:
        """Return one final, unmasked text frame, compressed unless the payload is short."""
        if len(payload) < DEFLATE_FROM_BYTES:
            return text_frame(payload)
        # A full flush also forgets what was compressed before; its last four bytes stay away.
        packed = self._stream.compress(payload) + self._stream.flush(zlib.Z_FULL_FLUSH)
        return _header(_DEFLATED_TEXT, len(packed) - 4) + packed[:-4]


def ping_frame(payload: bytes = b"") -> bytes:
    """Return a ping frame; control payloads have at most 125 bytes (section 5.5)."""
    return _header(_PING, len(payload)) + payload


def pong_frame(payload: bytes) -> bytes:
    """Return the pong that answers a ping with this payload (section 5.5.3)."""
    return _header(_PONG, len(payload)) + payload


def close_frame(code: int, text: str) -> bytes:
    """Return a close frame with its status code and reason (section 5.5.1)."""
    payload = code.to_bytes(2, "big") + text.encode()[:123]
    return _header(_CLOSE, len(payload)) + payload


def _header(first: int, size: int) -> bytes:
    if size < 126:
        return _short(first, size)
    if size < 65536:
        return _extended(first, 126, size)
    return _long(first, 127, size)


class FrameCheck:
    """Follows a client's byte stream from frame header to frame header.

    A server must fail the connection when a client frame is not masked (section 5.1), when
    fragments of a message do not follow one another (section 5.4), and when another frame than the
    first of a message says that it is compressed (RFC 7692 section 6.1).
    `frames` counts the frames that have begun.
    """

    __slots__ = ("_fragmented", "_skip", "_tail", "frames")

    def __init__(self) -> None:
        self._skip = 0
        self._tail = b""
        self._fragmented = False
        self.frames = 0

    def is_pong(self, data: bytes) -> bool:
        """Tell whether the next bytes of the stream are one pong, whole, and nothing else."""
        return (
            2 + _MASK_SIZE <= len(data) <= 2 + _MASK_SIZE + 125
            and data[0] == _PONG
            and data[1] == 0x80 | (len(data) - 2 - _MASK_SIZE)
            and not self._skip
            and not self._tail
        )

    def refuses(self, data: bytes) -> bool:
        """Take the next bytes of the stream; True as soon as a frame begins in them that is not
        masked, not in its turn, or compressed where it cannot be.
        """
        if self._tail:
            data = self._tail + data
        at, end = self._skip, len(data)
        while end - at >= 2:
            first, second = data[at], data[at + 1]
            if not second & 0x80:
                return True
            size = second & 0x7F
            body = at + 2 + _EXTENDED.get(size, 0)
            if body > end:
                break
            if size > 125:
                size = int.from_bytes(data[at + 2 : body], "big")
            if first & _RSV1 and first & _OPCODE not in _BEGINNINGS:
                return True
            if not first & _CONTROL:
                if (first & _OPCODE == 0) != self._fragmented:
                    return True
                self._fragmented = first & _FINAL == 0
            at = body + _MASK_SIZE + size
            self.frames += 1
        self._skip = max(0, at - end)
        self._tail = data[at:]
        return False
