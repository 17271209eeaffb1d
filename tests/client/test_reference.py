"""The client's promises, against a gateway made of scripts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer

from daisi_ws.client import (
    Backoff,
    Ended,
    Error,
    Event,
    Frame,
    Lost,
    Other,
    Ready,
    ReferenceClient,
    Refused,
    Rejected,
    TokenExpiring,
    Unreachable,
    client_session,
)
from tests.client.stand_in import Connection, StandIn, refusing

F = TypeVar("F", bound=Frame)

QUICK = Backoff(shortest=0.001, longest=0.002)
WAIT = 10.0


def client_of(gateway: StandIn, **options: Any) -> ReferenceClient:
    return ReferenceClient(gateway.url, "key", "token", backoff=QUICK, **options)


async def quiet(connection: Connection) -> None:
    await connection.ready()
    await connection.until_closed()


def events(*seqs: int | None) -> Callable[[Connection], Any]:
    async def script(connection: Connection) -> None:
        await connection.ready()
        for seq in seqs:
            await connection.event(seq)
        await connection.until_closed()

    return script


async def next_of(client: ReferenceClient, kind: type[F]) -> F:
    while True:
        frame = await client.receive(WAIT)
        if isinstance(frame, kind):
            return frame


async def test_ready_tells_stream_position_connection_and_pod() -> None:
    """`connect` returns the gateway's `ready` with the pod of the handshake's header."""

    async def script(connection: Connection) -> None:
        await connection.ready(seq=41, stream="wa_stream@7")
        await connection.until_closed()

    async with StandIn(script) as gateway, client_of(gateway) as client:
        ready = client.ready
    assert ready is not None
    assert (ready.stream, ready.seq, ready.connection, ready.pod) == (
        "wa_stream@7",
        41,
        "0-a",
        "pod-0",
    )


async def test_credentials_and_subprotocol_travel_in_headers() -> None:
    """API key and token are in headers, not in the URL; `json.v1` is offered."""
    async with StandIn(quiet) as gateway, client_of(gateway):
        request = gateway.requests[0]
    assert request.headers["X-API-Key"] == "key"
    assert request.headers["Authorization"] == "Bearer token"
    assert request.headers["Sec-WebSocket-Protocol"] == "json.v1"
    assert request.query_string == ""


async def test_an_events_payload_comes_byte_for_byte() -> None:
    """The payload is the gateway's bytes: key order, spacing and number spelling."""
    payload = '{"event_id":"e", "n":1.50e3,"row_data":{"ä":[]}}'

    async def script(connection: Connection) -> None:
        await connection.ready()
        await connection.ws.send_str(f'{{"type":"event","seq":9,"payload":{payload}}}')
        await connection.until_closed()

    async with StandIn(script) as gateway, client_of(gateway) as client:
        event = await next_of(client, Event)
    assert bytes(event.payload).decode() == payload
    assert event.seq == 9
    assert event.received_at > 1e9
    assert event.fields()["n"] == 1500.0


async def test_every_kind_of_frame_is_typed() -> None:
    """Errors, warnings and messages of unknown type come as what they are."""

    async def script(connection: Connection) -> None:
        await connection.ready()
        await connection.say({"type": "error", "payload": {"code": "BadRequest", "message": "m"}})
        await connection.say({"type": "token_expiring", "payload": {"expires_in_seconds": 30}})
        await connection.say({"type": "novelty", "payload": 1})
        await connection.ws.send_str("not JSON")
        await connection.until_closed()

    async with StandIn(script) as gateway, client_of(gateway) as client:
        error = await next_of(client, Error)
        expiring = await next_of(client, TokenExpiring)
        novelty = await next_of(client, Other)
        garbage = await next_of(client, Other)
    assert error.payload.code == "BadRequest"
    assert expiring.payload.expires_in_seconds == 30
    assert novelty.name == "novelty"
    assert garbage.raw == b"not JSON"


async def test_select_chat_waits_for_done() -> None:
    """`select_chat` sends an ID and returns the sequence of the `done` that names it."""
    heard: list[dict[str, object]] = []

    async def script(connection: Connection) -> None:
        await connection.ready()
        heard.append(await connection.hear())
        await connection.say({"type": "done", "id": "other", "payload": {"seq": 1}})
        await connection.say({"type": "done", "id": heard[0]["id"], "payload": {"seq": 77}})
        await connection.until_closed()

    async with StandIn(script) as gateway, client_of(gateway) as client:
        assert await client.select_chat("chat-7") == 77
    assert heard == [{"type": "select_chat", "id": 1, "payload": {"chat_id": "chat-7"}}]


