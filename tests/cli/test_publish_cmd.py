"""`daisi-ws publish`, on a real NATS."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from asyncio.subprocess import PIPE
from functools import partial
from pathlib import Path

import pytest
from nats.aio.client import Client as NatsClient

from daisi_ws.domain.event import event_text
from daisi_ws.domain.subjects import parse
from tests.cli.command import AWAY, Result, daisi_ws, eventually, finish, start

CHATS = ("publish", "chats", "--company", "acme", "--agent", "sales")
MESSAGES = ("publish", "messages", "--company", "acme", "--agent", "sales", "--chat", "c-7")


class Broker:
    """The stream that is published to."""

    def __init__(self, client: NatsClient, url: str) -> None:
        self._jetstream = client.jetstream()
        self.env = {"DAISI_WS_NATS_URL": url}

    async def make(self) -> None:
        await self._jetstream.add_stream(name="wa_stream", subjects=["websocket.>"])

    async def size(self) -> int:
        return int((await self._jetstream.stream_info("wa_stream")).state.messages)

    async def has(self, count: int) -> bool:
        return await self.size() >= count

    async def stored(self) -> list[tuple[str, bytes, dict[str, str]]]:
        """Return subject, data and headers of everything stored, in order."""
        found = []
        for seq in range(1, await self.size() + 1):
            message = await self._jetstream.get_msg("wa_stream", seq)
            found.append((message.subject or "", message.data or b"", message.headers or {}))
        return found

    async def publish(self, *arguments: str, stdin: bytes | None = None) -> Result:
        return await daisi_ws(*arguments, env=self.env, stdin=stdin)


def files_of(pid: int) -> list[str]:
    """Return the names of the files that a process has open."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed just now
            found.append(str(descriptor.readlink()))
    return found


@pytest.fixture
async def broker(nats: NatsClient, nats_url: str) -> Broker:
    """A NATS with the stream."""
    broker = Broker(nats, nats_url)
    await broker.make()
    return broker


@pytest.mark.parametrize(
    ("arguments", "subject"),
    [
        (CHATS, "websocket.acme.sales.chats"),
        (MESSAGES, "websocket.acme.sales.messages.c-7"),
        (
            ("publish", "agents", "--company", "acme", "--agent", "sales"),
            "websocket.acme.sales.agents",
        ),
    ],
)
async def test_a_made_up_event_is_one_that_the_gateway_takes(
    broker: Broker, arguments: tuple[str, ...], subject: str
) -> None:
    """Without EVENT one is made up that passes the gateway's checks; its sequence is printed."""
    result = await broker.publish(*arguments)
    assert (result.code, result.out) == (0, f"1 event on {subject}: sequence 1\n")
    [(found, data, headers)] = await broker.stored()
    address = parse(found)
    assert found == subject
    assert address is not None
    event_text(address, data, 1)
    assert headers["Nats-Msg-Id"]


async def test_a_complete_event_is_published_byte_for_byte(broker: Broker) -> None:
    """Nothing is changed in an event that names all its ids."""
    event = '{"event_id":"e","company_id":"acme", "agent_id":"sales","row_data":{"n":1.50e3}}'
    assert (await broker.publish(*CHATS, event)).code == 0
    assert (await broker.stored())[0][1] == event.encode()


async def test_ids_left_out_are_added(broker: Broker) -> None:
    """row_data is enough; the ids are those of the options."""
    assert (await broker.publish(*MESSAGES, '{"row_data":{"text":"hi"}}')).code == 0
    event = json.loads((await broker.stored())[0][1])
    assert event.pop("event_id")
    assert event == {
        "company_id": "acme",
        "agent_id": "sales",
        "chat_id": "c-7",
        "row_data": {"text": "hi"},
    }


async def test_an_event_is_repeated(broker: Broker) -> None:
    """--count repeats EVENT, and the stream's duplicate window does not swallow it."""
    result = await broker.publish(*CHATS, '{"row_data":{}}', "--count", "3", "--json")
    summary = json.loads(result.out)
    assert (summary["events"], summary["first_seq"], summary["last_seq"]) == (3, 1, 3)
    assert await broker.size() == 3


