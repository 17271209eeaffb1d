"""What may stand before the first request: a proxy's header that says who the client is."""

from __future__ import annotations

import asyncio

import structlog

from daisi_ws.adapters.http_protocol import HttpProtocol
from daisi_ws.domain.client_address import plain_address
from daisi_ws.domain.proxy_protocol import Malformed, is_header, parse
from daisi_ws.log import limited

log = structlog.get_logger()


class ProxiedHttpProtocol(HttpProtocol):
    """An HTTP connection that begins with a header of the PROXY protocol, where it has to.

    Who may send one must, and nobody else may: a header is never guessed, so that no client can
    claim an address by getting its own bytes to the front.
    """

    __slots__ = ("_expected", "_preface")

    _expected: bool
    _preface: bytes | None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Decide by the peer whether a header is expected."""
        super().connection_made(transport)
        settings = self._settings
        self._preface = b""
        self._expected = settings.proxy_protocol and self.peer in settings.trusted_proxies

    def data_received(self, data: bytes) -> None:
        """Take the header first."""
        if self._preface is None:
            super().data_received(data)
            return
        self._preface += data
        try:
            rest = self._after_header(self._preface)
        except Malformed as error:
            limited(log, "PROXY header refused", peer=self.peer, problem=str(error))
            self._preface = b""
            self.force_close()
            return
        if rest is None:
            return
        self._preface = None
        if rest:
            super().data_received(rest)

    def _after_header(self, data: bytes) -> bytes | None:
        """Return what comes after the header, or after none; None while that cannot be said."""
        if not self._expected:
            begins = is_header(data)
            if begins:
                raise Malformed(self._why_unwanted())
            return None if begins is None else data
        header = parse(data)
        if header is None:
            return None
        if header.source is not None:
            self.peer = plain_address(header.source)
        return data[header.size :]

    def _why_unwanted(self) -> str:
        if self._settings.proxy_protocol:
            return "its sender is not in server.trusted_proxies"
        return "server.proxy_protocol is off"
