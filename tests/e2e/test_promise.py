"""The promise: every connection gets exactly the events it should, each once, in stream order."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from nats.aio.client import Client as NatsClient
from redis.asyncio import Redis

from tests.chaos.account import Verdict
from tests.cluster import Cluster, cluster
from tests.e2e.audit import Audit, Publisher, audit, metric

COMPANIES = [f"company-{n}" for n in range(10)]
AGENTS = [(company, f"agent-{n}") for company in COMPANIES for n in range(2)]
CHATS = 5
USERS = 200
ADMINS = 10

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def two_hosts(tmp_path: Path, redis_url: str, nats_url: str) -> AsyncIterator[Cluster]:
    """Two hosts of two workers each; who is away for long while much comes gets all of it."""
    bounds = {
        "DAISI_WS_RESUME_MAX_EVENTS": "20000",
        "DAISI_WS_RESUME_MAX_BYTES": str(32 * 2**20),
        "DAISI_WS_RESUME_POD_MAX_BYTES": str(256 * 2**20),
    }
    async with cluster(tmp_path, redis_url, nats_url, environment=bounds) as running:
        yield running


async def connect_everybody(running: Cluster, watching: Audit) -> None:
    """Connect 200 users and 10 admins, spread over both hosts; half of the users select a chat."""

    async def user(number: int) -> None:
        company, agent = AGENTS[number % len(AGENTS)]
        host = running.hosts[number % 2 if number < USERS // 2 else (number + 1) % 2]
        watcher = await watching.user(host, company, agent, f"user-{number}")
        if number % 2:
            await watcher.choose(f"chat-{number % CHATS}")

    async def admin(number: int) -> None:
        scopes: list[dict[str, str]] = [
            {},
            {"subscribed_company_id": COMPANIES[number]},
            {"subscribed_agent_id": "agent-1"},
            {"company_id_restriction": COMPANIES[number]},
            {"subscribed_company_id": COMPANIES[number], "subscribed_agent_id": "agent-0"},
        ]
        await watching.admin(
            running.hosts[number % 2], f"admin-{number}", **scopes[number % len(scopes)]
        )

    for start in range(0, USERS, 20):
        await asyncio.gather(*(user(number) for number in range(start, start + 20)))
    await asyncio.gather(*(admin(number) for number in range(ADMINS)))


async def change_chats(watching: Audit, until: asyncio.Event) -> None:
    """Have some users select other chats while events flow, some fifty times a second in all."""
    changing = [w for w in watching.watchers if w.choices][::4]
    number = 0
    while not until.is_set():
        for watcher in changing:
            number += 1
            await watcher.choose(f"chat-{number % CHATS}")
            await asyncio.sleep(0.02)


async def reader_pid(redis: Redis) -> int:
    """Return the process that reads the stream."""
    record = msgspec.json.decode(await redis.get("reader:wa_stream") or b"")
    return await pid_of(redis, record["pod_id"])


async def pid_of(redis: Redis, pod_id: str) -> int:
    """Return a pod's process."""
    return int(msgspec.json.decode(await redis.get(f"pod:{pod_id}") or b"")["pid"])


async def test_everybody_gets_exactly_their_events(two_hosts: Cluster, nats: NatsClient) -> None:
    """2 hosts x 2 workers, 200 users and 10 admins, 1,000 events/s for 10 s, chats changing."""
    async with audit(two_hosts) as watching:
        await connect_everybody(two_hosts, watching)
        publisher = Publisher(nats, AGENTS, CHATS)
        done = asyncio.Event()
        changing = asyncio.create_task(change_chats(watching, done))
        await publisher.run(rate=1000, seconds=10)
        done.set()
        await changing
        await watching.settle(publisher.published)
        assert len(publisher.published) == 10_000
        assert watching.verdict(publisher.published) == Verdict()
        assert not watching.gaps()
        assert sum(len(w.came) for w in watching.watchers) > 30_000
    crossed = [await metric(host, "dws_grpc_messages_received_total") for host in two_hosts.hosts]
    assert sum(crossed) > 10_000, f"forwarding did too little of the work: {crossed}"


@pytest.mark.parametrize("victim", ["worker", "reader"])
async def test_a_killed_pod_costs_others_nothing(
    two_hosts: Cluster, nats: NatsClient, redis: Redis, victim: str
) -> None:
    """Whoever stays connected misses nothing; whoever returns gets all after its new ready."""
    async with audit(two_hosts) as watching:
        await connect_everybody(two_hosts, watching)
        publisher = Publisher(nats, AGENTS, CHATS)
        async with publisher.flowing(1000):
            await publisher.reached(3000)
            reader = await reader_pid(redis)
            pods = {w.pod: await pid_of(redis, w.pod) for w in watching.watchers}
            pid = reader if victim == "reader" else min({*pods.values()} - {reader})
            hit = [w for w in watching.watchers if pods[w.pod] == pid]
            os.kill(pid, signal.SIGKILL)
            async with asyncio.timeout(40):
                while not all(w.connected and not w.stayed for w in hit):
                    await asyncio.sleep(0.05)
            await publisher.more(3000)
        await watching.settle(publisher.published)
        assert watching.verdict(publisher.published) == Verdict()
        assert not watching.gaps()
        assert {w.account.positions for w in hit} == {True, False}
        assert all(w.account.stretch.top > w.account.stretch.after for w in hit)
