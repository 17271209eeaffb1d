"""The HTTP endpoints, against a real server on loopback and raw sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time

import pytest
from structlog.testing import capture_logs

from daisi_ws.adapters.http_request import MAX_BODY_BYTES
from daisi_ws.domain.errors import (
    InternalServerError,
    RateLimitExceeded,
    Refusal,
    SessionConflict,
    SubscriptionFailure,
)
from tests.adapters.http_support import (
    ACCEPT,
    DEADLINE,
    KEYS,
    Response,
    Wire,
    eventually,
    handshake,
    open_wire,
    serving,
    upgrade_headers,
    websocket,
)

USER = "/ws/acme/bot?token=user:acme:bot:ann"


async def ask(
    port: int,
    method: str,
    target: str,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
) -> Response:
    """Make one request on a connection of its own."""
    async with await Wire.connect(port) as wire:
        return await wire.request(method, target, headers, body)


@pytest.mark.parametrize("path", ["/health", "/ready"])
async def test_probes_answer_get_and_head(path: str) -> None:
    """Health and readiness answer GET with JSON and HEAD with the same headers and no body."""
    async with serving() as running, await Wire.connect(running.port) as wire:
        got = await wire.request("GET", path)
        head = await wire.request("HEAD", path)
        again = await wire.request("GET", path)
    assert got.status == head.status == again.status == 200
    assert got.json()["status"] in ("OK", "READY")
    assert head.headers["content-length"] == got.headers["content-length"]


async def test_not_ready_is_a_503() -> None:
    """Readiness passes the status of the probe on."""
    async with serving() as running:
        running.probes.status = 503
        response = await ask(running.port, "GET", "/ready")
    assert (response.status, response.json()["status"]) == (503, "NOT_READY")


async def test_metrics_are_exposed() -> None:
    """A scrape folds the tally in and returns the text format."""
    async with serving() as running:
        running.metrics.tally.delivered = 3
        response = await ask(running.port, "GET", "/metrics")
    assert response.status == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b'dws_messages_sent_total{type="event"} 3.0' in response.body


async def test_metrics_at_a_port_of_their_own() -> None:
    """Nothing else is found there, and they are not found elsewhere; a drain leaves them."""
    with socket.create_server(("127.0.0.1", 0)) as scrapes:
        async with serving(scrapes) as running:
            port = scrapes.getsockname()[1]
            running.server.stop_accepting()
            answers = [
                await ask(port, "GET", path) for path in ("/metrics", "/health", "/ws/admin")
            ]
        async with serving(scrapes) as running:
            public = await ask(running.port, "GET", "/metrics")
    assert [answer.status for answer in answers] == [200, 404, 404]
    assert b"dws_messages_sent_total" in answers[0].body
    assert public.status == 404


@pytest.mark.parametrize(
    ("target", "kind"), [("/generate-token", "user"), ("/admin/generate-token", "admin")]
)
async def test_tokens_are_issued_to_the_right_key(target: str, kind: str) -> None:
    """Each token endpoint wants its own key, in the header or in the query."""
    key = KEYS["user" if kind == "user" else "admin"]
    other = KEYS["admin" if kind == "user" else "user"]
    body = b'{"id":"x"}'
    async with serving() as running:
        by_header = await ask(running.port, "POST", target, {"X-API-Key": key}, body)
        by_query = await ask(running.port, "POST", f"{target}?x-api-key={key}", {}, body)
        wrong = await ask(running.port, "POST", target, {"X-API-Key": other}, body)
        missing = await ask(running.port, "POST", target, {}, body)
        strange = await ask(running.port, "POST", target, {"X-API-Key": "schlüssel"}, body)
    assert by_header.status == by_query.status == 200
    assert by_header.json() == by_query.json() == {"token": f"{kind}:x"}
    assert by_header.headers["cache-control"] == "no-store"
    for refused in (wrong, missing, strange):
        assert (refused.status, refused.json()["code"]) == (403, "InvalidAPIKey")


@pytest.mark.parametrize("body", [b"", b"{", b"[]" * 10, b"\xff"])
async def test_a_bad_token_request_is_told(body: bytes) -> None:
    """A body that is not what is wanted is a BadRequest, and the connection goes on."""
    async with serving() as running, await Wire.connect(running.port) as wire:
        headers = {"X-API-Key": KEYS["user"]}
        response = await wire.request("POST", "/generate-token", headers, body)
        assert (response.status, response.json()["code"]) == (400, "BadRequest")
        assert (await wire.request("GET", "/health")).status == 200


async def test_a_large_body_is_refused() -> None:
    """Too large by its length or while it comes: 413, whatever else is in it."""
    head = f"POST /generate-token HTTP/1.1\r\nHost: h\r\nX-API-Key: {KEYS['user']}\r\n".encode()
    size = MAX_BODY_BYTES + 1
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size)
    async with serving() as running:
        for request in (
            head + b"Content-Length: %d\r\n\r\n" % size + b"x" * size,
            head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk,
        ):
            async with await Wire.connect(running.port) as wire:
                wire.send(request)
                response = await wire.response()
                assert (response.status, response.json()["code"]) == (413, "BadRequest")
                await wire.ended()


@pytest.mark.parametrize(("body", "status"), [(b'{"id":"x"}', 200), (b"{}", 400), (b"[1]", 500)])
async def test_a_continue_is_sent_to_who_waits_for_it(body: bytes, status: int) -> None:
    """`Expect: 100-continue` gets its interim answer, and then whatever the final one is."""
    async with serving() as running, await Wire.connect(running.port) as wire:
        wire.send(
            b"POST /generate-token HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n"
            b"X-API-Key: %b\r\nContent-Length: %d\r\n\r\n" % (KEYS["user"].encode(), len(body))
        )
        assert (await wire.response()).status == 100
        wire.send(body)
        assert (await wire.response()).status == status


async def test_an_expectation_of_http_1_0_is_ignored() -> None:
    """There is no interim answer in HTTP/1.0: it would be taken for the final one."""
    async with open_wire() as (_, wire):
        wire.send(
            b"POST /generate-token HTTP/1.0\r\nHost: h\r\nExpect: 100-continue\r\n"
            b"X-API-Key: %b\r\nContent-Length: 10\r\n\r\n" % KEYS["user"].encode() + b'{"id":"u"}'
        )
        assert (await wire.response()).status == 200


async def test_other_expectations_and_encodings_are_refused() -> None:
    """No unknown expectation is met; a compressed body is not unpacked, so it is no JSON."""
    async with serving() as running:
        headers = {"X-API-Key": KEYS["user"], "Expect": "the unexpected"}
        unknown = await ask(running.port, "POST", "/generate-token", headers, b'{"id":"x"}')
        headers = {"X-API-Key": KEYS["user"], "Content-Encoding": "gzip"}
        packed = gzip.compress(b'{"id":"x"}')
        compressed = await ask(running.port, "POST", "/generate-token", headers, packed)
    assert (unknown.status, compressed.status) == (417, 400)


@pytest.mark.parametrize(
    ("method", "target", "status", "allow"),
    [
        ("GET", "/", 404, None),
        ("GET", "/nothing", 404, None),
        ("GET", "/ws/acme", 404, None),
        ("GET", "/ws/acme/bot/more", 404, None),
        ("GET", "//health", 404, None),
        ("OPTIONS", "*", 404, None),
        ("POST", "/health", 405, "GET, HEAD"),
        ("POST", "/ws/acme/bot", 405, "GET"),
        ("GET", "/generate-token", 405, "POST"),
        ("DELETE", "/admin/generate-token", 405, "POST"),
    ],
)
async def test_unknown_paths_and_methods(
    method: str, target: str, status: int, allow: str | None
) -> None:
    """What is not served is 404 or 405, in the shape of every refusal."""
    async with serving() as running:
        response = await ask(running.port, method, target)
    assert response.status == status
    assert response.json()["code"] == "BadRequest"
    assert response.headers.get("allow") == allow


@pytest.mark.parametrize(
    ("given", "kept"),
    [("a.B-9_:x", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("", False)],
)
async def test_the_request_id_is_kept_if_sane(given: str, kept: bool) -> None:
    """A sane `X-Request-ID` comes back, anything else is replaced; refusals have one too."""
    async with serving() as running:
        served = await ask(running.port, "GET", "/health", {"X-Request-ID": given})
        refused = await ask(running.port, "GET", "/nothing", {"X-Request-ID": given})
    for response in (served, refused):
        answered = response.headers["x-request-id"]
        assert (answered == given) is kept
        assert answered


@pytest.mark.parametrize(
    "raw",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: h\r\nbad header\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: h\r\nX-A: a\x00b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: h\r\nX-A: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: h\r\n" + b"X-A: a\r\n" * 500 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 64 + b"\r\n\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    ids=range(12),
)
async def test_what_is_no_http_is_answered_in_json(
    raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The HTTP parser's refusals have the shape of all others, and leave no traceback."""
    async with serving() as running:
        with capture_logs() as lines:
            async with await Wire.connect(running.port) as wire:
                wire.send(raw)
                response = await wire.response()
                await wire.ended()
    assert response.status == 400
    assert response.json()["code"] == "BadRequest"
    assert response.headers["x-request-id"]
    (line,) = lines
    assert line["event"] in ("request refused", "limit reached")
    assert not caplog.records


