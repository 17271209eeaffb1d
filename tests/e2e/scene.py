"""The scene of the fault tests: two hosts, a crowd of watchers on both, events that flow."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import nats as nats_py
from nats.aio.client import Client as NatsClient
from redis.asyncio import Redis
from redis.exceptions import RedisError

from daisi_ws.embedded import NatsServer, RedisServer
from tests.chaos.account import Verdict
from tests.cluster import Cluster, Host, cluster
from tests.e2e.audit import Audit, Publisher, Watcher, audit
from tests.nats_cluster import NatsCluster

AGENTS = [(f"company-{n}", f"agent-{m}") for n in range(5) for m in range(2)]
CHATS = 3
USERS = 60
ADMINS = 6
RATE = 300


@dataclass
class Scene:
    """Everything on stage."""

    cluster: Cluster
    watching: Audit
    publisher: Publisher
    nats: NatsClient
    redis: Redis

    @property
    def hosts(self) -> list[Host]:
        """The hosts."""
        return self.cluster.hosts

    def flowing(self, rate: float = RATE) -> Any:
        """Have events flow until the block is left; then wait until everybody got theirs."""
        return _flowing(self, rate)

    def check(
        self, watchers: Iterable[Watcher] | None = None, *, gaps: Collection[str] = ()
    ) -> None:
        """Demand that every event came to everybody who wants it, once, in order, and that nobody
        was told of a gap that stays, but for the reasons in `gaps`.
        """
        published = self.publisher.published
        wrong = {
            f"{w.client.url} on {w.pod}": (judgement, w.account)
            for w in self.watching.watchers
            if (judgement := w.judge(published)).verdict != Verdict() or w.gaps() - set(gaps)
        }
        assert not wrong, f"of {len(published)} events: {wrong}"
        left = [w.pod for w in watchers or () if not w.stayed]
        assert not left, f"connections lost: {left}"

    def slowest(
        self, since: float, until: float | None = None, watchers: Iterable[Watcher] | None = None
    ) -> float:
        """Return the longest way of an event offered in that time, in seconds."""
        published = self.publisher.published
        chosen = self.watching.watchers if watchers is None else watchers
        end = time.monotonic() if until is None else until
        return max((d for w in chosen for d in w.delays(published, since, end)), default=0.0)

    async def pods(self) -> dict[str, dict[str, Any]]:
        """Return the records of all pods that have a lease."""
        ids = [f"pod:{pod.decode()}" for pod in await self.redis.smembers("pods")]  # type: ignore[union-attr]  # replies are bytes
        records = [r for r in await self.redis.mget(ids) if r is not None] if ids else []
        return {r["pod_id"]: r for r in map(msgspec.json.decode, records)}

    async def reader(self) -> dict[str, Any]:
        """Return the record of the pod that reads the stream."""
        async with asyncio.timeout(10):
            while not (record := await self.redis.get("reader:wa_stream")):
                await asyncio.sleep(0.02)
        return dict(msgspec.json.decode(record))


@asynccontextmanager
async def _flowing(scene: Scene, rate: float) -> AsyncIterator[None]:
    async with scene.publisher.flowing(rate):
        await scene.publisher.more(int(rate / 2))
        yield
    await scene.watching.settle(scene.publisher.published)


@asynccontextmanager
async def scene(
    folder: Path,
    redis: RedisServer,
    nats: NatsServer | NatsCluster,
    environment: Mapping[str, str] | None = None,
    *,
    workers: int = 2,
    users: int = USERS,
    admins: int = ADMINS,
    tls: ssl.SSLContext | None = None,
    nats_login: Mapping[str, Any] | None = None,
    followers: float = 0.5,
) -> AsyncIterator[Scene]:
    """Set the scene; all watchers are connected when it is entered.

    :param tls: what clients trust, if the environment turns on TLS toward them.
    :param nats_login: options with which the publisher connects.
    :param followers: share of the watchers that follow their position.
    """
    client = await nats_py.connect(
        nats.url.split(","),
        reconnect_time_wait=0.1,
        max_reconnect_attempts=-1,
        error_cb=_ignore,
        **(nats_login or {}),
    )
    store = Redis.from_url(redis.url, socket_timeout=2)
    try:
        async with (
            cluster(
                folder, redis.url, nats.url, workers=workers, environment=environment, tls=tls
            ) as made,
            audit(made, followers) as watching,
        ):
            publisher = Publisher(client, AGENTS, CHATS)
            set_up = Scene(made, watching, publisher, client, store)
            await gather(set_up, users, admins)
            yield set_up
        for host in made.hosts:
            no_surprises(host)
    finally:
        await store.aclose()
        await client.close()


def no_surprises(host: Host) -> None:
    """Demand that a host's log has no traceback, and that it stopped without waiting in vain."""
    for surprise in ("Traceback", "took too long", "not everything was handed back"):
        lines = [line for line in host.log_text().splitlines() if surprise in line]
        assert not lines, f"in the log of {host.name}: {lines}"


async def gather(on: Scene, users: int, admins: int) -> None:
    """Connect users and admins to all hosts in turn; every second user selects a chat."""
    hosts = on.cluster.hosts

    async def user(number: int) -> None:
        company, agent = AGENTS[number // 2 % len(AGENTS)]
        host = hosts[number % len(hosts)]
        watcher = await on.watching.user(host, company, agent, f"user-{number}")
        if number // 2 % 2:
            await watcher.choose(f"chat-{number % CHATS}")

    async def admin(number: int) -> None:
        scopes: list[dict[str, str]] = [
            {},
            {"subscribed_company_id": f"company-{number % 5}"},
            {"company_id_restriction": f"company-{number % 5}", "subscribed_agent_id": "agent-1"},
        ]
        host = hosts[number % len(hosts)]
        await on.watching.admin(host, f"admin-{number}", **scopes[number % len(scopes)])

    await asyncio.gather(*map(user, range(users)), *map(admin, range(admins)))


async def until(
    condition: Callable[[], Awaitable[object]], seconds: float, what: str = "it did not happen"
) -> float:
    """Wait until a condition holds; return how long that took.

    :raises AssertionError: it did not in time.
    """
    began = time.monotonic()
    while True:
        try:
            if await condition():
                return time.monotonic() - began
        except RedisError:
            pass
        assert time.monotonic() - began < seconds, f"{what} in {seconds:g} s"
        await asyncio.sleep(0.02)


async def ready(host: Host) -> list[tuple[int, dict[str, Any]]]:
    """Ask `/ready` often enough to reach every worker of a host; one answer for each pod."""
    answers: dict[str, tuple[int, dict[str, Any]]] = {}
    connector = aiohttp.TCPConnector(force_close=True, ssl=host.tls or True)
    async with aiohttp.ClientSession(connector=connector) as session:
        for _ in range(8 * host.workers):
            async with session.get(f"{host.base_url}/ready") as reply:
                body = await reply.json()
                answers[body["pod"]] = (reply.status, body)
    return list(answers.values())


async def all_ready(hosts: Iterable[Host]) -> bool:
    """Tell whether every worker of these hosts says READY."""
    answers = [status for host in hosts for status, _ in await ready(host)]
    return all(status == 200 for status in answers)


async def not_ready(on: Scene, part: str) -> bool:
    """Tell whether every worker says NOT_READY for this reason."""
    answers = [answer for host in on.hosts for answer in await ready(host)]
    return all(
        status == 503 and body["dependencies"][part] == "disconnected" for status, body in answers
    )


async def _ignore(_: Exception) -> None:
    pass
