"""WebSocket connections, against a real server on loopback and raw sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from daisi_ws.adapters import ws_sink
from daisi_ws.app.connection import BACKLOG_BYTES, Connection
from daisi_ws.domain.bucket import FLOOD_FACTOR
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.errors import InvalidToken, SubscriptionFailure
from daisi_ws.domain.frames import ClientMessage, RefreshToken, SelectChat
from daisi_ws.domain.wire import text_frame
from tests.adapters.http_support import (
    BINARY,
    CLOSE,
    DEADLINE,
    PING,
    PONG,
    TEXT,
    Serving,
    Wire,
    close_payload,
    eventually,
    frame,
    handshake,
    open_websocket,
    serving,
    websocket,
)
from tests.app.connections import flush

SELECT = b'{"type":"select_chat","payload":{"chat_id":"c1"},"id":5}'
CONTINUATION = 0x0


async def taken(running: Serving) -> ClientMessage:
    """Return the next message that reached the gateway."""
    async with asyncio.timeout(DEADLINE):
        return await running.gateway.messages.get()


async def served(wire: Wire) -> None:
    """Check that the connection still answers, and that nothing else was sent before."""
    wire.send(frame(PING, b"still there"))
    assert await wire.next_frame() == (PONG, b"still there")


async def until(running: Serving, name: str, value: float, **labels: str) -> None:
    """Wait until a metric has reached a value."""
    await eventually(lambda: running.count(name, **labels) >= value)


# -- messages -----------------------------------------------------------------------------------


async def test_messages_reach_the_gateway() -> None:
    """`select_chat` and `token` are handed over as they came, in order, and counted."""
    async with serving() as running, websocket(running.port) as wire:
        wire.send(frame(TEXT, SELECT))
        wire.send(frame(TEXT, b'{"type":"token","payload":{"token":"t"}}'))
        assert await taken(running) == SelectChat("c1", 5)
        assert await taken(running) == RefreshToken("t")
    assert running.count("dws_messages_received_total", kind="select_chat") == 1
    assert running.count("dws_messages_received_total", kind="token") == 1
    assert running.count("dws_messages_sent_total", type="ready") == 1
    assert running.count("dws_connections_total", type="user") == 1


async def test_a_message_with_the_handshake_is_served() -> None:
    """A client need not wait for the 101 before it sends."""
    async with serving() as running, websocket(running.port, more=frame(TEXT, SELECT)):
        assert await taken(running) == SelectChat("c1", 5)


async def test_a_fragmented_message_is_put_together() -> None:
    """Fragments make one message; a ping between them is answered at once."""
    async with serving() as running, websocket(running.port) as wire:
        wire.send(frame(TEXT, SELECT[:10], fin=False))
        wire.send(frame(PING, b"between"))
        assert await wire.next_frame() == (PONG, b"between")
        wire.send(frame(CONTINUATION, b"", fin=False) + frame(CONTINUATION, SELECT[10:]))
        assert await taken(running) == SelectChat("c1", 5)


async def test_a_message_byte_by_byte_is_served() -> None:
    """TCP may cut anywhere."""
    async with serving() as running, websocket(running.port) as wire:
        for byte in frame(TEXT, SELECT) + frame(PING, b"p"):
            wire.send(bytes((byte,)))
            await asyncio.sleep(0)
        assert await taken(running) == SelectChat("c1", 5)
        assert await wire.next_frame() == (PONG, b"p")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"null",
        b"[1]",
        b'"text"',
        b"{}",
        b'{"type":1}',
        b'{"type":"unknown","payload":{}}',
        b'{"type":"select_chat"}',
        b'{"type":"select_chat","payload":{"chat_id":7}}',
        b'{"type":"select_chat","payload":{"chat_id":"a.b"}}',
        b'{"type":"select_chat","payload":{"chat_id":"*"}}',
        b'{"type":"select_chat","payload":{"chat_id":""}}',
        b'{"type":"token","payload":{}}',
        b"[" * 50_000,
    ],
    ids=range(15),
)
async def test_a_bad_message_is_told_and_the_connection_stays(payload: bytes) -> None:
    """Not JSON, unknown type, bad payload: an `error` with BadRequest, nothing more."""
    async with serving() as running, websocket(running.port) as wire:
        wire.send(frame(TEXT, payload))
        assert await wire.error_code() == "BadRequest"
        await served(wire)
    assert running.count("dws_messages_received_total", kind="invalid") == 1
    assert running.count("dws_messages_sent_total", type="error") == 1


async def test_a_binary_frame_is_told_and_the_connection_stays() -> None:
    """Text only; binary is an `error`, whatever is in it."""
    async with serving() as running, websocket(running.port) as wire:
        wire.send(frame(BINARY, SELECT))
        assert await wire.error_code() == "BadRequest"
        await served(wire)
        assert running.gateway.messages.empty()


@pytest.mark.parametrize("refusal", [SubscriptionFailure("no answer"), InvalidToken("expired")])
async def test_a_refused_message_is_told_and_the_connection_stays(
    refusal: SubscriptionFailure | InvalidToken,
) -> None:
    """What the gateway refuses is an `error` with its code."""
    async with serving() as running, websocket(running.port) as wire:
        running.gateway.message_refusal = refusal
        wire.send(frame(TEXT, SELECT))
        assert await wire.error_code() == refusal.code
        await served(wire)


async def test_a_fault_of_ours_closes_with_1011() -> None:
    """An unexpected error in a message's handling is logged and ends only this connection."""
    async with open_websocket() as (running, wire), websocket(running.port, "other") as other:
        running.gateway.message_refusal = RuntimeError("inner workings")
        with capture_logs() as lines:
            wire.send(frame(TEXT, SELECT))
            assert await wire.close_code() == 1011
            assert (await running.gateway.next_left())[1] is CloseReason.INTERNAL_ERROR
        await served(other)
    assert [line["event"] for line in lines] == ["connection failed", "connection ended"]


