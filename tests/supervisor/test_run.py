"""The supervisor as a real process, with real workers, signals and sockets."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from tests.processes import is_alive, wait_until_gone
from tests.supervisor.host import DEADLINE, Host, answer_of


def _in_slot(slot: int) -> Callable[[dict[str, Any]], bool]:
    return lambda answer: bool(answer["slot"] == slot)


def _links(pid: int) -> dict[int, str]:
    folder = Path(f"/proc/{pid}/fd")
    return {int(fd.name): str(fd.readlink()) for fd in folder.iterdir()}


def test_every_slot_serves_and_knows_its_place(tmp_path: Path) -> None:
    """Context, ports, pod IDs and environment are as promised, and slots differ."""
    with Host(tmp_path, workers=3) as host:
        host.started()
        answers = [host.ask_until(_in_slot(n)) for n in range(3)]
        first_port = int(host.wait_for("supervisor started")["grpc_ports"].partition("-")[0])
        for slot, answer in enumerate(answers):
            assert answer["workers"] == 3
            assert answer["pod_id"] == f"host-{slot}-{answer['generation']}"
            assert answer["grpc_port"] == first_port + 2 * slot
            assert answer["supervisor_pid"] == answer["parent"] == host.pid
            assert answer["predecessor"] is None
            assert answer["group"] == answer["pid"], "Ctrl-C in a terminal is not for workers"
            assert Path(answer["metrics"]).is_dir()
        assert len({answer["supervisor_id"] for answer in answers}) == 1
        assert host.stop() == 0
        assert not Path(answers[0]["metrics"]).exists()


def test_worker_has_nothing_open_that_is_not_its_own(tmp_path: Path) -> None:
    """No sibling's socket, no reserved port, no pipe of the supervisor: one listener, two pipes."""
    with Host(tmp_path, workers=3) as host:
        host.started()
        answer = host.ask_until(_in_slot(2))
        links = _links(answer["pid"])
        sockets = [fd for fd, link in links.items() if link.startswith("socket:")]
        own = set(answer["own_fds"])
        assert len(sockets) == 1
        pipes = {link for fd, link in links.items() if link.startswith("pipe:") and fd > 2}
        wakeup = {links[fd] for fd in links if links[fd].startswith("pipe:") and fd not in own}
        assert own <= links.keys()
        assert len(pipes) == 3, "lifeline, reports, and the fake worker's own wakeup"
        assert len(wakeup - {links[2]}) == 1
        assert links[0] == "/dev/null"
        assert not [link for link in links.values() if "eventpoll" in link]


def test_stop_drains_workers_by_sigterm_once(tmp_path: Path) -> None:
    """SIGTERM to the supervisor is one SIGTERM to each worker, exit code 0."""
    with Host(tmp_path) as host:
        host.started()
        assert host.stop() == 0
        assert [host.signals_of(pid) for pid in host.worker_pids()] == [["SIGTERM"]] * 2


def test_ctrl_c_in_a_terminal_drains(tmp_path: Path) -> None:
    """SIGINT to the whole foreground group reaches the workers as the supervisor's SIGTERM only."""
    with Host(tmp_path) as host:
        host.started()
        os.killpg(host.process.pid, signal.SIGINT)
        assert host.exit_code() == 0
        assert [host.signals_of(pid) for pid in host.worker_pids()] == [["SIGTERM"]] * 2
        assert host.wait_for("stopping")["cause"] == "SIGINT"


def test_second_sigterm_is_quick(tmp_path: Path) -> None:
    """Workers that ignore everything are gone about two seconds later, long before the drain."""
    (tmp_path / "worker").write_text("stubborn")
    with Host(tmp_path, kill=600) as host:
        host.started()
        host.send(signal.SIGTERM)
        host.wait_until(lambda: all(map(host.signals_of, host.worker_pids())))
        host.send(signal.SIGTERM)
        assert host.exit_code() == 4
        assert [host.signals_of(pid) for pid in host.worker_pids()] == [["SIGTERM", "SIGINT"]] * 2
        host.wait_for("worker killed", 2)


def test_stubborn_worker_is_killed_when_its_drain_time_is_over(tmp_path: Path) -> None:
    """One SIGTERM, one deadline, SIGKILL with a line, exit code 4."""
    (tmp_path / "worker").write_text("stubborn")
    with Host(tmp_path, workers=1, kill=0.5) as host:
        host.started()
        assert host.stop() == 4
        assert host.wait_for("worker killed")["why"] == "did not end in time"


