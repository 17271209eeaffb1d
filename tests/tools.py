"""Programs that `scripts/test` fetches as Debian packages."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final, Never

import pytest

TOOLS: Final = Path(__file__).parents[1] / ".tools"


def tool(name: str) -> str:
    """Return the path of a program; the test is skipped without it, or fails with `CI` set."""
    path = os.pathsep.join((str(TOOLS), os.environ.get("PATH", ""), "/usr/sbin"))
    found = shutil.which(name, path=path)
    return found or missing(name)


def missing(name: str) -> Never:
    """Skip the test, or fail it with `CI` set, for want of something that is fetched."""
    why = f"no {name} here: scripts/test fetches it where there is apt-get"
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)
