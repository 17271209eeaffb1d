"""`daisi-ws dev`: real servers, a real cluster, and nothing left of them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import pytest

from daisi_ws.cli.cluster import Snapshot, Trouble
from daisi_ws.cli.dev_clients import Arrival, Visitor
from daisi_ws.cli.dev_demo import Outcome, verdict, violations
from daisi_ws.cli.dev_live import plain_line
from daisi_ws.client import ReferenceClient
from tests.cli.command import AWAY, ROOT, Result, daisi_ws, environment, finish, start
from tests.cli.test_status_cmd import RECORD
from tests.processes import children, command_line, wait_until_gone

WAIT = 45.0
DELIVERY = re.compile(r"  (chats|messages|agents) +\d+ .* worker \d+ +worker \d+ +[\d.]+ ms")


def own_folder(tmp_path: Path) -> dict[str, str]:
    return {"TMPDIR": str(tmp_path)}


def descendants(pid: int) -> set[int]:
    found = children(pid)
    for child in set(found):
        found |= descendants(child)
    return found


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def until_said(process: Process, what: str) -> str:
    """Read standard output until something is said; return all of it."""
    assert process.stdout is not None
    text = ""
    async with asyncio.timeout(WAIT):
        while what not in text:
            line = await process.stdout.readline()
            if not line:
                raise AssertionError(f"ended; said {text} {await finish(process)}")
            text += line.decode()
    return text


async def test_once_shows_every_arrival_and_leaves_nothing(tmp_path: Path) -> None:
    """Every event of all three kinds arrives at whom it should, over both workers; code 0.

    What the shell says of another gateway does not matter.
    """
    foreign = {**AWAY, "DAISI_WS_CONFIG": "/nowhere", "DAISI_WS_NONSENSE": "1"}
    result = await daisi_ws("dev", "--once", env={**foreign, **own_folder(tmp_path)})
    assert result.code == 0, result
    deliveries = [line for line in result.out.splitlines() if DELIVERY.match(line)]
    assert f"all {len(deliveries)} deliveries arrived" in result.out
    assert {line.split()[0] for line in deliveries} == {"chats", "messages", "agents"}
    assert any("through gRPC" in line for line in deliveries)
    assert not all("through gRPC" in line for line in deliveries)
    assert "\x1b[" not in result.out
    assert left_in(tmp_path) == []


async def test_the_printed_commands_work_as_printed(tmp_path: Path) -> None:
    """Each command, pasted into a shell that knows nothing, does what it is for.

    SIGTERM then stops everything, with code 0.
    """
    process = await start("dev", env=own_folder(tmp_path))
    try:
        text = await until_said(process, "/generate-token\n")
        lines = [line[2:] for line in text.partition("second terminal:\n")[2].splitlines()]
        lines = [line.replace("--rate 200 --count 2000", "--rate 200 --count 20") for line in lines]
        tails = [f"{line} --count 1 --json &" for line in lines if " tail user" in line]
        others = [line for line in lines if " tail " not in line]
        result = await shell([*preparation(lines), *tails, *others, "wait"])
        assert result.code == 0, result
        assert "20 events on websocket.acme.sales.messages.chat-7" in result.out
        assert "user token, valid for" in result.out
        assert "cluster   OK, 2 pods on 1 host" in result.out
        assert '"status":"READY"' in result.out
        assert '"token":"' in result.out
        assert '"type":"event"' in result.out
        plain = await until_said(process, "worker 1: READY")
        assert "deliveries/s" in plain
        inside = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        ended = await finish(process)
    finally:
        await end(process)
    assert ended.code == 0, ended
    assert wait_until_gone(inside) == {}
    assert left_in(tmp_path) == []


async def test_nothing_outlives_a_crash(tmp_path: Path) -> None:
    """After SIGKILL servers, supervisor and workers end by themselves."""
    process = await start("dev", env=own_folder(tmp_path))
    try:
        await until_said(process, "second terminal")
        inside = descendants(process.pid)
        assert len(inside) >= 7
        process.kill()
        await finish(process)
    finally:
        await end(process)
    assert wait_until_gone(inside, 15) == {}


async def test_ctrl_c_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    """SIGINT before it serves ends with 130 and without a traceback."""
    process = await start("dev", env=own_folder(tmp_path))
    try:
        await until_said(process, "Redis and NATS")
        process.send_signal(signal.SIGINT)
        result = await finish(process)
    finally:
        await end(process)
    assert result.code == 130
    assert "Traceback" not in result.err
    assert left_in(tmp_path) == []


async def test_a_taken_port_is_told(tmp_path: Path) -> None:
    """Code 1 and the port; nothing is left."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = await daisi_ws("dev", "--http-port", port, env=own_folder(tmp_path))
    assert result.code == 1
    assert port in result.err
    assert left_in(tmp_path) == []


