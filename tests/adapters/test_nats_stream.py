"""The JetStream stream on a real server: found or made, read directly, its dead letters."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import msgspec
import pytest
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg

from daisi_ws.adapters.nats_connection import NatsConnection, NatsSettings
from daisi_ws.adapters.nats_stream import JetStream, StreamMissing, request_id_of
from daisi_ws.app.ports import Received
from daisi_ws.domain.errors import Unavailable
from daisi_ws.embedded import NatsServer

LETTERS = "dead_letter.websocket"


@pytest.fixture
async def connection(nats_url: str) -> AsyncIterator[NatsConnection]:
    """A connection to the NATS without streams."""
    connection = NatsConnection(NatsSettings(nats_url), "test")
    await connection.connect_once()
    yield connection
    await connection.aclose()


@pytest.fixture
def stream(connection: NatsConnection) -> JetStream:
    """A stream that may be made."""
    return JetStream(connection, "wa_stream", True, LETTERS)


async def publish(nats: NatsClient, count: int) -> None:
    """Publish events to `wa_stream`, with something else in between."""
    jetstream = nats.jetstream()
    for number in range(count):
        headers = {"X-Request-ID": f"r{number}"}
        await jetstream.publish("websocket.c.a.chats", b"%d" % number, headers=headers)


def letter(seq: int = 7) -> Received:
    """Return a message that is no event."""
    return Received(seq, 0, "websocket.c.a.unknown", b"not json\xff", "", "", False)


async def test_a_missing_stream_is_made(connection: NatsConnection, stream: JetStream) -> None:
    """Whoever comes second finds it; both know it by the same identity."""
    await stream.ensure()
    other = JetStream(connection, "wa_stream", True, LETTERS)
    await other.ensure()
    assert stream.identity == other.identity
    assert stream.identity.startswith("wa_stream@")
    assert stream.allow_direct


async def test_a_stream_that_may_not_be_made(connection: NatsConnection) -> None:
    """The error names the stream, the command that makes it and the key that allows it."""
    stream = JetStream(connection, "wa_stream", False, LETTERS)
    with pytest.raises(StreamMissing, match=r"wa_stream.*nats stream add.*nats.create_stream"):
        await stream.ensure()


@pytest.mark.parametrize("direct", [True, False])
async def test_a_range_is_read_in_order(stream: JetStream, nats: NatsClient, direct: bool) -> None:
    """After the first, up to the last, with or without direct access."""
    await stream.ensure()
    await publish(nats, 12)
    stream.allow_direct = direct
    read = await stream.read(3, 9)
    assert [message.seq for message in read] == [4, 5, 6, 7, 8, 9]
    assert [message.data for message in read] == [b"%d" % n for n in range(3, 9)]
    assert {message.subject for message in read} == {"websocket.c.a.chats"}
    assert all(message.stored_ns > 1_700_000_000 * 10**9 for message in read)
    assert read[0].request_id == "r3"
    assert await stream.read(9, 9) == []
    assert [message.seq for message in await stream.read(9, 99)] == [10, 11, 12]


async def allow_direct(nats: NatsClient, allowed: bool) -> None:
    """Change the stream without a word to who reads it."""
    config = (await nats.jetstream().stream_info("wa_stream")).config
    await nats.jetstream().update_stream(config.evolve(allow_direct=allowed))


async def test_a_stream_that_may_not_be_read_directly_any_more_is_read_all_the_same(
    stream: JetStream, nats: NatsClient
) -> None:
    """Nobody answers a direct get then: that is not the stream's end."""
    await stream.ensure()
    await publish(nats, 3)
    await allow_direct(nats, False)
    assert [message.seq for message in await stream.read(0, 3)] == [1, 2, 3]
    await allow_direct(nats, True)
    await stream.ensure()
    assert stream.allow_direct


