"""What a client with a position does, against a gateway made of scripts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, TypeVar

import pytest

from daisi_ws.client import (
    Backoff,
    Ended,
    Event,
    Frame,
    Gap,
    Lost,
    Position,
    Ready,
    ReferenceClient,
    Resumed,
)
from tests.client.stand_in import Connection, StandIn

F = TypeVar("F", bound=Frame)

QUICK = Backoff(shortest=0.001, longest=0.002)
WAIT = 10.0


def client_of(gateway: StandIn, token: Any = "token", **options: Any) -> ReferenceClient:
    return ReferenceClient(
        gateway.url, "key", token, positions=True, backoff=QUICK, pauses=QUICK, **options
    )


def position_of(client: ReferenceClient) -> Position:
    assert client.position is not None
    return client.position


async def next_of(client: ReferenceClient, kind: type[F]) -> F:
    while True:
        frame = await client.receive(WAIT)
        if isinstance(frame, kind):
            return frame


async def seqs(client: ReferenceClient, count: int) -> list[int | None]:
    return [(await next_of(client, Event)).seq for _ in range(count)]


async def quiet(connection: Connection) -> None:
    await connection.ready()
    await connection.until_closed()


async def test_the_first_dial_asks_for_positions_and_later_ones_tell_theirs() -> None:
    """`last_seq` is empty, then the highest sequence seen with the stream's identity."""

    async def first(connection: Connection) -> None:
        await connection.ready(seq=4, stream="wa_stream@2026-11-23T05:10:52Z")
        await connection.event(7)
        await connection.close(1001)

    async with StandIn(first, quiet) as gateway, client_of(gateway) as client:
        await next_of(client, Lost)
        await next_of(client, Ready)
        queries = [dict(request.query) for request in gateway.requests]
    assert queries == [
        {"last_seq": ""},
        {"last_seq": "7", "stream": "wa_stream@2026-11-23T05:10:52Z"},
    ]


async def test_what_was_recovered_is_told_and_comes_once() -> None:
    """`ready` says how many follow; what came before is held back."""

    async def first(connection: Connection) -> None:
        await connection.ready(seq=0)
        await connection.event(1)
        await connection.close(1001)

    async def second(connection: Connection) -> None:
        await connection.ready(seq=1, recovered=True, replayed=2)
        for seq in (1, 2, 5, 6):
            await connection.event(seq)
        await connection.until_closed()

    async with StandIn(first, second) as gateway, client_of(gateway) as client:
        await next_of(client, Lost)
        ready = await next_of(client, Ready)
        assert await seqs(client, 3) == [2, 5, 6]
    assert (ready.recovered, ready.replayed, ready.reason) == (True, 2, "")
    assert (position_of(client).seq, position_of(client).duplicates) == (6, 1)


async def test_what_was_not_recovered_is_told_with_the_reason() -> None:
    """The position starts from the new `ready`; another stream's sequences count from there."""

    async def first(connection: Connection) -> None:
        await connection.ready(seq=100)
        await connection.event(101)
        await connection.close(1001)

    async def second(connection: Connection) -> None:
        await connection.ready(seq=3, stream="s@2", recovered=False, reason="other_stream")
        await connection.event(4)
        await connection.until_closed()

    async with StandIn(first, second) as gateway, client_of(gateway) as client:
        await next_of(client, Lost)
        ready = await next_of(client, Ready)
        assert (ready.recovered, ready.reason) == (False, "other_stream")
        assert await seqs(client, 1) == [4]
    assert (position_of(client).stream, position_of(client).seq) == ("s@2", 4)


async def test_a_thread_is_resumed_from_its_own_position() -> None:
    """After a redial the thread's events are let through below what came meanwhile, once."""
    heard: asyncio.Queue[dict[str, object]] = asyncio.Queue()

    async def first(connection: Connection) -> None:
        await connection.ready(seq=0)
        message = await connection.hear()
        await connection.done(message, 10)
        await connection.event(11, kind="message")
        await connection.close(1001)

    async def second(connection: Connection) -> None:
        await connection.ready(seq=11, recovered=True, replayed=1)
        await connection.event(5000)
        message = await connection.hear()
        await heard.put(message)
        await connection.event(9000)
        await connection.resumed(11, 2, chat_id="c", id=message["id"])
        for seq, kind in ((12, "message"), (12, "message"), (5000, "chat"), (300, "message")):
            await connection.event(seq, kind=kind)
        await connection.done(message, 11)
        await connection.event(300, kind="message")
        await connection.event(9001)
        await connection.until_closed()

    async with StandIn(first, second) as gateway, client_of(gateway) as client:
        assert await client.select_chat("c") == 10
        await next_of(client, Lost)
        assert await seqs(client, 5) == [5000, 9000, 12, 300, 9001]
        message = await heard.get()
        assert position_of(client).duplicates == 3
        assert position_of(client).thread == 9001
    assert message["payload"] == {"chat_id": "c", "last_seq": 11, "stream": "s@1"}


