"""The directory in which the workers share their metrics, by the rules of prometheus-client.

Its name goes to the workers in the environment; the library itself is never loaded here.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from daisi_ws.domain.slots import process_identifier

ENVIRONMENT = "PROMETHEUS_MULTIPROC_DIR"


@contextmanager
def metrics_directory(given: Path | None) -> Iterator[Path]:
    """Provide an empty directory for metric files and name it in the environment.

    :param given: use this one, made if missing, and remove only metric files from it. None makes
        a private one that is removed at the end.
    """
    directory = given or Path(tempfile.mkdtemp(prefix="daisi-ws-metrics-"))
    directory.mkdir(parents=True, exist_ok=True)
    _empty(directory)
    before = os.environ.get(ENVIRONMENT)
    os.environ[ENVIRONMENT] = str(directory)
    try:
        yield directory
    finally:
        if before is None:
            del os.environ[ENVIRONMENT]
        else:
            os.environ[ENVIRONMENT] = before
        if given is None:
            shutil.rmtree(directory, ignore_errors=True)
        else:
            _empty(directory)


def drop_live_gauges(directory: Path, slot: int, lane: int) -> None:
    """Remove the gauges that only a living process may have; its counters stay."""
    for file in directory.glob(f"gauge_live*_{process_identifier(slot, lane)}.db"):
        with suppress(OSError):
            file.unlink()


def _empty(directory: Path) -> None:
    for file in directory.glob("*.db"):
        with suppress(OSError):
            file.unlink()
