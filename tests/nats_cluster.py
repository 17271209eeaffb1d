"""A real NATS cluster of three, with a stream that each server has a copy of."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.request import urlopen

from daisi_ws.embedded import NatsServer, free_ports

HOST = "127.0.0.1"
_START_SECONDS = 30.0


@dataclass
class NatsCluster:
    """Three servers."""

    servers: list[NatsServer]

    @property
    def url(self) -> str:
        """What pods are configured with: all of them."""
        return ",".join(server.url for server in self.servers)


@contextmanager
def nats_cluster() -> Iterator[NatsCluster]:
    """Run it; streams can be made when the block is entered."""
    with ExitStack() as stack:
        first = free_ports(3)
        routes = [f"nats-route://{HOST}:{first + number}" for number in range(3)]
        servers = []
        for number in range(3):
            config = f"cluster: {json.dumps(_cluster(first + number, routes))}"
            server = NatsServer(config=config, start_timeout=_START_SECONDS)
            server.launch()
            stack.callback(server.stop)
            servers.append(server)
        for server in servers:
            server.wait_ready()
        deadline = time.monotonic() + _START_SECONDS
        while not all(_has_leader(server) for server in servers):
            assert time.monotonic() < deadline, "the servers do not agree on a leader"
            time.sleep(0.05)
        yield NatsCluster(servers)


def _cluster(port: int, routes: list[str]) -> dict[str, object]:
    return {"name": "trio", "listen": f"{HOST}:{port}", "routes": routes}


def _has_leader(server: NatsServer) -> bool:
    with urlopen(f"{server.monitor_url}/jsz", timeout=2) as answer:
        meta = json.load(answer).get("meta_cluster") or {}
    return bool(meta.get("leader")) and meta.get("cluster_size") == 3