async def test_lines_of_a_file_are_published_in_order(broker: Broker, tmp_path: Path) -> None:
    """One event a line, blank lines left out, the last one without line break."""
    file = tmp_path / "events"
    file.write_text("\n\n".join(f'{{"row_data":{{"n":{n}}}}}' for n in range(500)))
    result = await broker.publish(*CHATS, "--file", str(file))
    assert result.code == 0
    assert "sequences 1..500 of wa_stream" in result.out
    numbers = [json.loads(data)["row_data"]["n"] for _, data, _ in await broker.stored()]
    assert numbers == list(range(500))


async def test_standard_input_is_published_as_it_comes(broker: Broker) -> None:
    """A line is stored before the next one is there; --count ends it with the input still open."""
    process = await start(*CHATS, "--file", "-", "--count", "2", env=broker.env, stdin=PIPE)
    assert process.stdin is not None
    try:
        for number in range(1, 3):
            process.stdin.write(b'{"row_data":{}}\n')
            await eventually(partial(broker.has, number))
        async with asyncio.timeout(10):
            assert await process.wait() == 0
    finally:
        await finish(process)


async def test_a_dash_instead_of_an_event_is_standard_input(broker: Broker) -> None:
    """As with other commands; --file - says the same."""
    result = await broker.publish(*CHATS, "-", stdin=b'{"row_data":{}}\n{"row_data":{}}\n')
    assert result.code == 0
    assert await broker.size() == 2


async def test_a_rate_alone_goes_on_until_it_is_stopped(broker: Broker) -> None:
    """Made-up events keep coming; Ctrl-C ends them with code 130."""
    process = await start(*CHATS, "--rate", "200", env=broker.env)
    try:
        await eventually(partial(broker.has, 20))
        process.send_signal(signal.SIGINT)
    finally:
        result = await finish(process)
    assert result.code == 130


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"row_data":[]}', "row_data"),
        ('{"event_id":5,"row_data":{}}', "event_id"),
        ('{"company_id":"globex","row_data":{}}', "company_id"),
        ('{"row_data":', "JSON"),
        ("[]", "object"),
    ],
)
async def test_what_is_no_event_is_not_published(broker: Broker, line: str, named: str) -> None:
    """The place and the field are named, code 2; what came before it is stored."""
    result = await broker.publish(
        *CHATS, "--file", "-", stdin=f'{{"row_data":{{}}}}\n{line}\n'.encode()
    )
    assert result.code == 2
    assert "line 2" in result.err
    assert named in result.err
    assert "stored before it: 1 event" in result.err
    assert await broker.size() == 1


async def test_anything_is_published_unchecked(broker: Broker) -> None:
    """--unchecked is for trying what the gateway does with bad events."""
    assert (await broker.publish(*CHATS, "{no JSON", "--unchecked")).code == 0
    assert (await broker.stored())[0][1] == b"{no JSON"


async def test_the_rate_is_kept_and_progress_told(broker: Broker) -> None:
    """300 events at 200 a second take 1.5 s; after a second it is told how many are stored."""
    result = await broker.publish(*CHATS, "--count", "300", "--rate", "200", "--json")
    assert result.code == 0
    assert json.loads(result.out)["seconds"] == pytest.approx(1.5, abs=0.3)
    assert "of 300 events stored" in result.err


async def test_many_are_pipelined(broker: Broker) -> None:
    """10,000 events do not wait for one another's acknowledgements."""
    result = await broker.publish(*CHATS, "--count", "10000", "--json")
    summary = json.loads(result.out)
    assert (summary["events"], summary["last_seq"]) == (10_000, 10_000)
    assert summary["events_per_second"] > 2000


