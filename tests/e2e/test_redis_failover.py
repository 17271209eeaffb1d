"""The primary of Redis is lost for good, and another takes over: events go on, nothing is lost."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from daisi_ws.client import Ended, ReferenceClient, user_url
from daisi_ws.embedded import NatsServer
from tests.e2e.scene import RATE, Scene, all_ready, not_ready, scene, until
from tests.redis_access import Access, Secured
from tests.redis_clusters import redis_cluster, sentinels

TAKES_OVER_SECONDS = 30.0
ENDS_SECONDS = 15.0

pytestmark = pytest.mark.timeout(120)


async def one_session(on: Scene) -> None:
    """Have an identity connect to both hosts in turn, and demand that only the last one stays."""
    keys = on.cluster.keys
    token = keys.user_token("company-1", "agent-1", "twice")
    urls = [user_url(host.base_url, "company-1", "agent-1") for host in on.hosts]
    first, second = (ReferenceClient(url, keys.secret_token, token) for url in urls)
    async with first, second:
        with pytest.raises(Ended, match="4402"):
            await asyncio.wait_for(_end(first), ENDS_SECONDS)
        assert second.ready is not None


async def _end(client: ReferenceClient) -> None:
    async for _ in client:
        pass


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
async def test_sentinels(tmp_path: Path, fresh_nats: NatsServer, *, secured: bool) -> None:
    """Killed under load: everybody stays and gets every event; sessions are exclusive again."""
    access = Secured(tmp_path, mutual=True) if secured else Access()
    access.program()
    with sentinels(access) as servers:
        where = access.environment(servers.url)
        async with scene(
            tmp_path, servers.primary, fresh_nats, where, workers=1, users=20, admins=3
        ) as on:
            watchers = list(on.watching.watchers)
            async with on.flowing():
                began = time.monotonic()
                servers.primary.kill()
                await until(lambda: not_ready(on, "redis"), TAKES_OVER_SECONDS, "still ready")
                await until(lambda: all_ready(on.hosts), TAKES_OVER_SECONDS, "not ready")
                print(f"ready again after {time.monotonic() - began:.1f} s")
                await one_session(on)
                await on.publisher.more(RATE)
            on.check(watchers)
            print(f"slowest event: {on.slowest(began):.2f} s")
        assert servers.replica_leads()


async def test_cluster(tmp_path: Path, fresh_nats: NatsServer) -> None:
    """The same on a Redis Cluster that loses the primary which has the list of pods."""
    with redis_cluster() as servers:
        where = servers.access.environment(servers.url)
        first = servers.primaries[0]
        async with scene(tmp_path, first, fresh_nats, where, workers=1, users=20, admins=3) as on:
            await one_session(on)
            watchers = list(on.watching.watchers)
            async with on.flowing():
                began = time.monotonic()
                servers.primary_of("pods").kill()
                await until(lambda: not_ready(on, "redis"), TAKES_OVER_SECONDS, "still ready")
                await until(lambda: all_ready(on.hosts), TAKES_OVER_SECONDS, "not ready")
                print(f"ready again after {time.monotonic() - began:.1f} s")
                await one_session(on)
                await on.publisher.more(RATE)
            on.check(watchers)
            print(f"slowest event: {on.slowest(began):.2f} s")