# -- violations ---------------------------------------------------------------------------------

UNMASKED = frame(TEXT, SELECT, mask=False)
VIOLATIONS: dict[str, tuple[bytes, int]] = {
    "unmasked text": (UNMASKED, 1002),
    "unmasked ping": (frame(PING, b"x", mask=False), 1002),
    "unmasked close": (frame(CLOSE, close_payload(1000), mask=False), 1002),
    "unmasked after masked": (frame(PONG, b"fine") + UNMASKED, 1002),
    "unmasked large": (frame(TEXT, b"x" * 70_000, mask=False), 1002),
    "unmasked fragment": (frame(TEXT, b"{", fin=False) + frame(0, b"}", mask=False), 1002),
    "reserved bit 1": (frame(TEXT, SELECT, rsv=4), 1002),
    "reserved bit 2": (frame(TEXT, SELECT, rsv=2), 1002),
    "reserved bit 3": (frame(TEXT, SELECT, rsv=1), 1002),
    "unknown opcode": (frame(0x3, b""), 1002),
    "unknown control opcode": (frame(0xB, b""), 1002),
    "fragmented ping": (frame(PING, b"x", fin=False), 1002),
    "long ping": (frame(PING, b"x" * 126), 1002),
    "continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
    "text after an empty first fragment": (frame(TEXT, b"", fin=False) + frame(TEXT, b"{}"), 1002),
    "text inside a fragmented text": (
        frame(TEXT, b"{", fin=False) + frame(TEXT, b"{", fin=False),
        1002,
    ),
    "close payload of one byte": (frame(CLOSE, b"\x03"), 1002),
    "close code 0": (frame(CLOSE, close_payload(0)), 1002),
    "close code 999": (frame(CLOSE, close_payload(999)), 1002),
    "close code 1005": (frame(CLOSE, close_payload(1005)), 1002),
    "close code 1006": (frame(CLOSE, close_payload(1006)), 1002),
    "close code 1015": (frame(CLOSE, close_payload(1015)), 1002),
    "close code 5000": (frame(CLOSE, close_payload(5000)), 1002),
    "close text not UTF-8": (frame(CLOSE, close_payload(1000, b"\xff")), 1007),
    "text not UTF-8": (frame(TEXT, b"\xce\xba\xe1\xbd"), 1007),
    "text not UTF-8, fragmented": (
        frame(TEXT, b'"\xce', fin=False) + frame(CONTINUATION, b'"'),
        1007,
    ),
    "surrogate": (frame(TEXT, b'"\xed\xa0\x80"'), 1007),
    "too large": (frame(TEXT, b"x" * 1025), 1009),
    "too large in fragments": (frame(TEXT, b"x" * 600, fin=False) + frame(0, b"x" * 600), 1009),
    "claims 2 GiB": (frame(TEXT, b"", claimed=2**31), 1009),
    "claims 2^63": (frame(TEXT, b"", claimed=2**63), 1009),
}


