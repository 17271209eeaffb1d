"""Whatever outsiders send, they harm themselves only: a canary goes on getting its events."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from tests.adapters.http_support import BINARY, CLOSE, PING, TEXT, Wire, close_payload, frame
from tests.e2e.tabs import (
    UPGRADE,
    Gateway,
    Tab,
    close_tabs,
    gateway,
    refusal,
    scrape,
    until,
    user_headers,
)
from tests.processes import command_line

HANDSHAKE_SECONDS = 1.0
MESSAGE_BYTES = 4096
CONTINUATION = 0
ORIGIN = "https://app.example.com"

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

_numbers = itertools.count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """One host of two workers that is quick to lose patience, with an allow-list of origins."""
    environment = {
        "DAISI_WS_SERVER_HANDSHAKE_TIMEOUT_SECONDS": str(HANDSHAKE_SECONDS),
        "DAISI_WS_SERVER_MAX_MESSAGE_BYTES": str(MESSAGE_BYTES),
        "DAISI_WS_SERVER_ALLOWED_ORIGINS": ORIGIN,
    }
    folder = tmp_path_factory.mktemp("bad-input")
    async with gateway(folder, environment=environment) as running:
        yield running


@pytest.fixture
def name() -> str:
    """The name of a user whom no other test has."""
    return f"name-{next(_numbers)}"


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def canary(running: Gateway) -> AsyncIterator[Tab]:
    """A client that has nothing to do with a test and gets an event every 5 ms meanwhile, soon;
    no worker ends and no error is logged."""
    workers, log_size = running.host.worker_pids(), len(running.host.log_text())
    tab = await running.user("canary", "bot", f"canary-{next(_numbers)}")
    async with running.feed() as feed:
        async with feed.steady(["websocket.canary.bot.chats"], rate=200):
            yield tab
        assert await tab.got(await feed.put("websocket.canary.bot.chats"), timeout=2)
        assert len(tab.ids) == feed.sent
        assert tab.code is None
    await close_tabs()
    assert running.host.worker_pids() == workers
    log = running.host.log_text()[log_size:]
    assert '"error"' not in log, log[:5000]
    assert "Traceback" not in log, log[:5000]


def request_head(running: Gateway, name: str, **headers: str) -> bytes:
    """Return a user's right handshake."""
    token = running.keys.user_token("acme", "bot", name)
    lines = {**UPGRADE, **user_headers(running.keys, token), **headers}
    text = "".join(f"{k}: {v}\r\n" for k, v in lines.items())
    return f"GET /ws/acme/bot HTTP/1.1\r\n{text}\r\n".encode()


# HTTP

MALFORMED = [
    b"\r\n\r\n",
    b"\x00" * 100 + b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) + b"\r\n\r\n",
    b"nonsense\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /health HTTP/9.9\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost\r\n\r\n",
    b"GET /health HTTP/1.1\r\n: x\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost : a\r\n\r\n",
    b"GET /health HTTP/1.1\r\nA: \x00\r\n\r\n",
    b"GET /he\x00alth HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET //:/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"POST /generate-token HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"POST /generate-token HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    (
        b"POST /generate-token HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    b"POST /generate-token HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /generate-token HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n",
    b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: a\r\nA: " + b"a" * 9000 + b"\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"A: a\r\n" * 100 + b"\r\n",
]


@pytest.mark.parametrize("data", MALFORMED, ids=range(len(MALFORMED)))
async def test_what_is_no_request_is_refused(running: Gateway, data: bytes) -> None:
    """It is answered by a 4xx with `code` and `message`, or the connection is closed; soon."""
    async with await Wire.connect(running.host.http_port) as wire:
        wire.send(data)
        response = None
        with suppress(asyncio.IncompleteReadError):  # closed without a word
            response = await wire.response()
    if response is not None:
        assert 400 <= response.status < 500
        assert response.json().keys() >= {"code", "message"}


async def test_a_large_body_is_refused(running: Gateway) -> None:
    """413, before it has been sent, at either token endpoint."""
    for path, key in (
        ("/generate-token", running.keys.secret_token),
        ("/admin/generate-token", running.keys.admin_secret_token),
    ):
        async with await Wire.connect(running.host.http_port) as wire:
            wire.send(
                f"POST {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n"
                f"Content-Length: {10**9}\r\n\r\n".encode()
            )
            wire.send(b" " * 100_000)
            response = await wire.response()
            assert (response.status, response.json()["code"]) == (413, "BadRequest")


