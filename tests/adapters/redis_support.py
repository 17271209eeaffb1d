"""What tests of Redis adapters share: links to a Redis, and a proxy that loses replies."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self

from daisi_ws.adapters.redis_connect import RedisOpener
from daisi_ws.adapters.redis_link import RedisLink
from daisi_ws.config import Redis

DEADLINE = 30.0


@asynccontextmanager
async def linked(url: str, timeout_ms: int = 500) -> AsyncIterator[RedisLink]:
    """A link that is up."""
    async with unconnected(url, timeout_ms) as link:
        link.start()
        await asyncio.wait_for(link.wait_up(), DEADLINE)
        yield link


@asynccontextmanager
async def unconnected(url: str, timeout_ms: int = 500) -> AsyncIterator[RedisLink]:
    """A link that is not started yet; it is closed at the end."""
    settings = Redis(address=url, timeout_ms=timeout_ms)
    link = RedisLink(RedisOpener(settings).primary, timeout_ms / 1000)
    try:
        yield link
    finally:
        await link.aclose()


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until something is so, which no event tells."""
    try:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"never came to be: {what}") from None


class Proxy:
    """A TCP proxy before a server; `losing` makes it swallow what the server says.

    :param tls: what it speaks with clients; plain TCP if None.
    """

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._port = port
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.losing = False
        self.lost = asyncio.Event()

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """Where clients connect to."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        upstream, server = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, server, loses=False))
                group.create_task(self._pump(upstream, writer, loses=True))
        except* ConnectionError:
            pass
        finally:
            server.transport.abort()
            writer.transport.abort()
            self._tasks.discard(task)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, loses: bool
    ) -> None:
        while data := await source.read(65_536):
            if loses and self.losing:
                self.lost.set()
            else:
                sink.write(data)
        raise ConnectionResetError