@pytest.mark.parametrize("name", VIOLATIONS)
@pytest.mark.parametrize("early", [False, True], ids=["after ready", "with the handshake"])
async def test_violations_fail_the_connection(name: str, early: bool) -> None:
    """Each violation is answered by its close code once, and then TCP ends."""
    data, code = VIOLATIONS[name]
    async with serving(server__max_message_bytes=1024) as running:
        async with websocket(running.port, more=data if early else b"") as wire:
            if not early:
                wire.send(data)
            assert await wire.close_code() == code
            _, reason = await running.gateway.next_left()
            assert reason.code == code
            # A client answers, and ends TCP when it has the close frame.
            wire.send(frame(CLOSE, close_payload(code)))
            wire.writer.write_eof()
            assert await wire.ended() == b""
        assert running.gateway.messages.empty()
        assert running.gateway.left.empty()
    assert running.count("dws_connections_closed_total", reason=reason.label) == 1


@pytest.mark.parametrize("begun", [0, 1])
async def test_an_unmasked_frame_is_found_wherever_tcp_cuts(begun: int) -> None:
    """The mask is checked in the header, in however many pieces that comes."""
    async with serving() as running, websocket(running.port) as wire:
        wire.send(frame(TEXT, SELECT) + UNMASKED[:begun])
        await taken(running)
        wire.send(UNMASKED[begun:])
        assert await wire.close_code() == 1002


async def test_a_message_of_the_limit_is_served() -> None:
    """The largest permitted message is permitted."""
    padded = SELECT[:-1] + b" " * (1024 - len(SELECT)) + b"}"
    async with open_websocket(server__max_message_bytes=1024) as (running, wire):
        wire.send(frame(TEXT, padded))
        assert await taken(running) == SelectChat("c1", 5)


async def test_a_client_that_goes_on_sending_gets_the_close_frame() -> None:
    """A refused large message is read to its end, so that no reset overtakes the 1009."""
    async with serving() as running, websocket(running.port) as wire:
        wire.send(frame(TEXT, b"x" * 4_000_000))
        async with asyncio.timeout(DEADLINE):
            await wire.writer.drain()
        assert await wire.close_code() == 1009


# -- limits -------------------------------------------------------------------------------------

LIMITS = {"server__max_messages_per_second": 1.0, "server__message_burst": 3}


async def test_a_client_over_the_limit_is_told_once() -> None:
    """Messages over the limit are ignored, and told at most once a second."""
    async with serving(**LIMITS) as running, websocket(running.port) as wire:
        wire.send(frame(TEXT, SELECT) * 13)
        for _ in range(3):
            await taken(running)
        assert await wire.error_code() == "RateLimitExceeded"
        await until(running, "dws_messages_received_total", 10, kind="over_limit")
        assert running.gateway.messages.empty()
        assert running.count("dws_messages_sent_total", type="error") == 1


async def test_pings_are_limited_as_messages_are() -> None:
    """A flood of pings gets no flood of pongs."""
    async with serving(**LIMITS) as running, websocket(running.port) as wire:
        wire.send(frame(PING, b"x") * 20)
        for _ in range(3):
            assert await wire.next_frame() == (PONG, b"x")
        assert await wire.error_code() == "RateLimitExceeded"
        await until(running, "dws_messages_received_total", 17, kind="over_limit")
        assert running.count("dws_messages_received_total", kind="ping") == 3


