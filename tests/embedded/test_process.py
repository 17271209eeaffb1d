"""What holds for every embedded server: ports, folders, errors, threads and forks."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from daisi_ws.embedded import EmbeddedServerError, NatsServer, RedisServer, free_ports, process
from daisi_ws.embedded.child import Child
from daisi_ws.embedded.process import ServerProcess
from tests.processes import is_alive, wait_until_gone

SERVERS: list[type[ServerProcess]] = [RedisServer, NatsServer]


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port on which somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("server_type", SERVERS)
def test_a_private_folder_lives_as_long_as_the_server(
    server_type: type[ServerProcess], tmp_path: Path
) -> None:
    """It is made in the base folder and removed by stop(), not by kill()."""
    server = server_type(base=tmp_path).start()
    assert server.folder.parent == tmp_path
    server.kill()
    assert server.folder.exists()
    server.start()
    server.stop()
    assert list(tmp_path.iterdir()) == []
    server.stop()


@pytest.mark.parametrize("server_type", SERVERS)
def test_a_given_port_that_is_taken_is_an_error(
    server_type: type[ServerProcess], taken_port: int, tmp_path: Path
) -> None:
    """The server is not moved to another port behind the caller's back."""
    server = server_type(tmp_path, taken_port)
    with pytest.raises(EmbeddedServerError, match=f"{taken_port}: the port is taken"):
        server.start()
    assert not server.running


@pytest.mark.parametrize("server_type", SERVERS)
def test_a_free_port_that_was_taken_meanwhile_is_replaced(
    server_type: type[ServerProcess],
    taken_port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between finding a port and listening on it, somebody else may be quicker."""
    choices = iter([taken_port, free_ports(2)])
    monkeypatch.setattr("daisi_ws.embedded.process.free_ports", lambda _count: next(choices))
    with server_type(tmp_path) as server:
        assert server.port != taken_port


def test_an_answer_of_another_server_does_not_count(
    fresh_redis: RedisServer, tmp_path: Path
) -> None:
    """A second server at the same port is not taken for ours."""
    other = RedisServer(tmp_path, fresh_redis.port)
    with pytest.raises(EmbeddedServerError, match="the port is taken"):
        other.start()
    assert fresh_redis.running


def test_a_silent_server_is_given_up_at_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the address and the server is not left behind."""
    server = RedisServer(tmp_path, start_timeout=0.2)
    monkeypatch.setattr(server, "probe", lambda _timeout: False)
    with pytest.raises(EmbeddedServerError, match=r"did not answer at 127\.0\.0\.1:\d+ within"):
        server.start()
    assert not server.running


def test_a_program_that_cannot_be_run_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason comes from the operating system."""
    server = RedisServer(tmp_path)
    monkeypatch.setattr(server, "command", lambda: ["/no/such/program"])
    with pytest.raises(EmbeddedServerError, match="cannot run /no/such/program: No such file"):
        server.start()


def test_a_running_server_is_not_started_twice(fresh_redis: RedisServer) -> None:
    """A second start() is a mistake and says so."""
    with pytest.raises(EmbeddedServerError, match="already running"):
        fresh_redis.start()
    assert fresh_redis.running


def test_a_stopped_server_has_no_process_and_no_folder(tmp_path: Path) -> None:
    """Asking for them is an error with a sentence, before start() and after stop()."""
    server = RedisServer(tmp_path)
    for _ in range(2):
        with pytest.raises(EmbeddedServerError, match="does not run"):
            _ = server.pid
        with pytest.raises(EmbeddedServerError, match="is not started"):
            _ = server.folder
        assert server.log_tail() == ""
        server.start()
        server.stop()


@pytest.mark.parametrize("server_type", SERVERS)
def test_ctrl_c_while_it_is_launched_leaves_nothing(
    server_type: type[ServerProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits until the process is known, which is ended then, with its folder."""
    pids: list[int] = []

    class Interrupted(Child):
        def __init__(self, command: Sequence[str], folder: Path, log: Path) -> None:
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
            super().__init__(command, folder, log)
            pids.extend((self.pid, self.guard_pid))

    monkeypatch.setattr(process, "Child", Interrupted)
    # Ignored in what a shell runs in the background.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            server_type(base=tmp_path).start()
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(pids) == 2
    assert not any(map(is_alive, pids))
    assert list(tmp_path.iterdir()) == []


def test_a_crash_of_the_server_is_seen(fresh_redis: RedisServer) -> None:
    """`running` turns False when the server ends without us."""
    pid, guard_pid = fresh_redis.pid, fresh_redis.guard_pid
    os.kill(pid, signal.SIGKILL)
    assert wait_until_gone([pid, guard_pid]) == {}
    assert not fresh_redis.running


@pytest.mark.parametrize("server_type", SERVERS)
def test_a_paused_server_can_be_stopped(server_type: type[ServerProcess], tmp_path: Path) -> None:
    """stop() does not wait for a frozen server to wake up."""
    with server_type(tmp_path) as server:
        pid = server.pid
        server.pause()
    assert not is_alive(pid)


def test_it_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    """A server may be started by a helper thread that ends."""
    server = RedisServer(tmp_path)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    # The kernel delivers a parent-death signal while the thread ends: it would be dead by now.
    assert server.probe(5.0)
    server.stop()


def test_a_forked_process_cannot_end_it(fresh_redis: RedisServer) -> None:
    """A worker that unwinds its parent's stack must not take the server along."""
    child = os.fork()
    if child == 0:
        fresh_redis.kill()
        fresh_redis.stop()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert fresh_redis.probe(5.0)