async def test_a_rejected_selection_raises() -> None:
    """An `error` answers the selection, but news of dropped events does not."""

    async def script(connection: Connection) -> None:
        await connection.ready()
        await connection.hear()
        for code in ("EventsDropped", "BadRequest"):
            await connection.say({"type": "error", "payload": {"code": code, "message": "no"}})
        await connection.until_closed()

    async with StandIn(script) as gateway, client_of(gateway) as client:
        with pytest.raises(Rejected, match="BadRequest: no"):
            await client.select_chat("chat 7")
        assert client.chat_id is None


async def test_an_unanswered_selection_times_out() -> None:
    """A gateway without the `id` extension is not waited for longer than asked."""
    async with StandIn(quiet) as gateway, client_of(gateway) as client:
        with pytest.raises(TimeoutError):
            await client.select_chat("chat-7", timeout=0.05)
        assert await client.select_chat("chat-8", wait=False) == 0


async def test_it_redials_and_selects_its_chat_again() -> None:
    """A lost connection is told, made again, and its chat selected without being asked."""
    heard: asyncio.Queue[dict[str, object]] = asyncio.Queue()

    async def first(connection: Connection) -> None:
        await connection.ready(seq=1)
        await heard.put(await connection.hear())
        await connection.close(1001, "going away")

    async def second(connection: Connection) -> None:
        await connection.ready(seq=5)
        await heard.put(await connection.hear())
        await connection.until_closed()

    async with StandIn(first, second) as gateway, client_of(gateway) as client:
        await next_of(client, Ready)
        await client.select_chat("chat-7", wait=False)
        lost = await next_of(client, Lost)
        again = await next_of(client, Ready)
        async with asyncio.timeout(WAIT):
            messages = [await heard.get(), await heard.get()]
    assert (lost.code, lost.reason) == (1001, "going away")
    assert (again.seq, again.pod) == (5, "pod-1")
    assert client.reconnects == 1
    assert [message["payload"] for message in messages] == [{"chat_id": "chat-7"}] * 2


async def test_a_connection_cut_without_close_frame_is_1006() -> None:
    """A reset connection is lost with code 1006, and made again."""

    async def first(connection: Connection) -> None:
        await connection.ready()
        connection.drop()

    async with StandIn(first, quiet) as gateway, client_of(gateway) as client:
        assert (await next_of(client, Lost)).code == 1006
        await next_of(client, Ready)


async def test_a_gateway_that_is_away_is_dialled_until_it_is_back() -> None:
    """After `ready` a refused dial is only told; the client goes on until one succeeds."""

    async def first(connection: Connection) -> None:
        await connection.ready()
        await connection.close(1001)

    async def busy(connection: Connection) -> None:
        await connection.close(1013)

    async with StandIn(first, busy, busy, quiet) as gateway, client_of(gateway) as client:
        assert (await next_of(client, Lost)).code == 1001
        assert (await next_of(client, Lost)).code == 0
        assert "1013" in (await next_of(client, Lost)).reason
        await next_of(client, Ready)


@pytest.mark.parametrize("code", [4400, 4401, 4402, 4403])
async def test_final_close_codes_end_it(code: int) -> None:
    """After a final code there is no further dial, and iterating raises with the reason."""

    async def script(connection: Connection) -> None:
        await connection.ready()
        await connection.close(code, "not you")

    async with StandIn(script) as gateway, client_of(gateway) as client:
        with pytest.raises(Ended) as ended:
            async for _ in client:
                pass
        assert (ended.value.code, ended.value.reason) == (code, "not you")
        assert await client.wait_ended() is ended.value
        assert len(gateway.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409])
