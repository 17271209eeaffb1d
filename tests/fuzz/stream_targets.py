"""Byte streams of clients: HTTP requests and WebSocket frames; and the configuration."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import yaml
from aiohttp import web
from aiohttp._websocket.reader import WebSocketDataQueue
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser, WebSocketReader
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_exceptions import HTTPException

from daisi_ws.adapters import http_request
from daisi_ws.adapters.http_answers import Rejection
from daisi_ws.adapters.ws_guard import Guard
from daisi_ws.config import ConfigError, load
from daisi_ws.config.environment import read_environment
from daisi_ws.config.load import build
from daisi_ws.config.schema import FIELDS, value_of
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.resume import MAX_SEQ
from daisi_ws.domain.wire import FrameCheck
from tests.adapters.http_support import handshake
from tests.fuzz.target import Target

MESSAGE_BYTES = 1024
_CONTROL = 0x8


def _cuts(data: bytes) -> Iterator[bytes]:
    """Cut input as TCP might: the first byte says how."""
    step = (data[0] if data else 0) or len(data) or 1
    for at in range(1, len(data), step):
        yield data[at : at + step]


def frame_check(data: bytes) -> bool:
    """However the stream is cut, the first frame that is unmasked, out of turn, or compressed where
    it cannot be is found, and the frames are counted.
    """
    check = FrameCheck()
    found = any(check.refuses(part) for part in _cuts(data))
    stream, at, frames, refused, inside = data[1:], 0, 0, False, False
    while len(stream) - at >= 2:
        if not stream[at + 1] & 0x80:
            refused = True
            break
        size, head = stream[at + 1] & 0x7F, at + 2
        if size > 125:
            width = 2 if size == 126 else 8
            if len(stream) < head + width:
                break
            size, head = int.from_bytes(stream[head : head + width], "big"), head + width
        if stream[at] & 0x40 and stream[at] & 0x0F not in {1, 2}:
            refused = True
            break
        if stream[at] & 0x0F < _CONTROL:
            if inside != (stream[at] & 0x0F == 0):
                refused = True
                break
            inside = stream[at] < 0x80
        frames += 1
        at = head + 4 + size
    assert found == refused
    if not found:
        assert check.frames == frames
    return not found


class Violation(Exception):
    """What the reference decoder refuses.

    :param must: it must be found by now; else it may be found when the frame is whole.
    """

    def __init__(self, must: bool = True) -> None:
        super().__init__(must)
        self.must = must


def reference_messages(stream: bytes) -> tuple[list[tuple[int, bytes]], set[bool]]:
    """Decode client frames as RFC 6455 says; return the messages, and whether it may fail."""
    messages: list[tuple[int, bytes]] = []
    try:
        _decode(stream, messages)
    except Violation as violation:
        return messages, {True, violation.must}
    return messages, {False}


def _decode(stream: bytes, messages: list[tuple[int, bytes]]) -> None:
    at, parts, kind = 0, b"", 0
    while len(stream) - at >= 2:
        first, second = stream[at], stream[at + 1]
        opcode, fin, size, head = first & 0x0F, bool(first & 0x80), second & 0x7F, at + 2
        _check_head(first, second)
        out_of_turn = opcode < _CONTROL and (opcode == 0) != (kind != 0)
        if size > 125:
            width = 2 if size == 126 else 8
            if len(stream) < head + width:
                return
            size, head = int.from_bytes(stream[head : head + width], "big"), head + width
        whole = len(stream) >= head + 4 + size
        if out_of_turn or (opcode < _CONTROL and len(parts) + size > MESSAGE_BYTES):
            raise Violation(must=whole)
        if not whole:
            return
        key, body = stream[head : head + 4], stream[head + 4 : head + 4 + size]
        payload = bytes(b ^ key[i % 4] for i, b in enumerate(body))
        at = head + 4 + size
        if opcode >= _CONTROL:
            _control(opcode, payload, messages)
            if opcode == 8:
                return
            continue
        parts, kind = parts + payload, kind or opcode
        if fin:
            if kind == 1:
                _check_text(parts)
            messages.append((kind, parts))
            parts, kind = b"", 0


def _check_head(first: int, second: int) -> None:
    opcode = first & 0x0F
    if not second & 0x80:
        raise Violation
    if first & 0x70 or opcode not in (0, 1, 2, 8, 9, 10):
        raise Violation(must=False)
    if opcode >= _CONTROL and (not first & 0x80 or second & 0x7F > 125):
        raise Violation(must=False)


def _check_text(payload: bytes) -> None:
    try:
        payload.decode()
    except UnicodeDecodeError:
        raise Violation from None


def _control(opcode: int, payload: bytes, messages: list[tuple[int, bytes]]) -> None:
    if opcode == 8:
        code = int.from_bytes(payload[:2], "big")
        standard = code in range(1000, 1015) and code not in (1004, 1005, 1006)
        valid = standard or 3000 <= code <= 4999
        if len(payload) == 1 or (payload and not valid):
            raise Violation
        _check_text(payload[2:])
    messages.append((opcode, payload))


def frames(data: bytes) -> bool:
    """The same messages as the reference finds, and an end wherever it ends."""
    queue = WebSocketDataQueue(BaseProtocol(_loop()), 2**16, loop=_loop())
    # The library refuses a message of just as many bytes, too.
    reader = WebSocketReader(queue, MESSAGE_BYTES + 1, compress=False, decode_text=True)
    guard = Guard(reader, 1e9)
    for part in _cuts(data):
        if guard.feed_data(part)[0]:
            break
    expected, fails = reference_messages(data[1:])
    ends = bool(expected) and expected[-1][0] == 8  # what comes after a close frame is nothing
    error = queue.exception()
    found = _taken(queue)
    failed = error is not None or guard.violation is not None
    # The guard looks at what came in one piece before the parser does: what is right before a wrong
    # such a frame may not be seen at all.
    if guard.violation is not None:
        assert guard.violation is CloseReason.PROTOCOL_ERROR
        expected = expected[: len(found)]
    closes = [index for index, (kind, _) in enumerate(found) if kind == 8]
    if closes:  # perhaps with a code that only `Reader` refuses, such as 1006
        found, expected = found[: closes[0]], expected[: closes[0]]
    elif failed not in fails and not ends:
        raise AssertionError(f"failed: {error!r}, {guard.violation}; should be {fails}")
    assert found == expected[: len(found)], (found, expected)
    if not failed:
        assert found == expected, (found, expected)
    return not failed


def _taken(queue: WebSocketDataQueue) -> list[tuple[int, bytes]]:
    found = []
    while queue._buffer:
        try:
            queue.read().send(None)
        except StopIteration as done:
            found.append((int(done.value.type), _payload(done.value.data)))
    return found


def _payload(message: object) -> bytes:
    if isinstance(message, str):
        return message.encode()
    return bytes(message) if isinstance(message, (bytes, bytearray, memoryview)) else b""


# -- HTTP -----------------------------------------------------------------------------------------

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def close_loop() -> None:
    """Close the loop that the library's parser was given."""
    if _loop.cache_info().currsize:
        _loop().close()
        _loop.cache_clear()


