"""The faults: what each does, for how long, and what is expected of the gateway."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import aiohttp
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from redis.exceptions import RedisError

from daisi_ws.client import admin_url, user_url
from daisi_ws.embedded import NatsServer, RedisServer
from tests.chaos.proxies import Remote
from tests.chaos.stage import (
    CONSUMER,
    STREAM,
    Pair,
    Stage,
    empty_redis,
    faketime_library,
    kill_host,
)
from tests.chaos.traffic import SLOW
from tests.e2e.audit import metric

_ROLLING_SECONDS: Final = 90.0


@dataclass(frozen=True)
class Strike:
    """Where a fault strikes, and how hard.

    :param pair: the host that it is about, or happens to be.
    :param chance: its own random numbers: the same seed, the same strike.
    :param length: what durations are multiplied by.
    """

    on: Stage
    pair: Pair
    chance: random.Random
    length: float = 1.0

    def seconds(self, shortest: float, longest: float) -> float:
        """Draw how long it lasts: short more often than long."""
        return shortest + (longest - shortest) * self.chance.random() ** 2 * self.length

    def worker(self) -> int:
        """Draw a worker of the host."""
        return self.chance.choice(sorted(self.pair.host.worker_pids()))


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    :param claims: what it works on, so that faults at one time do not undo each other; `host`
        is the host that it strikes, `reader` the reader's host.
    :param expect: what the gateway is expected to do, in one sentence.
    :param strike: does it, undoes it, and returns what it did.
    """

    name: str
    claims: frozenset[str]
    expect: str
    strike: Callable[[Strike], Awaitable[str]]


CATALOGUE: Final[dict[str, Fault]] = {}


def fault(
    claims: str, expect: str
) -> Callable[[Callable[[Strike], Awaitable[str]]], Callable[[Strike], Awaitable[str]]]:
    """Put a function into the catalogue under its own name."""

    def add(strike: Callable[[Strike], Awaitable[str]]) -> Callable[[Strike], Awaitable[str]]:
        name = strike.__name__
        kind = Fault(name, frozenset(claims.split()), expect, strike)
        CATALOGUE[name] = kind
        return strike

    return add


def why_not(name: str) -> str:
    """Return why a fault cannot be made on this machine; empty if it can."""
    if name == "clock_stepped" and faketime_library() is None:
        return "libfaketime is not installed"
    return ""


@fault(
    "host", "its clients come back to another worker with their positions; others notice nothing"
)
async def worker_killed(at: Strike) -> str:
    pid = at.worker()
    _kill(pid, signal.SIGKILL)
    return f"{at.pair.host.name} process {pid}"


@fault("reader", "another pod is pinned within 2 s and reads on from the acknowledgement floor")
async def reader_killed(at: Strike) -> str:
    pod, pid = at.on.reader
    _kill(pid, signal.SIGKILL)
    return f"{pod} process {pid}"


@fault("host", "its clients wait or move; when it wakes it delivers nothing for a lost session")
async def worker_stopped(at: Strike) -> str:
    return await _stop(at, at.worker())


@fault("reader", "another pod takes over; when the old one wakes, its batches are refused as stale")
async def reader_stopped(at: Strike) -> str:
    return await _stop(at, at.on.reader[1])


@fault("host", "its workers drain and end; the next supervisor takes their place")
async def supervisor_killed(at: Strike) -> str:
    host = at.pair.host
    await host.kill()
    away = at.seconds(0.0, 2.0)
    await asyncio.sleep(away)
    await at.on.revive(host)
    return f"{host.name}, started again after {away:.1f} s"


@fault(
    "host",
    "its clients resume on the other host; locks and routes of the dead do no harm",
)
async def host_gone(at: Strike) -> str:
    host = at.pair.host
    await kill_host(host)
    away = at.seconds(0.5, 9.0)
    await asyncio.sleep(away)
    await at.on.revive(host)
    return f"{host.name} for {away:.1f} s"


@fault("redis", "connections stay, events flow to all known pods; new sessions wait")
async def redis_restarted(at: Strike) -> str:
    return f"{await _restart(at, at.on.redis_server)}, with its data"


@fault("redis", "all locks and routes are set again within 1.5 s; no event is missed meanwhile")
async def redis_restarted_empty(at: Strike) -> str:
    server = at.on.redis_server
    await asyncio.to_thread(empty_redis, server)
    away = at.seconds(0.0, 3.0)
    await asyncio.sleep(away)
    await asyncio.to_thread(server.start)
    return f"away for {away:.1f} s"


@fault("redis", "connections stay, events flow to all known pods; new sessions wait")
async def redis_frozen(at: Strike) -> str:
    lasts = at.seconds(0.5, 8.0)
    at.on.redis_server.pause()
    try:
        await asyncio.sleep(lasts)
    finally:
        at.on.redis_server.resume()
    return f"{lasts:.1f} s"


@fault("redis", "all locks and routes are set again within 1.5 s; no event is missed meanwhile")
async def redis_flushed(at: Strike) -> str:
    with suppress(RedisError, OSError):
        await at.on.redis.flushall()
    return ""


