"""TLS toward clients: versions, new certificates, handshakes that never end."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from daisi_ws.adapters.http_tls import ServedTls
from daisi_ws.config import HttpTls
from daisi_ws.embedded.authority import Authority, Pair
from tests.adapters.http_support import Wire, serving


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority of this test."""
    return Authority(tmp_path)


def served(pair: Pair, **more: object) -> ServedTls:
    """TLS with this certificate."""
    return ServedTls(HttpTls(cert_file=str(pair.cert_file), key_file=str(pair.key_file), **more))  # type: ignore[arg-type]


async def connect(port: int, tls: ssl.SSLContext) -> tuple[Wire, bytes]:
    """Connect; return the connection and the certificate that was shown."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return Wire(reader, writer), shown


def trusting(authority: Authority) -> ssl.SSLContext:
    """Return what a client trusts."""
    return ssl.create_default_context(cafile=str(authority.pair.cert_file))


async def test_new_connections_get_the_new_certificate(authority: Authority) -> None:
    """Open connections go on; with wrong files the newest good ones stay."""
    pair = authority.issue("server")
    tls = served(pair)
    async with serving(None, tls.context) as running:
        first, old = await connect(running.port, trusting(authority))
        renewed = authority.issue("server")
        tls.renew()
        second, new = await connect(running.port, trusting(authority))
        renewed.key_file.write_text("no key")
        with pytest.raises(OSError, match="PEM"):
            tls.renew()
        third, still = await connect(running.port, trusting(authority))
        assert old != new == still
        for wire in (first, second, third):
            async with wire:
                assert (await wire.request("GET", "/health")).status == 200


async def test_the_oldest_version_is_kept_to(authority: Authority) -> None:
    """A client that has only an older version is not served."""
    pair = authority.issue("server")
    old = trusting(authority)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with serving(None, served(pair).context) as running:
        wire, _ = await connect(running.port, old)
        async with wire:
            assert (await wire.request("GET", "/health")).status == 200
    async with serving(None, served(pair, min_version="1.3").context) as running:
        with pytest.raises(OSError, match=r"PROTOCOL_VERSION|reset|^$"):
            await connect(running.port, old)


async def test_who_does_not_shake_hands_is_cut_off(authority: Authority) -> None:
    """Silence and plain text end at the deadline of a handshake at the latest."""
    tls = served(authority.issue("server")).context
    async with serving(None, tls, server__handshake_timeout_seconds=0.2) as running:
        async with await Wire.connect(running.port) as silent:
            await silent.ended()
        async with await Wire.connect(running.port) as plain:
            plain.send(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"200" not in await plain.ended()
