"""`daisi-ws tail`: against a gateway made of scripts, and against the real one."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from msgspec.structs import replace

from daisi_ws.adapters.token_codec_aesgcm import AesGcmTokenCodec
from daisi_ws.cli.tail_cmd import _default_url
from daisi_ws.cli.tail_view import as_json, as_text
from daisi_ws.client import Event, Other, decode
from daisi_ws.config import testing_config
from daisi_ws.domain import token as contents
from tests.cli.command import AWAY, KEYS, Result, daisi_ws, finish, start
from tests.client.stand_in import Connection, StandIn, refusing
from tests.cluster import cluster

USER = ("tail", "user", "--company", "acme", "--agent", "sales", "--user", "ana")
ADMIN = ("tail", "admin", "--admin", "root")
WAIT = 15.0


def base(gateway: StandIn) -> str:
    return gateway.url.removesuffix("/ws/acme/sales")


async def tail(gateway: StandIn, *arguments: str) -> Result:
    return await daisi_ws(*arguments, "--url", base(gateway))


def saying(count: int) -> Callable[[Connection], Coroutine[None, None, None]]:
    async def script(connection: Connection) -> None:
        await connection.ready(seq=4)
        for seq in range(5, 5 + count):
            payload = {
                "event_id": f"e{seq}",
                "company_id": "acme",
                "agent_id": "sales",
                "event_type": "chat",
                "row_data": {"text": f"text {seq}"},
            }
            await connection.say({"type": "event", "seq": seq, "payload": payload})
        await connection.until_closed()

    return script


async def test_frames_are_printed_for_people() -> None:
    """One line a frame with time, kind, sequence, ids and content; --count ends it with code 0."""
    async with StandIn(saying(3)) as gateway:
        result = await tail(gateway, *USER, "--count", "2")
    lines = result.out.splitlines()
    assert result.code == 0
    assert len(lines) == 3
    assert "ready" in lines[0]
    assert "live after seq 4" in lines[0]
    assert "pod-0" in lines[0]
    assert all(part in lines[2] for part in ("chat", "seq 6", "acme/sales", '"text":"text 6"'))
    assert "2 events in" in result.err


async def test_frames_are_printed_for_machines() -> None:
    """--json prints one object a line and nothing else on standard output."""
    async with StandIn(saying(2)) as gateway:
        result = await tail(gateway, *USER, "--count", "2", "--json")
    frames = [json.loads(line) for line in result.out.splitlines()]
    assert [frame["type"] for frame in frames] == ["ready", "event", "event"]
    assert frames[2]["payload"]["row_data"] == {"text": "text 6"}
    assert frames[2]["seq"] == 6


async def test_it_connects_with_a_token_made_from_the_keys() -> None:
    """Path, API key and token are those of the user that was asked for."""
    async with StandIn(saying(1)) as gateway:
        await tail(gateway, *USER, "--count", "1")
        request = gateway.requests[0]
    assert request.path == "/ws/acme/sales"
    assert request.headers["X-API-Key"] == KEYS["DAISI_WS_AUTH_SECRET_TOKEN"]
    made = request.headers["Authorization"].removeprefix("Bearer ")
    codec = AesGcmTokenCodec(KEYS["DAISI_WS_AUTH_TOKEN_AES_KEY"])
    assert contents.read("user", codec.decode(made)).identity == "acme:sales:ana"


async def test_an_admin_connects_with_its_scope() -> None:
    """Path, API key and token are an admin's, with the subscription that was asked for."""
    async with StandIn(saying(1)) as gateway:
        await tail(gateway, *ADMIN, "--subscribed-company", "acme", "--count", "1")
        request = gateway.requests[0]
    assert request.path == "/ws/admin"
    assert request.headers["X-API-Key"] == KEYS["DAISI_WS_AUTH_ADMIN_SECRET_TOKEN"]
    made = request.headers["Authorization"].removeprefix("Bearer ")
    codec = AesGcmTokenCodec(KEYS["DAISI_WS_AUTH_ADMIN_TOKEN_AES_KEY"])
    assert contents.read("admin", codec.decode(made)).subject == "websocket.acme.*.agents"


