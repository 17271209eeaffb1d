"""permessage-deflate without context takeover (RFC 7692), by raw sockets and a client library."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from daisi_ws.app.connection import Connection
from daisi_ws.domain.frames import SelectChat
from daisi_ws.domain.wire import DEFLATE_FROM_BYTES, Deflater
from tests.adapters.http_support import (
    DEADLINE,
    KEYS,
    TEXT,
    Response,
    Serving,
    Wire,
    frame,
    handshake,
    open_wire,
    serving,
    websocket,
)

ON = {"app__websocket_compression_mode": "no_context_takeover"}
OFFER = "permessage-deflate"
AGREED = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
COMPRESSED = 0b100
"""RSV1, as the three reserved bits."""


def deflate(payload: bytes) -> bytes:
    """Compress a message as a client does (RFC 7692 section 7.2.1)."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


async def shake(wire: Wire, offer: str) -> Response:
    """Return the answer to a handshake with an offer."""
    wire.send(handshake(Sec_WebSocket_Extensions=offer))
    return await wire.response()


async def admitted(running: Serving) -> Connection:
    """Return the connection of the only client."""
    async with asyncio.timeout(DEADLINE):
        while not running.gateway.admitted:
            await asyncio.sleep(0)
    return running.gateway.admitted[0]


@asynccontextmanager
async def agreed() -> AsyncIterator[tuple[Serving, Wire]]:
    """Run a server with a client that may compress."""
    async with (
        serving(**ON) as running,
        websocket(running.port, Sec_WebSocket_Extensions=OFFER) as wire,
    ):
        yield running, wire


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        "x-unknown, permessage-deflate",
    ],
)
async def test_an_offer_is_agreed_to(offer: str) -> None:
    """Each message for itself, in both directions, whatever the client asked for."""
    async with open_wire(**ON) as (running, wire):
        response = await shake(wire, offer)
        assert response.headers["sec-websocket-extensions"] == AGREED
        assert (await wire.message())["type"] == "ready"
        assert (await admitted(running)).deflated


async def test_an_offer_that_names_the_window_is_answered_with_it() -> None:
    """Who asks for a window and is not told of one fails the handshake (section 7.1.2.1)."""
    async with open_wire(**ON) as (_, wire):
        response = await shake(wire, "permessage-deflate; server_max_window_bits=15")
        extensions = response.headers["sec-websocket-extensions"]
        assert extensions == f"{AGREED}; server_max_window_bits=15"
        assert (await wire.message())["type"] == "ready"


@pytest.mark.parametrize(
    "offer", ["permessage-deflate; server_max_window_bits=10", "x-unknown", "permessage-deflate=1"]
)
async def test_what_cannot_be_kept_is_not_agreed_to(offer: str) -> None:
    """A smaller window, or something else: the client is served without compression."""
    async with open_wire(**ON) as (running, wire):
        response = await shake(wire, offer)
        assert response.status == 101
        assert "sec-websocket-extensions" not in response.headers
        assert (await wire.message())["type"] == "ready"
        assert not (await admitted(running)).deflated


async def test_nothing_is_compressed_by_default() -> None:
    """An offer is passed over, and a compressed message is what RFC 6455 says of RSV1."""
    async with open_wire() as (running, wire):
        response = await shake(wire, "permessage-deflate")
        assert "sec-websocket-extensions" not in response.headers
        assert (await wire.message())["type"] == "ready"
        assert not (await admitted(running)).deflated
        wire.send(frame(TEXT, deflate(b"{}"), rsv=COMPRESSED))
        assert await wire.close_code() == 1002


async def test_a_client_may_compress_or_not() -> None:
    """Each message by itself; each is decompressed for itself."""
    async with agreed() as (running, wire), asyncio.timeout(DEADLINE):
        for number in range(3):
            text = b'{"type":"select_chat","payload":{"chat_id":"c%d"}}' % number
            wire.send(frame(TEXT, deflate(text), rsv=COMPRESSED))
            wire.send(frame(TEXT, text))
            for _ in range(2):
                assert await running.gateway.messages.get() == SelectChat(f"c{number}")


@pytest.mark.parametrize(
    ("payload", "code"),
    [(deflate(b" " * 10_000_000), 1009), (b"\xff\xff\xff\xff", 1007)],
    ids=["bomb", "garbage"],
)
async def test_bad_compressed_messages_end_the_connection(payload: bytes, code: int) -> None:
    """The size limit holds for what comes out, and nothing much larger is ever made."""
    async with agreed() as (_, wire):
        wire.send(frame(TEXT, payload, rsv=COMPRESSED))
        assert await wire.close_code() == code


async def test_a_client_library_reads_it() -> None:
    """Long messages compressed, short ones not, in any order."""
    texts = [b'{"n":%d,"text":"%b"}' % (n, b"abc " * (n % 3) * 100) for n in range(12)]
    deflater = Deflater()
    async with serving(**ON) as running, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{running.port}/ws/acme/bot?token=user:acme:bot:ann"
        headers = {"X-API-Key": KEYS["user"]}
        async with session.ws_connect(url, headers=headers, compress=15) as socket:
            assert socket.compress == 15
            assert (await socket.receive_json())["type"] == "ready"
            connection = await admitted(running)
            for text in texts:
                connection.offer(0, deflater.text_frame(text))
            assert [(await socket.receive_str()).encode() for _ in texts] == texts


def test_any_message_can_be_read_alone() -> None:
    """Nothing refers to an earlier message, and what is alike becomes the same bytes."""
    deflater = Deflater()
    payloads = [b'{"text":"%b"}' % (b"hello again " * n) for n in (50, 60, 50)]
    frames = [deflater.text_frame(payload) for payload in payloads]
    for payload, made in zip(payloads, frames, strict=True):
        assert made[0] == 0x80 | COMPRESSED << 4 | TEXT
        start = 4 if made[1] == 126 else 2
        unpacked = zlib.decompress(made[start:] + b"\0\0\xff\xff" + b"\x03\0", -zlib.MAX_WBITS)
        assert unpacked == payload
        assert len(made) < len(payload)
    assert frames[0] == frames[2]


def test_short_messages_are_left_alone() -> None:
    """They have the plain form."""
    short = b"x" * (DEFLATE_FROM_BYTES - 1)
    made = Deflater().text_frame(short)
    assert made[0] == 0x80 | TEXT
    assert made.endswith(short)