async def test_a_malformed_chunk_is_answered_in_json(caplog: pytest.LogCaptureFixture) -> None:
    """A body that breaks off its encoding is a 4xx, too."""
    async with serving() as running, await Wire.connect(running.port) as wire:
        wire.send(
            b"POST /generate-token HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"
            b"X-API-Key: %b\r\n\r\n" % KEYS["user"].encode()
        )
        wire.send(b"zz\r\n")
        response = await wire.response()
        assert response.status == 400
        assert response.json()["code"] == "BadRequest"
        await wire.ended()
    assert not caplog.records


@pytest.mark.parametrize("head", [b"", b"G", b"GET /health HTTP/1.1\r\nHost: h\r\nX-Half: "])
async def test_a_half_sent_request_is_closed_at_the_deadline(head: bytes) -> None:
    """Nobody holds a connection by sending nothing, or half of a request."""
    async with open_wire(server__handshake_timeout_seconds=0.3) as (_, wire):
        started = time.monotonic()
        wire.send(head)
        assert await wire.ended() == b""
        assert 0.25 < time.monotonic() - started < 1.5


async def test_a_dripped_request_is_closed_at_the_deadline() -> None:
    """The total counts: one byte now and then does not buy more time."""
    async with open_wire(server__handshake_timeout_seconds=0.5) as (_, wire):
        started = time.monotonic()
        ended = asyncio.ensure_future(wire.ended())
        for byte in handshake():
            wire.send(bytes((byte,)))
            done, _ = await asyncio.wait([ended], timeout=0.1)
            if done:
                break
        assert await ended == b""
        assert 0.45 < time.monotonic() - started < 1.5


