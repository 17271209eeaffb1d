"""What a request says: its path, keys, origin, upgrade headers and body, read strictly."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Sequence
from secrets import token_hex
from typing import Final
from urllib.parse import unquote

from aiohttp import HttpVersion11, web
from aiohttp.web_protocol import RequestPayloadError

from daisi_ws.adapters.http_answers import Rejection
from daisi_ws.adapters.http_protocol import HttpProtocol
from daisi_ws.domain.client_address import TrustedProxies
from daisi_ws.domain.errors import BadRequest
from daisi_ws.domain.resume import MAX_SEQ, Claim
from daisi_ws.domain.tracing import TRACEPARENT, traceparent_of

MAX_BODY_BYTES: Final = 16 * 1024
SUBPROTOCOL: Final = "json.v1"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_ORIGIN = re.compile(r"(https?)://([^\s/?#@,]+)")
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


def request_id_of(request: web.BaseRequest) -> str:
    """Return `X-Request-ID` if it is a sane one, else a new one."""
    given = request.headers.get("X-Request-ID", "")
    return given if _REQUEST_ID.fullmatch(given) else token_hex(16)


def remote_of(request: web.BaseRequest, trusted: TrustedProxies) -> str:
    """Return the client's address: of the connection, or what trusted proxies say it is."""
    protocol = request.protocol
    assert isinstance(protocol, HttpProtocol)
    if not trusted:
        return protocol.peer
    return trusted.client(protocol.peer, request.headers.getall("X-Forwarded-For", []))


def trace_of(request: web.BaseRequest) -> dict[str, str]:
    """Return the W3C trace context as log context; nothing if there is no valid one."""
    given = request.headers.get(TRACEPARENT)
    parent = traceparent_of(given) if given else ""
    return {TRACEPARENT: parent} if parent else {}


def segments_of(request: web.BaseRequest) -> list[str]:
    """Return the parts of the path, each percent-decoded exactly once."""
    return [unquote(part) for part in request.rel_url.raw_path.split("/")[1:]]


def api_key_of(request: web.BaseRequest) -> str | None:
    """Return the API key: header `X-API-Key`, else query `x-api-key`."""
    return _ascii(request.headers.get("X-API-Key") or request.rel_url.query.get("x-api-key"))


def token_of(request: web.BaseRequest) -> str | None:
    """Return the token: query `token`, else `Authorization: Bearer` (RFC 6750)."""
    token = request.rel_url.query.get("token")
    if not token:
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        token = credentials.strip() if scheme.lower() == "bearer" else None
    return _ascii(token)


def claim_of(request: web.BaseRequest) -> Claim | None:
    """Return the position that a client comes with (query `last_seq`, `stream`), None without.

    An empty `last_seq` says that it wants to know of positions, and has none yet.

    :raises Rejection: 400 where it is no sequence.
    """
    query = request.rel_url.query
    text = query.get("last_seq")
    if text is None:
        return None
    if not text:
        return Claim(None)
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= MAX_SEQ):
        details = f"want a whole number from 0 to {MAX_SEQ}, or nothing for no position yet"
        raise Rejection(BadRequest("bad last_seq", details=details, reason="bad_last_seq"), 400)
    return Claim(int(text), query.get("stream", ""))


def _ascii(text: str | None) -> str | None:
    # Constant-time comparison refuses other text, and no key or token has any.
    return text if text is None or text.isascii() else ""


def check_upgrade(request: web.BaseRequest) -> None:
    """Check the opening handshake (RFC 6455 section 4.2.1).

    :raises Rejection: 426 where no WebSocket of version 13 is asked for, 400 where it is asked
        for wrongly.
    """
    headers = request.headers
    if headers.get("Upgrade", "").strip().lower() != "websocket":
        raise _upgrade_required("this path is a WebSocket", "missing_upgrade")
    if headers.get("Sec-WebSocket-Version", "").strip() != "13":
        raise _upgrade_required("WebSocket version 13 is required", "wrong_version")
    if request.version < HttpVersion11:
        raise _bad_handshake("HTTP/1.1 is required")
    if "upgrade" not in _tokens(headers.getall("Connection", [])):
        raise _bad_handshake("the Connection header must say upgrade")
    if not _is_key(headers.getall("Sec-WebSocket-Key", [])):
        raise _bad_handshake("Sec-WebSocket-Key must be 16 bytes in base64, once")
    if request.can_read_body or headers.get("Content-Length", "0") != "0":
        raise _bad_handshake("the request must have no body")


def _upgrade_required(message: str, reason: str) -> Rejection:
    headers = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    return Rejection(BadRequest(message, reason=reason), 426, headers=headers, close=True)


def _bad_handshake(details: str) -> Rejection:
    refusal = BadRequest("malformed WebSocket handshake", details=details, reason="bad_handshake")
    return Rejection(refusal, 400, close=True)


def _tokens(values: Sequence[str]) -> set[str]:
    return {token.strip().lower() for value in values for token in value.split(",")}


def _is_key(values: Sequence[str]) -> bool:
    if len(values) != 1:
        return False
    try:
        return len(base64.b64decode(values[0], validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def check_origin(request: web.BaseRequest, allowed: Sequence[str]) -> None:
    """Check which page opens the connection (RFC 6455 section 10.2).

    :param allowed: exact origins, or `*`; none: no Origin header, or the same host and port.
    :raises Rejection: 403.
    """
    origins = request.headers.getall("Origin", [])
    if not origins or "*" in allowed:
        return
    origin = origins[0]
    if len(origins) == 1:
        if allowed and origin in allowed:
            return
        if not allowed and _is_same_host(origin, request.headers.get("Host", "")):
            return
    raise Rejection(BadRequest("origin not allowed", reason="origin"), 403, close=True)


def _is_same_host(origin: str, host: str) -> bool:
    parsed = _ORIGIN.fullmatch(origin)
    if parsed is None or not host:
        return False
    port = _DEFAULT_PORTS[parsed[1]]
    return parsed[2].lower().removesuffix(port) == host.lower().removesuffix(port)


async def read_body(request: web.BaseRequest, seconds: float) -> bytes:
    """Return the whole body.

    :param seconds: by when it must be complete.
    :raises Rejection: 408 too slow, 413 too large, 400 malformed, 417 unknown expectation.
    """
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise _too_large()
    try:
        async with asyncio.timeout(seconds):
            await _answer_expectation(request)
            return await request.read()
    except TimeoutError:
        details = f"the whole request must be here within {seconds:g} seconds"
        refusal = BadRequest("request body came too slowly", details=details, reason="slow_body")
        raise Rejection(refusal, 408, close=True) from None
    except web.HTTPRequestEntityTooLarge:
        raise _too_large() from None
    except RequestPayloadError:
        refusal = BadRequest("malformed request body", reason="bad_body")
        raise Rejection(refusal, 400, close=True) from None


def _too_large() -> Rejection:
    details = f"at most {MAX_BODY_BYTES} bytes"
    refusal = BadRequest("request body too large", details=details, reason="large_body")
    return Rejection(refusal, 413, close=True)


async def _answer_expectation(request: web.BaseRequest) -> None:
    expected = request.headers.get("Expect")
    # To a client of HTTP/1.0 an interim answer is the final one (RFC 9110 section 10.1.1).
    if expected is None or request.version < HttpVersion11:
        return
    if expected.lower() != "100-continue":
        raise Rejection(BadRequest("unknown expectation", reason="expectation"), 417, close=True)
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    # The interim answer is not part of the final one.
    request.writer.output_size = 0
