"""What is left when everybody has gone: connections, descriptors, memory, keys."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp

from tests.chaos.stage import Stage
from tests.chaos.traffic import Ledger
from tests.cluster import Host

MORE_DESCRIPTORS: Final = 24
"""A worker may have so many more open files than a fresh one: channels to pods, and the like."""
MORE_MEGABYTES: Final = 96
"""A worker may have grown by so much over a fresh one: pools, caches, code that was loaded late."""
MORE_TASKS: Final = 16
"""Tasks that a worker may have more than a fresh one, for each other pod: the links with it."""
GAUGE_SECONDS: Final = 15.0
"""Gauges are set once a second, that of many tasks every five."""
LOCK_SECONDS: Final = 40.0
"""Locks of pods that were killed end by themselves, after `app.session_ttl_seconds` (30)."""
ROUTE_SECONDS: Final = 15.0
"""Routes that could not be removed are removed with the next renewal."""

_LASTING: Final = re.compile(r"pods|reader:.*|reader_epoch:.*|incarnation")
_NO_END: Final = -1
"""What `TTL` says of a key that has none; -2 is one that has just come to its end."""
_GAUGES: Final = (
    "dws_active_connections", "dws_websocket_buffer_used_count", "dws_slow_clients",
)  # fmt: skip


@dataclass(frozen=True)
class Process:
    """What a worker has."""

    pid: int
    host: str
    descriptors: int
    megabytes: float
    age: float


@dataclass
class Remains:
    """What was found at the end."""

    fresh: list[Process] = field(default_factory=list)
    left: list[Process] = field(default_factory=list)
    gauges: dict[str, float] = field(default_factory=dict)
    tasks_fresh: float = 0.0
    tasks_left: float = 0.0
    keys: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)


def processes(hosts: Iterable[Host]) -> list[Process]:
    """Look at all workers."""
    return [_process(pid, host.name) for host in hosts for pid in sorted(host.worker_pids())]


async def before(on: Stage) -> Remains:
    """Look at the workers before the first client comes."""
    return Remains(fresh=processes(on.hosts), tasks_fresh=await _gauge(on.hosts, "dws_tasks"))


async def look(on: Stage, remains: Remains) -> None:
    """Look for what is left; everybody must have gone, and the hosts be in good order."""
    await _until_locks_are_gone(on)
    await _until_routes_are_gone(on)
    remains.gauges = {name: await _gauge(on.hosts, name, most=0.0) for name in _GAUGES}
    remains.problems += [f"{n} is {v:g}, not 0" for n, v in remains.gauges.items() if v]
    remains.left = processes(on.hosts)
    workers = len(remains.left)
    tasks = remains.tasks_fresh + MORE_TASKS * workers * (workers - 1)
    remains.tasks_left = await _gauge(on.hosts, "dws_tasks", most=tasks)
    if not 0 < remains.tasks_left <= tasks:
        remains.problems.append(f"there are {remains.tasks_left:g} tasks, over {tasks:g}")
    most = max(p.descriptors for p in remains.fresh) + MORE_DESCRIPTORS
    weight = max(p.megabytes for p in remains.fresh) + MORE_MEGABYTES
    for process in remains.left:
        who = f"process {process.pid} of {process.host} ({process.age:.0f} s old)"
        if process.descriptors > most:
            remains.problems.append(f"{who} has {process.descriptors} open files, over {most}")
        if process.megabytes > weight:
            remains.problems.append(f"{who} has {process.megabytes:.0f} MB, over {weight:.0f}")
    await _look_at_keys(on, remains)
    for host in on.hosts:
        remains.tracebacks += tracebacks(host)


def tracebacks(host: Host) -> list[str]:
    """Return the log lines of a host that have a traceback, shortened."""
    return [
        f"{host.name}: {line[:1500]}"
        for line in host.log_text().splitlines()
        if "Traceback" in line
    ]


async def _until_locks_are_gone(on: Stage) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while time.monotonic() < deadline:
        if not [key async for key in on.redis.scan_iter("session:*", count=1000)]:
            return
        await asyncio.sleep(0.5)


async def _until_routes_are_gone(on: Stage) -> None:
    """Publish an event of each kind: a pod that serves nobody for it takes itself out.

    What could not be deregistered because Redis was away is left until the next renewal (10 s),
    or until such an event comes.
    """
    deadline = time.monotonic() + ROUTE_SECONDS
    ledger, on.traffic.ledger = on.traffic.ledger, Ledger()
    while time.monotonic() < deadline and await _served(on):
        for group in ledger.by_group:
            on.traffic.start(on.traffic.publish(group))
        await on.traffic.drained()
        await asyncio.sleep(1)
    on.traffic.ledger = ledger


async def _served(on: Stage) -> dict[str, set[str]]:
    """Return the routes that name living pods, with these."""
    alive = set(await on.pods())
    found: dict[str, set[str]] = {}
    for pattern in ("route:*", "admin_route:*"):
        async for key in on.redis.scan_iter(pattern, count=1000):
            members = {m.decode() for m in await on.redis.smembers(key)}  # type: ignore[union-attr]
            if members & alive:
                found[key.decode()] = members & alive
    return found


async def _look_at_keys(on: Stage, remains: Remains) -> None:
    alive = set(await on.pods())
    async for key in on.redis.scan_iter(count=1000):
        name = key.decode()
        kind = name.partition(":")[0]
        remains.keys[kind] = remains.keys.get(kind, 0) + 1
        if kind == "session":
            remains.problems.append(f"a lock is left: {name}")
        if not _LASTING.fullmatch(name) and await on.redis.ttl(key) == _NO_END:
            remains.problems.append(f"a key without end: {name}")
    for route, pods in (await _served(on)).items():
        remains.problems.append(f"a living pod is in {route}: {sorted(pods)}")
    registered = {m.decode() for m in await on.redis.smembers("pods")}  # type: ignore[union-attr]
    if registered - alive:
        remains.problems.append(f"dead pods are registered: {sorted(registered - alive)}")


async def _gauge(hosts: Iterable[Host], name: str, most: float | None = None) -> float:
    """Return the sum of a gauge of all hosts; waits a while for a value, or for `most` or less."""
    deadline = time.monotonic() + GAUGE_SECONDS
    while True:
        total = 0.0
        async with aiohttp.ClientSession() as session:
            for host in hosts:
                async with session.get(f"{host.base_url}/metrics") as reply:
                    lines = (await reply.text()).splitlines()
                total += sum(float(x.rpartition(" ")[2]) for x in lines if x.startswith(name))
        settled = total > 0 if most is None else total <= most and bool(total) == bool(most)
        if settled or time.monotonic() > deadline:
            return total
        await asyncio.sleep(0.25)


def _process(pid: int, host: str) -> Process:
    folder = Path(f"/proc/{pid}")
    status = (folder / "status").read_text()
    memory = re.search(r"^VmRSS:\s+(\d+)", status, re.MULTILINE)
    born = int((folder / "stat").read_text().rpartition(")")[2].split()[19])
    age = float(Path("/proc/uptime").read_text().split()[0]) - born / os.sysconf("SC_CLK_TCK")
    files = len(os.listdir(folder / "fd"))  # noqa: PTH208
    return Process(pid, host, files, int(memory[1]) / 1024 if memory else 0.0, age)