@fault("redis", "sessions and routes take longer, some time out; events flow")
async def redis_slow(at: Strike) -> str:
    lasts, delay = at.seconds(1.0, 6.0), at.chance.uniform(0.02, 0.3)
    for pair in at.on.pairs:
        pair.redis.slow(delay)
    try:
        await asyncio.sleep(lasts)
    finally:
        for pair in at.on.pairs:
            pair.redis.heal()
    return f"{2000 * delay:.0f} ms a round trip, {lasts:.1f} s"


@fault(
    "redis host",
    "the host keeps its clients; its lease ends, it catches up from the stream",
)
async def redis_cut_from_host(at: Strike) -> str:
    lasts = at.seconds(0.5, 9.0)
    how = _break(at, [at.pair.redis])
    await asyncio.sleep(lasts)
    at.pair.redis.heal()
    return f"{at.pair.host.name} {how} for {lasts:.1f} s"


@fault("nats", "nothing to read; then on from the acknowledgement floor")
async def nats_restarted(at: Strike) -> str:
    return await _restart(at, at.on.nats_server)


@fault("nats", "noticed by missing pongs; then on from the acknowledgement floor")
async def nats_frozen(at: Strike) -> str:
    lasts = at.seconds(0.5, 10.0)
    at.on.nats_server.pause()
    try:
        await asyncio.sleep(lasts)
    finally:
        at.on.nats_server.resume()
    return f"{lasts:.1f} s"


@fault("nats host", "another pod reads; the host's pods get everything by gRPC")
async def nats_cut_from_host(at: Strike) -> str:
    lasts = at.seconds(0.5, 9.0)
    how = _break(at, [at.pair.nats])
    await asyncio.sleep(lasts)
    at.pair.nats.heal()
    return f"{at.pair.host.name} {how} for {lasts:.1f} s"


@fault("nats", "made again where the last one stood, within seconds")
async def consumer_deleted(at: Strike) -> str:
    with suppress(NatsError, JetStreamError, TimeoutError):
        await at.on.nats.jetstream().delete_consumer(STREAM, CONSUMER)
    return ""


@fault("nats", "what comes again is known and only acknowledged")
async def redelivered(at: Strike) -> str:
    """Say NAK to what is delivered and not acknowledged yet, as if its reader had."""
    sent, jetstream = 0, at.on.nats.jetstream()
    before = await _redeliveries(at)
    for _ in range(100):
        with suppress(NatsError, JetStreamError, TimeoutError):
            info = await jetstream.consumer_info(STREAM, CONSUMER, timeout=0.5)
            if info.delivered is None or info.ack_floor is None:
                continue
            ahead = info.delivered.stream_seq - info.delivered.consumer_seq
            last = info.delivered.stream_seq + 2
            for seq in range(max(info.ack_floor.stream_seq + 1, last - 50), last):
                subject = f"$JS.ACK.{STREAM}.{CONSUMER}.1.{seq}.{seq - ahead}.1.0"
                await at.on.nats.publish(subject, b"-NAK")
                sent += 1
        await asyncio.sleep(0.02)
    return f"{sent} NAKs, {await _redeliveries(at) - before:g} events came again"


@fault("peer", "retried at the head of the pod's queue; the others go on")
async def peers_cut(at: Strike) -> str:
    return await _disturb(at, Remote.cut, "cut")


@fault("peer", "noticed by missing pongs and deadlines; then on with what waits")
async def peers_frozen(at: Strike) -> str:
    return await _disturb(at, Remote.freeze, "frozen")


@fault("peer", "events of that pod come later; the others' do not")
async def peers_slow(at: Strike) -> str:
    delay, rate = at.chance.uniform(0.05, 0.5), at.chance.choice([50e3, 500e3, 5e9])
    how = f"{1000 * delay:.0f} ms, {rate / 1000:g} kB/s"
    return await _disturb(at, lambda proxy: proxy.slow(delay, rate), how)


@fault("traffic", "the stream knows the message ID; every event comes once")
async def duplicates(at: Strike) -> str:
    mix, before = at.on.traffic.mix, at.on.traffic.mix.duplicates
    mix.duplicates = 0.8
    await asyncio.sleep(3)
    mix.duplicates = before
    return "80 % of all events for 3 s"


@fault("", "each becomes a dead letter; events around them come as ever")
async def poison(at: Strike) -> str:
    count = at.chance.randrange(20, 60)
    for _ in range(count):
        at.on.traffic.start(at.on.traffic.poison())
    return f"{count} messages"


@fault("host", "successors READY first; nobody is refused, nothing is missed")
async def rolling_restart(at: Strike) -> str:
    host = at.pair.host
    before = host.worker_pids()
    host.signal(signal.SIGUSR2)
    async with asyncio.timeout(_ROLLING_SECONDS):
        while host.worker_pids() & before:
            await asyncio.sleep(0.1)
    return host.name


@fault("host", "nothing changes for anybody")
async def reloaded(at: Strike) -> str:
    at.pair.host.signal(signal.SIGHUP)
    return at.pair.host.name