async def test_a_dripped_body_is_answered_at_the_deadline() -> None:
    """A body has the same time, all of it together; the answer says what went wrong."""
    async with open_wire(server__handshake_timeout_seconds=0.5) as (_, wire):
        started = time.monotonic()
        wire.send(
            b"POST /generate-token HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n"
            b"X-API-Key: %b\r\n\r\n" % KEYS["user"].encode()
        )
        answered = asyncio.ensure_future(wire.response())
        while not answered.done() and time.monotonic() - started < DEADLINE:
            wire.send(b"x")
            await asyncio.wait([answered], timeout=0.1)
        response = await answered
        assert time.monotonic() - started < 1.5
        assert (response.status, response.json()["code"]) == (408, "BadRequest")
        await wire.ended(3.0)


@pytest.mark.parametrize("requests", [20, 5000])
async def test_who_does_not_read_answers_is_cut_off(requests: int) -> None:
    """Nobody holds a connection by asking and not reading, whether little or much is buffered."""
    async with serving(server__handshake_timeout_seconds=0.5) as running:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            client.connect(("127.0.0.1", running.port))
            client.setblocking(False)
            running.probes.padding = "x" * 100_000
            sending = b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n" * requests
            loop = asyncio.get_running_loop()
            sent = asyncio.ensure_future(loop.sock_sendall(client, sending))
            started = time.monotonic()
            await eventually(lambda: len(running.open_protocols()) == 1)
            await eventually(lambda: not running.open_protocols())
            assert time.monotonic() - started < 3
            sent.cancel()
            await asyncio.wait([sent])


