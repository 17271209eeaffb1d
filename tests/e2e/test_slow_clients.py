"""Clients that stop reading, or read too slowly, harm only themselves, and hear what they lost.

`DAISI_TEST_SLOW_CLIENTS=500` runs the crowd in the size that the promise is stated for.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from nats.aio.client import Client as NatsClient

from daisi_ws.app.connection import BACKLOG_BYTES
from daisi_ws.domain.outbox import BLOCKED_FACTOR
from tests.chaos.account import Verdict
from tests.cluster import Cluster, Host, cluster
from tests.e2e.audit import Publisher, Watcher, audit, metric
from tests.e2e.narrow import NARROW_BYTES, WIDER_BYTES, NarrowClient

CLIENTS = int(os.environ.get("DAISI_TEST_SLOW_CLIENTS", "150"))
STUCK = CLIENTS // 10
RATE = 6000 / CLIENTS
EVENT_BYTES = 8000
FULL = CLIENTS >= 500
ROUNDS = 4 if FULL else 1
WARM_UP_SECONDS, QUIET_SECONDS = 0.7, 1.5 if FULL else 0.8
"""Before, between and after the times in which some are stuck, so that the machine's own unrest
is in what is compared on both sides."""

BUFFER_BYTES = 128 * 1024
WRITE_TIMEOUT = 2.5
MAX_ACK_PENDING, OUTSTANDING = 40, 10
"""Fewer than come while a client is stuck: whoever waited for it would stand still."""

NOISE_SECONDS = 0.05 if FULL else 1.5
"""Up to here a percentile is the machine's own unrest, not an effect: whoever waited for a stuck
client would wait for seconds. The promised size is for a quiet machine."""

SLACK_BYTES = 16 * 1024 * 1024
"""Of both workers: what an allocator keeps, and the caches of newest events."""

ENVIRONMENT = {
    "DAISI_WS_APP_WEBSOCKET_MAX_BUFFER_BYTES": str(BUFFER_BYTES),
    "DAISI_WS_APP_WEBSOCKET_SLOW_CLIENT_LATENCY_MS": "1000",
    "DAISI_WS_APP_WEBSOCKET_SLOW_CLIENT_DISCONNECT_THRESHOLD_MS": "20000",
    "DAISI_WS_APP_NATS_MAX_ACK_PENDING": str(MAX_ACK_PENDING),
    "DAISI_WS_NATS_MAX_OUTSTANDING": str(OUTSTANDING),
    # A busy machine must not change the reader.
    "DAISI_WS_NATS_PRIORITY_TIMEOUT_SECONDS": "10",
}
BLOCKED_BYTES = 520_000
USED = "dws_websocket_buffer_used_count"
CLOSED = 'dws_connections_closed_total{reason="too_slow"}'
DROPPED = "dws_websocket_messages_dropped_total"

Connect = Callable[..., Awaitable[NarrowClient]]
Span = tuple[float, float]
"""From when to when, monotonic seconds."""

pytestmark = pytest.mark.timeout(180)


def stated_bound(policy: str) -> int:
    """Return the bytes that one client may cost, as docs/protocol.md says."""
    outbox = BUFFER_BYTES * (BLOCKED_FACTOR if policy == "block" else 1)
    return BACKLOG_BYTES + 2 * outbox


def memory(host: Host) -> int:
    """Return the memory of all workers of a host, in bytes; what they share counts once."""
    total = 0
    for pid in host.worker_pids():
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def p99(watchers: Iterable[Watcher], publisher: Publisher, times: list[Span]) -> float:
    """Return the 99th percentile of the ways of the events offered in these times, in seconds."""
    published = publisher.published
    delays = sorted(d for w in watchers for time in times for d in w.delays(published, *time))
    assert len(delays) > 100
    return delays[len(delays) * 99 // 100]


@dataclass
class Figures:
    """The highest that was seen while some were stuck; `grown` in bytes."""

    slow: float = 0
    grown: int = 0
    waiting: float = 0
    seconds: float = 0
    quiet: list[Span] = field(default_factory=list)
    strained: list[Span] = field(default_factory=list)


async def observe(host: Host, closed: int, seconds: float, seen: Figures) -> None:
    """Look on until so many were closed; note the highest figures on the way."""
    before, began = memory(host), time.monotonic()
    while await metric(host, CLOSED) < closed:
        seen.slow = max(seen.slow, await metric(host, "dws_slow_clients"))
        seen.waiting = max(seen.waiting, await metric(host, USED))
        seen.grown = max(seen.grown, memory(host) - before)
        assert time.monotonic() - began < seconds, f"not closed in {seconds:g} s: {seen}"
        await asyncio.sleep(0.1)
    ended = time.monotonic()
    seen.seconds = max(seen.seconds, ended - began)
    seen.grown = max(seen.grown, memory(host) - before)
    seen.strained.append((began, ended))


def endings(host: Host) -> list[Mapping[str, object]]:
    """Return the log lines about ended connections of those who were too slow."""
    lines = [line for line in host.log_text().splitlines() if '"connection ended"' in line]
    decoded = [msgspec.json.decode(line) for line in lines]
    return [line for line in decoded if line["reason"] == "too_slow"]


@dataclass(frozen=True)
class Servers:
    """What a gateway needs."""

    folder: Path
    redis_url: str
    nats_url: str

    def gateway(
        self, policy: str, *, write_timeout: float = WRITE_TIMEOUT, workers: int = 1
    ) -> AbstractAsyncContextManager[Cluster]:
        """Run a host that soon loses patience."""
        return cluster(
            self.folder,
            self.redis_url,
            self.nats_url,
            hosts=1,
            workers=workers,
            environment={
                **ENVIRONMENT,
                "DAISI_WS_APP_WEBSOCKET_BACKPRESSURE_DROP_POLICY": policy,
                "DAISI_WS_APP_WRITE_TIMEOUT_SECONDS": str(write_timeout),
            },
        )


@pytest.fixture
def servers(tmp_path: Path, redis_url: str, nats_url: str) -> Servers:
    """Redis and NATS, empty."""
    return Servers(tmp_path, redis_url, nats_url)


@pytest.fixture
async def narrow() -> AsyncIterator[Connect]:
    """Connects users to a host over narrow sockets, which are closed at the end."""
    clients: list[NarrowClient] = []

    async def connect(
        on: Cluster, user: str, query: str = "", receive_bytes: int = NARROW_BYTES
    ) -> NarrowClient:
        client = await NarrowClient.connect(on, user, query, receive_bytes=receive_bytes)
        clients.append(client)
        return client

    yield connect
    for client in clients:
        await client.close()


async def those_who_stop(on: Cluster, narrow: Connect, number: int) -> list[NarrowClient]:
    """Connect those who will stop reading in a round, and have them read."""
    users = (f"stuck-{number}-{n}" for n in range(STUCK))
    clients = await asyncio.gather(*(narrow(on, user) for user in users))
    for client in clients:
        client.read()
    return clients


async def quiet(publisher: Publisher, seen: Figures) -> None:
    """Have events flow for a while in which everybody reads."""
    began = time.monotonic()
    await publisher.more(int(RATE * QUIET_SECONDS))
    seen.quiet.append((began, time.monotonic()))


@pytest.mark.parametrize("policy", ["drop_oldest", "block"])
async def test_who_stops_reading_harms_nobody_else(
    servers: Servers, nats: NatsClient, narrow: Connect, policy: str
) -> None:
    """One in ten stops reading: the others get everything as soon as before, the memory stays
    within its bound, the stuck are closed in time, and the counters say just that."""
    async with (
        servers.gateway(policy, workers=2) as made,
        audit(made) as watching,
    ):
        (host,) = made.hosts
        users = (f"user-{n}" for n in range(CLIENTS - STUCK))
        watchers = await asyncio.gather(
            *(watching.user(host, "acme", "bot", user) for user in users)
        )
        publisher = Publisher(nats, [("acme", "bot")], 1, mix=(1, 0, 0), size=EVENT_BYTES)
        seen, filled = Figures(), BACKLOG_BYTES / (RATE * EVENT_BYTES) + 4
        async with publisher.flowing(RATE):
            for number in range(ROUNDS):
                stuck = await those_who_stop(made, narrow, number)
                await publisher.more(int(RATE * WARM_UP_SECONDS))
                await quiet(publisher, seen)
                await asyncio.gather(*(client.stop() for client in stuck))
                closed = (number + 1) * STUCK
                await observe(host, closed, filled + WRITE_TIMEOUT + 8, seen)
                await quiet(publisher, seen)
        await watching.settle(publisher.published)

        assert watching.verdict(publisher.published) == Verdict()
        assert all(watcher.stayed for watcher in watchers)
        usual = p99(watchers, publisher, seen.quiet)
        strained = p99(watchers, publisher, seen.strained)
        bound = STUCK * stated_bound(policy)
        print(
            f"\n{policy}: {CLIENTS} clients, {STUCK} stuck {ROUNDS} times; "
            f"p99 {usual * 1000:.1f} ms before and after, {strained * 1000:.1f} ms meanwhile; "
            f"memory +{seen.grown / 2**20:.1f} MiB (bound {bound / 2**20:.1f} MiB); "
            f"gone after {seen.seconds:.1f} s; {seen.slow:g} slow, {seen.waiting:g} waiting, "
            f"dropped {await metric(host, DROPPED):g}"
        )
        assert strained <= max(2 * usual, NOISE_SECONDS)
        assert seen.grown <= bound + SLACK_BYTES

        lines = endings(host)
        assert len(lines) == await metric(host, CLOSED) == STUCK * ROUNDS
        assert {line["code"] for line in lines} == {1013}
        assert host.log_text().count('"client is slow"') >= STUCK * ROUNDS
        dropped = sum(int(str(line["dropped"])) for line in lines)
        assert await metric(host, DROPPED) == dropped
        assert (dropped > 0) == (policy == "drop_oldest")


@pytest.mark.parametrize("query", ["", "?last_seq="], ids=["plain", "with positions"])
async def test_who_reads_slowly_gets_each_event_or_hears_that_it_is_gone(
    servers: Servers, nats: NatsClient, narrow: Connect, query: str
) -> None:
    """Each event comes once, in order, or lies in a gap that was told before the next one."""
    async with servers.gateway("drop_oldest") as made:
        (host,) = made.hosts
        client = await narrow(made, "ann", query, WIDER_BYTES)
        client.read(pause=0.02)
        publisher = Publisher(nats, [("acme", "bot")], 1, mix=(1, 0, 0), size=EVENT_BYTES)
        await publisher.run(60, 3)
        last = max(event.seq for event in publisher.published)
        await client.stop()
        client.read()
        async with asyncio.timeout(30):
            await client.reached(last)
        told = client.told
        assert told.seqs == sorted(set(told.seqs))
        assert told.seqs[-1] == last
        assert told.lost > 0
        assert told.by == {"gap" if query else "error"}
        assert not told.late
        lost = {event.seq for event in publisher.published} - set(told.seqs)
        assert sum(first <= seq <= to for seq in lost for first, to, _ in told.gaps) == len(lost)
        assert told.lost == len(lost) == await settled(host, DROPPED, len(lost))
        # Who has asked for positions may stay until the end of the drain.
        await client.close()


async def test_a_blocked_client_that_reads_again_gets_everything(
    servers: Servers, nats: NatsClient, narrow: Connect
) -> None:
    """Policy `block`: over its limit nothing is dropped, and nothing stands still meanwhile."""
    async with (
        servers.gateway("block", write_timeout=20) as made,
        audit(made) as watching,
    ):
        (host,) = made.hosts
        other = await watching.user(host, "acme", "bot", "bob")
        client = await narrow(made, "ann", "", WIDER_BYTES)
        publisher = Publisher(nats, [("acme", "bot")], 1, mix=(1, 0, 0), size=EVENT_BYTES)
        # More than its socket and its limits take, less than four times as much.
        await publisher.run(BLOCKED_BYTES / EVENT_BYTES, 1)
        assert len(publisher.published) > MAX_ACK_PENDING
        await watching.settle(publisher.published)
        assert other.judge(publisher.published).verdict == Verdict()
        async with asyncio.timeout(5):
            while await metric(host, USED) * EVENT_BYTES <= BUFFER_BYTES:
                await asyncio.sleep(0.05)
        client.read()
        last = max(event.seq for event in publisher.published)
        async with asyncio.timeout(30):
            await client.reached(last)
        assert client.told.seqs == sorted(event.seq for event in publisher.published)
        assert not client.told.gaps
        assert client.told.code is None
        assert await metric(host, DROPPED) == await metric(host, CLOSED) == 0


async def settled(host: Host, name: str, value: float) -> float:
    """Return a metric once it is what it should be, or what it is after some seconds."""
    deadline = time.monotonic() + 5
    while (found := await metric(host, name)) != value and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    return found
