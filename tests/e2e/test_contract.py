"""The wire contract, word by word, as a client sees it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import json
import re
import time
from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import quote

import pytest

from daisi_ws.adapters.token_codec_aesgcm import AesGcmTokenCodec
from tests.adapters.http_support import Response
from tests.e2e.tabs import (
    Gateway,
    NotUpgraded,
    Tab,
    admin_headers,
    answer,
    handshake,
    refusal,
    scrape,
    stored,
    until,
    user_headers,
)

WARNING_SECONDS = 2

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

ENVIRONMENT = {"DAISI_WS_APP_TOKEN_EXPIRY_WARNING_SECONDS": str(WARNING_SECONDS)}


def told(response: Response) -> tuple[int, str]:
    """Return status and code of a refusal, which must have the contract's shape."""
    body = response.json()
    assert body.keys() - {"details"} == {"code", "message"}
    assert isinstance(body["message"], str)
    assert body["message"]
    assert "x-request-id" in response.headers
    return response.status, str(body["code"])


# Endpoints


async def test_websocket_refusals(running: Gateway, name: str) -> None:
    """Each refusal before the upgrade has the contract's status, code and JSON."""
    keys, port = running.keys, running.host.http_port
    good = keys.user_token("acme", "bot", name)
    root = keys.admin_token(name)
    user_cases = [
        ({}, "/ws/acme/bot", (401, "InvalidAPIKey")),
        ({"X-API-Key": "wrong"}, "/ws/acme/bot", (401, "InvalidAPIKey")),
        ({"X-API-Key": keys.secret_token}, "/ws/acme/bot", (403, "InvalidToken")),
        (user_headers(keys, "nonsense"), "/ws/acme/bot", (403, "InvalidToken")),
        (user_headers(keys, good[:-8]), "/ws/acme/bot", (403, "InvalidToken")),
        (user_headers(keys, good[::-1]), "/ws/acme/bot", (403, "InvalidToken")),
        (user_headers(keys, good + "AAAA"), "/ws/acme/bot", (403, "InvalidToken")),
        (user_headers(keys, root), "/ws/acme/bot", (403, "InvalidToken")),
        (
            user_headers(keys, keys.user_token("acme", "bot", name, -1)),
            "/ws/acme/bot",
            (403, "InvalidToken"),
        ),
        (user_headers(keys, good), "/ws/acme/other", (403, "InvalidToken")),
        (user_headers(keys, good), "/ws/umbrella/bot", (403, "InvalidToken")),
        (user_headers(keys, good), "/ws/ac.me/bot", (400, "BadRequest")),
    ]
    admin_cases = [
        ({}, "/ws/admin", (401, "InvalidAPIKey")),
        ({"X-API-Key": keys.admin_secret_token}, "/ws/admin", (403, "InvalidToken")),
        (admin_headers(keys, good), "/ws/admin", (403, "InvalidToken")),
        (admin_headers(keys, keys.admin_token(name, -1)), "/ws/admin", (403, "InvalidToken")),
        (admin_headers(keys, root[:-8]), "/ws/admin", (403, "InvalidToken")),
    ]
    for headers, path, expected in user_cases + admin_cases:
        assert told(await refusal(port, path, headers)) == expected, (path, headers)


async def test_refusals_are_counted_by_reason(running: Gateway, name: str) -> None:
    """`auth_failure_total` tells kind and reason, and has no label from a client."""
    keys, port = running.keys, running.host.http_port
    cases = {
        ("user", "missing_key"): ("/ws/acme/bot", {}),
        ("user", "wrong_key"): ("/ws/acme/bot", {"X-API-Key": "wrong"}),
        ("user", "missing"): ("/ws/acme/bot", {"X-API-Key": keys.secret_token}),
        ("user", "malformed"): ("/ws/acme/bot", user_headers(keys, "!")),
        ("user", "forged"): ("/ws/acme/bot", user_headers(keys, keys.admin_token(name))),
        ("user", "expired"): (
            "/ws/acme/bot",
            user_headers(keys, keys.user_token("acme", "bot", name, -1)),
        ),
        ("user", "wrong_path"): (
            "/ws/acme/bot",
            user_headers(keys, keys.user_token("umbrella", "bot", name)),
        ),
        ("user", "bad_content"): (
            "/ws/acme/bot",
            user_headers(keys, keys.user_token("acme", "bot", "*")),
        ),
        ("admin", "wrong_key"): ("/ws/admin", {"X-API-Key": keys.secret_token}),
        ("admin", "expired"): ("/ws/admin", admin_headers(keys, keys.admin_token(name, -1))),
    }
    before = await scrape(running.host)
    for path, headers in cases.values():
        await refusal(port, path, headers)
    after = await scrape(running.host)
    for kind, reason in cases:
        series = f'dws_auth_failure_total{{reason="{reason}",type="{kind}"}}'
        assert after[series] - before.get(series, 0) == 1, series