async def test_who_does_not_read_the_last_answer_is_cut_off() -> None:
    """What is left of an answer does not keep a connection that is at its end."""
    async with serving() as running:
        running.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            client.connect(("127.0.0.1", running.port))
            running.probes.padding = "x" * 60_000
            client.sendall(b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            await eventually(lambda: len(running.open_protocols()) == 1)
            await eventually(lambda: not running.open_protocols())


async def test_who_leaves_in_the_middle_of_a_body_leaves_no_trace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A client that goes away is nobody's error."""
    async with serving() as running:
        with capture_logs() as lines:
            async with await Wire.connect(running.port) as wire:
                wire.send(
                    b"POST /generate-token HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n"
                    b"Expect: 100-continue\r\nX-API-Key: %b\r\n\r\n" % KEYS["user"].encode()
                )
                assert (await wire.response()).status == 100
            assert (await ask(running.port, "GET", "/health")).status == 200
    assert not [line for line in lines if line["log_level"] == "error"]
    assert not caplog.records


async def test_a_right_handshake_is_upgraded() -> None:
    """The 101 has the accept key of the RFC, the subprotocol that was offered, the request ID."""
    async with serving() as running, await Wire.connect(running.port) as wire:
        wire.send(handshake(Sec_WebSocket_Protocol="other, json.v1", X_Request_ID="r-1"))
        response = await wire.response()
        ready = await wire.message()
    assert response.status == 101
    assert response.headers["sec-websocket-accept"] == ACCEPT
    assert response.headers["sec-websocket-protocol"] == "json.v1"
    assert response.headers["x-request-id"] == "r-1"
    assert "sec-websocket-extensions" not in response.headers
    assert ready == {"type": "ready", "stream": "stream", "seq": 7, "connection": "c0"}
    assert running.gateway.admitted[0].request_id == "r-1"


async def test_the_subprotocol_is_not_demanded(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever offers none, or another, is served without; what was offered is not logged."""
    async with serving() as running:
        for offered in (None, "secret-token-here"):
            async with await Wire.connect(running.port) as wire:
                wire.send(handshake(Sec_WebSocket_Protocol=offered))
                response = await wire.response()
                assert response.status == 101
                assert "sec-websocket-protocol" not in response.headers
    assert "secret" not in caplog.text


async def test_an_admin_connects_by_its_own_path() -> None:
    """Admins come through the same handler, by key and token of their kind."""
    async with serving() as running:
        headers = upgrade_headers("admin", Authorization="bearer admin:root")
        async with await Wire.connect(running.port) as wire:
            response = await wire.request("GET", "/ws/admin", headers)
            assert response.status == 101
            assert (await wire.message())["type"] == "ready"
    assert running.gateway.admitted[0].principal.identity == "admin:root"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"Upgrade": None}, 426),
        ({"Upgrade": "h2c"}, 426),
        ({"Sec_WebSocket_Version": None}, 426),
        ({"Sec_WebSocket_Version": "8"}, 426),
        ({"Connection": None}, 400),
        ({"Connection": "keep-alive"}, 400),
        ({"Sec_WebSocket_Key": None}, 400),
        ({"Sec_WebSocket_Key": "short"}, 400),
        ({"Sec_WebSocket_Key": "!" * 24}, 400),
        ({"Sec_WebSocket_Key": "QUFBQQ=="}, 400),
        ({"Content_Length": "5"}, 400),
        ({"Transfer_Encoding": "chunked"}, 400),
    ],
)
async def test_a_malformed_handshake_is_refused(
    changes: dict[str, str | None], status: int
) -> None:
    """426 where another protocol is meant, 400 where the handshake is wrong; then the end."""
    async with serving() as running, await Wire.connect(running.port) as wire:
        wire.send(handshake(USER, **changes))
        response = await wire.response()
        await wire.ended()
    assert response.status == status
    assert response.json()["code"] == "BadRequest"
    assert (response.headers.get("sec-websocket-version") == "13") is (status == 426)
    assert not running.gateway.admitted


async def test_http_1_0_is_not_upgraded() -> None:
    """A WebSocket needs HTTP/1.1."""
    async with serving() as running, await Wire.connect(running.port) as wire:
        wire.send(handshake(USER).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert (await wire.response()).status == 400


async def test_nothing_behind_a_refused_handshake_is_a_request() -> None:
    """Bytes after a refused upgrade are never answered: no request is smuggled."""
    smuggled = b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n"
    async with serving() as running:
        for changes in ({"X_API_Key": "wrong"}, {"Sec_WebSocket_Key": "short"}):
            async with await Wire.connect(running.port) as wire:
                wire.send(handshake(USER, **changes) + smuggled)
                assert (await wire.response()).status in (400, 401)
                assert await wire.ended() == b""


@pytest.mark.parametrize(
    ("target", "changes", "status", "code"),
    [
        (USER, {"X_API_Key": None}, 401, "InvalidAPIKey"),
        (USER, {"X_API_Key": KEYS["admin"]}, 401, "InvalidAPIKey"),
        ("/ws/acme/bot", {}, 403, "InvalidToken"),
        ("/ws/acme/bot?token=nonsense", {}, 403, "InvalidToken"),
        ("/ws/other/bot?token=user:acme:bot:ann", {}, 403, "InvalidToken"),
        ("/ws/acme/other?token=user:acme:bot:ann", {}, 403, "InvalidToken"),
        ("/ws/acme/bot?token=admin:root", {}, 403, "InvalidToken"),
        ("/ws/a.b/bot?token=x", {}, 400, "BadRequest"),
        ("/ws/acme/*?token=x", {}, 400, "BadRequest"),
        ("/ws/acme/%3E?token=x", {}, 400, "BadRequest"),
        ("/ws/acme/a%3Ab?token=x", {}, 400, "BadRequest"),
        ("/ws/acme/a%2Fb?token=x", {}, 400, "BadRequest"),
        ("/ws/acme/%2562?token=x", {}, 400, "BadRequest"),
        ("/ws/acme/%00?token=x", {}, 400, "BadRequest"),
        ("/ws/acme/%ff?token=x", {}, 400, "BadRequest"),
        ("/ws/../bot?token=x", {}, 400, "BadRequest"),
        ("/ws//bot?token=x", {}, 400, "BadRequest"),
        (f"/ws/acme/{'a' * 129}?token=x", {}, 400, "BadRequest"),
        # the order of the checks: origin, key, path, token
        ("/ws/a.b/bot", {"X_API_Key": None, "Origin": "null"}, 403, "BadRequest"),
        ("/ws/a.b/bot", {"X_API_Key": None}, 401, "InvalidAPIKey"),
    ],
)
async def test_who_may_not_is_refused_before_the_upgrade(
    target: str, changes: dict[str, str | None], status: int, code: str
) -> None:
    """Keys, path ids and tokens are refused by the contract's codes, before any work."""
    async with serving() as running, await Wire.connect(running.port) as wire:
        wire.send(handshake(target, **changes))
        response = await wire.response()
        await wire.ended()
    assert (response.status, response.json()["code"]) == (status, code)
    assert not running.gateway.admitting.is_set()


async def test_path_ids_are_decoded_once() -> None:
    """Ids of the alphabet may come percent-encoded."""
    async with serving() as running, await Wire.connect(running.port) as wire:
        wire.send(handshake("/ws/a%40b/x+%3D?token=user:a@b:x%2B%3D:ann"))
        assert (await wire.response()).status == 101


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (SessionConflict("held elsewhere"), 409),
        (RateLimitExceeded("too many"), 429),
        (SubscriptionFailure("no answer"), 500),
        (InternalServerError("Redis is away"), 500),
    ],
)
async def test_refusals_of_the_admission_are_told(refusal: Refusal, status: int) -> None:
    """What the admission refuses is answered by its code, without an upgrade."""
    async with serving() as running:
        running.gateway.refusal = refusal
        response = await ask(running.port, "GET", USER, upgrade_headers())
    assert response.status == status
    assert response.json() == {"code": refusal.code, "message": refusal.message}
    assert ("retry-after" in response.headers) is (status == 429)


