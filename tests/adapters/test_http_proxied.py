"""The client's address through proxies: headers and the PROXY protocol, from trusted peers only."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from daisi_ws.domain.proxy_protocol import SIGNATURE
from tests.adapters.http_support import Serving, Wire, eventually, handshake, open_wire, serving

V1 = b"PROXY TCP4 203.0.113.9 10.1.1.1 56324 443\r\n"
V2 = SIGNATURE + b"\x21\x11\x00\x0c" + bytes((203, 0, 113, 9, 10, 1, 1, 1)) + b"\xdc\x04\x01\xbb"
V2_IPV6 = (
    SIGNATURE
    + b"\x21\x21\x00\x24"
    + bytes.fromhex("20010db8000000000000000000000005" * 2)
    + b"\xdc\x04\x01\xbb"
)
LOCAL = SIGNATURE + b"\x20\x00\x00\x00"
PROXIED = {"server__trusted_proxies": ("127.0.0.0/8",), "server__proxy_protocol": True}
PROBE = b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n"


async def remote_of(running: Serving, before: bytes, **headers: str) -> str:
    """Return the address that the log tells of a refused handshake."""
    with capture_logs() as lines:
        async with await Wire.connect(running.port) as wire:
            wire.send(before + handshake(X_API_Key="wrong", **headers))
            assert (await wire.response()).status == 401
    (line,) = [line for line in lines if line["event"] == "request refused"]
    return str(line["remote"])


@pytest.mark.parametrize(
    ("header", "remote"),
    [
        (V1, "203.0.113.9"),
        (V2, "203.0.113.9"),
        (V2_IPV6, "2001:db8::5"),
        (LOCAL, "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (b"PROXY TCP6 ::ffff:203.0.113.9 ::1 1 2\r\n", "203.0.113.9"),
    ],
)
async def test_a_trusted_proxys_header_tells_the_client(header: bytes, remote: str) -> None:
    """Versions 1 and 2; what speaks for the proxy itself leaves its own address."""
    async with serving(**PROXIED) as running:
        assert await remote_of(running, header) == remote


@pytest.mark.parametrize("header", [V1, V2])
async def test_a_header_may_come_in_pieces(header: bytes) -> None:
    """Byte by byte, with the request behind it, and with a WebSocket after that."""
    async with open_wire(**PROXIED) as (running, wire):
        for byte in header + PROBE:
            wire.send(bytes((byte,)))
            await asyncio.sleep(0)
        assert (await wire.response()).status == 200
        wire.send(handshake())
        assert (await wire.response()).status == 101
        assert (await wire.message())["type"] == "ready"
        wire.send(b"\x89\x80\x00\x00\x00\x00")
        assert (await wire.next_frame())[0] == 0xA
        assert running.server.handshakes() == 0


async def test_the_log_tells_the_client_at_its_end() -> None:
    """The line about a connection's end has the client's address, not the proxy's."""
    async with serving(**PROXIED) as running:
        with capture_logs() as lines:
            async with await Wire.connect(running.port) as wire:
                wire.send(V2 + handshake())
                assert (await wire.response()).status == 101
            await running.gateway.next_left()
            await eventually(lambda: any(line["event"] == "connection ended" for line in lines))
    (line,) = [line for line in lines if line["event"] == "connection ended"]
    assert line["remote"] == "203.0.113.9"


@pytest.mark.parametrize(
    ("overrides", "sent", "problem"),
    [
        (PROXIED, PROBE, "there is none"),
        (PROXIED, b"PROXY TCP4 nonsense\r\n", "want TCP4 or TCP6, two addresses"),
        (PROXIED, b"PROXY TCP4 " + b"1" * 200, "no end of line"),
        (PROXIED, SIGNATURE + b"\x21\x11\xff\xff", "at most 4096"),
        (PROXIED | {"server__trusted_proxies": ("10.0.0.0/8",)}, V1, "not in server.trusted_p"),
        (PROXIED | {"server__trusted_proxies": ("10.0.0.0/8",)}, V2, "not in server.trusted_p"),
        ({}, V1 + PROBE, "server.proxy_protocol is off"),
        ({}, V2 + PROBE, "server.proxy_protocol is off"),
        ({"server__trusted_proxies": ("127.0.0.1",)}, V2, "server.proxy_protocol is off"),
    ],
)
async def test_what_must_not_be_is_refused(
    overrides: dict[str, object], sent: bytes, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A header that is missing, broken, or from anybody else ends the connection, with one line."""
    monkeypatch.setattr("daisi_ws.log.limit._LIMITS", {})
    async with open_wire(**overrides) as (running, wire):
        with capture_logs() as lines:
            wire.send(sent)
            assert await wire.ended() == b""
        assert not running.open_protocols()
    (line,) = [line for line in lines if line["event"] == "PROXY header refused"]
    assert problem in line["problem"]
    assert line["peer"] == "127.0.0.1"


async def test_others_come_without_a_header() -> None:
    """Where proxies have to send one, who is no proxy (a probe, say) must not and need not."""
    overrides = PROXIED | {"server__trusted_proxies": ("10.0.0.0/8",)}
    async with open_wire(**overrides) as (running, wire):
        for byte in b"\r\n" + PROBE:  # HTTP may begin as version 2 does
            wire.send(bytes((byte,)))
            await asyncio.sleep(0)
        assert (await wire.response()).status == 200
        assert await remote_of(running, b"", X_Forwarded_For="203.0.113.9") == "127.0.0.1"


async def test_a_half_header_is_closed_at_the_deadline() -> None:
    """Nobody holds a connection by the beginning of a header; a drain waits for it as for HTTP."""
    async with open_wire(**PROXIED, server__handshake_timeout_seconds=0.3) as (running, wire):
        wire.send(V2[:20])
        await eventually(lambda: running.server.handshakes() == 1)
        assert await wire.ended() == b""


async def test_header_and_protocol_together() -> None:
    """Who the PROXY header names may be a trusted proxy, too, and tell by X-Forwarded-For."""
    overrides = PROXIED | {"server__trusted_proxies": ("127.0.0.1", "203.0.113.0/24")}
    async with serving(**overrides) as running:
        assert await remote_of(running, V1, X_Forwarded_For="1.1.1.1, 8.8.8.8") == "8.8.8.8"
    async with serving(**PROXIED) as running:
        assert await remote_of(running, V1, X_Forwarded_For="8.8.8.8") == "203.0.113.9"