async def post(running: Gateway, path: str, body: object) -> Response:
    """Ask for a token with the right key."""
    keys = running.keys
    key = keys.admin_secret_token if path.startswith("/admin") else keys.secret_token
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await answer(running.host.http_port, "POST", path, {"X-API-Key": key}, data)


async def test_tokens_are_made(running: Gateway, name: str) -> None:
    """Both endpoints answer `{token}`, and the token opens its WebSocket."""
    body: dict[str, object] = {
        "company_id": "acme",
        "agent_id": "bot",
        "user_id": name,
        "expires_in_seconds": 60,
        "unknown_field": {"is": "ignored"},
    }
    response = await post(running, "/generate-token", body)
    assert response.status == 200
    assert response.json().keys() == {"token"}
    await (await running.user_by(str(response.json()["token"]))).close()
    for scope in (
        {},
        {"subscribed_company_id": "acme", "subscribed_agent_id": "bot"},
        {"company_id_restriction": "acme", "subscribed_company_id": None},
        {"company_id_restriction": "", "subscribed_company_id": "*"},
    ):
        asked = {"admin_id": name, "expires_in_seconds": 60, **scope}
        response = await post(running, "/admin/generate-token", asked)
        assert response.status == 200, response.body
        headers = admin_headers(running.keys, str(response.json()["token"]))
        await (await Tab.open(running.host.http_port, "/ws/admin", headers)).close()


BAD_LIVES: list[object] = [0, -1, 1.5, "60", True, None, [], 1e300, 10**30, 2**31 * 100]
BAD_BODIES: list[object] = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"text"',
    b"\xff\xfe",
    b"[" * 10_000,
    {},
    {"company_id": "acme", "agent_id": "bot", "user_id": "ann"},
    *(
        {"company_id": "acme", "agent_id": "bot", "user_id": "ann", "expires_in_seconds": life}
        for life in BAD_LIVES
    ),
    {"company_id": 1, "agent_id": "bot", "user_id": "ann", "expires_in_seconds": 60},
    {"company_id": "acme", "agent_id": None, "user_id": "ann", "expires_in_seconds": 60},
    {"company_id": "acme", "agent_id": "bot", "user_id": ["ann"], "expires_in_seconds": 60},
]


async def test_bad_token_requests(running: Gateway) -> None:
    """A body that is not as it should be is a 400 BadRequest with details, at both endpoints."""
    for body, path in itertools.product(BAD_BODIES, ("/generate-token", "/admin/generate-token")):
        response = await post(running, path, body)
        assert told(response) == (400, "BadRequest"), (path, body)
        assert response.json()["details"]


async def test_probes(running: Gateway) -> None:
    """`/health`, `/ready` and `/metrics` need no key; GET and HEAD."""
    port = running.host.http_port
    health = await answer(port, "GET", "/health")
    assert health.status == 200
    ready = await answer(port, "GET", "/ready")
    assert ready.status == 200
    body = ready.json()
    assert body["status"] == "READY"
    assert body["dependencies"] == dict.fromkeys(("nats", "redis", "grpc"), "connected")
    metrics = await answer(port, "GET", "/metrics")
    assert metrics.status == 200
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    for path in ("/health", "/ready", "/metrics"):
        assert (await answer(port, "HEAD", path)).body == b""


