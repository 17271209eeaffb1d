"""The fault proxy carries everything, and stops where it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from tests.chaos.proxy import FaultProxy


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    """A proxy before a server that echoes."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    made = FaultProxy(("127.0.0.1", 0), server.sockets[0].getsockname()[:2])
    await made.start()
    yield made
    await made.close()
    server.close()


class Connections:
    """Connections to a proxy, closed at the end."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        self._writers: list[asyncio.StreamWriter] = []

    async def __call__(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open one."""
        host, port = self._proxy.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        self._writers.append(writer)
        return reader, writer

    async def close(self) -> None:
        """Close them all."""
        for writer in self._writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@pytest.fixture
async def connect(proxy: FaultProxy) -> AsyncIterator[Connections]:
    """Connects to the proxy."""
    made = Connections(proxy)
    yield made
    await made.close()


async def test_everything_comes_through_in_order(proxy: FaultProxy, connect: Connections) -> None:
    """More than any buffer holds, and the end of it; also where it is slowed on the way."""
    reader, writer = await connect()
    data = bytes(range(256)) * 20_000
    writer.write(data[: len(data) // 2])
    proxy.slow(0.05)
    writer.write(data[len(data) // 2 :])
    writer.write_eof()
    async with asyncio.timeout(10):
        assert await reader.readexactly(len(data)) == data
        assert await reader.read() == b""


async def test_a_cut_resets_and_refuses_until_it_is_healed(
    proxy: FaultProxy, connect: Connections
) -> None:
    """What is there ends, what comes ends at once."""
    reader, writer = await connect()
    writer.write(b"x")
    await reader.readexactly(1)
    proxy.cut()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(reader.readexactly(1), 5)
    reader, _ = await connect()
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(reader.readexactly(1), 5)
    proxy.heal()
    reader, writer = await connect()
    writer.write(b"x")
    assert await asyncio.wait_for(reader.readexactly(1), 5) == b"x"


async def test_frozen_says_nothing_and_loses_nothing(
    proxy: FaultProxy, connect: Connections
) -> None:
    """Connections that come meanwhile are held, too."""
    reader, writer = await connect()
    writer.write(b"1")
    await reader.readexactly(1)
    proxy.freeze()
    writer.write(b"2")
    late_reader, late_writer = await connect()
    late_writer.write(b"3")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(reader.readexactly(1)), 0.2)
    proxy.heal()
    async with asyncio.timeout(5):
        assert await late_reader.readexactly(1) == b"3"
