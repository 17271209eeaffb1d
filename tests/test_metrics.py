"""Counts of the hot path, and what a scrape sees of them."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

from daisi_ws.metrics import LATENCY_BUCKETS, Metrics

WORKER = """
import sys
from daisi_ws import metrics
print(metrics.use_identifier(sys.argv[1]))
made = metrics.Metrics()
made.tally.chat = 3
made.tally.delivered = 5
made.tally.observe_latency(0.004, 5)
made.ready.set(1)
made.fold()
if sys.argv[2:]:
    print(made.exposition().decode())
"""


def test_labels_find_one_child() -> None:
    """Known values or not, the second look finds what the first one made."""
    metrics = Metrics()
    for values in (("user",), ("never heard of",)):
        metrics.auth_success.labels(*values).inc()
        metrics.auth_success.labels(*values).inc()
        count = metrics.registry.get_sample_value("dws_auth_success_total", {"type": values[0]})
        assert count == 2


def test_a_second_is_folded_once() -> None:
    """What the tally counted is in the exposition, and the tally starts over."""
    metrics = Metrics()
    metrics.tally.message = 2
    metrics.tally.delivered = 7
    metrics.tally.duplicates = 1
    metrics.tally.pongs = 4
    metrics.tally.observe_latency(0.0004, 6)
    metrics.tally.observe_latency(99.0, 1)
    metrics.fold()
    metrics.fold()
    text = metrics.exposition().decode()
    assert 'dws_events_received_total{event_type="message"} 2.0' in text
    assert 'dws_messages_sent_total{type="event"} 7.0' in text
    assert "dws_redeliveries_total 1.0" in text
    assert 'dws_messages_received_total{kind="pong"} 4.0' in text
    assert 'dws_delivery_latency_seconds_bucket{le="0.0005"} 6.0' in text
    assert f'dws_delivery_latency_seconds_bucket{{le="{LATENCY_BUCKETS[-1]}"}} 6.0' in text
    assert 'dws_delivery_latency_seconds_bucket{le="+Inf"} 7.0' in text
    assert "dws_delivery_latency_seconds_sum 99.0024" in text


def test_every_metric_is_described() -> None:
    """Each has a help text and the project's prefix."""
    lines = Metrics().exposition().decode().splitlines()
    described = [line for line in lines if line.startswith("# HELP")]
    assert len(described) > 40
    assert all(line.split(" ", 3)[2].startswith("dws_") for line in described)
    assert all(len(line.split(" ", 3)[3]) > 8 for line in described)


def test_series_of_known_labels_are_there_before_they_count() -> None:
    """A rate over the first refusal, drop or dead letter needs the zero before it."""
    text = Metrics().exposition().decode()
    for series in (
        'dws_websocket_messages_dropped_total{reason="slow_client"} 0.0',
        'dws_auth_failure_total{reason="expired",type="admin"} 0.0',
        'dws_session_lock_failure_total{reason="conflict"} 0.0',
        'dws_grpc_pool_connections_closed_total{reason="idle"} 0.0',
        'dws_dead_letters_total{reason="bad_json"} 0.0',
        'dws_connections_closed_total{reason="pong_timeout"} 0.0',
    ):
        assert series in text


def worker(folder: Path, identifier: str, *show: str, room: int = resource.RLIM_INFINITY) -> str:
    """Run a worker process that counts and ends; return what it prints.

    :param room: the largest file that it can write, in bytes.
    """
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, -1))\n{WORKER}"
    return subprocess.run(
        [sys.executable, "-B", "-c", code, identifier, *show],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    ).stdout


def test_workers_are_added_up_and_successors_go_on(tmp_path: Path) -> None:
    """A scrape shows the host; who replaces a worker counts on in its files, leaving no ghosts."""
    worker(tmp_path, "0a")
    worker(tmp_path, "1a")
    files = len(list(tmp_path.iterdir()))
    worker(tmp_path, "0a")
    text = worker(tmp_path, "0a", "show")
    assert len(list(tmp_path.iterdir())) == files
    assert 'dws_events_received_total{event_type="chat"} 12.0' in text
    assert 'dws_delivery_latency_seconds_bucket{le="0.005"} 20.0' in text
    assert "dws_ready 2.0" in text
    assert "pid=" not in text


def test_a_worker_without_room_for_its_files_serves_on(tmp_path: Path) -> None:
    """A full disk costs its metrics, not the worker; what others have counted is still scraped."""
    worker(tmp_path, "0a")
    files = sorted(tmp_path.iterdir())
    text = worker(tmp_path, "1a", "show", room=1000)
    assert text.startswith(f"no files in {tmp_path}: File too large\n")
    assert 'dws_events_received_total{event_type="chat"} 3.0' in text
    assert sorted(tmp_path.iterdir()) == files


def test_every_page_of_a_file_has_its_place(tmp_path: Path) -> None:
    """What is written later ends no worker, however full the disk is by then."""
    worker(tmp_path, "0a")
    for file in tmp_path.iterdir():
        status = file.stat()
        assert status.st_blocks * 512 >= status.st_size


KILLS = 50
HOST = """
import os, signal, sys
from pathlib import Path
from daisi_ws import metrics
from daisi_ws.supervisor.metrics_files import drop_live_gauges

def worker(slot, lane):
    metrics.use_identifier(f"{slot}{'ab'[lane]}")
    made = metrics.Metrics()
    made.connections.labels("user").inc()
    made.active_connections.labels("user").set(7)
    made.ready.set(1)
    made.tally.delivered = 3
    made.fold()
    return made

folder, kills = Path(sys.argv[1]), int(sys.argv[2])
for number in range(kills):
    slot, lane = number % 2, number // 2 % 2
    pid = os.fork()
    if pid == 0:
        worker(slot, lane)
        os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    drop_live_gauges(folder, slot, lane)
print(worker(0, 0).exposition().decode())
"""


def test_killed_workers_leave_their_counts_and_no_ghosts(tmp_path: Path) -> None:
    """After 50 kills there are the series of one worker, the counts of all, and no more files."""

    def host(kills: int) -> dict[str, float]:
        folder = tmp_path / str(kills)
        folder.mkdir()
        environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
        shown = subprocess.run(
            [sys.executable, "-c", HOST, str(folder), str(kills)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[1],
        ).stdout
        lines = (line.rpartition(" ") for line in shown.splitlines() if line[:1] not in "#")
        return {name: float(value) for name, _, value in lines}

    fresh, worn = host(0), host(KILLS)
    assert set(worn) == set(fresh)
    assert worn['dws_connections_total{type="user"}'] == KILLS + 1
    assert worn['dws_messages_sent_total{type="event"}'] == 3 * (KILLS + 1)
    assert (
        worn['dws_active_connections{type="user"}'] == fresh['dws_active_connections{type="user"}']
    )
    assert worn["dws_ready"] == 1
    files = [file.name for file in (tmp_path / str(KILLS)).iterdir()]
    assert {name.rpartition("_")[2] for name in files} == {"0a.db", "0b.db", "1a.db", "1b.db"}
    assert len(files) <= 4 * len({name.rpartition("_")[0] for name in files})
