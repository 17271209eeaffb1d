"""The directory of metric files."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path

import pytest

from daisi_ws.supervisor.metrics_files import ENVIRONMENT, drop_live_gauges, metrics_directory
from tests.processes import wait_until_gone


def test_private_directory_lives_as_long_as_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ours alone, named in the environment, and gone afterwards with all files."""
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    with metrics_directory(None) as directory:
        assert os.environ[ENVIRONMENT] == str(directory)
        assert directory.stat().st_mode & 0o077 == 0
        (directory / "counter_0a.db").touch()
    assert not directory.exists()
    assert ENVIRONMENT not in os.environ


def test_directories_of_killed_supervisors_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old and not locked by anyone, or empty; what is in use, young or something else stays."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    old = time.time() - 3600
    names = ["daisi-ws-metrics-old", "daisi-ws-metrics-young", "daisi-ws-metrics-odd", "other-old"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / ("notes" if name == "daisi-ws-metrics-odd" else "lock")).touch()
        if name != "daisi-ws-metrics-young":
            os.utime(tmp_path / name, (old, old))
    (tmp_path / "daisi-ws-metrics-unlocked").mkdir()
    os.utime(tmp_path / "daisi-ws-metrics-unlocked", (old, old))
    with metrics_directory(None) as living:
        os.utime(living, (old, old))
        with metrics_directory(None) as mine:
            left = {file.name for file in tmp_path.iterdir()}
    assert left == {*names[1:], living.name, mine.name}


def test_directory_is_in_use_as_long_as_a_worker_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers of a killed supervisor may still be draining."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    told_read, told_write = os.pipe()
    supervisor = os.fork()
    if supervisor == 0:
        context = metrics_directory(None)
        directory = context.__enter__()
        os.utime(directory, (1, 1))
        worker = os.fork()
        if worker == 0:
            signal.pause()
        os.write(told_write, f"{worker} {directory}".encode())
        os._exit(0)
    os.waitpid(supervisor, 0)
    worker_pid, directory_name = os.read(told_read, 4096).decode().split()
    try:
        with metrics_directory(None):
            assert Path(directory_name).exists()
    finally:
        os.kill(int(worker_pid), signal.SIGKILL)
    assert not wait_until_gone([int(worker_pid)])
    # A process that ends gives up its memory, by which it counts as gone, before its locks.
    deadline = time.monotonic() + 5
    while Path(directory_name).exists():
        assert time.monotonic() < deadline
        with metrics_directory(None):
            pass
    os.close(told_read)
    os.close(told_write)


def test_given_directory_is_made_emptied_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only metric files are removed from it, before and after; the environment is restored."""
    monkeypatch.setenv(ENVIRONMENT, "/elsewhere")
    given = tmp_path / "a" / "b"
    with metrics_directory(given):
        (given / "counter_0a.db").touch()
    (given / "counter_1a.db").touch()
    (given / "notes.txt").touch()
    with metrics_directory(given):
        assert [file.name for file in given.iterdir()] == ["notes.txt"]
        (given / "counter_0a.db").touch()
    assert [file.name for file in given.iterdir()] == ["notes.txt"]
    assert os.environ[ENVIRONMENT] == "/elsewhere"


def test_only_live_gauges_of_that_slot_and_lane_are_dropped(tmp_path: Path) -> None:
    """Slot 1 is not slot 11, lane a is not lane b, counters and plain gauges stay."""
    gone = ["gauge_livesum_1a.db", "gauge_liveall_1a.db", "gauge_livemostrecent_1a.db"]
    kept = ["gauge_livesum_11a.db", "gauge_livesum_1b.db", "gauge_sum_1a.db", "counter_1a.db"]
    for name in gone + kept:
        (tmp_path / name).touch()
    drop_live_gauges(tmp_path, 1, 0)
    assert {file.name for file in tmp_path.iterdir()} == set(kept)