async def test_final_refusals_are_raised_with_their_reason(status: int) -> None:
    """A refused upgrade raises `Refused` with code, message and details of the body."""
    app = web.Application()
    body = {"code": "InvalidToken", "message": "token expired", "details": "2 s ago"}
    app.router.add_get("/", refusing(status, body))
    async with TestServer(app) as server:
        client = ReferenceClient(str(server.make_url("/")), "key", "token")
        with pytest.raises(Refused) as refused:
            await client.connect(retry=True)
    assert (refused.value.status, refused.value.error) == (status, "InvalidToken")
    assert "token expired (2 s ago)" in str(refused.value)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_passing_refusals_may_be_tried_again(status: int) -> None:
    """429 and 5xx raise `Unreachable` at the first dial, not `Refused`."""
    app = web.Application()
    app.router.add_get("/", refusing(status, {"code": "RateLimitExceeded", "message": "slow"}))
    async with TestServer(app) as server:
        client = ReferenceClient(str(server.make_url("/")), "key", "token")
        with pytest.raises(Unreachable) as problem:
            await client.connect()
    assert problem.value.status == status


async def test_nobody_listening_is_unreachable() -> None:
    """A refused TCP connection raises `Unreachable` that names the address."""
    client = ReferenceClient("http://127.0.0.1:1/ws/admin", "key", "token")
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1/ws/admin"):
        await client.connect()


async def test_a_gateway_that_never_says_ready_is_given_up() -> None:
    """The time from dialling to `ready` is bounded."""

    async def script(connection: Connection) -> None:
        await connection.until_closed()

    async with StandIn(script) as gateway:
        client = client_of(gateway, connect_timeout=0.1)
        with pytest.raises(Unreachable, match="not ready within"):
            await client.connect()


async def test_a_final_close_before_ready_ends_it() -> None:
    """A close with a final code instead of `ready` raises `Ended` from `connect`."""

    async def script(connection: Connection) -> None:
        await connection.close(4403, "token expired")

    async with StandIn(script) as gateway:
        with pytest.raises(Ended, match="4403: token expired"):
            await client_of(gateway).connect()


async def test_events_that_come_again_are_held_back_and_counted() -> None:
    """With `positions` each sequence comes once, over reconnects too; late ones still come."""

    async def first(connection: Connection) -> None:
        await connection.ready(seq=2)
        for seq in (3, 4, 4, 6, 5, 5):
            await connection.event(seq)
        await connection.close(1001)

    async with (
        StandIn(first, events(5, 6, 7)) as gateway,
        client_of(gateway, positions=True) as client,
    ):
        seqs: list[int | None] = []
        while 7 not in seqs:
            seqs.append((await next_of(client, Event)).seq)
    assert seqs == [3, 4, 6, 5, 7]
    assert client.position is not None
    assert (client.position.seq, client.position.stream) == (7, "s@1")
    assert (client.position.duplicates, client.position.reordered) == (4, 1)


async def test_without_positions_frames_come_as_they_are() -> None:
    """Nothing is held back from who wants to see everything."""
    async with StandIn(events(3, 3, 2)) as gateway, client_of(gateway) as client:
        assert [(await next_of(client, Event)).seq for _ in range(3)] == [3, 3, 2]


async def test_pings_are_answered() -> None:
    """A client that only listens answers pings."""
    ponged = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.ready()
        await connection.ws.ping(b"are you there")
        message = await connection.ws.receive(WAIT)
        if message.type is WSMsgType.PONG and message.data == b"are you there":
            ponged.set()

    gateway = StandIn(script)
    gateway.autoping = False
    async with gateway, client_of(gateway):
        async with asyncio.timeout(WAIT):
            await ponged.wait()


async def test_frames_go_to_the_callback() -> None:
    """With `on_frame` frames are handed over at once and nothing waits for an iterator."""
    frames: list[Frame] = []
    three = asyncio.Event()

    def on_frame(frame: Frame) -> None:
        frames.append(frame)
        if len(frames) == 4:
            three.set()

    async with StandIn(events(1, 2, 3)) as gateway, client_of(gateway, on_frame=on_frame):
        async with asyncio.timeout(WAIT):
            await three.wait()
    assert [type(frame) for frame in frames] == [Ready, Event, Event, Event]


async def test_what_the_callback_raises_is_raised_at_the_end() -> None:
    """A callback that fails ends the client; `close` tells how."""

    def on_frame(frame: Frame) -> None:
        assert not isinstance(frame, Event), "wrong event"

    async with StandIn(events(1)) as gateway:
        client = client_of(gateway, on_frame=on_frame)
        await client.connect()
        async with asyncio.timeout(WAIT):
            assert await client.wait_ended() is None
        with pytest.raises(AssertionError, match="wrong event"):
            await client.close()