@fault(
    "clock",
    "nothing: deadlines use the monotonic clock, tokens last longer than the step",
)
async def clock_stepped(at: Strike) -> str:
    step = at.chance.choice([-3600, -60, 60, 3600])
    pair, lasts = at.on.pairs[1], at.seconds(3.0, 8.0)
    pair.clock.write_text(f"{step:+d}\n")
    await asyncio.sleep(lasts)
    pair.clock.write_text("+0\n")
    await asyncio.sleep(1.5)
    return f"{pair.host.name} by {step:+d} s for {lasts:.1f} s"


@fault("host", "new connections wait or are refused; those that are there notice nothing")
async def descriptors_used_up(at: Strike) -> str:
    pid, lasts = at.worker(), at.seconds(1.0, 5.0)
    try:
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = max(int(fd) for fd in os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 1, hard))
    except (ProcessLookupError, FileNotFoundError):
        return "the worker had gone"
    try:
        for _ in range(10):
            at.on.crowd.cut_one()
            await asyncio.sleep(lasts / 10)
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    return f"{at.pair.host.name} process {pid} for {lasts:.1f} s"


@fault("", "all refused; clients with good tokens notice nothing")
async def bad_tokens(at: Strike) -> str:
    count, accepted = 200, 0
    timeout = aiohttp.ClientTimeout(total=5)
    connector = aiohttp.TCPConnector(limit=20, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def attempt(number: int) -> bool:
            base = at.chance.choice(at.on.hosts).base_url
            key = at.on.keys.secret_token if number % 3 else "x" * 20
            token = at.on.keys.user_token("company-1", "agent-1", f"intruder-{number}", -5)
            url = user_url(base, "company-0", "agent-0")
            if number % 5 == 0:
                url, token = admin_url(base), "A" * 200
            headers = {"X-API-Key": key, "Authorization": f"Bearer {token}"}
            try:
                async with session.ws_connect(url, headers=headers):
                    return True
            except (aiohttp.ClientError, OSError, TimeoutError):
                return False

        accepted = sum(await asyncio.gather(*map(attempt, range(count))))
    if accepted:
        at.on.problems.append(f"{accepted} clients with bad tokens were let in")
    return f"{count} dials"


@fault("clients", "they come back with their positions and get what they missed")
async def clients_cut(at: Strike) -> str:
    share = at.chance.uniform(0.1, 0.6)
    hit = [w for w in at.on.crowd.watchers if w.connected and at.chance.random() < share]
    for watcher in hit:
        watcher.cut(reset=at.chance.random() < 0.5)
    return f"{len(hit)} at once"


@fault("clients", "bounded outbox, a gap that is told; nobody else waits")
async def clients_slow(at: Strike) -> str:
    lasts = at.seconds(4.0, 9.0)
    slow = [w for w in at.on.crowd.watchers if w.slow]
    for watcher in slow:
        watcher.reading.clear()
    try:
        for _ in range(int(lasts * 20)):
            at.on.traffic.start(at.on.traffic.publish(("chats", *SLOW, ""), 64_000))
            await asyncio.sleep(0.05)
    finally:
        for watcher in slow:
            watcher.reading.set()
    return f"{len(slow)} clients, {lasts:.1f} s"


async def _redeliveries(at: Strike) -> float:
    total = 0.0
    for host in at.on.hosts:
        with suppress(aiohttp.ClientError, OSError):
            total += await metric(host, "dws_redeliveries_total")
    return total


async def _stop(at: Strike, pid: int) -> str:
    lasts = at.seconds(1.0, 20.0)
    if not _kill(pid, signal.SIGSTOP):
        return "the worker had gone"
    try:
        await asyncio.sleep(lasts)
    finally:
        _kill(pid, signal.SIGCONT)
    return f"process {pid} for {lasts:.1f} s"


async def _disturb(at: Strike, do: Callable[[Remote], None], how: str) -> str:
    lasts, peers = at.seconds(1.0, 9.0), at.pair.peers
    slots = len(peers) // 2
    slot = at.chance.randrange(slots + 1)
    chosen = peers if slot == slots else peers[2 * slot : 2 * slot + 2]
    for proxy in chosen:
        do(proxy)
    await asyncio.sleep(lasts)
    for proxy in chosen:
        proxy.heal()
    whom = "all slots" if slot == slots else f"slot {slot}"
    return f"to {at.pair.host.name} {whom}, {how}, {lasts:.1f} s"


async def _restart(at: Strike, server: RedisServer | NatsServer) -> str:
    how = at.chance.choice(["stopped", "killed"])
    if how == "killed":
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(at.seconds(0.0, 3.0))
        await asyncio.to_thread(server.start)
    else:
        await asyncio.to_thread(server.restart)
    return how


def _break(at: Strike, proxies: list[Remote]) -> str:
    how = at.chance.choice(["cut", "frozen"])
    for proxy in proxies:
        (proxy.cut if how == "cut" else proxy.freeze)()
    return how


def _kill(pid: int, number: signal.Signals) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