_STAND_IN = Mock(transport=None)


def http(data: bytes) -> bool:
    """A request that can be answered, or a refusal; nothing in it means two things."""
    parser = HttpRequestParser(
        BaseProtocol(_loop()),
        _loop(),
        2**16,
        max_line_size=8192,
        max_headers=64,
        max_field_size=8192,
        payload_exception=web.RequestPayloadError,
        auto_decompress=False,
    )
    try:
        messages, _, _ = parser.feed_data(data)
    except (HttpProcessingError, HTTPException):
        return False
    except ValueError as error:
        # yarl says so of a URL that is none; the server answers it with a 400.
        assert "URL" in str(error) or "port" in str(error).lower() or "host" in str(error), error
        return False
    for message, _ in messages:
        stand_in: Any = _STAND_IN
        _look(web.BaseRequest(message, EMPTY_PAYLOAD, stand_in, stand_in, stand_in, _loop()))
    return bool(messages)


def _look(request: web.BaseRequest) -> None:
    segments = http_request.segments_of(request)
    assert all(isinstance(segment, str) for segment in segments)
    assert _REQUEST_ID.fullmatch(http_request.request_id_of(request))
    for found in (http_request.api_key_of(request), http_request.token_of(request)):
        assert found is None or found.isascii()
    with suppress(Rejection):
        claim = http_request.claim_of(request)
        assert claim is None or claim.seq is None or 0 <= claim.seq <= MAX_SEQ
        assert (claim is None) == ("last_seq" not in request.rel_url.query)
    headers = request.headers
    # Where one of two means the body, whoever stands before us may mean the other.
    assert len(headers.getall("Content-Length", [])) < 2
    assert "Content-Length" not in headers or "Transfer-Encoding" not in headers
    for allowed in ((), ("https://a.example",)):
        with suppress(Rejection):
            http_request.check_origin(request, allowed)
            origins = headers.getall("Origin", [])
            assert len(origins) < 2
            assert not allowed or set(origins) <= set(allowed)
    with suppress(Rejection):
        http_request.check_upgrade(request)
        assert headers["Upgrade"].strip().lower() == "websocket"
        assert headers["Sec-WebSocket-Version"].strip() == "13"
        assert "upgrade" in ",".join(headers.getall("Connection")).lower()
        assert len(b64decode(headers["Sec-WebSocket-Key"])) == 16