async def test_a_given_token_says_where_to_connect() -> None:
    """With --token company and agent come out of the token; it is used as it is."""
    ids = ("--company", "acme", "--agent", "support", "--user", "zoe")
    made = (await daisi_ws("token", "user", *ids)).out.strip()
    async with StandIn(saying(1)) as gateway:
        arguments = ("tail", "user", "--token", "-", "--count", "1", "--url", base(gateway))
        result = await daisi_ws(*arguments, stdin=made.encode())
        request = gateway.requests[0]
    assert result.code == 0
    assert request.path == "/ws/acme/support"
    assert request.headers["Authorization"] == f"Bearer {made}"


async def test_a_chat_is_selected() -> None:
    """--chat sends select_chat; that it took effect is printed."""
    heard: list[dict[str, object]] = []

    async def script(connection: Connection) -> None:
        await connection.ready()
        heard.append(await connection.hear())
        await connection.say({"type": "done", "id": heard[0]["id"], "payload": {"seq": 9}})
        await connection.event(10)
        await connection.until_closed()

    async with StandIn(script) as gateway:
        result = await tail(gateway, *USER, "--chat", "chat-7", "--count", "1")
    assert result.code == 0
    assert heard[0]["payload"] == {"chat_id": "chat-7"}
    assert "live after seq 9" in result.out


async def test_it_reconnects_and_says_so_on_standard_error() -> None:
    """A lost connection is told beside the frames, and made again."""

    async def first(connection: Connection) -> None:
        await connection.ready()
        await connection.event(1)
        await connection.close(1001, "going away")

    async with StandIn(first, saying(1)) as gateway:
        result = await tail(gateway, *USER, "--count", "2")
    assert result.code == 0
    assert "connection lost (1001 going away)" in result.err
    assert "1 reconnect" in result.err
    assert "going away" not in result.out


async def test_what_was_missed_is_told() -> None:
    """What is given again, gaps and moves are lines of their own, and in the summary."""

    async def first(connection: Connection) -> None:
        await connection.ready()
        await connection.event(1)
        await connection.close(1001, "going away")

    async def second(connection: Connection) -> None:
        await connection.ready(seq=1, recovered=True, replayed=2)
        for seq in (1, 2, 3):
            await connection.event(seq)
        await connection.gap(4, 6)
        message = await connection.hear()
        refusal = {"recovered": False, "reason": "too_many"}
        await connection.resumed(6, 0, id=message["id"], **refusal)
        await connection.say({"type": "reconnect", "payload": {"after_ms": 5}})
        await connection.until_closed()

    async def third(connection: Connection) -> None:
        await connection.ready(seq=6, recovered=True, replayed=0)
        await connection.event(7)
        await connection.until_closed()

    async with StandIn(first, second, third) as gateway:
        result = await tail(gateway, *USER, "--count", "4")
    assert result.code == 0, result.err
    for told in (
        "live after seq 1, 2 missed events given again",
        "3 events dropped between seq 4 and 6",
        "all, live after seq 6, what was missed is not given again (too_many)",
        "the pod is going away, opening another connection in 5.0 ms",
    ):
        assert told in result.out
    summary = "1 reconnect, 1 move, 1 gap, 2 events given again, 1 duplicate held back"
    assert summary in result.err


async def test_a_token_that_ends_is_renewed() -> None:
    """A warning that the token ends is answered with a fresh one of the same identity."""
    tokens: list[str] = []

    async def script(connection: Connection) -> None:
        await connection.ready()
        tokens.append(connection.request.headers["Authorization"].removeprefix("Bearer "))
        await connection.say({"type": "token_expiring", "payload": {"expires_in_seconds": 30}})
        message = await connection.hear()
        assert message["type"] == "token"
        tokens.append(msgspec.convert(message["payload"], dict[str, str])["token"])
        await connection.event(1)
        await connection.until_closed()

    async with StandIn(script) as gateway:
        assert (await tail(gateway, *USER, "--count", "1")).code == 0
    codec = AesGcmTokenCodec(KEYS["DAISI_WS_AUTH_TOKEN_AES_KEY"])
    identities = {contents.read("user", codec.decode(made)).identity for made in tokens}
    assert len(set(tokens)) == 2
    assert identities == {"acme:sales:ana"}