HALVES: list[Callable[[Gateway, str], bytes]] = [
    lambda _running, _name: b"",
    lambda _running, _name: b"G",
    lambda _running, _name: b"GET /ws/acme/bot HTTP/1.1\r\nHost: a\r\n",
    lambda running, name: request_head(running, name)[:-1],
    lambda running, _name: (
        b"POST /generate-token HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\nX-API-Key: "
        + running.keys.secret_token.encode()
        + b"\r\n\r\n{"
    ),
]


@pytest.mark.parametrize("half", HALVES, ids=range(len(HALVES)))
async def test_half_requests_are_freed_at_the_deadline(
    running: Gateway, name: str, half: Callable[[Gateway, str], bytes]
) -> None:
    """100 connections that send a part and then nothing, or a byte now and then, hold nothing
    longer than the handshake may take; others are served meanwhile."""
    data = half(running, name)

    async def hold(drip: bool) -> float:
        began = time.monotonic()
        async with await Wire.connect(running.host.http_port) as wire:
            wire.send(data)
            ended = asyncio.create_task(wire.ended(HANDSHAKE_SECONDS + 3))
            while drip and not ended.done():
                wire.send(b"x")
                await asyncio.wait({ended}, timeout=0.2)
            await ended
        return time.monotonic() - began

    holding = asyncio.gather(*(hold(number % 2 == 1) for number in range(100)))
    await (await running.user("acme", "bot", name)).close()
    held = await holding
    assert max(held) < HANDSHAKE_SECONDS + 2.5


ORIGINS = [
    (None, True),
    (ORIGIN, True),
    ("https://app.example.com.evil", False),
    ("https://evil-app.example.com", False),
    ("https://app.example.com:443", False),
    ("https://app.example.com:8443", False),
    ("http://app.example.com", False),
    ("https://APP.example.com", False),
    ("HTTPS://app.example.com", False),
    ("https://app.example.com/", False),
    ("https://app.example.com@evil", False),
    ("https://user@app.example.com", False),
    ("https://app.example.com, https://evil", False),
    ("https://evil https://app.example.com", False),
    ("https://gateway.example", False),
    ("null", False),
    ("", False),
    ("*", False),
    ("file://", False),
    ("app.example.com", False),
]


async def test_only_allowed_origins_connect(running: Gateway, name: str) -> None:
    """An Origin that is not on the list word for word is a 403, and costs nobody the session."""
    victim = await running.user("acme", "bot", name)
    headers = user_headers(running.keys, running.keys.user_token("acme", "bot", name))
    for origin, allowed in ORIGINS:
        if not allowed:
            assert origin is not None
            given = {**headers, "Origin": origin}
            response = await refusal(running.host.http_port, "/ws/acme/bot", given)
            assert (response.status, response.json()["code"]) == (403, "BadRequest"), origin
    assert victim.code is None
    for origin, allowed in ORIGINS:
        if allowed:
            given = headers if origin is None else {**headers, "Origin": origin}
            await (await Tab.open(running.host.http_port, "/ws/acme/bot", given)).close()


# Frames

VIOLATIONS = {
    "unmasked": (frame(TEXT, b"{}", mask=False), 1002),
    "reserved bits": (frame(TEXT, b"{}", rsv=4), 1002),
    "unknown opcode": (frame(0x5, b"x"), 1002),
    "fragmented control": (frame(PING, b"x", fin=False), 1002),
    "long control": (frame(PING, b"x" * 126), 1002),
    "continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
    "two messages at once": (frame(TEXT, b"x", fin=False) + frame(TEXT, b"x"), 1002),
    "close of one byte": (frame(CLOSE, b"x"), 1002),
    "close code 1006": (frame(CLOSE, close_payload(1006)), 1002),
    "not UTF-8": (frame(TEXT, b"\xff\xfe"), 1007),
    "not UTF-8 over fragments": (
        frame(TEXT, b"\xf0\x9f", fin=False) + frame(CONTINUATION, b"x"),
        1007,
    ),
    "too large": (frame(TEXT, b" " * (MESSAGE_BYTES + 1)), 1009),
    "too large in fragments": (
        frame(TEXT, b" " * MESSAGE_BYTES, fin=False) + frame(CONTINUATION, b" "),
        1009,
    ),
    "too large, only claimed": (frame(TEXT, b"", claimed=2**40), 1009),
    "too large and binary": (frame(BINARY, b" " * (MESSAGE_BYTES + 1)), 1009),
}


@pytest.mark.parametrize("violation", VIOLATIONS)
async def test_violations_end_the_connection(running: Gateway, name: str, violation: str) -> None:
    """With the protocol's close code; the session is free again at once."""
    data, code = VIOLATIONS[violation]
    for _ in range(3):
        tab = await running.user("acme", "bot", name)
        tab.wire.send(data)
        assert await tab.end() == code
    async with running.redis() as redis:

        async def free() -> bool:
            return not await redis.exists(f"session:acme:bot:{name}")

        await until(free, what="the session is free")