# -- configuration --------------------------------------------------------------------------------


@cache
def _file() -> Path:
    folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    handle, name = tempfile.mkstemp(".yaml", "daisi-fuzz-", folder)
    os.close(handle)
    return Path(name)


def close_file() -> None:
    """Remove the file that configurations were read from."""
    if _file.cache_info().currsize:
        _file().unlink(missing_ok=True)
        _file.cache_clear()


_SECRET = "5ec2e7" * 10 + "abcd"
_PIECE = re.compile("5ec2e75ec2|7e2ce57e2c|api-key-long")
"""Of the secrets, so that it is found where one is spoiled or cut, too."""
_NAMED = re.compile(rf"(?:secret_token|aes_key)[^\w,]*(?:{_PIECE.pattern})", re.IGNORECASE)


_TEXTS = (
    "auth.secret_token", "auth.admin_secret_token", "auth.token_aes_key",
    "auth.admin_token_aes_key", "nats.url", "redis.address",
)  # fmt: skip


@contextmanager
def _nothing_near() -> Iterator[None]:
    """Have nothing suggested: that is the standard library's work, and takes most of the time."""
    with (
        patch("daisi_ws.config.environment.get_close_matches", _no_matches),
        patch("daisi_ws.config.yaml_file.get_close_matches", _no_matches),
    ):
        yield


def _no_matches(*_: object, n: int) -> list[str]:
    del n
    return []


def configuration(data: bytes) -> bool:
    """Loaded as it says, or every problem with its place; never a secret in a message."""
    _file().write_bytes(data)
    try:
        with _nothing_near():
            loaded = load(_file(), {}, {})
    except ConfigError as refused:
        _check_problems(refused)
        return False
    told = yaml.load(data.decode("utf-8-sig"), Loader=yaml.CBaseLoader)
    for name in _TEXTS:
        section, _, leaf = name.partition(".")
        given = (told[section] or {}).get(leaf) if section in told else None
        assert given in (None, value_of(loaded.config, name))
    assert value_of(loaded.config, "auth.secret_token")
    assert loaded.config.server.workers > 0
    return True


def environment(data: bytes) -> bool:
    """Variables as a file's keys."""
    lines = data.decode(errors="surrogateescape").split("\n")
    variables = dict(line.split("=", 1) for line in lines if "=" in line and "\0" not in line)
    try:
        with _nothing_near():
            loaded = build([read_environment(variables)])
    except ConfigError as refused:
        _check_problems(refused)
        return False
    for name in _TEXTS:
        given = variables.get(FIELDS[name].environment)
        assert given in (None, "", value_of(loaded.config, name))
    return True