async def test_a_thread_that_was_not_joined_keeps_its_position() -> None:
    """A connection that ends before the thread is resumed moves only the other position."""
    heard: asyncio.Queue[dict[str, object]] = asyncio.Queue()

    async def first(connection: Connection) -> None:
        await connection.ready(seq=0)
        await connection.done(await connection.hear(), 10)
        await connection.event(11)
        await connection.close(1001)

    async def second(connection: Connection) -> None:
        await connection.ready(seq=11, recovered=True, replayed=0)
        await connection.event(40)
        await connection.hear()
        await connection.close(1001)

    async def third(connection: Connection) -> None:
        await connection.ready(seq=40, recovered=True, replayed=0)
        await heard.put(await connection.hear())
        await connection.until_closed()

    async with StandIn(first, second, third) as gateway, client_of(gateway) as client:
        await client.select_chat("c")
        async with asyncio.timeout(WAIT):
            message = await heard.get()
        assert gateway.requests[2].query["last_seq"] == "40"
    assert message["payload"] == {"chat_id": "c", "last_seq": 11, "stream": "s@1"}


async def test_a_thread_known_from_before_can_be_joined_there() -> None:
    """`select_chat` with a position sends it; what it missed is below what came already."""

    async def script(connection: Connection) -> None:
        await connection.ready(seq=9000)
        await connection.event(9001)
        message = await connection.hear()
        assert message["payload"] == {"chat_id": "c", "last_seq": 5, "stream": "s@1"}
        await connection.resumed(5, 1, chat_id="c", id=message["id"])
        await connection.event(6, kind="message")
        await connection.done(message, 5)
        await connection.until_closed()

    async with StandIn(script) as gateway, client_of(gateway) as client:
        assert await client.select_chat("c", last_seq=5) == 5
        assert await seqs(client, 2) == [9001, 6]
        assert position_of(client).reordered == 0


async def test_a_gap_is_told_and_filled() -> None:
    """The client asks again from before the gap; only what was dropped comes, then the rest."""
    heard: list[dict[str, object]] = []

    async def script(connection: Connection) -> None:
        await connection.ready(seq=0)
        await connection.event(1)
        await connection.gap(2, 4)
        await connection.event(5)
        heard.append(await connection.hear())
        await connection.event(6)
        await connection.resumed(1, 5, id=heard[0]["id"])
        for seq in range(2, 8):
            await connection.event(seq)
        await connection.until_closed()

    async with StandIn(script) as gateway, client_of(gateway) as client:
        gap = await next_of(client, Gap)
        resumed = await next_of(client, Resumed)
        assert position_of(client).seq in (1, 7)
        assert await seqs(client, 4) == [2, 3, 4, 7]
    assert (gap.payload.from_seq, gap.payload.to_seq, gap.payload.dropped) == (2, 4, 3)
    assert (resumed.recovered, resumed.replayed) == (True, 5)
    assert heard[0] == {"type": "resume", "id": 1, "payload": {"last_seq": 1, "stream": "s@1"}}
    assert position_of(client).seq == 7


async def test_a_gap_that_was_not_filled_is_asked_for_at_the_next_dial() -> None:
    """While something is missing, the position stays before it."""

    async def first(connection: Connection) -> None:
        await connection.ready(seq=0)
        await connection.gap(2, 4)
        await connection.event(5)
        await connection.close(1001)

    async def second(connection: Connection) -> None:
        await connection.ready(seq=1, recovered=True, replayed=4)
        for seq in (2, 3, 4, 5, 6):
            await connection.event(seq)
        await connection.until_closed()

    async with (
        StandIn(first, second) as gateway,
        client_of(gateway) as client,
    ):
        assert await seqs(client, 5) == [5, 2, 3, 4, 6]
        assert gateway.requests[1].query["last_seq"] == "1"
        assert position_of(client).seq == 6


async def test_gaps_are_asked_for_one_at_a_time() -> None:
    """A gap before the answer is within what follows it; one after it is asked for again."""

    async def script(connection: Connection) -> None:
        await connection.ready(seq=0)
        await connection.gap(1, 1)
        message = await connection.hear()
        await connection.gap(2, 2)
        await connection.resumed(0, 2, id=message["id"])
        await connection.event(1)
        await connection.gap(2, 2)
        again = await connection.hear()
        assert again["payload"] == {"last_seq": 1, "stream": "s@1"}
        await connection.resumed(1, 1, id=again["id"])
        await connection.event(2)
        await connection.event(3)
        await connection.until_closed()

    async with StandIn(script) as gateway, client_of(gateway) as client:
        assert await seqs(client, 3) == [1, 2, 3]
        assert not position_of(client).behind


