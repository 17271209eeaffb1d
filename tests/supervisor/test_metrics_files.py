"""The directory of metric files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daisi_ws.supervisor.metrics_files import ENVIRONMENT, drop_live_gauges, metrics_directory


def test_private_directory_lives_as_long_as_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ours alone, named in the environment, and gone afterwards with all files."""
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    with metrics_directory(None) as directory:
        assert os.environ[ENVIRONMENT] == str(directory)
        assert directory.stat().st_mode & 0o077 == 0
        (directory / "counter_0a.db").touch()
    assert not directory.exists()
    assert ENVIRONMENT not in os.environ


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
