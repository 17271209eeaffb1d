"""A worker is stopped and continued, shorter and longer than its lease: nobody misses anything."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from daisi_ws.embedded import NatsServer, RedisServer
from tests.e2e.audit import Watcher
from tests.e2e.scene import RATE, Scene, all_ready, scene, until

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


def others_than(on: Scene, pod: str) -> list[Watcher]:
    """Return who is not connected to a pod."""
    return [w for w in on.watching.watchers if w.pod != pod]


async def stop_and_continue(on: Scene, kind: str, seconds: float) -> str:
    """Stop a pod for a while with SIGSTOP; return how the others and its own clients fared."""
    pod = await victim(on, kind)
    pid = (await on.pods())[pod]["pid"]
    began = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)
    continued = time.monotonic()
    await on.publisher.more(RATE)
    await until(lambda: all_ready(on.hosts), 5, "not ready")
    await on.publisher.more(RATE)
    await on.watching.settle(on.publisher.published)
    others = on.slowest(began, continued, others_than(on, pod))
    own = on.slowest(began, continued, [w for w in on.watching.watchers if w.pod == pod])
    after = on.slowest(continued)
    return f"{kind} {seconds} s: others {others:.2f} s, own {own:.2f} s, after {after:.2f} s"


@pytest.mark.parametrize("kind", ["worker", "reader"])
@pytest.mark.parametrize("lease", [DEFAULT_LEASE, SHORT_LEASE], ids=["within", "beyond"])
async def test_stopped_worker(
    tmp_path: Path,
    fresh_redis: RedisServer,
    fresh_nats: NatsServer,
    lease: dict[str, str],
    kind: str,
) -> None:
    """Its clients stay and catch up; the others go on meanwhile."""
    async with scene(tmp_path, fresh_redis, fresh_nats, lease) as on:
        async with on.flowing():
            told = await stop_and_continue(on, kind, float(os.environ.get("STOP", "4")))
        print(told)
        on.check(on.watching.watchers)
