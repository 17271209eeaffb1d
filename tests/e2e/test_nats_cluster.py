"""A server of a NATS cluster is lost: every event arrives, once, in order."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from nats.errors import Error as NatsError

from daisi_ws.embedded import NatsServer, RedisServer
from tests.e2e.scene import RATE, Scene, all_ready, scene, until
from tests.nats_cluster import NatsCluster, nats_cluster

RECOVERS_SECONDS = 30.0

pytestmark = pytest.mark.timeout(120)


async def lead(on: Scene, server: NatsServer) -> None:
    """Have a server lead the stream."""

    async def leads() -> bool:
        cluster = (await on.nats.jetstream().stream_info("wa_stream")).cluster
        assert cluster is not None
        if cluster.leader == server.server_name:
            return True
        wish = json.dumps({"placement": {"preferred": server.server_name}}).encode()
        with suppress(NatsError):  # asked too soon after the last time
            await on.nats.request("$JS.API.STREAM.LEADER.STEPDOWN.wa_stream", wish, timeout=2)
        return False

    await until(leads, RECOVERS_SECONDS, "another server leads")


def busiest(servers: NatsCluster) -> NatsServer:
    """Return the server that most workers are connected to."""

    def workers(server: NatsServer) -> int:
        with urlopen(f"{server.monitor_url}/connz", timeout=5) as answer:
            clients = json.load(answer)["connections"]
        return sum(client.get("name", "").startswith("host-") for client in clients)

    return max(servers.servers, key=workers)


async def test_the_leader_that_we_are_connected_to_is_lost(
    tmp_path: Path, fresh_redis: RedisServer
) -> None:
    """Killed under load: the others go on, and it may come back."""
    with nats_cluster() as servers:
        copies = {"DAISI_WS_NATS_STREAM_REPLICAS": "3"}
        async with scene(
            tmp_path, fresh_redis, servers, copies, workers=1, users=20, admins=3
        ) as on:
            watchers = list(on.watching.watchers)
            lost = busiest(servers)
            await lead(on, lost)
            async with on.flowing():
                began = time.monotonic()
                lost.kill()
                await on.publisher.more(RATE)
                await until(lambda: all_ready(on.hosts), RECOVERS_SECONDS, "not ready")
                await asyncio.to_thread(lost.start)
                await on.publisher.more(RATE)
            on.check(watchers)
            print(f"the slowest event took {on.slowest(began):.1f} s")