async def test_a_fault_of_ours_is_a_500_without_details() -> None:
    """An unexpected error is logged with its traceback and told without."""
    async with serving() as running:
        running.gateway.refusal = RuntimeError("inner workings")
        with capture_logs() as lines:
            response = await ask(running.port, "GET", USER, upgrade_headers())
        running.gateway.refusal = None
        async with websocket(running.port):
            pass
    assert response.status == 500
    assert response.json()["code"] == "InternalServerError"
    assert b"inner" not in response.body
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["request failed"]


async def test_a_draining_server_sends_newcomers_away() -> None:
    """New handshakes get 503 with Retry-After and the end of the connection; probes go on."""
    async with serving() as running:
        running.gateway.is_accepting = False
        response = await ask(running.port, "GET", USER, upgrade_headers())
        assert (await ask(running.port, "GET", "/health")).status == 200
    assert (response.status, response.json()["code"]) == (503, "InternalServerError")
    assert response.headers["retry-after"] == "1"
    assert response.headers["connection"].lower() == "close"


APP = "https://app.example.com"


@pytest.mark.parametrize(
    ("allowed", "origin", "host", "admitted"),
    [
        ((), None, "gateway.example", True),
        ((), "http://gateway.example", "gateway.example", True),
        ((), "https://gateway.example", "gateway.example", True),
        ((), "https://gateway.example", "gateway.example:443", True),
        ((), "http://gateway.example:8080", "Gateway.Example:8080", True),
        ((), "http://gateway.example:8080", "gateway.example", False),
        ((), "http://gateway.example:443", "gateway.example", False),
        ((), "https://other.example", "gateway.example", False),
        ((), "https://gateway.example.evil", "gateway.example", False),
        ((), "https://evil-gateway.example", "gateway.example", False),
        ((), "https://user@gateway.example", "gateway.example", False),
        ((), "https://gateway.example/", "gateway.example", False),
        ((), "gateway.example", "gateway.example", False),
        ((), "null", "null", False),
        ((), "", "gateway.example", False),
        ((APP,), APP, "gateway.example", True),
        ((APP,), None, "gateway.example", True),
        ((APP,), "https://gateway.example", "gateway.example", False),
        ((APP,), "http://app.example.com", "gateway.example", False),
        ((APP,), "https://app.example.com:8443", "gateway.example", False),
        ((APP,), "https://app.example.com.evil", "gateway.example", False),
        ((APP,), "https://APP.example.com", "gateway.example", False),
        ((APP,), "https://app.example.com, https://evil.example", "gateway.example", False),
        ((APP,), "null", "gateway.example", False),
        (("*",), "null", "gateway.example", True),
        (("*",), "https://other.example", "gateway.example", True),
    ],
)
async def test_origins(
    allowed: tuple[str, ...], origin: str | None, host: str, admitted: bool
) -> None:
    """Only pages of the allow-list, or of the same host where there is none, may connect."""
    async with open_wire(server__allowed_origins=allowed) as (running, wire):
        wire.send(handshake(USER, Origin=origin, Host=host))
        response = await wire.response()
    if admitted:
        assert response.status == 101
    else:
        assert (response.status, response.json()["code"]) == (403, "BadRequest")
        assert response.json()["message"] == "origin not allowed"
        assert not running.gateway.admitting.is_set()


