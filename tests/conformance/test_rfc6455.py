"""The WebSocket protocol as RFC 6455 says, over raw sockets; sections in the tables.

What each kind of violation is answered with is also in `tests/adapters/test_ws_server.py`
(`VIOLATIONS`); here is what takes whole ranges: lengths, code points, close codes, and where a
message may be cut. The gateway answers text that is no JSON with an `error`, so that a test sees
what was taken for a message.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.adapters.http_support import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Serving,
    Wire,
    close_payload,
    frame,
    masked,
    serving,
    websocket,
)

CONTINUATION = 0
LARGEST = 70_000
UNLIMITED: dict[str, object] = {
    "server__max_messages_per_second": 10_000.0,
    "server__message_burst": 10_000,
    "server__max_message_bytes": LARGEST,
}


@asynccontextmanager
async def server() -> AsyncIterator[Serving]:
    """A server that limits no rate."""
    async with serving(**UNLIMITED) as running:
        yield running


async def is_taken(wire: Wire) -> None:
    """Expect that what was sent is taken as one message: it is no JSON, and the client is told."""
    assert await wire.error_code() == "BadRequest"
    wire.send(frame(PING, b"alive"))
    assert await wire.next_frame() == (PONG, b"alive")


async def fails(wire: Wire, code: int, case: object) -> None:
    """Expect that the connection fails with a close code, once, and that TCP ends."""
    assert await wire.close_code() == code, case
    wire.send(frame(CLOSE, close_payload(code)))
    wire.writer.write_eof()
    assert await wire.ended() == b"", case


# -- 5.2 base framing ---------------------------------------------------------------------------

LENGTHS = [0, 1, 124, 125, 126, 127, 128, 1023, 65_534, 65_535, 65_536, LARGEST]


async def test_5_2_every_length_is_read() -> None:
    """Payload lengths around each form of the length field, in one piece and in many."""
    async with server() as running, websocket(running.port) as wire:
        for length in LENGTHS:
            data = frame(TEXT, b"x" * length)
            wire.send(data)
            await is_taken(wire)
            for at in range(0, len(data), max(1, len(data) // 20)):
                wire.send(data[at : at + max(1, len(data) // 20)])
                await asyncio.sleep(0)
            await is_taken(wire)


async def test_5_2_every_reserved_bit_and_opcode_fails() -> None:
    """Bits without an extension, and opcodes without a meaning."""
    cases = [(TEXT, rsv) for rsv in range(1, 8)] + [
        (op, 0) for op in (3, 4, 5, 6, 7, *range(11, 16))
    ]
    async with server() as running:
        for opcode, rsv in cases:
            async with websocket(running.port) as wire:
                wire.send(frame(opcode, b"", rsv=rsv))
                await fails(wire, 1002, (opcode, rsv))


# -- 5.3 masking --------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\x00\x00\x80"])
async def test_5_3_any_key_unmasks(key: bytes) -> None:
    """Keys of zeros and ones are keys as any other."""
    async with server() as running, websocket(running.port) as wire:
        payload = b"alive, all of us"
        wire.send(bytes((0x89, 0x80 | len(payload))) + key + masked(payload, key))
        assert await wire.next_frame() == (PONG, payload)


# -- 5.4 fragmentation --------------------------------------------------------------------------


async def test_5_4_fragments_make_one_message() -> None:
    """Two, many, empty first, empty last, all but one empty; control frames between each."""
    cuts = [[b"a", b"b"], [b"x"] * 60, [b"", b"ab"], [b"ab", b""], [b"", b"", b"a", b"", b""]]
    async with server() as running, websocket(running.port) as wire:
        for parts in cuts:
            for between in (b"", frame(PING, b"between"), frame(PONG, b"unasked")):
                data, pongs = b"", 0
                for number, part in enumerate(parts):
                    opcode = CONTINUATION if number else TEXT
                    data += frame(opcode, part, fin=number == len(parts) - 1)
                    if number < len(parts) - 1:
                        data += between
                        pongs += between != b"" and between[0] & 0x0F == PING
                wire.send(data)
                for _ in range(pongs):
                    assert await wire.next_frame() == (PONG, b"between")
                await is_taken(wire)


async def test_5_4_fragments_out_of_turn_fail() -> None:
    """A continuation of nothing, and a new message before the old one has ended."""
    cases = [
        frame(CONTINUATION, b"x"),
        frame(CONTINUATION, b"x", fin=False),
        frame(PING) + frame(CONTINUATION, b""),
        frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
        frame(TEXT, b"a", fin=False) + frame(BINARY, b"b"),
        frame(TEXT, b"", fin=False) + frame(TEXT, b"b"),
        frame(TEXT, b"", fin=False) + frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"c"),
        frame(BINARY, b"a", fin=False) + frame(PING) + frame(TEXT, b"b"),
        frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b") + frame(CONTINUATION, b"c"),
    ]
    async with server() as running:
        for number, data in enumerate(cases):
            async with websocket(running.port) as wire:
                wire.send(data)
                await fails(wire, 1002, number)


# -- 5.5 control frames -------------------------------------------------------------------------


async def test_5_5_control_frames_have_at_most_125_bytes_and_no_fragments() -> None:
    """Ping, pong and close alike."""
    async with server() as running:
        for opcode in (PING, PONG, CLOSE):
            payload = close_payload(1000) if opcode == CLOSE else b""
            for data in (
                frame(opcode, payload + b"x" * (126 - len(payload))),
                frame(opcode, b"x" * 65_536),
                frame(opcode, payload, fin=False),
            ):
                async with websocket(running.port) as wire:
                    wire.send(data)
                    await fails(wire, 1002, (opcode, len(data)))


async def test_5_5_2_a_ping_is_answered_with_its_payload() -> None:
    """Every length that a control frame may have, bytes that are no text, and in order."""
    async with server() as running, websocket(running.port) as wire:
        payloads = [bytes((255 - n,)) * n for n in range(126)]
        wire.send(b"".join(frame(PING, payload) for payload in payloads))
        for payload in payloads:
            assert await wire.next_frame() == (PONG, payload)


async def test_5_5_3_unasked_pongs_are_ignored() -> None:
    """With a payload or without, between pings."""
    async with server() as running, websocket(running.port) as wire:
        wire.send(frame(PONG) + frame(PONG, b"x" * 125) + frame(PING, b"p") + frame(PONG, b"p"))
        assert await wire.next_frame() == (PONG, b"p")
        wire.send(frame(PING, b"q"))
        assert await wire.next_frame() == (PONG, b"q")


# -- 5.5.1 and 7.4 closing ----------------------------------------------------------------------

VALID_CODES = [
    1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999,
]  # fmt: skip
INVALID_CODES = [
    0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 9999, 65_535,
]  # fmt: skip


async def test_7_4_a_valid_close_code_is_echoed() -> None:
    """Every code that may be sent, with and without a reason, up to the longest; then TCP ends."""
    async with server() as running:
        for code in VALID_CODES:
            for reason in (b"", b"bye", "\u00e9".encode() * 61, b"x" * 123):
                async with websocket(running.port) as wire:
                    wire.send(frame(CLOSE, close_payload(code, reason)))
                    opcode, payload = await wire.next_frame()
                    assert (opcode, payload[:2]) == (CLOSE, close_payload(code)), (code, reason)
                    assert await wire.ended() == b""


async def test_7_4_an_invalid_close_code_fails() -> None:
    """Codes that are reserved, that never travel, and that nobody has defined."""
    async with server() as running:
        for code in INVALID_CODES:
            async with websocket(running.port) as wire:
                wire.send(frame(CLOSE, close_payload(code)))
                await fails(wire, 1002, code)


async def test_5_5_1_a_close_without_code_is_answered() -> None:
    """No payload is no code: it is a normal end."""
    async with server() as running, websocket(running.port) as wire:
        wire.send(frame(CLOSE))
        assert await wire.close_code() == 1000
        assert await wire.ended() == b""


async def test_5_5_1_a_malformed_close_fails() -> None:
    """Half a code; a reason that is not UTF-8."""
    async with server() as running:
        for payload, code in (
            (b"\x03", 1002),
            (close_payload(1000, b"\xff"), 1007),
            (close_payload(1000, b"\xed\xa0\x80"), 1007),
            (close_payload(1000, b"\xe2\x82"), 1007),
        ):
            async with websocket(running.port) as wire:
                wire.send(frame(CLOSE, payload))
                await fails(wire, code, payload)


async def test_5_5_1_nothing_counts_after_a_close() -> None:
    """Whatever follows the close frame, in the same piece or later, is not answered."""
    async with server() as running:
        for more in (frame(PING, b"x"), frame(TEXT, b"x"), frame(CLOSE, close_payload(1001))):
            async with websocket(running.port) as wire:
                wire.send(frame(CLOSE, close_payload(1000)) + more)
                assert await wire.next_frame() == (CLOSE, close_payload(1000))
                assert await wire.ended() == b""


async def test_5_5_1_a_close_between_fragments_is_answered() -> None:
    """The message that has begun is given up."""
    async with server() as running, websocket(running.port) as wire:
        wire.send(frame(TEXT, b"a", fin=False) + frame(CLOSE, close_payload(1000)))
        assert await wire.next_frame() == (CLOSE, close_payload(1000))
        assert await wire.ended() == b""


# -- 8.1 UTF-8 ----------------------------------------------------------------------------------

VALID_UTF8 = [
    "\u03ba\u1f79\u03c3\u03bc\u03b5", "\u0000", "\u007f", "\u0080", "\u07ff", "\u0800", "\ud7ff",
    "\ue000", "\ufffd", "\ufffe", "\uffff", "\U00010000", "\U0001fffe", "\U0010ffff", "\ufeffa",
]  # fmt: skip
INVALID_UTF8 = [
    b"\x80", b"\xbf", b"\x80\xbf" * 3, b"\xc0", b"\xc0 ", b"\xfe", b"\xff", b"\xfe\xfe\xff\xff",
    b"\xc3", b"\xe0\xa0", b"\xf0\x90\x80", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf",
    b"\xf8\x80\x80\x80\xaf", b"\xfc\x80\x80\x80\x80\xaf", b"\xc1\xbf", b"\xe0\x9f\xbf",
    b"\xf0\x8f\xbf\xbf", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\xa0\x80\xed\xb0\x80",
    b"\xf4\x90\x80\x80", b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf", b"\xce\xba\xe1\xbd\xb9\xcf",
]  # fmt: skip


def in_two(payload: bytes, at: int) -> bytes:
    """Return a text message in two fragments."""
    return frame(TEXT, payload[:at], fin=False) + frame(CONTINUATION, payload[at:])


async def test_8_1_valid_text_is_taken_wherever_it_is_cut() -> None:
    """Boundaries of each length and non-characters, cut inside each code point."""
    async with server() as running, websocket(running.port) as wire:
        for text in VALID_UTF8:
            payload = text.encode()
            wire.send(frame(TEXT, payload))
            await is_taken(wire)
            for at in range(len(payload) + 1):
                wire.send(in_two(payload, at))
                await is_taken(wire)


@pytest.mark.parametrize("payload", INVALID_UTF8, ids=lambda payload: payload.hex())
async def test_8_1_invalid_text_fails(payload: bytes) -> None:
    """Alone, among valid text, and over fragments: 1007, at the message's end at the latest."""
    async with server() as running:
        around = b"before " + payload + b" after"
        for data in (
            frame(TEXT, payload),
            frame(TEXT, around),
            in_two(around, 7 + len(payload) // 2),
            in_two(payload, len(payload)),
        ):
            async with websocket(running.port) as wire:
                wire.send(data)
                await fails(wire, 1007, payload)


async def test_8_1_binary_need_not_be_utf8() -> None:
    """It is told that text is wanted, and the connection stays."""
    async with server() as running, websocket(running.port) as wire:
        for payload in INVALID_UTF8:
            wire.send(frame(BINARY, payload))
            await is_taken(wire)


# -- 10.4 limits --------------------------------------------------------------------------------


async def test_10_4_a_message_over_the_limit_fails_however_it_comes() -> None:
    """In a frame, in fragments, with the excess in the last, and before it has all come."""
    async with server() as running:
        whole = b"x" * LARGEST
        for number, data in enumerate((
            frame(TEXT, whole + b"x"),
            frame(BINARY, whole + b"x"),
            in_two(whole + b"x", LARGEST),
            in_two(whole + b"x", 1),
            frame(TEXT, whole, fin=False) + frame(PING) + frame(CONTINUATION, b"x"),
            frame(TEXT, b"x", claimed=LARGEST + 1),
            frame(TEXT, b"x", claimed=2**63 - 1),
        )):  # fmt: skip
            async with websocket(running.port) as wire:
                wire.send(data)
                await fails(wire, 1009, number)