async def test_dashboards_find_their_metrics(running: Gateway, name: str) -> None:
    """The names that operators know are there after a connection, an event and a message."""
    tab = await running.user("acme", "bot", name)
    root = await running.admin(name)
    async with running.feed() as feed:
        await tab.got(await feed.put("websocket.acme.bot.chats"))
        await root.got(await feed.put("websocket.acme.bot.agents"))
    await tab.select_chat("chat-1")

    async def counted() -> bool:
        return (await scrape(running.host)).get('dws_active_connections{type="user"}', 0) >= 1

    await until(counted, what="the gauge is set")
    series = await scrape(running.host)
    families = {name.partition("{")[0] for name in series}
    assert {
        "dws_active_connections",
        "dws_connections_total",
        "dws_connection_duration_seconds_count",
        "dws_messages_sent_total",
        "dws_messages_received_total",
        "dws_auth_success_total",
        "dws_grpc_messages_received_total",
        "dws_grpc_forward_retry_attempts_total",
        "dws_grpc_forward_retry_success_total",
        "dws_grpc_forward_retry_failure_total",
        "dws_grpc_pool_connections_created_total",
        "dws_grpc_pool_size",
        "dws_grpc_circuitbreaker_tripped_total",
        "dws_session_lock_attempts_total",
        "dws_session_lock_success_total",
        "dws_websocket_buffer_capacity",
        "dws_websocket_buffer_used_count",
    } <= families
    assert name not in "".join(series)
    assert "chat-1" not in "".join(series)


# The upgrade


@pytest.mark.parametrize(
    ("offered", "selected"),
    [
        (None, None),
        ("json.v1", "json.v1"),
        ("other, json.v1", "json.v1"),
        ("JSON.V1", None),
        ("json.v2", None),
    ],
)
async def test_subprotocol(
    running: Gateway, name: str, offered: str | None, selected: str | None
) -> None:
    """`json.v1` is selected when it is offered, and not demanded."""
    headers = user_headers(running.keys, running.keys.user_token("acme", "bot", name))
    if offered is not None:
        headers["Sec-WebSocket-Protocol"] = offered
    tab = await Tab.open(running.host.http_port, "/ws/acme/bot", headers)
    assert tab.response.headers.get("sec-websocket-protocol") == selected


async def test_the_answer_to_the_upgrade(running: Gateway, name: str) -> None:
    """It accepts the key, agrees on no extension, and does not say what it is made of."""
    headers = user_headers(running.keys, running.keys.user_token("acme", "bot", name))
    headers["Sec-WebSocket-Extensions"] = "permessage-deflate; client_max_window_bits"
    tab = await Tab.open(running.host.http_port, "/ws/acme/bot", headers)
    assert tab.response.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert "sec-websocket-extensions" not in tab.response.headers
    refused = await refusal(running.host.http_port, "/ws/acme/bot")
    assert tab.response.headers["server"] == refused.headers["server"] == "daisi-ws"


