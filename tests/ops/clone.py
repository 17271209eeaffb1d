"""A clone of the project in a folder of a test, for commands that a page tells people to run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from tests.cluster import ROOT

CLONED: Final = (
    "daisi_ws", "conf", "k8s", "scripts", "setup.cfg", "pyproject.toml", "LICENSE", "README.md",
    "Dockerfile",
)  # fmt: skip


def clone_into(folder: Path) -> Path:
    """Make a clone without its tests; return where it is."""
    made = folder / "clone"
    made.mkdir()
    for name in CLONED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, made / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, made)
    return made
