"""Messages of the stream that are no events, and odd ones that are."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg

from daisi_ws.client import Event, Frame, ReferenceClient, user_url
from daisi_ws.embedded import NatsServer, RedisServer
from tests.e2e.audit import metric
from tests.e2e.scene import RATE, Scene, scene, until

CHATS = "websocket.c.a.chats"
GOOD = b'{"event_id":"e","company_id":"c","agent_id":"a","row_data":{}}'

POISON: list[tuple[str, bytes, str]] = [
    ("websocket.c.a.unknown", GOOD, "bad_subject"),
    ("websocket.c.a", GOOD, "bad_subject"),
    ("websocket.c.a.chats.more", GOOD, "bad_subject"),
    ("websocket.c.a.messages", GOOD, "bad_subject"),
    ("websocket.c:d.a.chats", GOOD, "bad_subject"),
    ("websocket.c.{a}.chats", GOOD, "bad_subject"),
    ("websocket.*.a.chats", GOOD, "bad_subject"),
    ("websocket.c.a.messages.*", GOOD, "bad_subject"),
    ("websocket.c.>", GOOD, "bad_subject"),
    (f"websocket.{'c' * 129}.a.chats", GOOD, "bad_subject"),
    ("websocket.cü.a.chats", GOOD, "bad_subject"),
    (CHATS, b"", "bad_json"),
    (CHATS, b"nonsense", "bad_json"),
    (CHATS, GOOD[:-1], "bad_json"),
    (CHATS, GOOD + b"{}", "bad_json"),
    (CHATS, b"[" + GOOD + b"]", "bad_field"),
    (CHATS, b"42", "bad_field"),
    (CHATS, GOOD.replace(b"{}", b'{"text":"\n"}'), "bad_json"),
    (CHATS, GOOD.replace(b"{}", b'{"n":' * 100_000 + b"1" + b"}" * 100_000), "bad_json"),
    (CHATS, GOOD.replace(b"{}", b'{"text":"\xff"}'), "not_utf8"),
    (CHATS, GOOD.replace(b'"event_id":"e",', b""), "bad_field"),
    (CHATS, GOOD.replace(b'"company_id":"c",', b""), "bad_field"),
    (CHATS, GOOD.replace(b',"row_data":{}', b""), "bad_field"),
    (CHATS, GOOD.replace(b'"e"', b"7"), "bad_field"),
    (CHATS, GOOD.replace(b'"e"', b'""'), "bad_field"),
    (CHATS, GOOD.replace(b'"c"', b"null"), "bad_field"),
    (CHATS, GOOD.replace(b"{}", b"[1]"), "bad_field"),
    (CHATS, GOOD.replace(b"{}", b'"{}"'), "bad_field"),
    (CHATS, GOOD.replace(b"{}", b"null"), "bad_field"),
    (CHATS, GOOD.replace(b'"a"', b"[]"), "bad_field"),
    (CHATS, GOOD.replace(b'"c"', b'"other"'), "ids_contradict"),
    (CHATS, GOOD.replace(b'"a"', b'"other"'), "ids_contradict"),
    (CHATS, b"x" * 900_000, "bad_json"),
]

ODD: list[tuple[bytes, bytes]] = [
    (body, body[:-1] + b',"event_type":"chat"}')
    for body in (
        GOOD,
        b'{"row_data":{"b":1e2,"a":1.50,"z":-0.0,"n":12345678901234},"company_id":"c","event_id":"o"}',
        b'{"event_id":"first","event_id":"twice","company_id":"c","row_data":{"k":1,"k":2}}',
        b'{ "event_id" : "blanks" ,\n\t"company_id":"c", "row_data" : { } }',
        b'{"event_id":"\\u00e9\\/\\n","company_id":"c","row_data":{"\\u0000":"\\ud83d\\ude00"}}',
        '{"event_id":"é😀","company_id":"c","row_data":{"ключ":"值"}}'.encode(),
        b'{"event_id":"unknown","seq":"mine","type":{},"company_id":"c","row_data":{}}',
        b'{"event_id":"none","company_id":"c","agent_id":null,"chat_id":null,"row_data":{}}',
        b'{"event_id":"big","company_id":"c","row_data":{"text":"' + b"x" * 900_000 + b'"}}',
    )
] + [
    (
        b'{"event_id":"t","event_type":"chat","company_id":"c","row_data":{}}',
        b'{"event_id":"t","event_type":"chat","company_id":"c","row_data":{}}',
    ),
    (
        b'{"event_id":"t","event_type":"own","company_id":"c","row_data":{ "n" : 1.0 }}',
        b'{"event_id":"t","company_id":"c","row_data":{ "n" : 1.0 },"event_type":"chat"}',
    ),
]


async def dead_letters(nats: NatsClient) -> list[Msg]:
    """Return all dead letters."""
    jetstream = nats.jetstream()
    count = (await jetstream.stream_info("wa_stream_dead_letters")).state.messages
    return [await _letter(nats, seq) for seq in range(1, count + 1)]


def told(letter: Msg) -> tuple[str, str]:
    """Return why a letter is dead, and the subject it came by."""
    assert letter.headers is not None
    assert letter.headers["Daisi-Problem"]
    return letter.headers["Daisi-Reason"], letter.headers["Daisi-Subject"]


async def _letter(nats: NatsClient, seq: int) -> Any:
    return await nats.jetstream().get_msg("wa_stream_dead_letters", seq)


async def test_poison_and_oddities(
    tmp_path: Path, fresh_redis: RedisServer, fresh_nats: NatsServer
) -> None:
    """What is no event is kept with its reason and holds nobody up; what is one comes unchanged."""
    async with (
        scene(tmp_path, fresh_redis, fresh_nats) as on,
        collector(on, 0) as first,
        collector(on, 1) as second,
    ):
        jetstream = on.nats.jetstream()
        async with on.flowing():
            for index in range(max(len(POISON), len(ODD))):
                for subject, data, _ in POISON[index : index + 1]:
                    await jetstream.publish(subject, data, timeout=5)
                for data, _ in ODD[index : index + 1]:
                    await jetstream.publish(CHATS, data, timeout=5)
            await until(lambda: complete(first, second), 5, "odd events are missing")
            os.kill((await on.pods())[(await on.reader())["pod_id"]]["pid"], signal.SIGKILL)
            await on.publisher.more(4 * RATE)
        on.check()
        assert first == second == [payload for _, payload in ODD]

        async def acknowledged() -> bool:
            info = await jetstream.consumer_info("wa_stream", "ws_fanout")
            assert info.ack_floor is not None
            state = (await jetstream.stream_info("wa_stream")).state
            return bool(info.ack_floor.stream_seq == state.last_seq)

        await until(acknowledged, 5, "not acknowledged")
        letters = await dead_letters(on.nats)
        kept = [(*told(letter), letter.data or b"") for letter in letters]
        assert sorted(kept) == sorted(
            (reason, subject.encode("ascii", "replace").decode(), data)
            for subject, data, reason in POISON
        )
        counted = sum([await metric(host, "dws_dead_letters_total") for host in on.hosts])
        assert counted >= len(POISON)


@asynccontextmanager
async def collector(on: Scene, number: int) -> AsyncIterator[list[bytes]]:
    """Connect a user of the company that the odd events are for; collect payloads.

    It follows its position: without one it would get again what is not acknowledged yet when it
    comes back from a killed reader.
    """
    payloads: list[bytes] = []

    def collect(frame: Frame) -> None:
        if isinstance(frame, Event):
            payloads.append(bytes(frame.payload))

    keys, host = on.cluster.keys, on.hosts[number]
    token = keys.user_token("c", "a", f"collector-{number}")
    url = user_url(host.base_url, "c", "a")
    client = ReferenceClient(url, keys.secret_token, token, on_frame=collect, positions=True)
    async with client:
        yield payloads


async def complete(*collected: list[bytes]) -> bool:
    """Tell whether everybody has as many payloads as there are odd events."""
    return all(len(payloads) >= len(ODD) for payloads in collected)
