"""Changed files are noticed by their content."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daisi_ws.config import FileWatch, files_of
from daisi_ws.config.watch import LOOK_SECONDS


class Clock:
    """A watch, and a clock that moves with each look."""

    def __init__(self, *files: Path) -> None:
        self.watch = FileWatch(files)
        self.now = 1000.0

    def look(self) -> list[Path]:
        """Look after the shortest time between two looks."""
        self.now += LOOK_SECONDS
        return self.watch.changed(self.now)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with some content."""
    path = tmp_path / "config.yaml"
    path.write_text("app: {}")
    return path


def test_a_change_is_told_once_when_two_looks_agree(file: Path) -> None:
    """Not at the first look: it might be half written; and not again after that."""
    clock = Clock(file)
    assert [clock.look() for _ in range(3)] == [[], [], []]
    file.write_text("app: {ping_interval_seconds: 3}")
    assert [clock.look() for _ in range(4)] == [[], [file], [], []]


def test_what_is_still_being_written_is_waited_for(file: Path) -> None:
    """While each look finds something else nothing is told, however long."""
    clock = Clock(file)
    found = []
    for length in range(10):
        file.write_text("x" * length)
        found.append(clock.look())
    assert found == [[]] * 10
    assert [clock.look(), clock.look()] == [[file], []]


def test_looks_come_no_closer_together(file: Path) -> None:
    """A caller in a hurry does not make two looks agree too early."""
    clock = Clock(file)
    clock.look()
    file.write_text("half")
    assert [clock.watch.changed(clock.now + LOOK_SECONDS * 0.9) for _ in range(5)] == [[]] * 5
    assert [clock.look(), clock.look()] == [[], [file]]


def test_times_and_inodes_mean_nothing(file: Path) -> None:
    """A touched or replaced file of the same content is no change; one with its old time is."""
    clock = Clock(file)
    before = file.stat()
    os.utime(file, (1, 1))
    other = file.with_suffix(".new")
    other.write_text("app: {}")
    other.rename(file)
    assert [clock.look(), clock.look()] == [[], []]
    file.write_text("app: 11")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [clock.look(), clock.look()] == [[], [file]]


def test_a_mounted_configmap_is_swapped_by_its_symlink(tmp_path: Path) -> None:
    """Kubernetes makes a new folder and renames the link `..data` to it."""
    for name, text in (("..1", "a: 1"), ("..2", "a: 2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("..1")
    mounted = tmp_path / "config.yaml"
    mounted.symlink_to("..data/config.yaml")
    clock = Clock(mounted)
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert [clock.look(), clock.look(), clock.look()] == [[], [mounted], []]


def test_a_file_that_is_gone_for_a_moment_is_no_change(file: Path) -> None:
    """An editor may take it away to put it back; gone for good is told."""
    clock = Clock(file)
    text = file.read_text()
    file.unlink()
    assert clock.look() == []
    file.write_text(text)
    assert [clock.look(), clock.look()] == [[], []]
    file.unlink()
    assert [clock.look(), clock.look(), clock.look()] == [[], [file], []]


def test_what_somebody_else_has_acted_upon_is_not_told(file: Path) -> None:
    """After SIGHUP the same content needs no second reload."""
    clock = Clock(file)
    file.write_text("new")
    clock.look()
    clock.watch.acted()
    assert [clock.look(), clock.look()] == [[], []]


def test_secrets_in_files_are_watched_too(file: Path, tmp_path: Path) -> None:
    """Each is told by its own name; other variables that end in _FILE are none."""
    secret = tmp_path / "api-key"
    environ = {
        "DAISI_WS_AUTH_SECRET_TOKEN_FILE": str(secret),
        "DAISI_WS_NATS_CREDENTIALS_FILE": "/x.creds",
        "OTHER_SECRET_FILE": "/y",
    }
    assert files_of(file, environ) == [file, secret]
    assert files_of(None, {}) == []
    clock = Clock(file, secret)
    secret.write_text("k")
    assert [clock.look(), clock.look()] == [[], [secret]]