async def test_close_says_1000_and_ends_the_iteration() -> None:
    """`close` ends with code 1000; who iterates comes to the end after what was received."""
    codes: asyncio.Queue[int | None] = asyncio.Queue()

    async def script(connection: Connection) -> None:
        await connection.ready()
        await codes.put(await connection.until_closed())

    async with StandIn(script) as gateway:
        client = client_of(gateway)
        await client.connect()
        await client.close()
        await client.close()
        assert [type(frame) async for frame in client] == [Ready]
        assert await client.wait_ended() is None
        async with asyncio.timeout(WAIT):
            assert await codes.get() == 1000


async def test_who_does_not_iterate_stops_the_reading() -> None:
    """A full buffer leaves frames in the socket, so the gateway feels it; nothing is lost."""
    stalled = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.ready()
        for seq in range(1, 41):
            sending = asyncio.create_task(connection.event(seq, "x" * 1_000_000))
            done, _ = await asyncio.wait({sending}, timeout=0.2)
            if not done:
                stalled.set()
            await sending
        await connection.until_closed()

    async with StandIn(script) as gateway, client_of(gateway, buffer=2) as client:
        async with asyncio.timeout(WAIT):
            await stalled.wait()
        seqs = [(await next_of(client, Event)).seq for _ in range(40)]
    assert seqs == list(range(1, 41))


async def test_many_clients_share_a_session() -> None:
    """Clients with a common session do not limit or close one another."""
    async with StandIn(quiet) as gateway, client_session() as session:
        clients = [client_of(gateway, session=session) for _ in range(150)]
        async with asyncio.timeout(WAIT):
            await asyncio.gather(*(client.connect() for client in clients))
        await clients[0].close()
        assert not session.closed
        await asyncio.gather(*(client.close() for client in clients))


async def test_a_token_that_no_header_can_hold_is_told() -> None:
    """What fetched it may fetch a better one later, so it is as good as none."""

    async def fetch() -> str:
        return "with the line break of a file\n"

    async with StandIn(quiet) as gateway:
        client = ReferenceClient(gateway.url, "key", fetch)
        with pytest.raises(Unreachable, match="no token"):
            await client.connect()
        assert not gateway.requests


async def test_a_token_that_could_not_be_fetched_is_fetched_again() -> None:
    """Who makes tokens may be away for a moment; the connection need not end for that."""
    answers: list[str | OSError] = ["first", OSError("away"), OSError("still away"), "second"]
    tokens = iter(answers)
    presented = asyncio.Event()

    async def fetch() -> str:
        token = next(tokens)
        if isinstance(token, OSError):
            raise token
        return token

    async def script(connection: Connection) -> None:
        await connection.ready()
        await connection.say({"type": "token_expiring", "payload": {"expires_in_seconds": 30}})
        assert (await connection.hear())["payload"] == {"token": "second"}
        presented.set()
        await connection.until_closed()

    async with StandIn(script) as gateway:
        client = ReferenceClient(gateway.url, "key", fetch, pauses=QUICK)
        async with client, asyncio.timeout(WAIT):
            await presented.wait()
        assert client.reconnects == 0


async def test_a_fresh_token_is_presented_and_kept() -> None:
    """A token presented on the open connection is used by the next dial too."""

    async def first(connection: Connection) -> None:
        await connection.ready()
        message = await connection.hear()
        assert message["payload"] == {"token": "fresh"}
        await connection.say({"type": "done", "id": message["id"], "payload": {"seq": 0}})
        await connection.close(1001)

    async with StandIn(first, quiet) as gateway, client_of(gateway) as client:
        await next_of(client, Ready)
        await client.present_token("fresh")
        await next_of(client, Ready)
        assert gateway.requests[1].headers["Authorization"] == "Bearer fresh"


def test_the_token_is_not_shown() -> None:
    """Neither key nor token is in the client's repr."""
    shown = repr(ReferenceClient("http://gateway/ws/admin", "the-key", "the-token"))
    assert "the-key" not in shown
    assert "the-token" not in shown