async def test_timeout_before_count_is_a_failure() -> None:
    """--timeout before --count events had come ends with code 1 and says how many came."""
    async with StandIn(saying(1)) as gateway:
        result = await tail(gateway, *USER, "--count", "5", "--timeout", "1s")
    assert result.code == 1
    assert "only 1 of 5 events came" in result.err


async def test_timeout_alone_is_an_end() -> None:
    """--timeout without --count ends with code 0."""
    async with StandIn(saying(1)) as gateway:
        for seconds in ("0.3s", "2s", "15s"):  # a busy machine takes longer to connect
            result = await tail(gateway, *USER, "--timeout", seconds)
            if "was not ready within" not in result.err:
                break
    assert result.code == 0


async def test_timeout_without_a_connection_is_a_failure() -> None:
    """--timeout before a gateway that hangs was ready ends with code 1 and says so, also where a
    number of events was wanted."""

    async def script(connection: Connection) -> None:
        await connection.until_closed()

    async with StandIn(script) as gateway:
        result = await tail(gateway, *USER, "--timeout", "1s", "--count", "1")
    assert result.code == 1
    assert "not ready within 1 s" in result.err


async def test_ctrl_c_ends_it_cleanly() -> None:
    """SIGINT closes with 1000, prints the summary and ends with 130, without a traceback."""
    codes: list[int | None] = []

    async def script(connection: Connection) -> None:
        await saying(1)(connection)
        codes.append(connection.ws.close_code)

    async with StandIn(script) as gateway:
        process = await start(*USER, "--url", base(gateway))
        assert process.stdout is not None
        async with asyncio.timeout(WAIT):
            while b"seq 5" not in await process.stdout.readline():
                continue
        process.send_signal(signal.SIGINT)
        result = await finish(process)
    assert result.code == 130
    assert result.err.startswith("1 event in")
    assert codes == [1000]


async def test_a_refusal_is_told_with_the_next_step() -> None:
    """Code 1, the gateway's words, and what to look at."""
    app = web.Application()
    body = {"code": "InvalidToken", "message": "the token is not valid"}
    app.router.add_get("/{path:.*}", refusing(403, body))
    async with TestServer(app) as server:
        result = await daisi_ws(*USER, "--url", str(server.make_url("/")))
    assert result.code == 1
    assert "HTTP 403 InvalidToken: the token is not valid" in result.err
    assert "daisi-ws token check" in result.err


async def test_being_displaced_ends_it() -> None:
    """After a final close code it does not come back; code 1 and why."""

    async def script(connection: Connection) -> None:
        await connection.ready()
        await connection.close(4402, "session taken over")

    async with StandIn(script) as gateway:
        result = await tail(gateway, *USER)
        assert len(gateway.requests) == 1
    assert result.code == 1
    assert "4402: session taken over" in result.err
    assert "connected elsewhere" in result.err


async def test_nobody_there_is_told_with_the_next_step() -> None:
    """Code 1, the address, and how to say another."""
    result = await daisi_ws(*USER, "--url", "http://127.0.0.1:1")
    assert result.code == 1
    assert "http://127.0.0.1:1/ws/acme/sales" in result.err
    assert "--url" in result.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("tail", "user", "--company", "a", "--agent", "b"), "--user"),
        (("tail", "admin"), "--admin"),
        (("tail", "user", "--company", "a.b", "--agent", "b", "--user", "c"), "company_id"),
        ((*USER, "--timeout", "soon"), "--timeout"),
        ((*USER, "--token", "two\nlines"), "--token"),
        ((*USER, "--token", "-"), "--token is no token"),
        ((*ADMIN, "--url", "foo"), "--url"),
    ],
)
async def test_a_bad_command_line_is_named(arguments: tuple[str, ...], named: str) -> None:
    """What is missing or wrong is named with code 2."""
    result = await daisi_ws(*arguments, env=AWAY)
    assert result.code == 2
    assert named in result.err


