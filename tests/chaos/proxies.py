"""Fault proxies in a process of their own: what the auditor is busy with does not slow them.

Run as a module it takes commands from standard input, one a line, until that ends.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import uvloop

from tests.chaos.proxy import FaultProxy
from tests.cluster import ROOT


class Remote:
    """A :class:`FaultProxy` in the other process."""

    def __init__(self, home: Proxies, number: int, address: str) -> None:
        self._home = home
        self._number = number
        self.address = address

    def cut(self) -> None:
        """See :meth:`FaultProxy.cut`."""
        self._home.tell("cut", self._number)

    def freeze(self) -> None:
        """See :meth:`FaultProxy.freeze`."""
        self._home.tell("freeze", self._number)

    def slow(self, delay: float, bytes_per_second: float = 0.0) -> None:
        """See :meth:`FaultProxy.slow`; 0 bytes per second for no limit."""
        self._home.tell("slow", self._number, delay, bytes_per_second or 1e12)

    def heal(self) -> None:
        """See :meth:`FaultProxy.heal`."""
        self._home.tell("heal", self._number)


class Proxies:
    """The process with the proxies; it ends with us."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.proxies"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        self._count = 0

    def open(self, listen: tuple[str, int], target: tuple[str, int]) -> Remote:
        """Make a proxy; returns when it listens. Parameters as of :class:`FaultProxy`."""
        self.tell("open", self._count, *listen, *target)
        assert self._process.stdout is not None
        address = self._process.stdout.readline().strip()
        assert address, "the proxies' process has ended"
        self._count += 1
        return Remote(self, self._count - 1, address)

    def tell(self, *command: object) -> None:
        """Send a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End the process, and all connections with it."""
        self._process.communicate(timeout=10)


async def serve() -> None:
    """Make proxies and disturb them as standard input says."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    proxies: list[FaultProxy] = []
    while line := await reader.readline():
        do, number, *details = json.loads(line)
        if do == "open":
            proxies.append(await _open(*details))
        else:
            getattr(proxies[number], do)(*details)
    for proxy in proxies:
        await proxy.close()


async def _open(*details: Any) -> FaultProxy:
    host, port, target, target_port = details
    proxy = FaultProxy((host, port), (target, target_port))
    await proxy.start()
    print(proxy.address, flush=True)
    return proxy


if __name__ == "__main__":
    uvloop.run(serve())
