"""A worker is stopped and continued, shorter and longer than its lease: nobody misses anything."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from daisi_ws.embedded import NatsServer, RedisServer
from tests.e2e.scene import RATE, Scene, all_ready, scene, until

STOPPED_SECONDS = 3.5
TAKEOVER_SECONDS = 3.0
"""The priority timeout of 2 s, and what the new reader needs to begin."""

DEFAULT_LEASE: dict[str, str] = {}
SHORT_LEASE = {
    "DAISI_WS_APP_POD_LEASE_SECONDS": "2",
    "DAISI_WS_APP_POD_LEASE_REFRESH_SECONDS": "0.5",
}


async def victim(on: Scene, kind: str) -> str:
    """Return the ID of the reader, or of another pod."""
    reader = (await on.reader())["pod_id"]
    others = sorted(pod for pod in await on.pods() if pod != reader)
    return reader if kind == "reader" else others[0]


async def stop_and_continue(on: Scene, pod: str) -> tuple[float, float]:
    """Stop a pod for a while with SIGSTOP.

    :return: the longest way, in seconds, of an event to the other pods' clients meanwhile, and of
        one to anybody afterwards.
    """
    pid = (await on.pods())[pod]["pid"]
    began = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(STOPPED_SECONDS)
    finally:
        os.kill(pid, signal.SIGCONT)
    continued = time.monotonic()
    await on.publisher.more(RATE)
    await until(lambda: all_ready(on.hosts), 5, "not ready")
    await on.publisher.more(RATE)
    await on.watching.settle(on.publisher.published)
    meanwhile = on.slowest(began, continued, [w for w in on.watching.watchers if w.pod != pod])
    return meanwhile, on.slowest(continued)


@pytest.mark.parametrize(("kind", "held_up"), [("worker", 2.0), ("reader", TAKEOVER_SECONDS)])
@pytest.mark.parametrize("lease", [DEFAULT_LEASE, SHORT_LEASE], ids=["within", "beyond"])
async def test_stopped_worker(
    tmp_path: Path,
    fresh_redis: RedisServer,
    fresh_nats: NatsServer,
    *,
    lease: dict[str, str],
    kind: str,
    held_up: float,
) -> None:
    """Its clients stay and catch up; the others go on meanwhile."""
    async with scene(tmp_path, fresh_redis, fresh_nats, lease) as on:
        async with on.flowing():
            meanwhile, afterwards = await stop_and_continue(on, await victim(on, kind))
        on.check(on.watching.watchers)
        assert meanwhile < held_up
        assert afterwards < 2