async def test_a_free_port_needs_the_url() -> None:
    """With server.http_port 0 nobody can know where the gateway is."""
    result = await daisi_ws(*USER, env={"DAISI_WS_SERVER_HTTP_PORT": "0"})
    assert result.code == 2
    assert "--url" in result.err


@pytest.mark.parametrize(("enabled", "address"), [(False, "http"), (True, "https")])
def test_a_gateway_that_speaks_tls_is_asked_so(enabled: bool, address: str) -> None:
    """Without --url it is this machine's port, by TLS where server.http_tls is on."""
    config = testing_config(server__http_host="::1")
    tls = replace(config.server.http_tls, enabled=enabled)
    config = replace(config, server=replace(config.server, http_tls=tls))
    assert _default_url(config) == f"{address}://[::1]:8080"


async def test_events_of_the_real_gateway_are_printed(
    tmp_path: Path, redis_url: str, nats_url: str
) -> None:
    """What `publish` puts into the stream `tail` prints, from a user's chat and for an admin."""
    async with cluster(tmp_path, redis_url, nats_url, hosts=1, workers=1) as running:
        host = running.hosts[0]
        env = host.environment
        user = await start(*USER, "--chat", "c-7", "--count", "2", "--json", env=env)
        admin = await start(*ADMIN, "--count", "1", "--json", env=env)
        await said(user, b'"done"')
        await said(admin, b'"ready"')
        ids = ("--company", "acme", "--agent", "sales")
        for arguments in (("chats",), ("messages", "--chat", "c-7"), ("agents",)):
            published = await daisi_ws("publish", arguments[0], *ids, *arguments[1:], env=env)
            assert published.code == 0, published.err
        results = [await finish(user), await finish(admin)]
    assert [result.code for result in results] == [0, 0]
    events = [json.loads(line)["payload"] for result in results for line in result.out.splitlines()]
    assert [event["event_type"] for event in events] == ["chat", "message", "agent"]


async def said(process: asyncio.subprocess.Process, what: bytes) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(WAIT):
        while what not in (line := await process.stdout.readline()):
            assert line, await finish(process)


def test_a_payload_with_line_breaks_is_one_line() -> None:
    """Blank space between tokens goes, what is inside texts stays."""
    payload = b'{\n "event_id": "e",\n "row_data": {"text": "a\\nb  c"}\n}'
    line = as_json(Event(payload=msgspec.Raw(payload), seq=1))
    assert "\n" not in line
    assert json.loads(line)["payload"]["row_data"] == {"text": "a\nb  c"}


def test_what_is_no_event_payload_is_still_shown() -> None:
    """A payload that cannot be read is printed as it came."""
    assert "[1,2]" in as_text(Event(payload=msgspec.Raw(b"[1,2]"), seq=1))


def test_unknown_frames_are_shown() -> None:
    """A message of unknown type is printed with its type and text, also as JSON."""
    frame = decode(b'{"type":"novelty","x":1}')
    assert isinstance(frame, Other)
    assert "novelty" in as_text(frame)
    assert json.loads(as_json(frame))["raw"] == '{"type":"novelty","x":1}'


def test_how_late_an_event_came_is_shown() -> None:
    """The time since the event's own `event_time` is shown where it means something."""
    times = {"2026-01-01T00:00:00.000Z": "+2.5 ms", "2026-01-02T00:00:00Z": "", "soon": ""}
    for event_time, shown in times.items():
        payload = msgspec.json.encode({"event_id": "e", "event_time": event_time})
        line = as_text(Event(payload=msgspec.Raw(payload), received_at=1767225600.0025))
        assert shown in line
        assert ("+" in line) == bool(shown)