async def test_a_gap_that_cannot_be_filled_is_told() -> None:
    """`resumed` without recovery ends the waiting: the position goes on from there."""

    async def script(connection: Connection) -> None:
        await connection.ready(seq=0)
        await connection.gap(1, 2000)
        message = await connection.hear()
        refusal = {"recovered": False, "reason": "too_many", "id": message["id"]}
        await connection.say({"type": "resumed", "stream": "s@1", "seq": 2000, **refusal})
        await connection.event(2001)
        await connection.until_closed()

    async with StandIn(script) as gateway, client_of(gateway) as client:
        resumed = await next_of(client, Resumed)
        assert (resumed.recovered, resumed.reason) == (False, "too_many")
        assert await seqs(client, 1) == [2001]
        assert position_of(client).seq == 2001


async def test_who_is_told_to_come_later_does() -> None:
    """While the gateway is busy nothing is given up: all and the thread are asked for again."""
    busy: dict[str, Any] = {"recovered": False, "reason": "busy"}

    async def first(connection: Connection) -> None:
        await connection.ready(seq=0)
        await connection.done(await connection.hear(), 0)
        await connection.event(1)
        await connection.close(1001)

    async def second(connection: Connection) -> None:
        await connection.ready(seq=10, **busy)
        choice = await connection.hear()
        await connection.resumed(10, 0, chat_id="c", id=choice["id"], **busy)
        await connection.done(choice, 10)
        await connection.event(11)
        resume = await connection.hear()
        assert resume["payload"] == {"last_seq": 1, "stream": "s@1"}
        await connection.resumed(1, 3, id=resume["id"])
        for seq, kind in ((2, "chat"), (3, "message"), (11, "chat")):
            await connection.event(seq, kind=kind)
        again = await connection.hear()
        assert again["payload"] == {"chat_id": "c", "last_seq": 1, "stream": "s@1"}
        await connection.resumed(1, 1, chat_id="c", id=again["id"])
        await connection.event(3, kind="message")
        await connection.done(again, 1)
        await connection.event(12)
        await connection.until_closed()

    async with StandIn(first, second) as gateway, client_of(gateway) as client:
        await client.select_chat("c")
        assert await seqs(client, 5) == [1, 11, 2, 3, 12]
        assert (position_of(client).seq, position_of(client).thread) == (12, 12)
        assert client.reconnects == 1


async def test_a_choice_refused_after_a_redial_is_made_again() -> None:
    """The chat is asked for until it is looked at, or the client would wait for nothing."""

    async def first(connection: Connection) -> None:
        await connection.ready()
        await connection.done(await connection.hear(), 0)
        await connection.close(1001)

    async def second(connection: Connection) -> None:
        await connection.ready()
        await connection.hear()
        failure = {"code": "SubscriptionFailure", "message": "try again"}
        await connection.say({"type": "error", "payload": failure})
        await connection.done(await connection.hear(), 7)
        await connection.event(8, kind="message")
        await connection.until_closed()

    async with StandIn(first, second) as gateway, client_of(gateway) as client:
        await client.select_chat("c")
        assert await seqs(client, 1) == [8]


# -- moving ---------------------------------------------------------------------------------------


async def hint(connection: Connection) -> None:
    await connection.say({"type": "reconnect", "payload": {"after_ms": 1}})


async def test_it_moves_to_a_new_connection_before_the_old_one_ends() -> None:
    """No loss is told, no event is missing or doubled, and there was always a connection."""
    ready = asyncio.Event()

    async def old(connection: Connection) -> None:
        await connection.ready(seq=0)
        await connection.event(1)
        await hint(connection)
        await ready.wait()
        await connection.event(2)
        await connection.event(3)
        await connection.close(1001)

    async def new(connection: Connection) -> None:
        await connection.ready(seq=1, recovered=True, replayed=2)
        for seq in (2, 3, 4):
            await connection.event(seq)
        ready.set()
        await connection.until_closed()

    frames: list[Frame] = []
    four = asyncio.Event()

    def on_frame(frame: Frame) -> None:
        frames.append(frame)
        if isinstance(frame, Event) and frame.seq == 4:
            four.set()

    async with StandIn(old, new) as gateway, client_of(gateway, on_frame=on_frame) as client:
        async with asyncio.timeout(WAIT):
            await four.wait()
        assert gateway.requests[1].query["last_seq"] == "1"
        assert (client.moves, client.reconnects) == (1, 0)
        assert (client.outages.count, client.outages.seconds) == (0, 0.0)
        assert client.outages.since is None
    assert [f.seq for f in frames if isinstance(f, Event)] == [1, 2, 3, 4]
    assert [f.pod for f in frames if isinstance(f, Ready)] == ["pod-0", "pod-1"]
    assert not [f for f in frames if isinstance(f, Lost)]


