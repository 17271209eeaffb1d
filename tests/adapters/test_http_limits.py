"""Limits for the open internet, over real sockets: refused by the contract's code, counted, told.

The rates are so low that no time in which a test may stand still brings another token.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import replace

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from daisi_ws.adapters.http_answers import Rejection
from daisi_ws.adapters.http_limits import Limits
from daisi_ws.adapters.http_protocol import HttpSettings
from daisi_ws.config import testing_config
from daisi_ws.domain import principal
from daisi_ws.domain.census import Census
from daisi_ws.metrics import LIMITS, Metrics
from tests.adapters.http_support import (
    CLOSE,
    TEXT,
    Response,
    Serving,
    Wire,
    eventually,
    frame,
    handshake,
    open_websocket,
    serving,
    websocket,
)

SLOW = 0.001
"""A token in 1000 seconds."""


async def connect(running: Serving, user: str = "ann", **headers: str) -> Response:
    """Try to open a WebSocket; it ends with the test's block."""
    async with await Wire.connect(running.port) as wire:
        wire.send(handshake(f"/ws/acme/bot?token=user:acme:bot:{user}", **headers))
        return await wire.response()


def limited(running: Serving, limit: str) -> float:
    """Return how often a limit was met."""
    return running.count("dws_limited_total", limit=limit)


def told(lines: list[EventDict], limit: str) -> list[EventDict]:
    """Return the log lines about a limit; nothing else was said of it."""
    assert not [line for line in lines if line["event"] == "request refused"]
    return [line for line in lines if line["event"] == "limit reached" and line["limit"] == limit]


def check_refused(response: Response, message: str) -> None:
    """Demand the contract's answer."""
    assert response.status == 429
    assert response.json()["code"] == "RateLimitExceeded"
    assert response.json()["message"] == message
    assert int(response.headers["retry-after"]) >= 1
    assert response.headers["connection"].lower() == "close"


async def test_connections_of_a_worker() -> None:
    """With all places taken a newcomer is refused; who leaves gives a place back."""
    async with serving(limits__connections_per_worker=2) as running:
        with capture_logs() as lines:
            async with websocket(running.port, "ann"), websocket(running.port, "ben"):
                for user in ("cem", "dan", "eve"):
                    check_refused(await connect(running, user), "too many clients here")
                assert limited(running, "connections_worker") == 3
                assert len(running.gateway.admitted) == 2
                async with await Wire.connect(running.port) as probe:
                    assert (await probe.request("GET", "/health")).status == 200
            await running.gateway.next_left()
            await running.gateway.next_left()
        async with websocket(running.port, "cem"), websocket(running.port, "dan"):
            pass
    (line,) = told(lines, "connections_worker")
    assert line["remote"] == "127.0.0.1"


async def test_who_is_not_admitted_takes_no_place() -> None:
    """A place is given back by refusals, by faults of ours, and by who leaves meanwhile."""
    async with serving(limits__connections_per_worker=1) as running:
        for fault in (RuntimeError("fault"), None):
            running.gateway.refusal = fault
            running.gateway.may_admit.clear()
            async with await Wire.connect(running.port) as wire:
                wire.send(handshake())
                await running.gateway.admitting.wait()
                if fault is not None:
                    running.gateway.may_admit.set()
                    assert (await wire.response()).status == 500
            if fault is None:
                await running.gateway.cancelled.wait()
            running.gateway.admitting.clear()
        running.gateway.may_admit.set()
        async with websocket(running.port):
            assert limited(running, "connections_worker") == 0


def test_connections_of_a_host() -> None:
    """The places of the host are counted over its workers."""
    numbers, metrics = [2, 0], Metrics()
    given = settings(limits__connections_per_host=3)
    limits = Limits(lambda: given, metrics, Census(numbers, 1))
    limits.enter("here")
    with pytest.raises(Rejection, match="too many clients here"):
        limits.enter("here")
    numbers[0] = 0
    limits.enter("here")
    assert numbers == [0, 2]
    limits.leave()
    assert numbers == [0, 1]


