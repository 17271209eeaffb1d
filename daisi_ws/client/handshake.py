"""The opening of a connection: addresses, headers, and refusals with their reasons."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final

import aiohttp
import msgspec
from aiohttp.client_middlewares import ClientHandlerType

from daisi_ws.client.ending import Unreachable, refusal

SUBPROTOCOL: Final = "json.v1"
POD_HEADER: Final = "X-Daisi-Pod"
"""Header of the handshake's response: the pod that serves the connection."""

_MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
_MAX_REFUSAL_BYTES: Final = 16 * 1024
_CLOSE_SECONDS: Final = 2.0


class _Refusal(msgspec.Struct):
    code: str = ""
    message: str = ""
    details: msgspec.Raw = msgspec.Raw(b'""')


_refusal = msgspec.json.Decoder(_Refusal)

_pod: ContextVar[str] = ContextVar("pod", default="")
"""The pod that the dial running in this task got to: the library keeps the headers to itself."""

WebSocket = aiohttp.ClientWebSocketResponse[bool]


def user_url(base: str, company_id: str, agent_id: str) -> str:
    """Return the address of the user WebSocket; `base` is like `http://host:port`."""
    return f"{base.rstrip('/')}/ws/{company_id}/{agent_id}"


def admin_url(base: str) -> str:
    """Return the address of the admin WebSocket; `base` is like `http://host:port`."""
    return f"{base.rstrip('/')}/ws/admin"


def client_session(tls: ssl.SSLContext | None = None) -> aiohttp.ClientSession:
    """Return a session for one or many clients: any number of connections, reasons of refusals.

    To be closed by the caller.

    :param tls: for `https:` addresses; None: trusts the system's authorities.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=tls or True),
        timeout=aiohttp.ClientTimeout(total=None),
        middlewares=(_read_response,),
    )


async def dial(
    session: aiohttp.ClientSession,
    url: str,
    headers: Mapping[str, str],
    heartbeat: float | None,
) -> tuple[WebSocket, str]:
    """Open a WebSocket; text comes undecoded, pings are answered.

    :param heartbeat: seconds between two pings of ours; None for none.
    :return: the socket and the pod it got to, empty if that was not told.
    :raises Refused: not to be tried again as it is.
    :raises Unreachable: may be tried again.
    """
    _pod.set("")
    try:
        ws = await session.ws_connect(
            url,
            headers=headers,
            protocols=(SUBPROTOCOL,),
            heartbeat=heartbeat,
            timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_SECONDS),
            max_msg_size=_MAX_MESSAGE_BYTES,
            decode_text=False,
        )
    except aiohttp.WSServerHandshakeError as error:
        # Of a session that is not from client_session, or of an upgrade that went wrong.
        raise refusal(error.status, "", error.message) from None
    except (aiohttp.ClientError, OSError) as error:
        raise Unreachable(f"cannot connect to {url}: {error}") from None
    return ws, _pod.get()


async def _read_response(
    request: aiohttp.ClientRequest, handler: ClientHandlerType
) -> aiohttp.ClientResponse:
    """Raise what a refusal's body says; the library's own exception has only its status."""
    response = await handler(request)
    _pod.set(response.headers.get(POD_HEADER, ""))
    if response.status < 400:
        return response
    async with response:
        body = await response.content.read(_MAX_REFUSAL_BYTES)
    try:
        said = _refusal.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = _Refusal(message=response.reason or "")
    details = bytes(said.details).decode()
    raise refusal(response.status, said.code, said.message, details.strip('"'))
