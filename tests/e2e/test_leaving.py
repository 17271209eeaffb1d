"""Hosts that leave, are renewed, or come twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from daisi_ws.embedded import NatsServer, RedisServer, free_ports
from tests.cluster import Host, Keys, ports_needed
from tests.e2e.audit import Watcher
from tests.e2e.scene import RATE, Scene, all_ready, scene, until

WORKERS = 5
KILLS = 20
NAMES = [f"host-{number}" for number in range(2)]


def metric_files(folder: Path) -> list[str]:
    """Return the names of all metric files of the hosts in a folder."""
    return [file.stem for file in folder.glob("daisi-ws-metrics-*/*.db")]


async def test_a_host_leaves(
    tmp_path: Path, fresh_redis: RedisServer, fresh_nats: NatsServer
) -> None:
    """Its clients are told by close code 1001; the reading is handed over without a hole."""
    async with scene(tmp_path, fresh_redis, fresh_nats) as on:
        async with on.flowing():
            name = (await on.reader())["pod_id"].rsplit("-", 2)[0]
            leaving = on.hosts[NAMES.index(name)]
            clients = [w for w in on.watching.watchers if w.pod.startswith(name)]
            others = [w for w in on.watching.watchers if w not in clients]
            began = time.monotonic()
            assert await leaving.stop() == 0
            await on.publisher.more(RATE)
        on.check(others)
        assert clients
        assert closed_with(clients) == {1001}
        assert on.slowest(began, None, others) < 3.0
        assert not [pod for pod in await on.pods() if pod.startswith(name)]


async def test_rolling_restart(
    tmp_path: Path, fresh_redis: RedisServer, fresh_nats: NatsServer
) -> None:
    """All workers of both hosts are replaced: no handshake refused, no event lost."""
    async with scene(tmp_path, fresh_redis, fresh_nats) as on:
        async with on.flowing():
            before = set(await on.pods())
            for host in on.hosts:
                host.signal(signal.SIGUSR2)
            await until(lambda: renewed(on, before), 30, "not renewed")
            await until(lambda: all_back(on), 5, "not everybody is back")
            await on.publisher.more(RATE)
        on.check()
        refused = [reason for w in on.watching.watchers for reason in w.refused]
        assert refused == []
        assert closed_with(on.watching.watchers) == {1001}


def closed_with(watchers: list[Watcher]) -> set[int]:
    """Return the codes that connections were closed with, but for those that had moved on."""
    return {s.code for w in watchers for s in w.account.stretches if s.ended and s.code}


async def renewed(on: Scene, before: set[str]) -> bool:
    """Tell whether only new pods are there."""
    now = set(await on.pods())
    return len(now) == len(before) and not now & before


async def all_back(on: Scene) -> bool:
    """Tell whether everybody is connected again."""
    return all(w.connected for w in on.watching.watchers)


@asynccontextmanager
async def host(
    folder: Path, redis: str, nats: str, first_port: int = 0, keys: Keys | None = None
) -> AsyncIterator[Host]:
    """Start a host named `twin` of one worker, which need not become ready."""
    keys = keys or Keys()
    made = Host(folder, redis, nats, keys=keys, name="twin", workers=1, first_port=first_port)
    made.start()
    try:
        yield made
    finally:
        await made.close()


async def test_second_host_of_one_name(tmp_path: Path, redis_url: str, nats_url: str) -> None:
    """It ends with 3 and the reason; the first goes on, whoever read the stream."""
    async with host(tmp_path / "first", redis_url, nats_url) as first:
        await first.wait_ready()
        async with host(tmp_path / "second", redis_url, nats_url) as second:
            assert await second.wait(15) == 3
            assert "pod ID twin is in use by another supervisor" in second.log_text()
            assert "server.pod_id" in second.log_text()
            assert "Traceback" not in second.log_text()
        assert first.returncode is None
        assert await all_ready([first])


async def test_second_host_on_the_same_ports(tmp_path: Path, redis_url: str, nats_url: str) -> None:
    """It ends with 2 and the port; the first goes on."""
    ports = free_ports(ports_needed(1))
    async with host(tmp_path / "first", redis_url, nats_url, ports) as first:
        await first.wait_ready()
        async with host(tmp_path / "second", redis_url, nats_url, ports) as second:
            assert await second.wait(15) == 2
            assert str(ports) in second.log_text()
            assert "Traceback" not in second.log_text()
        assert await all_ready([first])


async def test_killed_supervisor_started_again_at_once(
    tmp_path: Path, redis_url: str, nats_url: str
) -> None:
    """The same name and ports are taken over from the dead one."""
    ports, keys = free_ports(ports_needed(1)), Keys()
    async with host(tmp_path / "first", redis_url, nats_url, ports, keys) as first:
        await first.wait_ready()
        first.worker_pids()
        os.kill(first.pid, signal.SIGKILL)
        await first.wait()
        async with host(tmp_path / "second", redis_url, nats_url, ports, keys) as second:
            await second.wait_ready()
            assert "Traceback" not in second.log_text()


async def exposition(made: Host) -> dict[str, float]:
    """Return the series that `/metrics` shows."""
    async with aiohttp.ClientSession() as session, session.get(f"{made.base_url}/metrics") as reply:
        lines = (await reply.text()).splitlines()
    parts = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    series = {name: float(value) for name, _, value in parts}
    assert len(series) == len(parts), "a series is shown twice"
    return series


async def test_killed_workers_leave_nothing_in_the_metrics(
    tmp_path: Path, redis_url: str, nats_url: str
) -> None:
    """After many kills there are the files of the places for workers, and no ghost series."""
    made = Host(tmp_path, redis_url, nats_url, keys=Keys(), workers=WORKERS)
    made.start()
    try:
        await made.wait_ready()
        kills = 0
        while kills < KILLS:
            victims = made.worker_pids()
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            kills += len(victims)
            await until(lambda: replaced(made, victims), 15, "not replaced")  # noqa: B023
            await made.wait_ready()
        files = metric_files(tmp_path)
        lanes = {name.rpartition("_")[2] for name in files}
        assert lanes == {f"{slot}{lane}" for slot in range(WORKERS) for lane in "ab"}
        for kind in {name.rpartition("_")[0] for name in files}:
            of_kind = sum(name.startswith(f"{kind}_") for name in files)
            assert of_kind <= (WORKERS if "gauge_live" in kind else 2 * WORKERS), kind
        await until(lambda: shows_all_ready(made), 5, "the gauge is wrong")
        assert not [name for name in await exposition(made) if "pid=" in name]
    finally:
        await made.close()


async def shows_all_ready(made: Host) -> bool:
    """Tell whether the gauge counts the living workers."""
    return (await exposition(made))["dws_ready"] == WORKERS


async def replaced(made: Host, victims: set[int]) -> bool:
    """Tell whether every slot has a new worker."""
    return len(made.worker_pids() - victims) == made.workers
