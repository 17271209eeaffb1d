"""Everything on stage: servers, proxies before them, hosts, and hands to break them with."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import nats as nats_py
from nats.aio.client import Client as NatsClient
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from daisi_ws.domain.streams import identity
from daisi_ws.embedded import NatsServer, RedisServer, free_ports
from tests.chaos.crowd import Crowd
from tests.chaos.meter import Meter
from tests.chaos.proxies import Proxies, Remote
from tests.chaos.traffic import Traffic
from tests.cluster import HOST, Host, Keys, ports_needed

STREAM: Final = "wa_stream"
CONSUMER: Final = "ws_fanout"
_DUPLICATE_WINDOW_NS: Final = 3600 * 10**9
READY_SECONDS: Final = 120.0
"""So long after a fault all workers may take to be READY, on a machine that is overloaded."""
_FAKETIME: Final = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
)

ENVIRONMENT: Final = {
    "DAISI_WS_APP_SHUTDOWN_TIMEOUT_SECONDS": "6",
    "DAISI_WS_APP_WRITE_TIMEOUT_SECONDS": "5",
    "DAISI_WS_APP_GRPC_CIRCUITBREAKER_OPEN_DURATION_SECONDS": "3",
    "DAISI_WS_APP_GRPC_CLIENT_FORWARD_TIMEOUT_SECONDS": "2",
    "DAISI_WS_APP_NATS_ACK_WAIT_SECONDS": "5",
}
"""Where the hosts differ from the defaults: so that a fault is over sooner."""


def faketime_library() -> str | None:
    """Return the path of libfaketime, None where it is not installed."""
    return next((path for path in _FAKETIME if Path(path).exists()), None)


@dataclass
class Pair:
    """A host with the proxies on its ways to Redis, to NATS, and from the other pods."""

    host: Host
    redis: Remote
    nats: Remote
    peers: list[Remote]
    clock: Path


@dataclass
class Stage:
    """What faults work on."""

    pairs: list[Pair]
    keys: Keys
    redis_server: RedisServer
    nats_server: NatsServer
    redis: Redis
    nats: NatsClient
    traffic: Traffic
    crowd: Crowd
    meter: Meter
    reader: tuple[str, int] = ("", 0)
    problems: list[str] = field(default_factory=list)

    @property
    def hosts(self) -> list[Host]:
        """The hosts."""
        return [pair.host for pair in self.pairs]

    def host_of(self, pid: int) -> Host | None:
        """Return the host that a worker belongs to."""
        for host in self.hosts:
            with suppress(AssertionError):
                if pid in host.worker_pids():
                    return host
        return None

    async def pods(self) -> dict[str, dict[str, Any]]:
        """Return the records of all pods that have a lease."""
        ids = [f"pod:{pod.decode()}" for pod in await self.redis.smembers("pods")]  # type: ignore[union-attr]  # replies are bytes
        records = [r for r in await self.redis.mget(ids) if r is not None] if ids else []
        return {r["pod_id"]: r for r in map(msgspec.json.decode, records)}

    async def follow_reader(self) -> None:
        """Keep `reader` (pod and process) up to date until cancelled."""
        while True:
            with suppress(RedisError, OSError, TimeoutError):
                record = await self.redis.get(f"reader:{STREAM}")
                pod = msgspec.json.decode(record)["pod_id"] if record else ""
                pods = await self.pods()
                if pod in pods:
                    self.reader = (pod, int(pods[pod]["pid"]))
            await asyncio.sleep(0.3)

    async def revive(self, host: Host) -> None:
        """Start a host as a manager would: again and again until it stays.

        :raises AssertionError: it does not; with the end of its log.
        """
        for _ in range(20):
            if host.returncode is not None:
                await host.wait()
            if host._process is None:
                host.start()
            try:
                await host.wait_ready(READY_SECONDS)
            except AssertionError:
                if host.returncode is None:
                    raise
                await asyncio.sleep(0.5)
            else:
                return
        raise AssertionError(host.report("ends again and again"))

    async def all_ready(self) -> None:
        """Return once every worker says READY.

        :raises AssertionError: that takes too long; with the end of a log.
        """
        await asyncio.gather(*(self.revive(host) for host in self.hosts))

    async def note_stream(self) -> None:
        """Note which stream is the present one, and have it know message IDs for long: on an
        overloaded machine an event may be offered again after minutes.
        """
        request = self.nats.jetstream()._api_request
        info = await request(f"$JS.API.STREAM.INFO.{STREAM}", b"{}")
        wanted = info["config"] | {"duplicate_window": _DUPLICATE_WINDOW_NS}
        await request(f"$JS.API.STREAM.UPDATE.{STREAM}", msgspec.json.encode(wanted))
        self.crowd.streams[identity(STREAM, info["created"])] = self.traffic.generation


async def kill_host(host: Host) -> None:
    """Kill a supervisor and all its workers, as a power failure would."""
    workers = host.worker_pids()
    host.signal(signal.SIGKILL)
    for pid in workers:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await host.wait()


def empty_redis(server: RedisServer) -> None:
    """Kill Redis and remove its data."""
    folder = server.folder
    server.kill()
    shutil.rmtree(folder / "appendonlydir", ignore_errors=True)
    for dump in folder.glob("*.rdb"):
        dump.unlink()


@asynccontextmanager
async def stage(
    folder: Path,
    make_traffic: Any,
    chance: random.Random,
    *,
    hosts: int = 2,
    workers: int = 2,
    clock: bool = False,
) -> AsyncIterator[Stage]:
    """Set everything up but the crowd; hosts are READY when it is entered.

    :param make_traffic: called with the NATS connection.
    :param clock: run the second host under libfaketime.
    """
    async with AsyncExitStack() as undo:
        redis = RedisServer(_made(folder / "redis"), appendonly=True)
        nats = NatsServer(_made(folder / "nats"))
        for server in (redis, nats):
            undo.callback(server.stop)
            await asyncio.to_thread(server.start)
        keys, proxies = Keys(), Proxies()
        undo.callback(proxies.close)
        pairs = [
            _pair(folder, number, redis, nats, keys, workers, proxies, clock=clock)
            for number in range(hosts)
        ]
        client = await nats_py.connect(
            nats.url, reconnect_time_wait=0.1, max_reconnect_attempts=-1, error_cb=_ignore,
            ping_interval=2,
        )  # fmt: skip
        undo.push_async_callback(client.close)
        store = Redis.from_url(redis.url, socket_timeout=1, retry=Retry(NoBackoff(), 0))
        undo.push_async_callback(store.aclose)
        meter = Meter()
        crowd = Crowd(keys, [pair.host.http_port for pair in pairs], meter, chance)
        traffic = make_traffic(client)
        made = Stage(pairs, keys, redis, nats, store, client, traffic, crowd, meter)
        for pair in pairs:
            undo.push_async_callback(pair.host.close)
            pair.host.start()
        await asyncio.gather(*(pair.host.wait_ready(READY_SECONDS) for pair in pairs))
        await made.note_stream()
        yield made


def _pair(  # noqa: PLR0917
    folder: Path,
    number: int,
    redis: RedisServer,
    nats: NatsServer,
    keys: Keys,
    workers: int,
    proxies: Proxies,
    *,
    clock: bool,
) -> Pair:
    # Linux has all of 127/8 on the loopback interface: pods bind their gRPC ports at one address
    # and tell another one, where the proxies listen at the same ports.
    advertised = f"127.0.0.{11 + number}"
    first = free_ports(ports_needed(workers))
    ports = range(first + 1, first + ports_needed(workers))
    to_redis = proxies.open((HOST, 0), (HOST, redis.port))
    to_nats = proxies.open((HOST, 0), (HOST, nats.port))
    peers = [proxies.open((advertised, port), (HOST, port)) for port in ports]
    clock_file = folder / f"clock-{number}"
    clock_file.write_text("+0\n")
    faketime = _faketime(clock_file) if clock and number == 1 else {}
    host = Host(
        folder,
        f"redis://{to_redis.address}",
        f"nats://{to_nats.address}",
        keys=keys,
        name=f"host-{number}",
        workers=workers,
        environment={
            **ENVIRONMENT, "DAISI_WS_SERVER_ADVERTISE_HOST": advertised, **faketime
        },
        first_port=first,
    )  # fmt: skip
    return Pair(host, to_redis, to_nats, peers, clock_file)


def _faketime(file: Path) -> dict[str, str]:
    library = faketime_library()
    if library is None:
        return {}
    return {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DISABLE_SHM": "1",
        "NO_FAKE_STAT": "1",
    }


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


async def _ignore(_: Exception) -> None:
    pass
