"""What is measured: the product as a cluster of real processes, and the floor.

Each has Redis and NATS servers of its own, so that several can run side by side and be measured
in turn.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import nats
import redis as redis_py

from bench.wire import upgrade_request
from daisi_ws.embedded import Servers, free_ports
from tests.cluster import HOST, Host, Keys, ports_needed

ROOT: Final = Path(__file__).parents[1]
_STREAM: Final = "wa_stream"
_START_SECONDS: Final = 30.0
EACH: Final = "%start"
"""In :attr:`Version.wrapper`: what tells one start of a host from all others."""

_starts = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Layout:
    """How many hosts, with how many workers each."""

    hosts: int
    workers: int

    @classmethod
    def of(cls, text: str) -> Layout:
        """Read `1x2`: one host with two workers."""
        hosts, _, workers = text.partition("x")
        return cls(int(hosts), int(workers))

    def __str__(self) -> str:
        return f"{self.hosts}x{self.workers}"


@dataclass(frozen=True)
class Version:
    """A version of the product: its source tree, and what it is called in tables.

    :param wrapper: what goes between `python` and `-m daisi_ws`.
    """

    name: str = "product"
    tree: Path = ROOT
    environment: Mapping[str, str] = field(default_factory=dict)
    wrapper: Sequence[str] = ()


class Target(ABC):
    """Something with WebSocket endpoints that events can be published to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        self.folder = Path(self._folder.name)
        self.servers = Servers(base=self.folder)

    @property
    @abstractmethod
    def doors(self) -> list[int]:
        """The HTTP port of each host."""

    @abstractmethod
    def processes(self) -> dict[str, list[int]]:
        """The root process of each host, by its name."""

    @abstractmethod
    async def launch(self) -> None:
        """Start, beside running servers; return once it is ready."""

    @abstractmethod
    async def end(self) -> None:
        """Stop what :meth:`launch` started."""

    @abstractmethod
    def user(self, company: str, agent: str, user: str, query: str = "") -> str:
        """Return the upgrade request of a user."""

    @abstractmethod
    def admin(self, admin: str, company: str, agent: str) -> str:
        """Return the upgrade request of an admin, with what it subscribes to (`*`: any)."""

    @property
    def nats_address(self) -> tuple[str, int]:
        """Where to publish."""
        return HOST, self.servers.nats.port

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.servers.start)
        try:
            await self.launch()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.end()
        finally:
            await asyncio.to_thread(self.servers.stop)
            self._folder.cleanup()

    async def empty(self) -> None:
        """Empty the stream: how much of it is on the disk is not what we measure."""
        client = await nats.connect(self.servers.nats.url)
        try:
            await client.jetstream().purge_stream(_STREAM)
        finally:
            await client.close()


class Gateway(Host):
    """A host that runs from another source tree, or below a profiler."""

    version = Version()
    target = ""

    def command(self) -> list[str]:
        """Return program and arguments."""
        program, *rest = super().command()
        start = f"{next(_starts)}-{self.target}-{self.name}".replace(" ", "-")
        return [program, *(word.replace(EACH, start) for word in self.version.wrapper), *rest]


class Product(Target):
    """The product: `daisi-ws serve` on one or more hosts."""

    def __init__(self, version: Version, layout: Layout) -> None:
        super().__init__(f"{version.name} {layout}")
        self._version = version
        self._layout = layout
        self.keys = Keys()
        self.hosts: list[Host] = []

    @property
    def doors(self) -> list[int]:
        return [host.http_port for host in self.hosts]

    def processes(self) -> dict[str, list[int]]:
        return {host.name: [host.pid] for host in self.hosts}

    async def launch(self) -> None:
        each = ports_needed(self._layout.workers)
        first = free_ports(each * self._layout.hosts)
        for number in range(self._layout.hosts):
            host = Gateway(
                self.folder,
                self.servers.redis.url,
                self.servers.nats.url,
                keys=self.keys,
                name=f"host-{number}",
                workers=self._layout.workers,
                environment={"PYTHONPATH": str(self._version.tree), **self._version.environment},
                first_port=first + number * each,
            )
            host.version, host.target = self._version, self.name
            self.hosts.append(host)
            host.start()
        await asyncio.gather(*(host.wait_ready(_START_SECONDS) for host in self.hosts))

    async def end(self) -> None:
        for host in self.hosts:
            if host.returncode is None:
                host.signal(signal.SIGINT)  # the second signal, of close(), makes it quick
        await asyncio.gather(*(host.close() for host in self.hosts))

    def user(self, company: str, agent: str, user: str, query: str = "") -> str:
        path = f"/ws/{company}/{agent}" + (f"?{query}" if query else "")
        token = self.keys.user_token(company, agent, user)
        return _request(path, self.keys.secret_token, token)

    def admin(self, admin: str, company: str, agent: str) -> str:
        scope = {"subscribed_company_id": company, "subscribed_agent_id": agent}
        token = self.keys.admin_token(admin, 3600, **scope)
        return _request("/ws/admin", self.keys.admin_secret_token, token)

    def reader(self) -> str:
        """Return the name of the host whose worker reads the stream; empty if none does."""
        with redis_py.Redis.from_url(self.servers.redis.url) as client:
            record = client.get(f"reader:{_STREAM}")
        assert record is None or isinstance(record, bytes)
        return next((h.name for h in self.hosts if record and f'"{h.name}-'.encode() in record), "")


class FloorTarget(Target):
    """The floor: one process of :mod:`bench.floor`."""

    def __init__(self) -> None:
        super().__init__("floor")
        self._port = free_ports()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def doors(self) -> list[int]:
        return [self._port]

    def processes(self) -> dict[str, list[int]]:
        assert self._process is not None
        return {"floor": [self._process.pid]}

    async def launch(self) -> None:
        log = self.folder / "floor.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - a moment, before anything runs
                [sys.executable, "-m", "bench.floor", self.servers.nats.url, str(self._port)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
            )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                _, writer = await asyncio.open_connection(HOST, self._port)
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the floor did not start: {log.read_text()}") from None
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return

    async def end(self) -> None:
        if self._process is not None:
            self._process.terminate()
            await asyncio.to_thread(self._process.wait)

    def user(self, company: str, agent: str, user: str, query: str = "") -> str:
        return upgrade_request(f"/ws/{company}/{agent}?user={user}&{query}", {}).decode()

    def admin(self, admin: str, company: str, agent: str) -> str:
        return upgrade_request(f"/ws/admin?company={company}&agent={agent}", {}).decode()


def _request(path: str, key: str, token: str) -> str:
    headers = {"X-API-Key": key, "Authorization": f"Bearer {token}"}
    return upgrade_request(path, headers).decode()
