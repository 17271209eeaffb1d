"""The call to this pod's own gRPC server, as a peer would make it."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from pathlib import Path

import pytest

from daisi_ws.adapters.grpc_probe import GrpcProbe
from daisi_ws.adapters.grpc_server import ServerSettings
from daisi_ws.adapters.grpc_tls import TlsFiles
from daisi_ws.app.readiness_ports import FilesUsedUp
from daisi_ws.domain.errors import Unavailable
from daisi_ws.embedded import free_ports
from tests.adapters.certificates import Authority
from tests.adapters.forwarding import Recorder, serving


def probe(port: int, tls: TlsFiles | None = None, name: str = "127.0.0.1") -> GrpcProbe:
    """Return a probe of a server that listens everywhere."""
    return GrpcProbe("0.0.0.0", port, name, lambda: tls)


async def test_a_server_answers() -> None:
    """Whether it says SERVING or not; as often as it is asked."""
    async with serving(Recorder()) as (server, port):
        ask = probe(port)
        for serves in (True, False):
            server.set_serving(serves)
            await ask()


async def test_a_port_without_server() -> None:
    """Its address and the reason are told."""
    port = free_ports(1)
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
        await probe(port)()


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 18])
async def test_another_kind_of_server(says: bytes) -> None:
    """One that hangs up, or speaks something else, is not ours."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(24)
        writer.write(says)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        with pytest.raises(Unavailable):
            await probe(server.sockets[0].getsockname()[1])()


async def test_files_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is told apart: the server is not to blame, and no restart cures it."""

    async def none_left(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(asyncio, "open_connection", none_left)
    with pytest.raises(FilesUsedUp, match="Too many open files"):
        await probe(1)()


@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mtls"])
async def test_with_certificates(tmp_path: Path, *, mutual: bool) -> None:
    """It checks the server's certificate, and shows its own where that is demanded."""
    authority = Authority(tmp_path)
    files = authority.pod("a", mutual=mutual)
    async with serving(Recorder(), settings=ServerSettings(tls=files)) as (_, port):
        ask = probe(port, files)
        await ask()
        await ask()
        with pytest.raises(Unavailable):
            await probe(port, files, "10.1.1.1")()
        with pytest.raises(Unavailable):
            await probe(port)()
        with pytest.raises(Unavailable):
            await probe(port, replace(files, ca_file=str(tmp_path / "none")))()
