"""Profiles of the processes that are measured, while they are."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.procfs import family
from bench.settings import Settings
from bench.targets import EACH, Target

TOOLS: Final = ("py-spy", "perf", "memray")
_INSTALL: Final = f"{sys.executable} -m pip install -e '.[bench]'"
_RATE: Final = 250
_END_SECONDS: Final = 30.0


def missing(tool: str) -> str:
    """Return what is missing to profile with a tool; empty if nothing is."""
    if tool == "memray":
        return "" if _has_module("memray") else f"memray is not installed: {_INSTALL}"
    return (
        ""
        if shutil.which(tool)
        else f"{tool} is not installed" + (f": {_INSTALL}" if tool == "py-spy" else "")
    )


def _has_module(name: str) -> bool:
    import importlib.util  # noqa: PLC0415 - rarely needed

    return importlib.util.find_spec(name) is not None


class Profiler:
    """Records every process of a target during a block, into a file each.

    Nothing happens without `settings.profile`. memray has to begin with the process: see
    :func:`wrapper`.
    """

    def __init__(self, settings: Settings, target: Target, label: str) -> None:
        self._tool = settings.profile
        self._folder = settings.out / "profiles"
        self._target = target
        self._label = re.sub(r"\W+", "-", f"{target.name} {label}".strip())
        self._running: list[Process] = []

    async def __aenter__(self) -> Self:
        if self._tool in ("py-spy", "perf"):
            self._folder.mkdir(parents=True, exist_ok=True)
            roots = [pid for pids in self._target.processes().values() for pid in pids]
            for pid in family(roots):
                command = self._command(pid)
                self._running.append(
                    await asyncio.create_subprocess_exec(*command, stdout=DEVNULL, stderr=DEVNULL)
                )
            await asyncio.sleep(1.0)  # so that it is attached
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._running:
            if process.returncode is None:
                process.send_signal(signal.SIGINT)
        async with asyncio.timeout(_END_SECONDS):
            await asyncio.gather(*(process.wait() for process in self._running))

    def _command(self, pid: int) -> list[str]:
        file = self._folder / f"{self._label}-{pid}"
        if self._tool == "perf":
            return ["perf", "record", "-F", str(_RATE), "-g", "-p", str(pid), "-o", f"{file}.perf"]
        # Without --gil the poller thread of gRPC, which sleeps, would pass for busy.
        options = ["--rate", str(_RATE), "--gil", "--duration", "600"]
        return [
            "py-spy", "record", *options, "--format", "raw", "-o", f"{file}.txt", "-p", str(pid)
        ]  # fmt: skip


def wrapper(tool: str, out: Path) -> list[str]:
    """Return what goes between `python` and `-m daisi_ws` so that a tool sees the whole life.

    Each start of a host has a file of its own, each worker one beside it (`.bin.PID`).
    """
    if tool != "memray":
        return []
    folder = out / "profiles"
    folder.mkdir(parents=True, exist_ok=True)
    return [
        "-m",
        "memray",
        "run",
        "--follow-fork",
        "-f",
        "-o",
        f"{folder}/memray-{EACH}.bin",
    ]