async def test_accepts() -> None:
    """TCP connections over the rate get 429 for what costs, and probes are served."""
    async with serving(limits__accepts_per_second=SLOW, limits__accept_burst=2) as running:
        with capture_logs() as lines:
            assert (await connect(running, "ann")).status == 101
            assert (await connect(running, "ben")).status == 101
            check_refused(await connect(running, "cem"), "too many connections at a time")
            async with await Wire.connect(running.port) as wire:
                assert (await wire.request("GET", "/ready")).status == 200
                refused = await wire.request("POST", "/generate-token", {}, b"{}")
            check_refused(refused, "too many connections at a time")
        assert limited(running, "accepts") == 2
        assert len(told(lines, "accepts")) == 1
        running.settings = settings()
        assert (await connect(running, "ann")).status == 101


async def test_handshakes_of_an_address() -> None:
    """Each address has its own rate, whatever it presents; IPv6 counts by its /64."""
    async with serving(
        limits__address_handshakes_per_second=SLOW,
        limits__address_handshake_burst=2,
        server__trusted_proxies=("127.0.0.1",),
    ) as running:
        with capture_logs() as lines:
            for address, other in (
                ("203.0.113.9", "203.0.113.9"),
                ("198.51.100.1", "198.51.100.1"),
                ("2001:db8:0:1::5", "2001:db8:0:1:a:b:c:d"),
                ("2001:db8:0:2::5", "2001:db8:0:2:a:b:c:d"),
            ):
                assert (await connect(running, X_Forwarded_For=address)).status == 101
                wrong = await connect(running, X_Forwarded_For=address, X_API_Key="wrong")
                assert wrong.status == 401
                check_refused(
                    await connect(running, X_Forwarded_For=other),
                    "too many connections from your address",
                )
        assert limited(running, "address") == 4
        lines = [line for line in lines if line["event"] == "limit reached"]
        assert [line["remote"] for line in lines] == ["203.0.113.9"]


async def test_handshakes_of_an_identity() -> None:
    """Each user has its own rate, wherever it comes from; a wrong token is nobody's."""
    async with serving(
        limits__identity_handshakes_per_second=SLOW, limits__identity_handshake_burst=2
    ) as running:
        with capture_logs() as lines:
            for user in ("ann", "ben"):
                for status in (101, 101, 429):
                    response = await connect(running, user)
                    assert response.status == status
                check_refused(response, "too many connections of this identity")
            assert (await connect(running, "cem", X_API_Key="wrong")).status == 401
        assert limited(running, "identity") == 2
        (line,) = [line for line in lines if line["event"] == "limit reached"]
        assert line["identity"] == "acme:bot:ann"


def select(number: int) -> bytes:
    """Return a frame that selects a chat."""
    message = {"type": "select_chat", "id": number, "payload": {"chat_id": f"chat-{number}"}}
    return frame(TEXT, json.dumps(message).encode())


async def test_chats() -> None:
    """Chats over the rate are not selected, and told; far over it the connection ends."""
    async with open_websocket(
        limits__chats_per_second=SLOW,
        limits__chat_burst=3,
        server__max_messages_per_second=1000,
        server__message_burst=1000,
    ) as (running, wire):
        with capture_logs() as lines:
            wire.send(b"".join(select(number) for number in range(5)))
            error = await wire.message()
        assert running.gateway.messages.qsize() == 3
        payload = error["payload"]
        assert isinstance(payload, dict)
        assert (payload["code"], payload["message"]) == ("RateLimitExceeded", "too many chats")
        assert limited(running, "chats") == 2
        assert len(told(lines, "chats")) == 1
        wire.send(b"".join(select(number) for number in range(40)))
        assert await wire.close_code() == 4429
        assert running.gateway.messages.qsize() == 3