@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, PONG])
async def test_a_flood_is_closed(opcode: int) -> None:
    """Whoever goes on far over the limit is closed with 4429."""
    async with serving(**LIMITS) as running, websocket(running.port) as wire:
        wire.send(frame(opcode, SELECT) * (5 + 3 * FLOOD_FACTOR + 3))
        assert await wire.close_code() == 4429
        wire.send(frame(CLOSE, close_payload(4429)))
        assert (await running.gateway.next_left())[1] is CloseReason.RATE_LIMITED


async def test_a_flood_of_fragments_is_closed() -> None:
    """Fragments that never end a message are a flood, too."""
    async with serving(**LIMITS) as running, websocket(running.port) as wire:
        wire.send(frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 200)
        assert await wire.close_code() == 4429
        assert (await running.gateway.next_left())[1] is CloseReason.RATE_LIMITED


async def test_answers_to_our_pings_are_free() -> None:
    """A pong now and then does not use up what a client may send."""
    async with serving(**LIMITS) as running, websocket(running.port) as wire:
        wire.send(frame(PONG) + frame(TEXT, SELECT) * 3)
        for _ in range(3):
            await taken(running)


async def test_pongs_count_alone_and_with_others() -> None:
    """One that comes alone takes a shorter way than one before a message."""
    async with serving() as running, websocket(running.port) as wire:
        wire.send(frame(PONG, b"abc"))
        await eventually(lambda: running.metrics.tally.pongs == 1)
        wire.send(frame(PONG) + frame(TEXT, SELECT))
        await taken(running)
        running.metrics.fold()
        assert running.count("dws_messages_received_total", kind="pong") == 2


async def test_limits_change_for_open_connections() -> None:
    """A reloaded limit holds for who is connected already."""
    async with serving() as running, websocket(running.port) as wire:
        wire.send(frame(TEXT, SELECT))
        await taken(running)
        running.settings = replace(running.settings, message_burst=1, max_messages_per_second=0.1)
        wire.send(frame(TEXT, SELECT) * 2)
        await taken(running)
        assert await wire.error_code() == "RateLimitExceeded"


