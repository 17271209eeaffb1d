"""One supervisor per pod ID."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import cast

import pytest

from daisi_ws.adapters.pods_redis import PodsRedis
from daisi_ws.adapters.redis_connect import RedisOpener
from daisi_ws.adapters.redis_link import RedisLink
from daisi_ws.config import testing_config
from daisi_ws.domain.slots import WorkerContext
from daisi_ws.worker.boot import BootFailure
from daisi_ws.worker.host_claim import HostClaim


@pytest.fixture
async def pods(redis_url: str) -> AsyncIterator[PodsRedis]:
    """The registry on the emptied Redis, with leases of half a second."""
    link = RedisLink(RedisOpener(testing_config(redis__address=redis_url).redis).primary, 1.0)
    link.start()
    await link.wait_up()
    yield PodsRedis(link, "wa_stream", lambda: 0.5)
    await link.aclose()


def ended_process() -> int:
    """Return the ID of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


def claim(pods: PodsRedis, supervisor: str, pid: int) -> HostClaim:
    """Return the claim of a worker of a supervisor."""
    context = SimpleNamespace(supervisor_id=supervisor, supervisor_pid=pid)
    return HostClaim(pods, "host", lambda: 0.5, cast("WorkerContext", context))


async def test_workers_of_one_supervisor_share_the_claim(pods: PodsRedis) -> None:
    """Each of them takes it."""
    await claim(pods, "s1", os.getpid()).take()
    await claim(pods, "s1", os.getpid()).take()


async def test_a_living_supervisor_here_is_not_replaced(pods: PodsRedis) -> None:
    """The second one is refused at once, with who has the name and what to do."""
    await claim(pods, "s1", os.getpid()).take()
    async with asyncio.timeout(0.4):
        with pytest.raises(BootFailure, match="s1@") as failure:
            await claim(pods, "s2", os.getppid()).take()
    assert "server.pod_id" in failure.value.hint


async def test_a_dead_supervisor_here_is_replaced_at_once(pods: PodsRedis) -> None:
    """A crash does not keep the host down until its claim has expired."""
    await claim(pods, "s1", ended_process()).take()
    async with asyncio.timeout(0.4):
        await claim(pods, "s2", os.getpid()).take()


async def test_a_supervisor_elsewhere_is_outwaited(pods: PodsRedis) -> None:
    """It may be dead: its claim has ended after a lease, unless it is renewed."""
    await pods.claim_host("host", f"s1@not-{socket.gethostname()}#1")
    await claim(pods, "s2", os.getpid()).take()
    renewing = asyncio.create_task(claim(pods, "s2", os.getpid()).keep())
    context = SimpleNamespace(supervisor_id="s3", supervisor_pid=os.getppid())
    with pytest.raises(BootFailure):
        await HostClaim(pods, "host", lambda: 0.5, cast("WorkerContext", context)).take()
    renewing.cancel()
    await asyncio.gather(renewing, return_exceptions=True)