def _check_problems(refused: ConfigError) -> None:
    assert refused.problems
    for problem in refused.problems:
        assert str(problem).strip()  # the key itself may be an empty one
        assert problem.origin
        assert problem.wrong
        assert problem.right
        field = FIELDS.get(problem.key)
        if field is None:  # a key that is none; it may be a secret that stands alone
            assert not _NAMED.search(str(problem)), problem
        elif field.key.secret:
            assert not _PIECE.search(str(problem)), problem


_FRAME = b"\x00\x81\x85\x01\x02\x03\x04ijohn"
_YAML = f"""\
server:
  http_port: 8080
  workers: 2
  allowed_origins: [https://app.example.com]
  max_message_bytes: 65536
nats:
  url: nats://127.0.0.1:4222
redis:
  address: redis://127.0.0.1:6379/0
auth:
  secret_token: an-api-key-long-enough
  admin_secret_token: another-api-key-long
  token_aes_key: {_SECRET}
  admin_token_aes_key: {_SECRET[::-1]}
app:
  session_ttl_seconds: 30
  websocket_backpressure_drop_policy: drop_oldest
resume: {{max_events: 1000}}
"""
_VARIABLES = (
    "DAISI_WS_SERVER_HTTP_PORT=8080\nDAISI_WS_SERVER_ALLOWED_ORIGINS=https://a,https://b\n"
    f"DAISI_WS_AUTH_TOKEN_AES_KEY={_SECRET}\nDAISI_WS_APP_SESSION_TTL_SECONDS=30\n"
    f"DAISI_WS_AUTH_ADMIN_TOKEN_AES_KEY={_SECRET[::-1]}\n"
    "DAISI_WS_AUTH_SECRET_TOKEN=an-api-key-long-enough\n"
    "DAISI_WS_AUTH_ADMIN_SECRET_TOKEN=another-api-key-long\nDAISI_WS_NATS_URL=nats://h:1\n"
    "DAISI_WS_REDIS_ADDRESS=redis://u:p@h:1/0\nDAISI_WS_NATS_CREATE_STREAM=true"
)
_HEAD = handshake(Origin="https://a.example", Authorization="Bearer abc")

TARGETS = [
    Target(
        "frame-check",
        frame_check,
        [_FRAME + _FRAME[1:] * 2, b"\x03" + _FRAME[1:] * 9],
        [b"\x81\x85", b"\xfe"],
    ),
    Target(
        "frames",
        frames,
        [
            _FRAME,
            b"\x05" + b"\x01\x82\x00\x00\x00\x00{}" + b"\x89\x80abcd" + b"\x80\x80abcd",
            b"\x00\x88\x82\x00\x00\x00\x00\x03\xe8",
            b"\x00\x82\xfe\x00\x7e\x00\x00\x00\x00" + b"x" * 126,
            b"\x02\x81\x84\x00\x00\x00\x00\xf0\x9f\x98\x80",
            b"\x00\x01\x80abcd\x80\x81\x00\x00\x00\x00x",
        ],
        [
            b"\x81\x85\x00\x00\x00\x00",
            b"\xff",
            b"\xfe",
            b"\x80",
            b"\x88\x82\x00\x00\x00\x00\x03\xee",
        ],
        weight=4,
    ),
    Target(
        "http",
        http,
        [
            _HEAD,
            handshake("/ws/acme/bot?token=t&last_seq=7&stream=s%40t"),
            b"POST /generate-token HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}",
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            b"GET http://h:80/ws/%61/b?x-api-key=k HTTP/1.1\r\nHost: h\r\n\r\n",
        ],
        [b"last_seq=", b"%2F", b"%2e%2e", b"\r\nHost: x", b"\r\n ", b"://[", b"HTTP/1.0", b"; "],
        weight=40,
    ),
    Target(
        "configuration",
        configuration,
        [_YAML.encode()],
        [
            b": ",
            b"- ",
            b"&a ",
            b"*a",
            b"!!python/object:os.system ",
            b"<<: *a",
            b"? ",
            b"|\n",
            b"1_0",
        ],
        weight=400,
    ),
    Target("environment", environment, [_VARIABLES.encode()], [b"DAISI_WS_", b"=", b"__"], 300),
]
