"""Folders are ours alone while we live, and leave nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daisi_ws.embedded import EmbeddedServerError
from daisi_ws.embedded.folder import PREFIX, given_folder, private_folder, remove_leftovers


def test_a_private_folder_is_for_us_only_and_goes_when_released(tmp_path: Path) -> None:
    """Nobody else may look into it; released, it is gone with its contents."""
    folder = private_folder(tmp_path)
    (folder.path / "data").write_text("x")
    assert folder.path.stat().st_mode & 0o777 == 0o700
    folder.release()
    assert list(tmp_path.iterdir()) == []


def test_a_given_folder_stays_when_released(tmp_path: Path) -> None:
    """It is made when missing, and can be used again with what is in it."""
    path = tmp_path / "a" / "b"
    given_folder(path).release()
    (path / "data").write_text("x")
    given_folder(path).release()
    assert (path / "data").read_text() == "x"


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    """Two servers cannot share a folder."""
    folder = given_folder(tmp_path)
    with pytest.raises(EmbeddedServerError, match="in use by another embedded server"):
        given_folder(tmp_path)
    folder.release()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A sentence with the folder and the reason, not a bare error of the system."""
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedServerError, match="file/below cannot be used: Not a directory"):
        given_folder(tmp_path / "file" / "below")


def test_leftovers_of_the_dead_are_removed_and_nothing_else(tmp_path: Path) -> None:
    """Only an unlocked private folder of an earlier run goes."""
    dead, other, link = tmp_path / f"{PREFIX}dead", tmp_path / "other", tmp_path / f"{PREFIX}link"
    for path in (dead, other):
        path.mkdir()
        (path / ".lock").touch()
    link.symlink_to(other)
    alive = private_folder(tmp_path)
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {alive.path.name, "other", link.name}
    alive.release()


def test_a_forked_process_removes_nothing(tmp_path: Path) -> None:
    """A worker that unwinds its parent's stack must not take the folder along."""
    folder = private_folder(tmp_path)
    child = os.fork()
    if child == 0:
        folder.release()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert folder.path.exists()
    folder.release()