async def test_a_server_that_knows_no_batches_is_asked_for_one_after_the_other(
    stream: JetStream, nats: NatsClient
) -> None:
    """Before 2.11 a direct get is answered by one message, and nothing says that it was all."""
    await stream.ensure()
    await publish(nats, 3)
    await allow_direct(nats, False)

    async def answer(request: Msg) -> None:
        seq = json.loads(request.data)["seq"]
        found = {
            "Nats-Stream": "wa_stream",
            "Nats-Subject": "websocket.c.a.chats",
            "Nats-Sequence": str(seq),
            "Nats-Time-Stamp": "2026-01-01T00:00:00.000000001Z",
        }
        await nats.publish(request.reply, b"%d" % seq, headers=found)

    await nats.subscribe("$JS.API.DIRECT.GET.wa_stream", cb=answer)
    await nats.flush()
    assert [message.data for message in await stream.read(0, 3)] == [b"1", b"2", b"3"]
    assert stream.allow_direct


async def test_more_than_a_batch_is_read(stream: JetStream, nats: NatsClient) -> None:
    """A long range takes several requests and misses nothing."""
    await stream.ensure()
    for _ in range(1233):
        await nats.publish("websocket.c.a.chats", b"x")
    # Its acknowledgement says that those before it are stored as well.
    await nats.jetstream().publish("websocket.c.a.chats", b"x")
    read = await stream.read(0, (await stream.bounds()).last)
    assert [message.seq for message in read] == list(range(1, 1235))


async def test_dead_letters_are_kept(stream: JetStream, nats: NatsClient) -> None:
    """With the reason, the subject and the sequence; once, however often it is tried."""
    await stream.ensure()
    await stream.dead_letter(letter(), "bad_json", "the payload must be\r\nJSON: é")
    await stream.dead_letter(letter(), "bad_json", "again")
    jetstream = nats.jetstream()
    info = await jetstream.stream_info("wa_stream_dead_letters")
    assert info.state.messages == 1
    kept = await jetstream.get_msg("wa_stream_dead_letters", 1)
    assert kept.data == b"not json\xff"
    assert kept.headers is not None
    assert kept.headers["Daisi-Reason"] == "bad_json"
    assert kept.headers["Daisi-Problem"] == "the payload must be JSON: ?"
    assert kept.headers["Daisi-Subject"] == "websocket.c.a.unknown"
    assert kept.headers["Daisi-Seq"] == "7"


async def test_a_dead_letter_has_request_id_and_trace(stream: JetStream, nats: NatsClient) -> None:
    """Each in its own header, as the message had them."""
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await stream.ensure()
    message = msgspec.structs.replace(letter(), request_id=f"r1 {parent}")
    await stream.dead_letter(message, "bad_json", "the payload must be JSON")
    kept = await nats.jetstream().get_msg("wa_stream_dead_letters", 1)
    assert kept.headers is not None
    assert (kept.headers["X-Request-ID"], kept.headers["traceparent"]) == ("r1", parent)


async def test_nats_away_is_unavailable(fresh_nats: NatsServer) -> None:
    """A server that is gone, and one that does not answer, both are `Unavailable`."""
    connection = NatsConnection(NatsSettings(fresh_nats.url), "test")
    await connection.connect_once()
    stream = JetStream(connection, "wa_stream", True, LETTERS)
    await stream.ensure()
    fresh_nats.pause()
    with pytest.raises(Unavailable):
        await stream.bounds()
    fresh_nats.resume()
    fresh_nats.kill()
    with pytest.raises(Unavailable):
        await stream.read(0, 10)
    await connection.aclose()


async def test_no_server_is_unavailable() -> None:
    """The first connection says what is wrong."""
    connection = NatsConnection(NatsSettings("nats://127.0.0.1:1"), "test")
    with pytest.raises(Unavailable, match="NATS is away"):
        await connection.connect_once()
    await connection.aclose()


@pytest.mark.parametrize("name", ["traceparent", "Traceparent"])
def test_a_trace_context_stands_behind_the_request_id(name: str) -> None:
    """Of a message that has one; the ID is made from the message's place if it has none."""
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert request_id_of({name: parent}, "s", 7) == f"s-7 {parent}"
    assert request_id_of({name: parent, "X-Request-ID": "r"}, "s", 7) == f"r {parent}"
    assert request_id_of({name: "no trace", "X-Request-ID": "r"}, "s", 7) == "r"
    assert request_id_of({"X-Request-ID": "r"}, "s", 7) == "r"
    assert request_id_of(None, "s", 7) == "s-7"