async def test_two_origins_are_none() -> None:
    """A request that names two origins is refused, whatever they are."""
    async with open_wire(server__allowed_origins=(APP,)) as (_, wire):
        double = f"Origin: {APP}\r\nOrigin: {APP}\r\n\r\n".encode()
        wire.send(handshake(USER).removesuffix(b"\r\n") + double)
        assert (await wire.response()).status in (400, 403)


async def test_another_process_accepts_what_waits_at_the_listening_socket() -> None:
    """After `stop_accepting` a newcomer waits for the successor; who is connected stays."""
    async with serving() as running, websocket(running.port, "old") as old:
        with running.listener.dup() as duplicate:
            running.server.stop_accepting()
            async with await Wire.connect(running.port) as newcomer:
                newcomer.send(handshake("/ws/acme/bot?token=user:acme:bot:new"))
                assert len(running.gateway.admitted) == 1
                successor = running.make_server()
                await successor.start(duplicate)
                assert (await newcomer.response()).status == 101
                old.send(b"\x89\x80\x00\x00\x00\x00")
                assert (await old.next_frame())[0] == 0xA
            await successor.close()


async def test_a_handshake_on_its_way_survives_the_end_of_accepting() -> None:
    """Who was accepted before is served, and then told not to reuse the connection."""
    async with serving() as running, await Wire.connect(running.port) as wire:
        assert (await wire.request("GET", "/health")).status == 200
        running.gateway.may_admit.clear()
        wire.send(handshake(USER))
        async with asyncio.timeout(DEADLINE):
            await running.gateway.admitting.wait()
        async with await Wire.connect(running.port) as other:
            assert (await other.request("GET", "/health")).status == 200
            running.server.stop_accepting()
            last = await other.request("GET", "/health")
            assert last.headers["connection"].lower() == "close"
        running.gateway.may_admit.set()
        assert (await wire.response()).status == 101