async def test_messages() -> None:
    """Messages over the rate are counted by the limit, too, and told once."""
    async with open_websocket(server__max_messages_per_second=SLOW, server__message_burst=2) as (
        running,
        wire,
    ):
        with capture_logs() as lines:
            wire.send(b"".join(select(number) for number in range(4)))
            assert await wire.error_code() == "RateLimitExceeded"
            await eventually(lambda: limited(running, "messages") == 2)
        assert len(told(lines, "messages")) == 1
        assert running.count("dws_messages_received_total", kind="over_limit") == 2


async def test_without_a_limit_nothing_is_counted() -> None:
    """0 switches a limit off: messages and chats at any rate, and of any size."""
    async with open_websocket(
        server__max_messages_per_second=0, server__message_burst=1, server__max_message_bytes=0
    ) as (running, wire):
        wire.send(b"".join(select(number) for number in range(3000)))
        wire.send(frame(TEXT, b"x" * 5_000_000))
        assert await wire.error_code() == "BadRequest"
        assert running.gateway.messages.qsize() == 3000
        assert not any(limited(running, limit) for limit in LIMITS)


async def test_sizes() -> None:
    """A message and a header over their sizes end as ever, and are counted."""
    async with open_websocket(server__max_message_bytes=1000) as (running, wire):
        with capture_logs() as lines:
            wire.send(frame(TEXT, b"x" * 1001))
            opcode, payload = await wire.next_frame()
            assert (opcode, int.from_bytes(payload[:2], "big")) == (CLOSE, 1009)
            async with await Wire.connect(running.port) as other:
                other.send(b"GET /health HTTP/1.1\r\nHost: h\r\nX-A: " + b"a" * 9000 + b"\r\n\r\n")
                assert (await other.response()).status == 400
        assert (limited(running, "message_size"), limited(running, "header_size")) == (1, 1)
        assert len(told(lines, "message_size")) == len(told(lines, "header_size")) == 1


async def test_a_flood_of_frames_is_counted() -> None:
    """The guard's limit has its name, too."""
    async with open_websocket(server__max_messages_per_second=0.1, server__message_burst=1) as (
        running,
        wire,
    ):
        wire.send(frame(0xA) * 100)
        assert await wire.close_code() == 4429
        assert limited(running, "frames") == 1


async def test_limits_change_while_it_runs() -> None:
    """Settings are read anew each time: limits apply to who comes next."""
    async with serving() as running, websocket(running.port, "ann"):
        running.settings = replace(
            running.settings, limits=settings(limits__connections_per_worker=1).limits
        )
        assert (await connect(running, "ben")).status == 429
        running.settings = settings()
        assert (await connect(running, "ben")).status == 101


def settings(**overrides: object) -> HttpSettings:
    """Return the default settings but for some keys."""
    return HttpSettings.from_config(testing_config(**overrides))


def test_one_line_for_many() -> None:
    """A limit that is met all the time has a line now and then, with how many it stands for."""
    now = 0.0
    given = settings(limits__identity_handshakes_per_second=SLOW)
    limits = Limits(lambda: given, Metrics(), Census(), lambda: now)
    who = principal.user("acme", "bot", "ann", 0.0)
    with capture_logs() as lines:
        for number in range(1010):
            now = number * 0.01
            with suppress(Rejection):
                limits.check_identity(who, "here")
    assert [line.get("suppressed") for line in lines] == [None, 499]


async def test_a_crowd_of_addresses_costs_bounded_memory() -> None:
    """The tables hold no more than they may, however many addresses come."""
    given = settings(limits__address_handshakes_per_second=SLOW)
    limits = Limits(lambda: given, Metrics(), Census())
    for number in range(80_000):
        limits.check_address(f"198.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        if number % 1000 == 0:
            await asyncio.sleep(0)
    assert len(limits._addresses) == 65_536
