"""Parts: the rows of the older service's own benchmark, over the product's real code."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path
from typing import Final

from bench.running import Bench
from bench.targets import ROOT, Version
from daisi_ws.embedded import Servers

NAME: Final = "parts"

OLDER: Final = {
    "user token, not cached": 1.9,
    "user token, cached": 1.5,
    "user token generated": 1.8,
    "admin token generated": 2.2,
    "event, bytes to frame": 3.0,
    "broadcast to 1": 0.11,
    "broadcast to 10": 1.1,
    "broadcast to 100": 49.0,
    "broadcast to 500": 62.0,
    "client message": 0.63,
    "stream to connection": 13.3,
    "registration": 12.6,
    "lifecycle": 9.0,
    "route looked up": 0.64,
    "route registered": 1.3,
    "session conflict": 59.5,
    "pod handoff": 33.3,
    "1000 users x 10 messages": 32_000.0,
}
"""What the older service's own benchmark gives on such a machine, in µs; over mocks, without
cryptography and servers where it says so itself."""


async def measure(bench: Bench) -> None:
    """Measure all parts of each version, in turns."""
    settings = bench.settings
    for turn in range(settings.repeat):
        for version in settings.versions:
            bench.say(f"parts {turn + 1}/{settings.repeat}  {version.name}")
            for part, figure in (await _run(bench, version)).items():
                if figure is not None:
                    bench.results.add(NAME, part, version.name, us=figure)
    for part, figure in OLDER.items():
        if bench.results.find(NAME, part, settings.versions[0].name, "us") is not None:
            bench.results.add(NAME, part, "older service", us=figure)


async def _run(bench: Bench, version: Version) -> dict[str, float | None]:
    settings = bench.settings
    servers = Servers()
    await asyncio.to_thread(servers.start)
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", str(Path(__file__).parents[1] / "parts_run.py")),
            *(servers.redis.url, servers.nats.url),
            *(str(settings.parts_seconds), str(settings.parts_times), str(settings.parts_users)),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(version.tree)},
        )
        output, errors = await process.communicate()
    finally:
        await asyncio.to_thread(servers.stop)
    if process.returncode:
        raise RuntimeError(f"parts of {version.name} failed:\n{errors.decode()[-3000:]}")
    figures: dict[str, float | None] = json.loads(output.splitlines()[-1])
    return figures