def test_reload_goes_to_the_workers_only_if_valid(tmp_path: Path) -> None:
    """An invalid configuration changes nothing and names every problem."""
    with Host(tmp_path, workers=1) as host:
        host.started()
        (pid,) = host.worker_pids()
        (tmp_path / "bad-config").touch()
        host.send(signal.SIGHUP)
        line = host.wait_for("reload refused, nothing changed")
        assert line["problems"] == ["server.workers: is a fish"]
        (tmp_path / "bad-config").unlink()
        host.set_mode("not_ready")
        host.send(signal.SIGHUP)
        line = host.wait_for("configuration reloaded")
        assert (line["hot"], line["restart"]) == (["log.level"], ["server.http_port"])
        host.wait_for("worker not ready any more", why="again")
        assert host.signals_of(pid) == ["SIGHUP"]
        assert host.stop() == 0


def test_worker_that_waits_for_redis_is_no_boot_failure(tmp_path: Path) -> None:
    """NOT_READY from the start is waited for; ready comes later."""
    (tmp_path / "worker").write_text("not_ready")
    with Host(tmp_path, workers=1, boot=1.0, silence=2.0) as host:
        begun = time.monotonic()
        host.ask()
        host.wait_until(lambda: time.monotonic() > begun + 1.5)
        host.set_mode("serve")
        host.send(signal.SIGHUP)
        host.started()
        assert len(host.worker_pids()) == 1
        assert host.stop() == 0


class _Clients:
    """Threads that connect one after the other and count what goes wrong."""

    def __init__(self, host: Host, threads: int) -> None:
        self.answered = 0
        self.failed: list[str] = []
        self._host = host
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._host.ask()
            except OSError as error:
                self.failed.append(repr(error))
            else:
                with self._lock:
                    self.answered += 1

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(DEADLINE)


def test_rolling_restart_refuses_and_resets_nobody(tmp_path: Path) -> None:
    """Clients that keep connecting notice nothing while every worker is replaced, twice."""
    with Host(tmp_path, workers=2) as host:
        host.started()
        with _Clients(host, 4) as clients:
            host.send(signal.SIGUSR2)
            host.wait_for("rolling restart started")
            host.send(signal.SIGUSR2)
            host.wait_for("rolling restart done", 2)
            late = [host.ask()["pid"] for _ in range(20)]
        assert clients.failed == []
        assert clients.answered > 20
        pids = host.worker_pids()
        assert len(pids) == 6
        assert set(late) <= set(pids[4:])
        assert [is_alive(pid) for pid in pids] == [False] * 4 + [True] * 2
        assert host.stop() == 0


def test_rolling_restart_with_a_bad_successor_keeps_the_old_workers(tmp_path: Path) -> None:
    """The restart is aborted with the successor's own words; everyone is still served."""
    with Host(tmp_path, workers=2) as host:
        host.started()
        before = host.worker_pids()
        host.set_mode("boot_failed")
        host.send(signal.SIGUSR2)
        assert host.wait_for("rolling restart aborted")["problem"] == "the stream is missing"
        assert {host.ask()["pid"] for _ in range(30)} == set(before)
        assert [host.signals_of(pid) for pid in before] == [[], []]
        assert host.stop() == 0


def test_connections_that_wait_survive_their_workers_death(tmp_path: Path) -> None:
    """SIGKILL with a full accept queue: the successor answers all of it."""
    with Host(tmp_path, workers=1) as host:
        host.started()
        dead = host.ask()
        os.kill(dead["pid"], signal.SIGSTOP)
        waiting = [socket.create_connection(("127.0.0.1", host.port), DEADLINE) for _ in range(50)]
        os.kill(dead["pid"], signal.SIGKILL)
        answers = [answer_of(client) for client in waiting]
        for client in waiting:
            client.close()
        assert {answer["predecessor"] for answer in answers} == {dead["pod_id"]}
        successor = host.wait_for("worker started", 2)["worker_pid"]
        assert {answer["pid"] for answer in answers} == {successor}
        assert host.wait_for("worker died")["signal"] == "SIGKILL"
        assert host.stop() == 0


def test_killed_workers_are_replaced_and_refuse_nobody(tmp_path: Path) -> None:
    """Ten SIGKILLs: every slot is filled again, and no connect is ever refused."""
    with Host(tmp_path, workers=2) as host:
        host.started()
        for round_ in range(10):
            slot = round_ % 2
            victim = host.ask_until(_in_slot(slot))["pid"]
            os.kill(victim, signal.SIGKILL)
            host.wait_for("worker died", worker_pid=victim)
            host.ask()
        assert host.stop() == 0