# -- the end ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "answer", "reason"),
    [
        (close_payload(1000, b"bye"), 1000, CloseReason.CLIENT_LEFT),
        (close_payload(1001), 1001, CloseReason.CLIENT_LEFT),
        (b"", 1000, CloseReason.CLIENT_LEFT),
        (close_payload(1011), 1011, CloseReason.ABNORMAL),
        (close_payload(3000), 3000, CloseReason.ABNORMAL),
        (close_payload(4999), 4999, CloseReason.ABNORMAL),
    ],
)
async def test_a_close_is_answered(
    payload: bytes, answer: int, reason: CloseReason, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's close code comes back once, TCP ends at once, and the reason is told."""
    monkeypatch.setattr(ws_sink, "CLIENT_CLOSE_SECONDS", 60)
    async with serving() as running, websocket(running.port) as wire:
        wire.send(frame(CLOSE, payload))
        assert await wire.next_frame() == (CLOSE, close_payload(answer))
        assert await wire.ended() == b""
        assert (await running.gateway.next_left())[1] is reason


@pytest.mark.parametrize("abort", [False, True])
async def test_a_lost_connection_leaves(abort: bool) -> None:
    """The end of TCP without a close frame is noticed at once."""
    async with serving() as running, websocket(running.port) as wire:
        if abort:
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            raw: socket.socket = wire.writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            wire.writer.transport.abort()
        else:
            wire.writer.write_eof()
        assert (await running.gateway.next_left())[1] is CloseReason.ABNORMAL


async def test_our_close_waits_for_the_clients_answer() -> None:
    """One close frame with code and text; the client's answer ends the connection."""
    async with serving() as running, websocket(running.port) as wire:
        connection = running.gateway.admitted[0]
        connection.close(CloseReason.DISPLACED)
        connection.close(CloseReason.GOING_AWAY)
        opcode, payload = await wire.next_frame()
        assert (opcode, payload[:2]) == (CLOSE, (4402).to_bytes(2, "big"))
        assert payload[2:].decode() == CloseReason.DISPLACED.text
        assert connection.sink is not None
        connection.sink.write(text_frame(b"too late"))
        assert running.gateway.left.empty()
        wire.send(frame(TEXT, SELECT) + frame(CLOSE, payload))
        assert await wire.ended() == b""
        assert await running.gateway.next_left() == (connection, CloseReason.DISPLACED)
        assert running.gateway.messages.empty()


async def test_a_client_that_does_not_answer_a_close_is_aborted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The close wait is bounded, whatever the client goes on sending."""
    monkeypatch.setattr(ws_sink, "CLIENT_CLOSE_SECONDS", 0.3)
    async with serving() as running, websocket(running.port) as wire:
        running.gateway.admitted[0].close(CloseReason.GOING_AWAY)
        started = time.monotonic()
        assert await wire.close_code() == 1001
        wire.send(frame(PING, b"x"))
        assert await wire.ended() == b""
        assert 0.2 < time.monotonic() - started < 2
        await running.gateway.next_left()


async def test_who_was_displaced_while_joining_is_upgraded_and_told() -> None:
    """A connection displaced before `ready` gets no `ready`, but 4402."""
    async with serving() as running, await Wire.connect(running.port) as wire:
        running.gateway.displace_in_admit = True
        wire.send(handshake())
        assert (await wire.response()).status == 101
        opcode, payload = await wire.next_frame()
        assert (opcode, payload[:2]) == (CLOSE, (4402).to_bytes(2, "big"))
        wire.send(frame(CLOSE, payload))
        assert (await running.gateway.next_left())[1] is CloseReason.DISPLACED
        await wire.ended()
    assert running.count("dws_messages_sent_total", type="ready") == 0


async def test_who_leaves_during_admission_is_not_admitted() -> None:
    """The admission is cancelled as soon as the client has gone: it displaces nobody any more."""
    async with serving() as running:
        running.gateway.may_admit.clear()
        async with await Wire.connect(running.port) as wire:
            wire.send(handshake())
            async with asyncio.timeout(DEADLINE):
                await running.gateway.admitting.wait()
        with capture_logs() as lines:
            async with asyncio.timeout(DEADLINE):
                await running.gateway.cancelled.wait()
            await running.server.close()
        assert running.gateway.left.empty()
    assert lines == []
    assert running.count("dws_connections_total", type="user") == 0


async def test_closing_the_server_closes_everybody() -> None:
    """1001 for all; each leaves once, also those that were still being admitted."""
    async with serving() as running:
        async with websocket(running.port, "a") as a, websocket(running.port, "b") as b:
            running.gateway.may_admit.clear()
            running.gateway.admitting.clear()
            async with await Wire.connect(running.port) as late:
                late.send(handshake())
                async with asyncio.timeout(DEADLINE):
                    await running.gateway.admitting.wait()
                started = time.monotonic()
                closing = asyncio.create_task(running.server.close())
                for wire in (a, b):
                    assert await wire.close_code() == 1001
                    wire.send(frame(CLOSE, close_payload(1001)))
                running.gateway.may_admit.set()
                assert (await late.response()).status == 101
                assert await late.close_code() == 1001
                late.send(frame(CLOSE, close_payload(1001)))
                await closing
                assert time.monotonic() - started < 2
        reasons = [running.gateway.left.get_nowait()[1] for _ in range(3)]
        assert reasons == [CloseReason.GOING_AWAY] * 3
        assert running.gateway.left.empty()


async def test_closing_the_server_does_not_wait_for_ever() -> None:
    """An admission that hangs is cancelled; a client that does not answer is aborted."""
    async with serving() as running, websocket(running.port, "silent"):
        running.gateway.may_admit.clear()
        running.gateway.admitting.clear()
        async with await Wire.connect(running.port) as late:
            late.send(handshake())
            async with asyncio.timeout(DEADLINE):
                await running.gateway.admitting.wait()
            started = time.monotonic()
            await running.server.close()
            assert time.monotonic() - started < 5
        assert (await running.gateway.next_left())[1] is CloseReason.GOING_AWAY
        assert running.gateway.left.empty()


async def test_the_end_of_a_connection_is_one_log_line() -> None:
    """Who it was, why it ended, how long it lasted and what was sent; and it is measured."""
    async with serving() as running:
        with capture_logs() as lines:
            async with websocket(running.port, X_Request_ID="r-9") as wire:
                wire.send(frame(CLOSE, close_payload(1000)))
                await wire.ended()
            await running.gateway.next_left()
        await until(running, "dws_connections_closed_total", 1, reason="client_left")
    (line,) = lines
    assert line["event"] == "connection ended"
    assert line["user_id"] == "ann"
    assert (line["kind"], line["company_id"], line["agent_id"]) == ("user", "acme", "bot")
    assert (line["reason"], line["code"], line["dropped"]) == ("client_left", 1000, 0)
    assert line["bytes_sent"] > 40
    assert 0 <= line["seconds"] < DEADLINE
    assert running.count("dws_connection_duration_seconds_count") == 1


# -- clients that do not read -------------------------------------------------------------------


def stuff(connection: Connection, count: int, size: int) -> None:
    """Offer events until the client is behind, and some more."""
    for seq in range(1, count + 1):
        connection.offer(seq, text_frame(json.dumps({"seq": seq}).encode().ljust(size)))
        flush(connection, time.monotonic())


async def narrow(running: Serving) -> Wire:
    """Open a WebSocket whose client takes little before it is read."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", running.port))
    wire = Wire(*await asyncio.open_connection(sock=raw, limit=1024))
    wire.send(handshake())
    assert (await wire.response()).status == 101
    assert (await wire.message())["type"] == "ready"
    return wire


