"""Folders that belong to one running server, and to nobody once it has gone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from daisi_ws.embedded.errors import EmbeddedServerError

PREFIX = "daisi-ws-embedded-"
_LOCK = ".lock"


class Folder:
    """A folder with a lock that the kernel gives up when its holders have gone, however they went.

    Make one with `private_folder` or `given_folder`.
    """

    def __init__(self, path: Path, lock: int, *, private: bool) -> None:
        self.path = path
        self.private = private
        self._lock = lock
        self._owner = os.getpid()

    def release(self) -> None:
        """Give up the lock; a private folder is removed with everything in it.

        Does nothing in a process forked from the one that made it.
        """
        if self._owner != os.getpid():
            return
        if self.private:
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def given_folder(path: Path) -> Folder:
    """Lock a folder that the caller keeps, made with mode 0700 if it is missing.

    :raises EmbeddedServerError: it is in use by another embedded server, or cannot be written to.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _try_lock(path / _LOCK, os.O_CREAT)
    except OSError as error:
        raise EmbeddedServerError(
            f"{path} cannot be used: {error.strerror}; name another folder"
        ) from None
    if lock is None:
        raise EmbeddedServerError(
            f"{path} is in use by another embedded server: stop it or name another folder"
        )
    return Folder(path.resolve(), lock, private=False)


def private_folder(base: Path | None = None) -> Folder:
    """Make and lock a folder of our own (mode 0700), and remove those that crashed runs have left.

    :param base: where to make it; the platform's folder for temporary files if None.
    """
    base = Path(tempfile.gettempdir()) if base is None else base
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    remove_leftovers(base)
    path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base)).resolve()
    # Locked before it has its name: whoever sees the name sees the lock.
    unnamed = path / f"{_LOCK}.new"
    lock = _try_lock(unnamed, os.O_CREAT)
    if lock is None:  # pragma: no cover - nobody else knows this file
        raise EmbeddedServerError(f"cannot lock {unnamed}")
    unnamed.rename(path / _LOCK)
    return Folder(path, lock, private=True)


def remove_leftovers(base: Path) -> None:
    """Remove the private folders in `base` that are ours and that no living process has locked."""
    for path in base.glob(f"{PREFIX}*"):
        # Somebody else may be removing the same one: then it is gone, which is what we want.
        with contextlib.suppress(FileNotFoundError):
            if path.is_symlink() or path.stat().st_uid != os.getuid():
                continue
            lock = _try_lock(path / _LOCK)
            if lock is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)


def _try_lock(path: Path, flags: int = 0) -> int | None:
    """Return the descriptor of the locked file, None if another holds the lock."""
    lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
