"""Asks this pod's own gRPC server, as a peer that comes would: a new connection each time.

A channel of the library costs twice as much, and each one leaves some memory behind; the one call
that is needed here is always the same 200 bytes (HTTP/2: RFC 9113; header fields without
compression: RFC 7541, section 6.2.2; the call: grpc/doc/health-checking.md).
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Callable
from typing import Final

from daisi_ws.adapters.grpc_tls import BadCertificate, TlsFiles
from daisi_ws.app.readiness_ports import FilesUsedUp
from daisi_ws.domain.errors import Unavailable

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_END_STREAM, _END_HEADERS = 0x1, 0x4
_STREAM: Final = 1
_MAX_FRAME: Final = 16_384
_FIELDS: Final = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/grpc.health.v1.Health/Check"),
    (b":authority", b"localhost"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
)
_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


def _literal(text: bytes) -> bytes:
    return bytes((len(text),)) + text


_BLOCK: Final = b"".join(b"\0" + _literal(name) + _literal(value) for name, value in _FIELDS)
_EMPTY_MESSAGE: Final = bytes(5)
_REQUEST: Final = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + _frame(_SETTINGS, 0, 0, b"")
    + _frame(_HEADERS, _END_HEADERS, _STREAM, _BLOCK)
    + _frame(_DATA, _END_STREAM, _STREAM, _EMPTY_MESSAGE)
)


class GrpcProbe:
    """One health call to a gRPC server, whatever it answers.

    :param host: where the server listens; the loopback address where it listens everywhere.
    :param name: whom its certificate must name, with TLS.
    :param tls: getter of the files, as a peer uses them; None without TLS.
    """

    def __init__(self, host: str, port: int, name: str, tls: Callable[[], TlsFiles | None]) -> None:
        self._host = _LOOPBACK.get(host, host)
        self._port = port
        self._name = name
        self._tls = tls
        self._context: tuple[TlsFiles, ssl.SSLContext] | None = None

    async def __call__(self) -> None:
        """Return when the server has answered; the caller bounds the time.

        :raises FilesUsedUp: no connection can be made.
        :raises Unavailable: it cannot be connected to, or does not speak gRPC.
        """
        try:
            files = self._tls()
            context = None if files is None else self._context_of(files)
            name = None if files is None else self._name
            reader, writer = await asyncio.open_connection(
                self._host, self._port, ssl=context, server_hostname=name
            )
        except (OSError, BadCertificate) as error:
            self._context = None
            used_up = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
            kind = FilesUsedUp if used_up else Unavailable
            raise kind(f"no connection to {self._host}:{self._port}: {error}") from None
        try:
            writer.write(_REQUEST)
            await _answer(reader)
        except (OSError, asyncio.IncompleteReadError):
            raise Unavailable(f"{self._host}:{self._port} hung up") from None
        finally:
            writer.transport.abort()

    def _context_of(self, files: TlsFiles) -> ssl.SSLContext:
        """Return the context for these files, read once until it fails."""
        if self._context is None or self._context[0] != files:
            self._context = files, _context(files)
        return self._context[1]


async def _answer(reader: asyncio.StreamReader) -> None:
    while True:
        head = await reader.readexactly(9)
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        if length > _MAX_FRAME or kind in (_RST_STREAM, _GOAWAY):
            raise Unavailable("the server does not answer as a gRPC server does")
        await reader.readexactly(length)
        if kind == _DATA or (kind == _HEADERS and flags & _END_STREAM):
            return


def _context(files: TlsFiles) -> ssl.SSLContext:
    """Return what a peer's channel would use.

    :raises BadCertificate: a file is unusable.
    """
    try:
        context = ssl.create_default_context(cafile=files.ca_file or None)
        if files.mutual:
            context.load_cert_chain(files.cert_file, files.key_file)
    except (OSError, ValueError) as error:
        raise BadCertificate(str(error)) from None
    context.set_alpn_protocols(["h2"])
    return context