async def test_an_old_connection_that_is_not_closed_is_left() -> None:
    """A gateway that forgets the old connection does not keep the client from the new one."""
    codes: asyncio.Queue[int | None] = asyncio.Queue()

    async def old(connection: Connection) -> None:
        await connection.ready(seq=0)
        await hint(connection)
        await codes.put(await connection.until_closed())

    async def new(connection: Connection) -> None:
        await connection.ready(seq=0, recovered=True, replayed=0)
        await connection.event(1)
        await connection.until_closed()

    async with StandIn(old, new) as gateway, client_of(gateway) as client:
        assert await seqs(client, 1) == [1]
        assert client.moves == 1
        assert await codes.get() == 1000


async def test_the_thread_moves_too_and_who_waits_for_it_gets_its_answer() -> None:
    """A choice that the old connection did not answer any more is answered by the new one."""

    async def old(connection: Connection) -> None:
        await connection.ready(seq=0)
        await connection.hear()
        await hint(connection)
        await connection.until_closed()

    async def new(connection: Connection) -> None:
        await connection.ready(seq=0, recovered=True, replayed=0)
        await connection.done(await connection.hear(), 5)
        await connection.until_closed()

    async with StandIn(old, new) as gateway, client_of(gateway) as client:
        assert await client.select_chat("c") == 5
        assert client.moves == 1


async def test_a_move_that_fails_leaves_the_old_connection() -> None:
    """It is read on, and its end is an ordinary loss."""
    refused = asyncio.Event()

    async def old(connection: Connection) -> None:
        await connection.ready(seq=0)
        await hint(connection)
        await refused.wait()
        await connection.event(1)
        await connection.close(1001)

    async def no(connection: Connection) -> None:
        refused.set()
        await connection.close(4402)

    async with StandIn(old, no, quiet) as gateway, client_of(gateway) as client:
        assert await seqs(client, 1) == [1]
        assert (await next_of(client, Lost)).code == 1001
        await next_of(client, Ready)
        assert (client.moves, client.reconnects) == (0, 1)
        assert client.outages.count == 1
        assert 0 < client.outages.longest == client.outages.seconds


async def test_being_displaced_while_moving_is_no_end() -> None:
    """The newcomer that took the session over is the client's own."""
    dialled = asyncio.Event()

    async def old(connection: Connection) -> None:
        await connection.ready(seq=0)
        await hint(connection)
        await dialled.wait()
        await connection.close(4402)

    async def new(connection: Connection) -> None:
        dialled.set()
        await connection.ready(seq=0, recovered=True, replayed=0)
        await connection.event(1)
        await connection.until_closed()

    async with StandIn(old, new) as gateway, client_of(gateway) as client:
        assert await seqs(client, 1) == [1]
        assert client.moves == 1


# -- tokens ---------------------------------------------------------------------------------------


async def test_with_fresh_tokens_the_end_of_one_is_not_the_end() -> None:
    """Each dial has its own token, and a warning is answered with another."""
    given: list[str] = []

    async def fetch() -> str:
        given.append(f"token-{len(given)}")
        return given[-1]

    async def first(connection: Connection) -> None:
        await connection.ready()
        await connection.say({"type": "token_expiring", "payload": {"expires_in_seconds": 30}})
        message = await connection.hear()
        assert message["payload"] == {"token": "token-1"}
        await connection.done(message, 0)
        await connection.close(4403, "token expired")

    async with StandIn(first, quiet) as gateway, client_of(gateway, fetch) as client:
        assert (await next_of(client, Lost)).code == 4403
        await next_of(client, Ready)
        headers = [request.headers["Authorization"] for request in gateway.requests]
    assert headers == ["Bearer token-0", "Bearer token-2"]


async def test_a_token_that_cannot_be_fetched_is_tried_again() -> None:
    """A backend that is away for a moment is no reason to give up."""
    answers: Iterator[str | OSError] = iter(["one", OSError("away"), "two"])

    async def fetch() -> str:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    async def first(connection: Connection) -> None:
        await connection.ready()
        await connection.close(1001)

    async with StandIn(first, quiet) as gateway, client_of(gateway, fetch) as client:
        await next_of(client, Lost)
        assert "no token: away" in (await next_of(client, Lost)).reason
        await next_of(client, Ready)
        assert gateway.requests[1].headers["Authorization"] == "Bearer two"


@pytest.mark.parametrize("code", [1002, 1007, 1009])
async def test_what_the_client_does_wrong_is_not_repeated(code: int) -> None:
    """Close codes that blame the client are final."""

    async def script(connection: Connection) -> None:
        await connection.ready()
        await connection.close(code)

    async with StandIn(script) as gateway, client_of(gateway) as client:
        with pytest.raises(Ended):
            await next_of(client, Event)
        assert len(gateway.requests) == 1
