"""The hosts that other tests are made of start, end and are ended as promised."""

from __future__ import annotations

from pathlib import Path

import aiohttp

from tests.cluster import Host, Keys, cluster
from tests.processes import wait_until_gone


async def test_hosts_are_ready_with_all_their_workers(
    redis_url: str, nats_url: str, tmp_path: Path
) -> None:
    """Inside the block every host serves; after it all processes are gone."""
    async with cluster(tmp_path, redis_url, nats_url, hosts=2, workers=2) as running:
        pids = {pid for host in running.hosts for pid in (host.pid, *host.worker_pids())}
        assert len(pids) == 6
        async with aiohttp.ClientSession() as session:
            for host in running.hosts:
                async with session.get(f"{host.base_url}/health") as reply:
                    assert reply.status == 200
    assert wait_until_gone(pids) == {}


async def test_a_host_can_be_stopped_killed_and_started_again(
    redis_url: str, nats_url: str, tmp_path: Path
) -> None:
    """It keeps its ports; workers of a killed supervisor end by themselves."""
    host = Host(tmp_path, redis_url, nats_url, keys=Keys(), workers=1)
    try:
        host.start()
        await host.wait_ready()
        assert await host.stop() == 0
        host.start()
        await host.wait_ready()
        workers = host.worker_pids()
        await host.kill()
        assert workers
        assert wait_until_gone(workers) == {}
    finally:
        await host.close()