async def test_request_ids(running: Gateway, name: str) -> None:
    """`X-Request-ID` is kept in every answer and in the log; one is made where it is missing."""
    keys, port = running.keys, running.host.http_port
    given = f"request-{name}.1:x_"
    headers = {"X-Request-ID": given}
    token = keys.user_token("acme", "bot", name)
    tab = await Tab.open(port, "/ws/acme/bot", {**user_headers(keys, token), **headers})
    assert tab.response.headers["x-request-id"] == given
    await tab.close()
    assert (await refusal(port, "/ws/acme/bot", headers)).headers["x-request-id"] == given
    for method, path in (("GET", "/health"), ("POST", "/generate-token"), ("GET", "/nothing")):
        assert (await answer(port, method, path, headers)).headers["x-request-id"] == given
    made = {(await answer(port, "GET", "/health")).headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3

    async def logged() -> bool:
        return given in running.host.log_text()

    await until(logged, what="the request ID is in the log")


# Messages


async def test_ready(running: Gateway, name: str) -> None:
    """`ready` comes first: position, identity of the stream, and the connection's name."""
    tab = await running.user("acme", "bot", name)
    assert tab.frames[0].kind == "ready"
    assert tab.ready.message.keys() == {"type", "stream", "seq", "connection"}
    assert str(tab.ready.message["stream"]).startswith("wa_stream")
    assert isinstance(tab.ready.seq, int)


PAYLOADS = [
    '{"event_id":"1632321:messages:msg-789","company_id":"acme","row_data":{}}',
    (
        '{"row_data":{"z":1,"a":[1.0,1.50,-0,-0.0,1e5,1E+5,1e-7,0.1e1]},"company_id":"acme",'
        '"agent_id":"bot","event_id":"numbers"}'
    ),
    (
        '{"event_id":"big","company_id":"acme","row_data":{"n":123456789012345678901234567890,'
        '"m":9007199254740993,"x":1.7976931348623157e308,"tiny":5e-324,"huge":1e400}}'
    ),
    (
        '{"event_id":"text","company_id":"acme","row_data":{"e":"\\u00e9\\/\\n\\"\\\\","raw":"é🙂",'
        '"nul":"\\u0000","pair":"\\ud83d\\ude42","sep":"\\u2028"}}'
    ),
    '{"event_id":"raw é🙂","company_id":"acme","row_data":{"é":"ñ"},"event_time":"日本"}',
    '{ "event_id" : "spaces" ,\n\t"company_id":\r\n"acme", "row_data" : { "a" : [ 1 , 2 ] }  }',
    (
        '{"event_id":"unknown","company_id":"acme","row_data":{},"extra":{"a":null},"more":[true],'
        '"payload":{"type":"event"},"type":"ready","seq":1}'
    ),
    (
        '{"event_id":"nulls","company_id":"acme","row_data":{},"agent_id":null,"message_id":null,'
        '"chat_id":null,"event_time":null}'
    ),
    '{"event_id":"twice","company_id":"acme","row_data":{"a":1,"a":2}}',
    (
        '{"event_id":"all","company_id":"acme","row_data":{"a":{"b":{"c":[]}}},"agent_id":"bot",'
        '"message_id":"m-1","chat_id":"c-1","event_time":"2026-01-01T00:00:00.123456789Z"}'
    ),
    '{"event_id":"long","company_id":"acme","row_data":{"x":"' + "y" * 100_000 + '"}}',
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
async def test_payloads_come_byte_for_byte(running: Gateway, name: str, payload: str) -> None:
    """Key order, number spelling, escapes and blanks are the publisher's; `event_type` is added."""
    tab = await running.user("acme", "bot", name)
    async with running.feed() as feed:
        seq = await feed.raw("websocket.acme.bot.chats", payload.encode())
    event = await tab.next()
    text = payload[:-1] + ',"event_type":"chat"}'
    assert event.data == b'{"type":"event","seq":%d,"payload":%b}' % (seq, text.encode())


@pytest.mark.parametrize(
    ("subject", "kind"),
    [("chats", "chat"), ("messages.c-1", "message"), ("agents", "agent")],
)
async def test_the_event_type_is_the_subjects(
    running: Gateway, name: str, subject: str, kind: str
) -> None:
    """Whatever type the publisher wrote, a client sees one `event_type`, that of the subject."""
    tab = await running.admin(name) if kind == "agent" else await running.user(user=name)
    if kind == "message":
        await tab.select_chat("c-1")
    async with running.feed() as feed:
        for given in ('"chat"', '"message"', '"agent"', '"other"', '""', "null"):
            body = f'{{"event_id":"e","event_type":{given},"company_id":"acme","row_data":{{}}}}'
            await feed.raw(f"websocket.acme.bot.{subject}", body.encode())
            event = await tab.next()
            assert event.payload["event_type"] == kind
            assert event.data.count(b"event_type") == 1
            assert list(event.payload)[:1] == ["event_id"]


async def test_events_come_in_stream_order(running: Gateway, name: str) -> None:
    """`seq` is the stream's, and only grows."""
    tab = await running.user("acme", "bot", name)
    async with running.feed() as feed:
        sent = [await feed.put("websocket.acme.bot.chats") for _ in range(50)]
        await tab.got(sent[-1])
    assert tab.ids == sent
    seqs = [event.seq for event in tab.events]
    assert seqs == sorted(set(seqs), key=lambda seq: seq or 0)


async def test_one_chat_is_selected_at_a_time(running: Gateway, name: str) -> None:
    """Before a selection no thread comes; selecting another leaves the first; chats come always."""
    tab = await running.user("acme", "bot", name)
    async with running.feed() as feed:
        expected = []
        for chat in (None, "one", "two", "two", "one"):
            if chat is not None:
                await tab.select_chat(chat)
            for other in ("one", "two"):
                event = await feed.put(f"websocket.acme.bot.messages.{other}")
                expected += [event] if other == chat else []
            expected.append(await feed.put("websocket.acme.bot.chats"))
            await tab.got(expected[-1])
    assert tab.ids == expected


BAD_MESSAGES = [
    b"",
    b" ",
    b"not json",
    b"{",
    b"[]",
    b"null",
    b"1",
    b'"select_chat"',
    b"{}",
    b'{"type":null}',
    b'{"type":1}',
    b'{"type":"unknown"}',
    b'{"type":"ready"}',
    b'{"type":"event","payload":{}}',
    b'{"type":"SELECT_CHAT","payload":{"chat_id":"c"}}',
    b'{"type":"select_chat"}',
    b'{"type":"select_chat","payload":null}',
    b'{"type":"select_chat","payload":[]}',
    b'{"type":"select_chat","payload":"c"}',
    b'{"type":"select_chat","payload":{}}',
    b'{"type":"select_chat","payload":{"chat_id":null}}',
    b'{"type":"select_chat","payload":{"chat_id":1}}',
    b'{"type":"select_chat","payload":{"chat_id":["c"]}}',
    b'{"type":"select_chat","payload":{"chat_id":""}}',
    b'{"type":"select_chat","payload":{"chat_id":"a.b"}}',
    b'{"type":"select_chat","payload":{"chat_id":"c"}}{}',
    b'{"type":"select_chat","payload":{"chat_id":"c"},}',
    b'{"type":"select_chat","payload":{"chat_id":NaN}}',
    b"[" * 60_000,
    b'{"type":"select_chat","payload":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    b'{"type":"' + b"x" * 60_000 + b'"}',
    '{"type":"é🙂"}'.encode(),
    b'{"type":"token"}',
    b'{"type":"token","payload":{"token":7}}',
    b'{"type":"select_chat","id":[],"payload":{"chat_id":"c"}}',
    b'{"type":"select_chat","id":{"a":1},"payload":{"chat_id":"c"}}',
]


async def test_bad_messages_are_answered(running: Gateway, name: str) -> None:
    """Each with one `error` frame, `BadRequest`; the connection stays and works."""
    tab = await running.user("acme", "bot", name)
    for message in BAD_MESSAGES:
        tab.send(message)
        error = await tab.next("error")
        assert error.message.keys() - {"id"} == {"type", "payload"}
        assert error.payload.keys() - {"details"} == {"code", "message"}
        assert error.payload["code"] == "BadRequest", message[:80]
        assert len(error.data) < 1000
    await tab.select_chat("c")
    assert sum(f.kind == "error" for f in tab.frames) == len(BAD_MESSAGES)


async def test_unknown_fields_are_ignored(running: Gateway, name: str) -> None:
    """Fields, query parameters and headers that nobody knows break nothing."""
    headers = user_headers(running.keys, running.keys.user_token("acme", "bot", name))
    target = "/ws/acme/bot?v=2&last_seq_x=1&a=b&a=c"
    tab = await Tab.open(running.host.http_port, target, {**headers, "X-Unknown": "1"})
    tab.send(
        b'{"x":[1,{"y":2}],"payload":{"extra":null,"chat_id":"c-1","more":{}},"id":"7",'
        b'"type":"select_chat","z":1}'
    )
    assert (await tab.next("done")).message["id"] == "7"


async def test_an_answer_names_its_question(running: Gateway, name: str) -> None:
    """`done` and `error` to a message with an `id` carry it, as text or as number."""
    tab = await running.user("acme", "bot", name)
    for given in ("text", 7, 0, "", -1, 2**53):
        tab.send({"type": "select_chat", "id": given, "payload": {"chat_id": "c"}})
        assert (await tab.next("done")).message["id"] == given
    tab.send({"type": "select_chat", "payload": {"chat_id": "d"}})
    tab.send({"type": "select_chat", "id": "after", "payload": {"chat_id": "d"}})
    assert (await tab.next("done")).message["id"] == "after"


# Redis


async def test_routes_are_in_redis_while_somebody_looks(running: Gateway, name: str) -> None:
    """The contract's keys hold the pod's ID with a TTL, and are gone with the last connection."""
    company = f"company-{name}"
    chats, thread = f"route:{company}:bot:chats", f"route:{company}:bot:messages:c-1"
    async with running.redis() as redis:
        tabs = [await running.user(company, "bot", f"{name}-{n}") for n in range(6)]
        for tab in tabs:
            await tab.select_chat("c-1")
        pods = {
            str(await redis.get(f"session:{company}:bot:{name}-{n}")).partition("#")[0]
            for n in range(6)
        }
        for key, longest in ((chats, 300), (thread, 900)):
            assert await redis.smembers(key) == pods
            assert 0 < await redis.ttl(key) <= longest
        for tab in tabs:
            tab.send({"type": "select_chat", "payload": {"chat_id": "c-2"}})

        async def left() -> bool:
            return not await redis.exists(thread)

        await until(left, what="the thread's route is gone")
        for tab in tabs:
            await tab.close()

        async def all_gone() -> bool:
            return not [
                *await redis.keys(f"route:*{company}*"),
                *await redis.keys(f"session:*{company}*"),
            ]

        await until(all_gone, what="nothing of the company is left")


async def test_tokens_are_cached_with_a_mac(running: Gateway, name: str) -> None:
    """Under the digest of the raw token, with TTLs as configured, never past the expiry."""
    keys = running.keys
    cases = [
        (keys.user_token("acme", "bot", name), "user", 30),
        (keys.user_token("acme", "bot", name, 9), "user", 9),
        (keys.admin_token(name), "admin", 60),
        (keys.admin_token(name, 9), "admin", 9),
    ]
    async with running.redis() as redis:
        for token, kind, longest in cases:
            digest = hashlib.sha256(token.encode()).hexdigest()
            key = f"token_cache:admin_{digest}" if kind == "admin" else f"token_cache:{digest}"
            await (await connect_by(running, kind, token)).close()
            entry = json.loads(await stored(redis, key))
            assert 0 < await redis.pttl(key) <= longest * 1000
            assert re.fullmatch("[0-9a-f]{64}", entry.pop("mac"))
            assert entry.keys() == (
                {"admin_id", "expires_at"}
                if kind == "admin"
                else {"company_id", "agent_id", "user_id", "expires_at"}
            )


async def connect_by(running: Gateway, kind: str, token: str) -> Tab:
    """Connect with a token of either kind."""
    if kind == "user":
        return await running.user_by(token)
    headers = admin_headers(running.keys, token)
    return await Tab.open(running.host.http_port, "/ws/admin", headers)


async def test_poisoned_cache_entries_are_ignored(running: Gateway, name: str) -> None:
    """Who can write Redis can neither mint nor prolong nor change an identity."""
    keys = running.keys
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    other = keys.user_token("umbrella", "bot", name)
    await (await running.user_by(other, "umbrella")).close()
    async with running.redis() as redis:
        genuine = json.loads(await stored(redis, cache_key(other)))
        minted = {"company_id": "acme", "agent_id": "bot", "user_id": name, "expires_at": later}
        guess = hmac.new(b"", json.dumps(minted).encode(), hashlib.sha256).hexdigest()
        entries: list[bytes] = [
            json.dumps(minted).encode(),
            json.dumps({**minted, "mac": ""}).encode(),
            json.dumps({**minted, "mac": None}).encode(),
            json.dumps({**minted, "mac": ["x"]}).encode(),
            json.dumps({**minted, "mac": guess}).encode(),
            json.dumps({**minted, "mac": genuine["mac"]}).encode(),
            json.dumps({**genuine, "company_id": "acme"}).encode(),
            json.dumps(genuine).encode(),
            b"",
            b"null",
            b"[]",
            b"{",
            b"\xff\xfe",
            b'{"mac":"\\ud800"}',
            b"[" * 100_000,
            b'{"mac":"' + b"a" * 1_000_000 + b'"}',
        ]
        for entry in entries:
            # What only Redis vouches for: expired, of another path, made with another key.
            forged = AesGcmTokenCodec("00" * 32).encode(minted)
            for token in (
                forged,
                keys.user_token("acme", "bot", name, -5),
                keys.user_token("umbrella", "bot", name),
            ):
                await redis.set(cache_key(token), entry, ex=60)
                with pytest.raises(NotUpgraded) as refused:
                    await running.user_by(token)
                assert told(refused.value.response) == (403, "InvalidToken")
            # A good token is good whatever stands in the cache.
            good = keys.user_token("acme", "bot", name)
            await redis.set(cache_key(good), entry, ex=60)
            await (await running.user_by(good)).close()
        # A list where a text should be is an error of Redis; the token is good all the same.
        good = keys.user_token("acme", "bot", name)
        await redis.lpush(cache_key(good), "x")
        await (await running.user_by(good)).close()


def cache_key(token: str) -> str:
    """Return the key of a user's cached token."""
    return f"token_cache:{hashlib.sha256(token.encode()).hexdigest()}"


# Tokens


def spelled(moment: datetime, offset: int, fraction: str) -> str:
    """Write a moment in RFC 3339 at an offset in minutes, with this fraction of a second."""
    local = moment.astimezone(timezone(timedelta(minutes=offset)))
    return f"{local:%Y-%m-%dT%H:%M:%S}{fraction}{local:%z}"[:-2] + ":" + f"{local:%z}"[-2:]


@pytest.mark.parametrize("fraction", ["", ".5", ".123456", ".123456789"])
@pytest.mark.parametrize("offset", [0, 330, -720, 840])
async def test_expiry_in_any_spelling(
    running: Gateway, name: str, offset: int, fraction: str
) -> None:
    """Nanoseconds and offsets are understood: an hour ahead is good, an hour ago is expired."""
    codec = AesGcmTokenCodec(running.keys.token_aes_key)
    content = {"company_id": "acme", "agent_id": "bot", "user_id": name}
    hour = timedelta(hours=1)
    now = datetime.now(UTC)
    good = codec.encode({**content, "expires_at": spelled(now + hour, offset, fraction)})
    past = codec.encode({**content, "expires_at": spelled(now - hour, offset, fraction)})
    await (await running.user_by(good)).close()
    with pytest.raises(NotUpgraded):
        await running.user_by(past)


@pytest.mark.parametrize(
    "expires_at",
    [
        "",
        "tomorrow",
        "2999-01-01",
        "2999-01-01T00:00:00",
        "2999-13-01T00:00:00Z",
        "2999-01-01T24:00:00Z",
        "2999-01-01T00:00:00+0100",
        "2999-01-01T00:00:00.1234567890Z",
        "٢٩٩٩-01-01T00:00:00Z",
        32503680000,
        None,
    ],
)
async def test_no_expiry_no_token(running: Gateway, name: str, expires_at: object) -> None:
    """A time that is none makes the token invalid, however well encrypted."""
    codec = AesGcmTokenCodec(running.keys.token_aes_key)
    content = {"company_id": "acme", "agent_id": "bot", "user_id": name}
    with pytest.raises(NotUpgraded) as refused:
        await running.user_by(codec.encode({**content, "expires_at": expires_at}))
    assert told(refused.value.response) == (403, "InvalidToken")


async def test_padding_may_be_left_out(running: Gateway) -> None:
    """Tokens of every length, padded and unpadded, in header and query."""
    for length in range(1, 5):
        token = running.keys.user_token("acme", "bot", "u" * length)
        for spelling in (token, token.rstrip("=")):
            await (await running.user_by(spelling)).close()
            target = f"/ws/acme/bot?token={quote(spelling)}"
            headers = {"X-API-Key": running.keys.secret_token}
            await (await Tab.open(running.host.http_port, target, headers)).close()


async def test_every_flipped_bit_is_noticed(running: Gateway, name: str) -> None:
    """A token with any one character changed, or cut anywhere, is refused with one message."""
    token = running.keys.user_token("acme", "bot", name).rstrip("=")
    spoiled = [token[:n] for n in range(0, len(token), 7)]
    for at in range(0, len(token), 3):
        other = "A" if token[at] != "A" else "B"
        spoiled.append(token[:at] + other + token[at + 1 :])
    messages = set()
    for text in spoiled:
        with pytest.raises(NotUpgraded) as refused:
            await running.user_by(text or "x")
        assert told(refused.value.response) == (403, "InvalidToken")
        messages.add(str(refused.value.response.json()["message"]))
    assert len(messages) == 1


def lasting(running: Gateway, kind: str, name: str, seconds: float) -> str:
    """Return a token of either kind."""
    if kind == "user":
        return running.keys.user_token("acme", "bot", name, seconds)
    return running.keys.admin_token(name, seconds)


async def test_a_token_ends_during_the_connection(running: Gateway, name: str) -> None:
    """First a warning, then close 4403 "token expired", at the time; for users and admins."""

    async def live(kind: str) -> None:
        made = time.monotonic()
        token = lasting(running, kind, name, 3)
        tab = await connect_by(running, kind, token)
        warning = await tab.next("token_expiring")
        assert warning.message.keys() == {"type", "payload"}
        assert warning.payload in ({"expires_in_seconds": 1}, {"expires_in_seconds": 2})
        assert await tab.end() == 4403
        assert tab.reason == "token expired"
        assert 3 <= tab.ended_at - made < 5
        with pytest.raises(NotUpgraded):
            await connect_by(running, kind, token)

    await asyncio.gather(live("user"), live("admin"))


async def test_a_fresh_token_prolongs_the_connection(running: Gateway, name: str) -> None:
    """Presented on the open connection, it is answered with `done` and counts from then on."""

    async def live(kind: str) -> None:
        tab = await connect_by(running, kind, lasting(running, kind, name, 3))
        await tab.next("token_expiring")
        until_second = time.monotonic() + 4
        tab.send({"type": "token", "id": 1, "payload": {"token": lasting(running, kind, name, 4)}})
        assert (await tab.next("done")).message["id"] == 1
        await tab.next("token_expiring")
        tab.send({"type": "token", "payload": {"token": lasting(running, kind, name, 3600)}})
        # Nothing tells that a connection has not ended: its second token's end is outwaited.
        await asyncio.sleep(until_second + 1.5 - time.monotonic())
        await tab.echo()

    await asyncio.gather(live("user"), live("admin"))


# Without Redis


async def test_nobody_gets_in_without_redis(running: Gateway, name: str) -> None:
    """A 500 InternalServerError within seconds and NOT_READY; who is connected stays."""
    port = running.host.http_port
    tab = await running.user("acme", "bot", name)
    headers = user_headers(running.keys, running.keys.user_token("acme", "bot", f"{name}-b"))
    async with running.feed() as feed:
        # The first event of all makes a reader, for which Redis is needed.
        await tab.got(await feed.put("websocket.acme.bot.chats"))
    running.servers.redis.pause()
    try:
        response = await refusal(port, "/ws/acme/bot", headers)
        assert told(response) == (500, "InternalServerError")

        async def not_ready() -> bool:
            ready = await answer(port, "GET", "/ready")
            dependencies = ready.json()["dependencies"]
            assert isinstance(dependencies, dict)
            return ready.status == 503 and dependencies["redis"] == "disconnected"

        await until(not_ready, what="NOT_READY")
        assert (await answer(port, "GET", "/health")).status == 200
        async with running.feed() as feed:
            await tab.got(await feed.put("websocket.acme.bot.chats"))
    finally:
        running.servers.redis.resume()
    await running.host.wait_ready()
    await tab.echo()
    wire, response = await handshake(port, "/ws/acme/bot", headers)
    async with wire:
        assert response.status == 101