async def test_binary_frames_are_answered(running: Gateway, name: str) -> None:
    """With an error, BadRequest; the connection stays."""
    tab = await running.user("acme", "bot", name)
    for data in (b"", b"\xff\x00", b'{"type":"select_chat","payload":{"chat_id":"c"}}'):
        tab.wire.send(frame(BINARY, data))
        assert (await tab.next("error")).payload["code"] == "BadRequest"
    await tab.select_chat("c")


async def test_a_message_of_the_limit_is_read(running: Gateway, name: str) -> None:
    """One byte less than too large is a message like any other."""
    tab = await running.user("acme", "bot", name)
    message = b'{"type":"select_chat","id":1,"payload":{"chat_id":"c"}}'
    tab.send(message + b" " * (MESSAGE_BYTES - len(message)))
    assert (await tab.next("done")).message["id"] == 1


FLOODS = {
    "selections": frame(TEXT, b'{"type":"select_chat","payload":{"chat_id":"c"}}'),
    "nonsense": frame(TEXT, b"x"),
    "empty": frame(TEXT, b""),
    "binary": frame(BINARY, b"x"),
    "pings": frame(PING, b"x"),
    "pongs": frame(0xA, b"x"),
    "fragments": frame(CONTINUATION, b"", fin=False),
}


@pytest.mark.parametrize("flood", FLOODS)
async def test_floods_are_limited(running: Gateway, name: str, flood: str) -> None:
    """Who sends as fast as it can is told RateLimitExceeded, then closed with 4429."""
    series = await scrape(running.host)
    before = series.get('dws_connections_closed_total{reason="rate_limited"}', 0)
    tab = await running.user("acme", "bot", name)
    if flood == "fragments":
        tab.wire.send(frame(TEXT, b"", fin=False))
    for _ in range(100):
        if tab.code is not None:
            break
        tab.wire.send(FLOODS[flood] * 1000)
        await asyncio.sleep(0)
    assert await tab.end() in (4429, 1006)  # a reset if it goes on sending
    codes = {f.payload["code"] for f in tab.frames if f.kind == "error"}
    assert codes <= {"RateLimitExceeded", "BadRequest"}

    async def counted() -> bool:
        series = await scrape(running.host)
        return series.get('dws_connections_closed_total{reason="rate_limited"}', 0) > before

    await until(counted, what="the flood is counted")


async def test_a_busy_client_is_told_and_stays(running: Gateway, name: str) -> None:
    """Somewhat over the limit messages are ignored, with one word about it, and no more."""
    tab = await running.user("acme", "bot", name)
    for _ in range(200):
        tab.send({"type": "select_chat", "payload": {"chat_id": "c"}})
    error = await tab.next("error")
    assert error.payload["code"] == "RateLimitExceeded"
    await tab.echo_when_allowed()
    assert sum(f.kind == "error" for f in tab.frames) <= 2


# Nothing is left


def open_files(running: Gateway) -> int:
    """Count the open files of all workers."""
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in running.host.worker_pids())


async def unchanging(look: Callable[[], int], seconds: float = 1.5) -> int:
    """Return a number once it has been the same for so long."""
    value, since = look(), time.monotonic()
    while time.monotonic() < since + seconds:
        await asyncio.sleep(0.05)
        if (now := look()) != value:
            value, since = now, time.monotonic()
    return value


async def connections(running: Gateway) -> float:
    """Return how many connections the host says there are, the canary's among them."""
    series = await scrape(running.host)
    return sum(v for n, v in series.items() if n.startswith("dws_active_connections"))


async def garbage(running: Gateway, name: str, seed: int) -> None:
    """Do something wrong with a connection, in one of many ways, and leave in one of many ways."""
    chance = random.Random(seed)
    async with await Wire.connect(running.host.http_port) as wire:
        head = request_head(running, f"{name}-{chance.randrange(20)}")
        way = chance.randrange(7)
        wire.send(wrong(chance, head, way))
        if way == 0:
            await wire.reader.read(1)
            wire.send(frame(TEXT, chance.randbytes(50)) * chance.randrange(1, 20))
        await leave(chance, wire)


