"""The sink on a real socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import cast

import pytest

from daisi_ws.adapters.http_protocol import HttpProtocol
from daisi_ws.adapters.ws_sink import WebSocketSink
from daisi_ws.domain.close import CloseReason
from tests.app.sink_conformance import Seen, SinkConformance

_CLOSE = 0x88


class TestWebSocketSink(SinkConformance):
    """The outgoing half of an upgraded connection."""

    @pytest.fixture
    async def seen(self) -> AsyncIterator[Seen]:
        """A sink whose client is the other end of a socket pair."""
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
        reader, writer = await asyncio.open_connection(sock=theirs)
        protocol = cast("HttpProtocol", SimpleNamespace(writing_paused=False))
        sink = WebSocketSink(protocol, transport)

        async def ended() -> tuple[bytes, int]:
            sink.finish()
            data = await asyncio.wait_for(reader.read(), 5)
            frames, _, rest = data.partition(bytes([_CLOSE]))
            return frames, int.from_bytes(rest[1:3], "big")

        yield Seen(sink, ended)
        transport.abort()
        writer.close()


@pytest.mark.parametrize("last", ["frame", "close"])
async def test_the_answer_to_the_handshake_goes_out_with_the_first_frame(last: str) -> None:
    """In one write, whatever that frame is, and once; it is no byte of a frame."""
    written: list[bytes] = []
    transport = SimpleNamespace(
        is_closing=lambda: False, write=written.append, abort=lambda: None, close=lambda: None
    )
    protocol = cast("HttpProtocol", SimpleNamespace(writing_paused=False))
    sink = WebSocketSink(protocol, cast("asyncio.Transport", transport), b"HTTP/1.1 101\r\n\r\n")
    assert written == []
    if last == "frame":
        sink.write(b"one")
        sink.write(b"two")
        assert written == [b"HTTP/1.1 101\r\n\r\none", b"two"]
        assert sink.bytes_written == 6
    else:
        sink.close(CloseReason.GOING_AWAY)
        assert len(written) == 1
        assert written[0].startswith(b"HTTP/1.1 101\r\n\r\n\x88")