def test_worker_that_somebody_drains_is_replaced_at_once(tmp_path: Path) -> None:
    """SIGTERM to a worker by hand is not the end of its slot."""
    with Host(tmp_path, workers=1) as host:
        host.started()
        (old,) = host.worker_pids()
        os.kill(old, signal.SIGTERM)
        host.wait_for("worker leaves on its own", worker_pid=old)
        assert host.ask_until(lambda answer: answer["pid"] != old)["lane"] == 1
        assert host.stop() == 0


def test_boot_failure_at_the_first_start_ends_the_supervisor(tmp_path: Path) -> None:
    """Exit code 3, the problem and the hint in one line, no retry, nothing left."""
    (tmp_path / "worker-1").write_text("boot_failed")
    with Host(tmp_path, workers=2) as host:
        assert host.exit_code() == 3
        line = host.wait_for("worker cannot start")
        assert (line["problem"], line["hint"]) == ("the stream is missing", "make it")
        assert len(host.worker_pids()) == 2


def test_crash_loop_at_the_first_start_ends_the_supervisor(tmp_path: Path) -> None:
    """Three crashes without a word are enough."""
    (tmp_path / "worker").write_text("crash")
    with Host(tmp_path, workers=1) as host:
        assert host.exit_code() == 3
        assert len(host.worker_pids()) == 3


def test_boot_failure_later_is_retried_until_it_works(tmp_path: Path) -> None:
    """A slot that once was ready is never given up."""
    with Host(tmp_path, workers=2) as host:
        host.started()
        host.set_mode("boot_failed", 0)
        os.kill(host.ask_until(_in_slot(0))["pid"], signal.SIGKILL)
        host.wait_for("worker died", 4, slot=0)
        host.set_mode("serve", 0)
        host.wait_for("worker ready", 2, slot=0)
        host.ask_until(_in_slot(0))
        assert host.stop() == 0


def test_hung_worker_says_where_it_hangs_and_is_replaced(tmp_path: Path) -> None:
    """Silence, SIGABRT with a traceback of the worker, a successor in its place."""
    (tmp_path / "worker").write_text("hang")
    with Host(tmp_path, workers=1, silence=1.0) as host:
        hung = host.wait_for("worker hung")["worker_pid"]
        host.set_mode("serve")
        host.wait_for("worker died", worker_pid=hung, signal="SIGABRT")
        assert host.ask_until(lambda answer: answer["pid"] != hung)
        assert "Fatal Python error: Aborted" in host.text
        assert "fake_host.py" in host.text
        assert host.stop() == 0


def test_stopped_worker_goes_on_when_it_is_continued(tmp_path: Path) -> None:
    """SIGSTOP for less than the allowed silence is no reason to replace it."""
    with Host(tmp_path, workers=1, silence=60) as host:
        host.started()
        (pid,) = host.worker_pids()
        os.kill(pid, signal.SIGSTOP)
        with socket.create_connection(("127.0.0.1", host.port), DEADLINE) as client:
            client.settimeout(1.5)
            with pytest.raises(TimeoutError):
                client.recv(1)
            os.kill(pid, signal.SIGCONT)
            client.settimeout(DEADLINE)
            assert answer_of(client)["pid"] == pid
        assert host.stop() == 0


@pytest.mark.parametrize("mode", ["serve", "stubborn", "no_lifeline"])
def test_workers_do_not_outlive_a_killed_supervisor(tmp_path: Path, mode: str) -> None:
    """By the lifeline where signals are ignored, by a signal where the lifeline is not watched."""
    (tmp_path / "worker").write_text(mode)
    with Host(tmp_path) as host:
        host.started()
        host.process.kill()
        host.process.wait(DEADLINE)
        assert not wait_until_gone(host.worker_pids(), DEADLINE)


def test_worker_born_while_the_supervisor_dies_ends_too(tmp_path: Path) -> None:
    """Killed in the middle of a crash loop, the supervisor leaves nobody behind."""
    with Host(tmp_path, workers=1) as host:
        host.started()
        host.set_mode("crash")
        os.kill(host.worker_pids()[0], signal.SIGKILL)
        host.wait_for("worker died", 4)
        host.process.kill()
        host.process.wait(DEADLINE)
        assert not wait_until_gone(host.worker_pids(), DEADLINE)


