"""Real Redis servers that stand in for one another: Sentinels, and a Redis Cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from redis.crc import key_slot
from redis.exceptions import RedisError

from daisi_ws.adapters.redis_cluster import SLOTS
from daisi_ws.embedded import free_ports
from tests.redis_access import Access, AccessedServer, Option

HOST = "127.0.0.1"
SERVICE = "main"
NODE_TIMEOUT_MS = 1000
"""After this long a node that says nothing is taken for dead, by Sentinels and by nodes."""

_START_SECONDS = 30.0
_SYNC_AT_ONCE = ("repl-diskless-sync-delay", "0")


class _Sentinel(AccessedServer):
    """A Sentinel that is told of the others, instead of finding them within seconds.

    :param config: lines of its configuration file, which it also keeps its state in.
    """

    def __init__(self, access: Access, port: int, config: Sequence[str]) -> None:
        super().__init__(access, port=port)
        self._config = config

    def command(self) -> list[str]:
        """Write the configuration file; return program and arguments."""
        file: Path = self.folder / "sentinel.conf"
        access = [*self.access.options(self.port), *self.access.sentinel_logins(SERVICE)]
        lines = (f"bind {HOST}", f"dir {self.folder}", *self._config, *map(" ".join, access))
        file.write_text("\n".join(lines) + "\n")
        return [self.access.program(), str(file), "--sentinel"]


def _watching(primary: int, replica: int, own: int, others: Sequence[int]) -> list[str]:
    """Return the lines by which a Sentinel knows everybody; all are ports."""
    return [
        f"sentinel myid {own:040x}",
        f"sentinel monitor {SERVICE} {HOST} {primary} 2",
        f"sentinel down-after-milliseconds {SERVICE} {NODE_TIMEOUT_MS}",
        f"sentinel failover-timeout {SERVICE} 5000",
        f"sentinel known-replica {SERVICE} {HOST} {replica}",
        *(f"sentinel known-sentinel {SERVICE} {HOST} {port} {port:040x}" for port in others),
    ]


@dataclass
class Sentinels:
    """A primary, its replica and three Sentinels."""

    access: Access
    primary: AccessedServer
    replica: AccessedServer
    sentinels: list[_Sentinel]

    @property
    def url(self) -> str:
        """What pods are configured with."""
        nodes = ",".join(sentinel.address for sentinel in self.sentinels)
        return f"{self.access.scheme}+sentinel://{nodes}/{SERVICE}"

    def replica_leads(self) -> bool:
        """Tell whether the replica is the primary now."""
        return bool(_asked(self.replica, "ROLE")[0] == "master")


@contextmanager
def sentinels(access: Access | None = None) -> Iterator[Sentinels]:
    """Run them; the Sentinels know the replica and one another when the block is entered."""
    access = access or Access()
    with ExitStack() as stack:
        primary = stack.enter_context(AccessedServer(access, [_SYNC_AT_ONCE]))
        following = [_SYNC_AT_ONCE, ("replicaof", HOST, str(primary.port))]
        replica = stack.enter_context(AccessedServer(access, following))
        ports = {free_ports(1) for _ in range(8)} - {primary.port, replica.port}
        chosen = sorted(ports)[:3]
        made = Sentinels(access, primary, replica, [])
        for port in chosen:
            others = [other for other in chosen if other != port]
            config = _watching(primary.port, replica.port, port, others)
            made.sentinels.append(stack.enter_context(_Sentinel(access, port, config)))
        _wait(lambda: all(map(_knows, made.sentinels)), "the Sentinels do not know the replica")
        yield made


class _Node(AccessedServer):
    """A node of a Redis Cluster; it talks to the others at the port after its own."""

    port_count = 2

    def options(self) -> list[Option]:
        """See :meth:`AccessedServer.options`."""
        return [
            *super().options(),
            ("cluster-enabled", "yes"),
            ("cluster-port", str(self.port + 1)),
            ("cluster-node-timeout", str(NODE_TIMEOUT_MS)),
            *self.access.cluster_options(),
            _SYNC_AT_ONCE,
        ]


@dataclass
class RedisCluster:
    """Three primaries, each with a third of the slots, and a replica of each."""

    access: Access
    primaries: list[_Node]
    replicas: list[_Node]

    @property
    def url(self) -> str:
        """What pods are configured with."""
        nodes = ",".join(f"{self.access.host}:{node.port}" for node in self.primaries)
        return f"{self.access.scheme}+cluster://{nodes}"

    def primary_of(self, key: str) -> _Node:
        """Return the node that had the slot of a key in the beginning."""
        return self.primaries[key_slot(key.encode()) * 3 // SLOTS]


@contextmanager
def redis_cluster(access: Access | None = None) -> Iterator[RedisCluster]:
    """Run it; every node knows the others and every replica is in step when it is entered."""
    access = access or Access()
    with ExitStack() as stack:
        nodes = [_Node(access) for _ in range(6)]
        for node in nodes:
            node.launch()
            stack.callback(node.stop)
        for node in nodes:
            node.wait_ready()
        made = RedisCluster(access, nodes[:3], nodes[3:])
        ids = [str(_asked(node, "CLUSTER", "MYID")) for node in made.primaries]
        for number, node in enumerate(made.primaries):
            first, last = -(-number * SLOTS // 3), -(-(number + 1) * SLOTS // 3) - 1
            _asked(node, "CLUSTER", "ADDSLOTSRANGE", first, last)
            _asked(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            _asked(nodes[0], "CLUSTER", "MEET", HOST, node.port, node.port + 1)
        for number, node in enumerate(made.replicas):
            _wait(partial(_replicates, node, ids[number]), "a replica does not know its primary")
        _wait(lambda: all(map(_is_whole, nodes)), "the nodes do not find each other")
        yield made


def _replicates(node: AccessedServer, primary: str) -> bool:
    return bool(_asked(node, "CLUSTER", "REPLICATE", primary) == "OK")


def _is_whole(node: AccessedServer) -> bool:
    told = str(_asked(node, "CLUSTER", "INFO"))
    replication = _asked(node, "ROLE")
    in_step = replication[0] == "master" or replication[3] == "connected"
    return in_step and "cluster_state:ok" in told and "cluster_known_nodes:6" in told


def _knows(sentinel: AccessedServer) -> bool:
    state: dict[str, Any] = _asked(sentinel, "SENTINEL", "MASTER", SERVICE)
    if int(state["num-slaves"]) < 1 or int(state["num-other-sentinels"]) < 2:
        return False
    [replica] = _asked(sentinel, "SENTINEL", "REPLICAS", SERVICE)
    return bool(replica["master-link-status"] == "ok")


def _asked(server: AccessedServer, *command: str | int) -> Any:
    with server.access.client(server.port) as client:
        return client.execute_command(*command)


def _wait(condition: Any, what: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            if condition():
                return
        except (RedisError, KeyError, ValueError):
            pass  # not yet
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