def wrong(chance: random.Random, head: bytes, way: int) -> bytes:
    """Spoil a handshake, or what follows it; way 0 and 1 spoil nothing."""
    spoiled = bytearray(head)
    for _ in range(5):
        spoiled[chance.randrange(len(spoiled))] = chance.randrange(256)
    return (
        head,
        head,
        chance.randbytes(chance.randrange(1, 3000)),
        head[: chance.randrange(len(head))],
        head + chance.randbytes(chance.randrange(1, 3000)),
        head + chance.choice([data for data, _ in VIOLATIONS.values()]),
        bytes(spoiled),
    )[way]


async def leave(chance: random.Random, wire: Wire) -> None:
    """Leave with a reset, after a while, with half a goodbye, or at once."""
    way = chance.randrange(4)
    if way == 0:
        raw = wire.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return
    if way == 1:
        wire.writer.write_eof()
    if way < 3:
        await asyncio.wait({asyncio.create_task(drain(wire.reader))}, timeout=0.3)


async def drain(reader: asyncio.StreamReader) -> None:
    """Read what comes."""
    try:
        while await reader.read(65536):
            pass
    except OSError:
        return


async def test_garbage_leaves_nothing(running: Gateway, name: str) -> None:
    """After 200 connections that went wrong in every way: no connection, no open file, no session
    and no route of theirs is left."""
    seed = random.randrange(2**32)
    print("seed", seed)

    async def freed() -> bool:
        return await connections(running) == 1

    # What is opened once, such as the workers' connections to one another, is opened now.
    await asyncio.gather(*(garbage(running, name, seed - n) for n in range(40)))
    await until(freed, HANDSHAKE_SECONDS + 5, "everything is freed")
    files = await unchanging(lambda: open_files(running))
    for batch in range(10):
        await asyncio.gather(*(garbage(running, name, seed + batch * 20 + n) for n in range(20)))

    async def as_before() -> bool:
        return await freed() and open_files(running) <= files

    await until(as_before, HANDSHAKE_SECONDS + 5, "everything is freed")
    async with running.redis() as redis:

        async def free() -> bool:
            return not await redis.keys(f"session:*{name}*") and not await redis.keys("route:acme*")

        await until(free, what="sessions and routes are free")
    for number in range(20):
        await (await running.user("acme", "bot", f"{name}-{number}")).close()


async def test_who_leaves_during_the_handshake_leaves_nothing(running: Gateway, name: str) -> None:
    """100 clients of one identity that go away right after asking: the next one gets in."""
    for number in range(100):
        wire = await Wire.connect(running.host.http_port)
        wire.send(request_head(running, name))
        if number % 2:
            await asyncio.sleep(number / 20_000)
        wire.writer.transport.abort()
    tab = await running.user("acme", "bot", name)
    await tab.close()
    async with running.redis() as redis:

        async def free() -> bool:
            return not await redis.exists(f"session:acme:bot:{name}")

        await until(free, what="the session is free")


# Secrets


async def test_no_secret_leaves_the_process(running: Gateway, name: str) -> None:
    """Keys and tokens are in no log line, metric and command line, wherever they were presented."""
    keys = running.keys
    token = keys.user_token("acme", "bot", name)
    admin = keys.admin_token(name)
    port = running.host.http_port
    await (await running.user_by(token)).close()
    for who in (token, admin, token[:-4], "§" + token):
        for target in (
            f"/ws/acme/bot?token={who}&x-api-key={keys.secret_token}",
            f"/ws/admin?token={who}&x-api-key={keys.admin_secret_token}",
            f"/ws/{who}/{keys.secret_token}",
            f"/{keys.secret_token}?token={who}",
            f"/ws/acme/bot/{who}",
        ):
            wire = await Wire.connect(port)
            async with wire:
                lines = {**UPGRADE, **user_headers(keys, who), "X-Request-ID": who}
                lines["Sec-WebSocket-Protocol"] = f"json.v1, {who}"
                text = "".join(f"{k}: {v}\r\n" for k, v in lines.items())
                wire.send(f"GET {target} HTTP/1.1\r\n{text}\r\n".encode())
                await wire.response()
    tab = await running.user("acme", "bot", name)
    tab.send({"type": "token", "payload": {"token": admin}})
    tab.send({"type": token, "payload": {"chat_id": admin}})
    tab.send({"type": "select_chat", "payload": {"chat_id": token}})
    tab.send(token.encode())
    await tab.echo()
    told = b"".join(f.data for f in tab.frames if f.kind == "error")
    metrics = "".join(await scrape(running.host))
    pids = {running.host.pid, *running.host.worker_pids()}
    command_lines = "".join(map(command_line, pids))
    for secret in (*vars(keys).values(), token, admin, token[:-4]):
        assert secret not in running.host.log_text()
        assert secret not in metrics
        assert secret not in command_lines
        assert secret.encode() not in told
