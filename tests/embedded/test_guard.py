"""No server survives the process that wanted it, however that process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daisi_ws.embedded import RedisServer
from daisi_ws.embedded.folder import private_folder
from tests.processes import children, wait_until_gone

PARENT = """
import os, signal, sys, threading
from pathlib import Path
from daisi_ws.embedded import Servers

servers = Servers(base=Path(sys.argv[1])).start()
{extra}
pids = [s.pid for s in (servers.redis, servers.nats)]
print(*pids, *(s.guard_pid for s in (servers.redis, servers.nats)), flush=True)
sys.stdin.read()
"""
FORK = """
if os.fork() == 0:
    signal.pause()
"""


@pytest.fixture
def killed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[int]]:
    """Process IDs of the servers and guards of a parent that was killed by SIGKILL."""
    program = PARENT.format(extra=getattr(request, "param", ""))
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 4
        forked = children(parent.pid) - set(pids)
        parent.kill()
        parent.wait()
        yield pids
        for pid in forked:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "killed",
    [
        pytest.param("", id="running"),
        pytest.param("servers.redis.pause(); servers.nats.pause()", id="servers paused"),
        pytest.param(FORK, id="forked worker lives on"),
    ],
    indirect=True,
)
def test_nothing_survives_a_killed_parent(killed: list[int]) -> None:
    """Servers and guards end soon after."""
    assert wait_until_gone(killed) == {}


def test_the_next_start_removes_the_folders_of_a_killed_parent(
    killed: list[int], tmp_path: Path
) -> None:
    """A crash leaves folders only until somebody starts again."""
    assert wait_until_gone(killed) == {}
    assert len(list(tmp_path.iterdir())) == 2
    private_folder(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


def test_the_server_does_not_survive_its_guard(tmp_path: Path) -> None:
    """A killed guard takes the server along."""
    with RedisServer(tmp_path) as server:
        pid = server.pid
        os.kill(server.guard_pid, signal.SIGKILL)
        assert wait_until_gone([pid]) == {}
        assert not server.running


def test_both_killed_at_once_leave_no_server(tmp_path: Path) -> None:
    """The two ties do not depend on one another."""
    program = PARENT.format(extra="")
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        for pid in (parent.pid, *pids[2:]):
            os.kill(pid, signal.SIGKILL)
        parent.wait()
    assert wait_until_gone(pids) == {}


def test_blocked_and_ignored_signals_are_not_handed_down(tmp_path: Path) -> None:
    """A supervisor that blocks signals does not start a server that cannot be stopped."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    try:
        with RedisServer(tmp_path) as server:
            status = Path(f"/proc/{server.pid}/status").read_text()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
    masks = dict(line.split(":\t") for line in status.splitlines() if line.startswith("SigBlk"))
    assert int(masks["SigBlk"], 16) == 0
