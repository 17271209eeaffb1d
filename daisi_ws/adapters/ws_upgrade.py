"""The answer to an opening handshake, and the frames that come after it (RFC 6455 section 4.2.2).

aiohttp parses what comes in. Its own WebSocket response is not used: it answers by a write of its
own, checks everything a second time, and would stay for as long as the connection.
"""

from __future__ import annotations

import asyncio
import base64
import zlib
from collections.abc import Mapping
from hashlib import sha1
from typing import Final

from aiohttp import web
from aiohttp._websocket.reader import WebSocketDataQueue
from aiohttp.http import WS_KEY, WebSocketReader, ws_ext_parse

from daisi_ws.adapters.http_protocol import HttpProtocol
from daisi_ws.adapters.http_request import SUBPROTOCOL

NO_CONTEXT_TAKEOVER: Final = (
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
)
"""Each message is compressed for itself (RFC 7692 section 7.1.1). A client that did not offer so
has to take it all the same."""

_WHOLE_WINDOW: Final = f"server_max_window_bits={zlib.MAX_WBITS}"
"""Who names it in an offer must find it in the answer (section 7.1.2.1)."""

_QUEUED_BYTES: Final = 64 * 1024
"""With more than about this waiting to be handled a client is not read."""


class Upgrade(web.StreamResponse):
    """A request that becomes a WebSocket.

    :param deflate: agree to permessage-deflate, if the client offers it with the whole window.
    :ivar deflated: whether that has been agreed.
    """

    def __init__(self, request: web.BaseRequest, *, deflate: bool) -> None:
        super().__init__(status=101)
        self.force_close()
        self._request: web.BaseRequest | None = request
        self.deflated = deflate and _offers_deflate(request)

    @staticmethod
    def is_possible(request: web.BaseRequest) -> bool:
        """Tell whether the parser has stopped at the request's end: what follows is no HTTP."""
        return request._message.upgrade  # noqa: SLF001 - it has no public name

    def head(self, more: Mapping[str, str]) -> bytes:
        """Return the answer, to be sent before the first frame; `more` are headers beside it."""
        assert self._request is not None
        headers = self._request.headers
        key = headers["Sec-WebSocket-Key"].encode()
        fields = {
            "Upgrade": "websocket",
            "Connection": "upgrade",
            "Sec-WebSocket-Accept": base64.b64encode(
                sha1(key + WS_KEY, usedforsecurity=False).digest()
            ).decode(),
            **more,
        }
        if SUBPROTOCOL in _listed(headers.getall("Sec-WebSocket-Protocol", [])):
            fields["Sec-WebSocket-Protocol"] = SUBPROTOCOL
        if self.deflated:
            offered = headers.get("Sec-WebSocket-Extensions", "")
            named = f"; {_WHOLE_WINDOW}" if _WHOLE_WINDOW in offered else ""
            fields["Sec-WebSocket-Extensions"] = NO_CONTEXT_TAKEOVER + named
        lines = [f"{name}: {value}\r\n" for name, value in fields.items()]
        return f"HTTP/1.1 101 Switching Protocols\r\n{''.join(lines)}\r\n".encode()

    def incoming(self, protocol: HttpProtocol, max_message_bytes: int) -> WebSocketDataQueue:
        """Have what comes parsed from now on; return where the messages come out.

        :param max_message_bytes: of one message, all fragments together, and also when it is
            uncompressed.
        """
        queue = WebSocketDataQueue(protocol, _QUEUED_BYTES, loop=asyncio.get_running_loop())
        # The library refuses a message of exactly its limit, and takes 0 for none.
        most = max_message_bytes and max_message_bytes + 1
        protocol.set_parser(WebSocketReader(queue, most, compress=self.deflated, decode_text=True))
        return queue

    @property
    def prepared(self) -> bool:
        """Tell the library that nothing has to be sent."""
        return True

    async def prepare(self, request: web.BaseRequest) -> None:
        """Do nothing: the answer has been sent."""

    async def write_eof(self, data: bytes = b"") -> None:
        """End the request, not the connection."""
        assert self._request is not None
        assert isinstance(self._request.protocol, HttpProtocol)
        self._request.protocol.outlive_requests()
        self._request = None


def _offers_deflate(request: web.BaseRequest) -> bool:
    offered = request.headers.get("Sec-WebSocket-Extensions")
    window_bits, _ = ws_ext_parse(offered, isserver=True)
    return window_bits == zlib.MAX_WBITS


def _listed(values: list[str]) -> set[str]:
    return {value.strip() for line in values for value in line.split(",")}
