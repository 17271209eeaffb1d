"""The directory in which the workers share their metrics, by the rules of prometheus-client.

Its name goes to the workers in the environment; the library itself is never loaded here.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from daisi_ws.domain.slots import process_identifier

ENVIRONMENT = "PROMETHEUS_MULTIPROC_DIR"

_PREFIX = "daisi-ws-metrics-"
_LOCK = "lock"
_YOUNG_SECONDS = 60.0


@contextmanager
def metrics_directory(given: Path | None) -> Iterator[Path]:
    """Provide an empty directory for metric files and name it in the environment.

    :param given: use this one, made if missing, and remove only metric files from it. None makes
        a private one that is removed at the end.
    """
    with _private() if given is None else _public(given) as directory:
        before = os.environ.get(ENVIRONMENT)
        os.environ[ENVIRONMENT] = str(directory)
        try:
            yield directory
        finally:
            if before is None:
                del os.environ[ENVIRONMENT]
            else:
                os.environ[ENVIRONMENT] = before


def drop_live_gauges(directory: Path, slot: int, lane: int) -> None:
    """Remove the gauges that only a living process may have; its counters stay."""
    for file in directory.glob(f"gauge_live*_{process_identifier(slot, lane)}.db"):
        with suppress(OSError):
            file.unlink()


@contextmanager
def _public(directory: Path) -> Iterator[Path]:
    directory.mkdir(parents=True, exist_ok=True)
    _empty(directory)
    try:
        yield directory
    finally:
        _empty(directory)


@contextmanager
def _private() -> Iterator[Path]:
    """Make a directory that is locked as long as this process or one of its workers lives."""
    _remove_leftovers()
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        with (directory / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _remove_leftovers() -> None:
    """Remove the directories of supervisors that were killed, as far as they are our user's."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            status = directory.stat(follow_symlinks=False)
            # A young one may be about to be locked.
            young = time.time() - status.st_mtime < _YOUNG_SECONDS
            if status.st_uid != os.getuid() or young or directory.is_symlink():
                continue
            if not (directory / _LOCK).exists():
                directory.rmdir()  # its supervisor was killed before it could lock it
                continue
            with (directory / _LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)


def _empty(directory: Path) -> None:
    for file in directory.glob("*.db"):
        with suppress(OSError):
            file.unlink()
