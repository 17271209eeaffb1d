"""A transport under nats-py's client that takes chosen messages out of what the server sends.

The library asks a transport for bytes and gives it bytes (`nats.aio.transport.Transport`); it makes
one of its own where its client has none yet. That, and that a subscription knows its ID, is all of
its inside that is used here. Where a version is made otherwise nothing is taken out, and messages
come the library's way: known to fit is nats-py 2.16.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import version
from urllib.parse import ParseResult

import structlog
from nats.aio.client import Client
from nats.aio.subscription import Subscription

from daisi_ws.adapters.nats_framing import Framing, Taker

log = structlog.get_logger(__name__)


class DirectTransport:
    """Connects as the library's own transport does, TLS included; see `nats.aio.transport`."""

    def __init__(self) -> None:
        self._takers: dict[int, Taker] = {}
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._first: asyncio.StreamWriter | None = None
        self._protocol: _Protocol | None = None

    # -- what the library asks --------------------------------------------------------------------

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: float) -> None:
        """Connect without TLS."""
        assert uri.hostname is not None
        assert uri.port is not None
        host, port, loop = uri.hostname, uri.port, asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=buffer_size, loop=loop)
        protocol = _Protocol(reader, Framing(self._takers))
        async with asyncio.timeout(connect_timeout):
            transport, _ = await loop.create_connection(lambda: protocol, host, port)
        self._reader, self._protocol = reader, protocol
        # Whoever lets go of this one closes the socket under TLS.
        self._first = self._writer = asyncio.StreamWriter(transport, protocol, reader, loop)

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,
        connect_timeout: float,
    ) -> None:
        """Go on with TLS on the connection there is."""
        assert self._writer is not None
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=buffer_size, loop=loop)
        protocol = _Protocol(reader, Framing(self._takers))
        async with asyncio.timeout(connect_timeout):
            transport = await loop.start_tls(
                self._writer.transport,
                protocol,
                ssl_context,
                server_hostname=uri if isinstance(uri, str) else uri.hostname,
            )
        assert transport is not None
        protocol.connection_made(transport)
        self._reader, self._protocol = reader, protocol
        self._writer = asyncio.StreamWriter(transport, protocol, reader, loop)

    def write(self, payload: bytes) -> None:
        """Write."""
        if self._writer is not None:
            self._writer.write(payload)

    def writelines(self, payload: list[bytes]) -> None:
        """Write all of them."""
        self.write(b"".join(payload))

    async def read(self, buffer_size: int) -> bytes:
        """Return what is for the library, at most so much."""
        assert self._reader is not None
        return await self._reader.read(buffer_size)

    async def readline(self) -> bytes:
        """Return one line."""
        assert self._reader is not None
        return await self._reader.readline()

    async def drain(self) -> None:
        """Wait until the peer takes what was written."""
        if self._writer is not None:
            await self._writer.drain()

    async def wait_closed(self) -> None:
        """Wait until the connection is closed."""
        if self._writer is not None:
            await self._writer.wait_closed()

    def close(self) -> None:
        """Close the connection."""
        if self._writer is not None:
            self._writer.close()

    def at_eof(self) -> bool:
        """Tell whether nothing more comes."""
        return self._reader is None or self._reader.at_eof()

    def __bool__(self) -> bool:
        # The library would make its own in place of one that is not connected yet.
        return True

    # -- what we ask ------------------------------------------------------------------------------

    def direct(self, subscription: Subscription, taker: Taker) -> bool:
        """Give the messages of a subscription to `taker` from now; False if that cannot be."""
        sid = getattr(subscription, "_id", None)
        if not isinstance(sid, int):
            return False
        self._takers[sid] = taker
        return True

    def forget(self, taker: Taker) -> None:
        """Give it nothing more."""
        for sid in [sid for sid, known in self._takers.items() if known is taker]:
            del self._takers[sid]

    def publish_empty(self, subject: str) -> bool:
        """Publish an empty message at once; False if the connection is on its way out.

        It overtakes what the library has not written yet. Only while the client is connected: what
        comes before CONNECT ends the connection.
        """
        if self._writer is None or self._writer.is_closing():
            return False
        self._writer.write(b"PUB %b 0\r\n\r\n" % subject.encode())
        return True


class _Protocol(asyncio.StreamReaderProtocol):
    """Feeds the stream with what is left over."""

    def __init__(self, reader: asyncio.StreamReader, framing: Framing) -> None:
        super().__init__(reader)
        self._framing = framing

    def data_received(self, data: bytes) -> None:
        """See :meth:`asyncio.Protocol.data_received`."""
        if rest := self._framing.feed(data):
            super().data_received(rest)


def put_under(client: Client, urls: Iterable[str]) -> DirectTransport | None:
    """Put a transport under a client that is not connected yet; None if that cannot be.

    :param urls: of the servers; over WebSockets messages come the library's way.
    """
    problem = _misfit(client, urls)
    if problem:
        log.warning("messages come by way of the library", why=problem, version=version("nats-py"))
        return None
    transport = client._transport = DirectTransport()  # noqa: SLF001 - it has no public name
    return transport


def _misfit(client: Client, urls: Iterable[str]) -> str:
    """Return why a transport of ours does not fit under this client, empty if it does."""
    if any(url.startswith(("ws:", "wss:")) for url in urls):
        return "NATS is reached over WebSockets"
    if vars(client).get("_transport", client) is not None:
        return "its client has no place for a transport"
    try:
        asked = import_module("nats.aio.transport").Transport.__abstractmethods__
    except (ImportError, AttributeError):
        return "it does not say what a transport is"
    if missing := sorted(name for name in asked if not hasattr(DirectTransport, name)):
        return f"its transports do more: {', '.join(missing)}"
    return ""