async def test_a_gateway_that_ends_by_itself_is_told(tmp_path: Path) -> None:
    """When the supervisor dies while it serves, dev ends with code 1 and shows the log."""
    process = await start("dev", env=own_folder(tmp_path))
    try:
        await until_said(process, "second terminal")
        for pid in descendants(process.pid):
            if " serve " in command_line(pid):
                os.kill(pid, signal.SIGKILL)
        result = await finish(process)
    finally:
        await end(process)
    assert result.code == 1
    assert "the gateway ended by itself" in result.err


async def test_kept_keys_and_data_are_gone_on_with(tmp_path: Path) -> None:
    """With --keep a token of the first run is good in the second, and the stream goes on."""
    keep = ("dev", "--once", "--workers", "1", "--keep", str(tmp_path / "kept"))
    first = await daisi_ws(*keep)
    assert first.code == 0, first
    config = str(tmp_path / "kept" / "gateway" / "config.yaml")
    ids = ("--company", "acme", "--agent", "sales", "--user", "ana")
    token = (await daisi_ws("token", "user", *ids, "--config", config)).out
    second = await daisi_ws(*keep)
    assert second.code == 0, second
    check = await daisi_ws("token", "check", "-", "--config", config, stdin=token.encode())
    assert check.code == 0
    sequences = [int(line.split()[1]) for line in second.out.splitlines() if DELIVERY.match(line)]
    assert min(sequences) == 10


async def test_a_kept_file_that_is_damaged_is_told(tmp_path: Path) -> None:
    """Code 1 and the file, without a traceback."""
    config = tmp_path / "kept" / "gateway" / "config.yaml"
    config.parent.mkdir(parents=True)
    config.touch()
    result = await daisi_ws("dev", "--once", "--keep", str(tmp_path / "kept"))
    assert result.code == 1
    assert str(config) in result.err
    assert "Traceback" not in result.err


def visitor(name: str, kinds: set[str], *event_ids: str) -> Visitor:
    client = ReferenceClient("http://gateway", "key", "token")
    arrivals = [Arrival(event_id, None, 0.0) for event_id in event_ids]
    return Visitor(name, client, kinds, arrivals)


@pytest.mark.parametrize(
    ("got", "kinds", "wrong"),
    [
        (("1", "3"), {"chats"}, False),
        (("1",), {"chats"}, False),
        (("3", "1"), {"chats"}, True),
        (("1", "1", "3"), {"chats"}, True),
        (("1", "2", "3"), {"chats"}, True),
        (("2",), set(), True),
    ],
)
def test_what_should_not_come_is_found(got: tuple[str, ...], kinds: set[str], wrong: bool) -> None:
    """Twice, out of order or to the wrong client is a violation; missing ones are told before."""
    published = [("chats", "1"), ("agents", "2"), ("chats", "3")]
    assert bool(violations([visitor("ana", kinds, *got)], published)) == wrong


def test_the_verdict_tells_what_went_wrong() -> None:
    """With problems there is no word of success."""
    outcome = Outcome(latencies=[0.001], expected=2, problems=["it did not reach ana"])
    assert "1 of 2 deliveries" in verdict(outcome)
    assert "did not reach ana" in verdict(outcome)
    assert "all" not in verdict(outcome)


def test_a_plain_line_has_every_worker_and_problem() -> None:
    """Without a terminal one line says it all."""
    line = plain_line(Snapshot([RECORD], troubles=[Trouble("Redis is away")]), 0.0)
    assert "worker 0: READY, 12 conn, 100 events/s, 1200 deliveries/s, p50 1 ms, p99 5 ms" in line
    assert "Redis is away" in line


def preparation(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith(("export", "PATH", "daisi-ws()"))]


async def shell(lines: list[str]) -> Result:
    process = await asyncio.create_subprocess_exec(
        "bash", "-e", "-c", "\n".join(lines), stdout=PIPE, stderr=PIPE, cwd=ROOT, env=environment()
    )
    return await finish(process)


async def end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.communicate()