async def test_what_waits_is_sent_when_the_client_reads_again() -> None:
    """A client that was behind gets the gap told and then what its outbox kept, in order."""
    async with serving() as running, await narrow(running) as wire:
        connection = running.gateway.admitted[0]
        stuff(connection, 2000, 10_000)
        assert connection.behind_since is not None
        assert connection.sink is not None
        assert connection.sink.backlog() > BACKLOG_BYTES
        assert connection.dropped > 0
        seen: list[int] = []
        lost: list[int] = []
        while not seen or seen[-1] < 2000:
            message = await wire.message()
            if message.get("type") == "error":
                payload = message["payload"]
                assert isinstance(payload, dict)
                gap = payload["details"]
                lost += range(gap["from_seq"], gap["to_seq"] + 1)
                assert gap["dropped"] == len(lost)
            else:
                assert isinstance(message["seq"], int)
                seen.append(message["seq"])
        assert seen == sorted(seen)
        assert sorted(seen + lost) == list(range(1, 2001))
        assert len(lost) == connection.dropped
        assert connection.behind_since is None


async def test_a_stuck_client_is_aborted_soon() -> None:
    """Whoever does not read does not keep the socket while its buffer waits to be flushed."""
    async with serving() as running, await narrow(running) as wire:
        connection = running.gateway.admitted[0]
        stuff(connection, 2000, 10_000)
        started = time.monotonic()
        connection.close(CloseReason.TOO_SLOW)
        assert await running.gateway.next_left() == (connection, CloseReason.TOO_SLOW)
        assert time.monotonic() - started < ws_sink.BEHIND_CLOSE_SECONDS + 0.5
        await wire.ended()


async def test_a_client_that_only_pings_does_not_pile_up_pongs() -> None:
    """Pongs are not buffered for a client that does not read."""
    limit = {"server__max_messages_per_second": 100_000}
    async with serving(**limit) as running, await narrow(running) as wire:
        connection = running.gateway.admitted[0]
        assert connection.sink is not None
        connection.sink.write(text_frame(b"x" * 20_000_000))
        backlog = connection.sink.backlog()
        assert backlog > BACKLOG_BYTES
        wire.send(frame(PING, b"x" * 100) * 50 + frame(TEXT, SELECT))
        await taken(running)
        assert connection.sink.backlog() <= backlog
        connection.close(CloseReason.TOO_SLOW)
        await running.gateway.next_left()


async def test_incoming_bytes_are_a_sign_of_life() -> None:
    """Any byte counts, also of a frame that is not whole yet."""
    async with serving() as running, websocket(running.port) as wire:
        connection = running.gateway.admitted[0]
        connection.last_seen = 0.0
        wire.send(frame(TEXT, SELECT)[:3])
        await eventually(lambda: connection.last_seen > 0.0)
        assert abs(time.monotonic() - connection.last_seen) < DEADLINE