@pytest.mark.parametrize("shared", ["http", "grpc", "both"])
def test_second_supervisor_is_refused_with_the_reason(tmp_path: Path, shared: str) -> None:
    """Any shared port is enough; the message names it and who holds it; the first goes on."""
    with Host(tmp_path) as first:
        first.started()
        answer = first.ask()
        grpc_port = int(first.wait_for("supervisor started")["grpc_ports"].partition("-")[0])
        with (
            # A worker's gRPC server, which the fake one has not.
            socket.create_server(("127.0.0.1", grpc_port + 1), reuse_port=True),
            Host(
                tmp_path,
                http_port=0 if shared == "grpc" else first.port,
                grpc_port=0 if shared == "http" else grpc_port,
            ) as second,
        ):
            assert second.exit_code() == 2
            problems = second.wait_for("refused")["problems"]
            assert len(problems) == (2 if shared == "both" else 1)
            if shared != "grpc":
                assert f"server.http_port: cannot use port {first.port}" in problems[0]
                assert f"taken by process {first.pid} " in problems[0]
            if shared != "http":
                assert f"server.grpc_port: cannot use port {grpc_port + 1}" in problems[-1]
                assert f"taken by process {os.getpid()} " in problems[-1]
            assert second.worker_pids() == []
        assert first.ask()["supervisor_id"] == answer["supervisor_id"]
        assert first.stop() == 0


def test_restart_at_once_on_the_same_ports(tmp_path: Path) -> None:
    """Connections in TIME_WAIT do not hinder, and generations go on growing."""
    with Host(tmp_path, workers=1) as first:
        first.started()
        port = first.port
        before = first.ask()
        assert first.stop() == 0
    with Host(tmp_path, workers=1, http_port=port) as second:
        second.started()
        after = second.ask()
        assert after["generation"] > before["generation"]
        assert after["supervisor_id"] != before["supervisor_id"]
        assert second.stop() == 0


def test_live_gauges_of_the_dead_go_and_counters_stay(tmp_path: Path) -> None:
    """Old files are removed at the start; a death removes only gauges of its own slot and lane."""
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    (metrics / "counter_from_before.db").touch()
    with Host(tmp_path, workers=2, metrics_dir=metrics) as host:
        host.started()
        assert not list(metrics.iterdir())
        names = ["gauge_livesum_0a.db", "gauge_liveall_0a.db", "gauge_livesum_0b.db"]
        names += ["gauge_livesum_1a.db", "counter_0a.db", "histogram_0a.db"]
        for name in names:
            (metrics / name).touch()
        os.kill(host.ask_until(_in_slot(0))["pid"], signal.SIGKILL)
        host.wait_for("worker ready", 2, slot=0)
        assert {file.name for file in metrics.iterdir()} == set(names[2:])
        assert host.stop() == 0
    assert metrics.is_dir()
    assert not list(metrics.iterdir())


def _can_unshare() -> bool:
    tool = shutil.which("unshare")
    if tool is None:
        return False
    command = [tool, "--pid", "--fork", "--mount-proc", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _can_unshare(), reason="no right to make a PID namespace")
def test_as_pid_1_it_reaps_adopted_orphans_and_obeys_signals(tmp_path: Path) -> None:
    """In a container: somebody else's child is reaped, not taken for a worker; SIGTERM drains."""
    (tmp_path / "worker").write_text("leave")
    prefix = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with Host(tmp_path, workers=2, prefix=prefix) as host:
        host.started()
        assert host.pid == 1
        (supervisor,) = _children(host.process.pid)
        os.kill(_outer(supervisor, host.ask()["pid"]), signal.SIGKILL)
        host.wait_for("worker ready", 3)
        # Two workers, and no zombie of an adopted orphan.
        host.wait_until(lambda: len(_children(supervisor)) == 2)
        assert len(host.worker_pids()) == 3
        os.kill(supervisor, signal.SIGTERM)
        assert host.process.wait(DEADLINE) == 0


def _children(pid: int) -> list[int]:
    """Return the children of a process, zombies too."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children]


def _outer(supervisor: int, inside: int) -> int:
    """Return the process ID here of one that is known by its ID inside the namespace."""
    for pid in _children(supervisor):
        status = Path(f"/proc/{pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("NSpid:"))
        if int(line.split()[-1]) == inside:
            return pid
    raise AssertionError(f"no process {inside} in the namespace")


def test_log_that_nobody_reads_does_not_end_it(tmp_path: Path) -> None:
    """A closed terminal or log pipe is not worth an outage."""
    with Host(tmp_path, workers=1, deaf_after="all workers ready") as host:
        host.started()
        (old,) = host.worker_pids()
        port = host.port
        os.kill(old, signal.SIGKILL)
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
            new = answer_of(client)
        assert new["pid"] != old
        host.send(signal.SIGTERM)
        assert host.process.wait(DEADLINE) == 0