async def test_who_has_not_sent_a_request_yet_is_counted() -> None:
    """From the accepted connection to its first whole request; a drain waits for it a moment."""
    async with serving() as running:
        assert running.server.handshakes() == 0
        async with await Wire.connect(running.port) as wire:
            wire.send(b"GET /health HTTP/1.1\r\n")
            async with asyncio.timeout(DEADLINE):
                while running.server.handshakes() != 1:
                    await asyncio.sleep(0.005)
            running.server.stop_accepting()
            wire.send(b"Host: x\r\n\r\n")
            assert (await wire.response()).status == 200
            assert running.server.handshakes() == 0


async def test_the_listening_socket_stays_the_callers() -> None:
    """Neither start nor close takes the caller's socket away."""
    async with serving() as running:
        await running.server.close()
        assert running.listener.fileno() >= 0
        with socket.create_connection(("127.0.0.1", running.port), timeout=DEADLINE):
            accepted, _ = running.listener.accept()
            accepted.close()


async def test_no_secret_is_logged() -> None:
    """Keys and tokens of served and refused requests are in no log line."""
    async with serving() as running:
        with capture_logs() as lines:
            async with websocket(running.port):
                pass
            await running.gateway.next_left()
            await ask(running.port, "GET", f"{USER}&x-api-key=wrong-key", {})
            await ask(running.port, "GET", "/ws/acme/bot?token=secret-token", upgrade_headers())
            headers = {"X-API-Key": "another-wrong-key", "Authorization": "Bearer secret-token"}
            await ask(running.port, "POST", "/generate-token", headers)
            async with await Wire.connect(running.port) as wire:
                wire.send(b"GET /ws/acme/bot?token=secret-token HTTP/1.1\r\nbad header\r\n\r\n")
                await wire.response()
    text = json.dumps(lines)
    assert {line["event"] for line in lines} >= {"request refused", "connection ended"}
    for secret in ("user:acme:bot:ann", "secret-token", "wrong-key", *KEYS.values()):
        assert secret not in text


async def test_refusals_cannot_flood_the_log() -> None:
    """Beyond a burst, refusals are only counted; the next line says how many there were."""
    async with serving() as running, await Wire.connect(running.port) as wire:
        with capture_logs() as lines:
            for _ in range(200):
                assert (await wire.request("GET", "/nothing")).status == 404
    assert 50 <= len(lines) < 150