async def test_a_named_pipe_is_waited_for_and_published(broker: Broker, tmp_path: Path) -> None:
    """Until somebody writes to it, and until it is closed."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = await start(*CHATS, "--file", str(pipe), env=broker.env)

    async def written() -> bool:
        try:
            writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads yet
            return False
        os.write(writer, b'{"row_data":{}}\n{"row_data":{}}\n')
        os.close(writer)
        return True

    await eventually(written, 30.0)
    assert (await finish(process)).code == 0
    assert await broker.size() == 2


async def test_ctrl_c_ends_the_wait_for_a_named_pipe(broker: Broker, tmp_path: Path) -> None:
    """Code 130, although nobody has opened its other end."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = await start(*CHATS, "--file", str(pipe), "--count", "1", env=broker.env)

    async def opened() -> bool:
        return str(pipe) in files_of(process.pid)

    try:
        await eventually(opened, 20.0)
    except TimeoutError:
        process.kill()
        raise
    process.send_signal(signal.SIGINT)
    assert (await finish(process)).code == 130


async def test_ctrl_c_ends_it_at_once(broker: Broker) -> None:
    """SIGINT ends a slow publication with 130, without a traceback."""
    process = await start(*CHATS, "--count", "1000", "--rate", "5", env=broker.env)
    await eventually(lambda: broker.has(1))
    process.send_signal(signal.SIGINT)
    result = await finish(process)
    assert result.code == 130
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("publish", "messages", "--company", "a", "--agent", "b"), "--chat"),
        (("publish", "agents", "--company", "a", "--agent", "b", "--chat", "c"), "--chat"),
        (("publish", "chats", "--company", "a b", "--agent", "b"), "company_id"),
        (("publish", "chats", "--company", "a", "--agent", "b", '{"row_data":1}'), "row_data"),
        (("publish", "tables", "--company", "a", "--agent", "b"), "chats"),
        ((*CHATS, "--rate", "0"), "--rate"),
        ((*CHATS, "--rate", "nan"), "--rate"),
    ],
)
async def test_a_bad_command_line_needs_no_nats(arguments: tuple[str, ...], named: str) -> None:
    """What is wrong is named with code 2, whether or not NATS is there."""
    result = await daisi_ws(*arguments, env=AWAY)
    assert result.code == 2
    assert named in result.err


async def test_nats_away_is_told_with_the_next_step() -> None:
    """Code 1, the address, and where to say another."""
    result = await daisi_ws(*CHATS, env=AWAY)
    assert result.code == 1
    assert "NATS is not there at nats://127.0.0.1:1" in result.err
    assert "DAISI_WS_NATS_URL" in result.err


async def test_a_missing_stream_is_told_with_the_next_step(nats_url: str) -> None:
    """Code 1, the stream's name, and how it is made."""
    result = await daisi_ws(*CHATS, env={"DAISI_WS_NATS_URL": nats_url})
    assert result.code == 1
    assert "no stream wa_stream" in result.err
    assert "nats stream add" in result.err


async def test_a_stream_with_other_subjects_is_told(nats: NatsClient, nats_url: str) -> None:
    """Code 1 when the stream does not take the subject."""
    await nats.jetstream().add_stream(name="wa_stream", subjects=["other.>"])
    result = await daisi_ws(*CHATS, env={"DAISI_WS_NATS_URL": nats_url})
    assert result.code == 1
    assert "no stream takes websocket.acme.sales.chats" in result.err


async def test_what_was_not_stored_before_a_bad_line_is_told(
    nats: NatsClient, nats_url: str
) -> None:
    """Code 1: what is wrong with the stream comes before what is wrong with the line."""
    await nats.jetstream().add_stream(name="wa_stream", subjects=["other.>"])
    env, lines = {"DAISI_WS_NATS_URL": nats_url}, b'{"row_data":{}}\nno JSON\n'
    result = await daisi_ws(*CHATS, "--file", "-", env=env, stdin=lines)
    assert result.code == 1
    assert result.err.startswith("error: no stream takes websocket.acme.sales.chats\n")
