"""Rolling restarts under load, counted client by client.

    python -m tests.e2e.deploy --moves 2000 --rate 1000 --restarts 3

runs its own servers and one host, and prints a table.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import itertools
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
import nats as nats_py
import uvloop
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg

from daisi_ws.embedded import NatsServer, RedisServer
from tests.cluster import Cluster, Host, cluster
from tests.e2e.movers import Kind, Mover

AT_ONCE: Final = 50
WINDOW: Final = 2000
"""So many events may be on their way to the stream."""

MOST_AT_ONCE: Final = 50.0
SETTLE_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Plan:
    """What is run.

    :param rate: events a second; each goes to the clients of one group.
    :param pace: `app.drain_reconnects_per_second`.
    :param drain: `app.shutdown_timeout_seconds`.
    :param per_group: clients that get the same events.
    """

    moves: int
    resumes: int
    plain: int
    rate: float
    restarts: int
    pace: float
    drain: float
    workers: int = 2
    per_group: int = 10

    @property
    def kinds(self) -> list[Kind]:
        """The kind of each client."""
        counts: list[tuple[Kind, int]] = [
            ("moves", self.moves), ("resumes", self.resumes), ("plain", self.plain)
        ]  # fmt: skip
        return [kind for kind, count in counts for _ in range(count)]

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return -(-len(self.kinds) // self.per_group)

    def environment(self) -> dict[str, str]:
        """Return the host's variables."""
        return {
            "DAISI_WS_APP_DRAIN_RECONNECTS_PER_SECOND": f"{self.pace:g}",
            "DAISI_WS_APP_SHUTDOWN_TIMEOUT_SECONDS": f"{self.drain:g}",
            "DAISI_WS_APP_WRITE_TIMEOUT_SECONDS": f"{min(30.0, self.drain):g}",
            # On a machine that others use too, who is slow is not away.
            "DAISI_WS_REDIS_TIMEOUT_MS": "3000",
        }


@dataclass
class Result:
    """What the clients of one kind saw, together.

    :param excused: events that fell between two connections of who did not recover them.
    :param guarded: events that came by two sockets.
    :param unready: times without a `ready` socket, in seconds.
    :param delays: of each event, from before it was published to the client, in seconds.
    """

    clients: int = 0
    events: int = 0
    lost: int = 0
    doubled: int = 0
    disordered: int = 0
    foreign: int = 0
    excused: int = 0
    guarded: int = 0
    refused: list[str] = field(default_factory=list)
    reconnects: int = 0
    not_recovered: int = 0
    codes: Counter[int | None] = field(default_factory=Counter)
    unready: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)

    @property
    def faults(self) -> tuple[int, int, int, int, int]:
        """What must be 0: lost, doubled, out of order, foreign, refused."""
        return self.lost, self.doubled, self.disordered, self.foreign, len(self.refused)


@dataclass(frozen=True)
class Outcome:
    """What a run showed.

    :param most_reconnects: in any one second.
    :param took: of each rolling restart, in seconds.
    :param drains: for each that had clients, how many it sent away and in how many seconds.
    :param hurried: whether a drain said that it goes faster than the pace.
    """

    results: dict[Kind, Result]
    most_reconnects: int
    took: list[float]
    published: int
    drains: list[tuple[int, float]]
    hurried: bool


Own = dict[tuple[str, str], list[int]]


class Feed:
    """Publishes to one group after the other. It never makes up for what it was too slow for.

    :ivar own: sequences of each group's events, in order.
    :ivar at: when each was published, monotonic seconds.
    """

    def __init__(self, client: NatsClient, groups: int) -> None:
        self._client = client
        self._groups = itertools.cycle(group(number) for number in range(groups))
        self._inbox = client.new_inbox()
        self._pending: dict[int, tuple[tuple[str, str], float]] = {}
        self._sent = 0
        self._stored = asyncio.Condition()
        self.own: Own = {}
        self.at: dict[int, float] = {}

    @asynccontextmanager
    async def flowing(self, rate: float) -> AsyncIterator[None]:
        """Publish `rate` events a second until the block is left, and all are acknowledged."""
        answers = await self._client.subscribe(f"{self._inbox}.*", cb=self._on_answer)
        endless = asyncio.create_task(self._run(rate))
        try:
            yield
        finally:
            endless.cancel()
            await asyncio.gather(endless, return_exceptions=True)
        async with asyncio.timeout(SETTLE_SECONDS), self._stored:
            await self._stored.wait_for(lambda: not self._pending)
        await answers.unsubscribe()
        for seqs in self.own.values():
            seqs.sort()

    async def more(self, count: int) -> None:
        """Return once so many events are in the stream that are published from now on."""
        wanted = self._sent + count
        async with asyncio.timeout(SETTLE_SECONDS), self._stored:
            await self._stored.wait_for(lambda: len(self.at) >= wanted)

    async def _run(self, rate: float) -> None:
        credit, last = 0.0, time.monotonic()
        while True:
            now = time.monotonic()
            credit, last = min(credit + (now - last) * rate, MOST_AT_ONCE), now
            while credit >= 1 and len(self._pending) < WINDOW:
                credit -= 1
                await self._publish()
            await asyncio.sleep(0.005)

    async def _publish(self) -> None:
        self._sent += 1
        company, agent = next(self._groups)
        event = {
            "event_id": f"{self._sent}",
            "company_id": company,
            "row_data": {"text": "x" * 200},
        }
        self._pending[self._sent] = (company, agent), time.monotonic()
        await self._client.publish(
            f"websocket.{company}.{agent}.chats",
            msgspec.json.encode({**event, "agent_id": agent}),
            f"{self._inbox}.{self._sent}",
        )

    async def _on_answer(self, message: Msg) -> None:
        seq = int(msgspec.json.decode(message.data)["seq"])
        of, at = self._pending.pop(int(message.subject.rpartition(".")[2]))
        self.own.setdefault(of, []).append(seq)
        self.at[seq] = at
        async with self._stored:
            self._stored.notify_all()


async def deploy(plan: Plan, folder: Path, redis_url: str, nats: NatsClient, url: str) -> Outcome:
    """Run a plan on one host, and count.

    :param nats: a client of the server at `url`.
    """
    async with cluster(
        folder, redis_url, url, hosts=1, workers=plan.workers, environment=plan.environment()
    ) as running:
        (host,) = running.hosts
        async with crowd(plan, running) as movers:
            feed = Feed(nats, plan.groups)
            took = []
            async with feed.flowing(plan.rate):
                await feed.more(plan.groups)
                for number in range(1, plan.restarts + 1):
                    took.append(await restart(host, number, plan))
                    await everybody_ready(movers)
                await feed.more(plan.groups)
            await settled(movers, feed.own)
            results = judged(movers, feed)
        assert "Traceback" not in host.log_text(), host.report("has a traceback")
    lines = [line for line in host.log_text().splitlines() if line.startswith("{")]
    ends = [line for line in map(json.loads, lines) if line["event"] == "drained"]
    sent = [(line["told"] + line["closed"], float(line["seconds"])) for line in ends]
    hurried = "draining faster than the pace" in host.log_text()
    dials = sorted(at for mover in movers for at in mover.record.dials)
    most = max((bisect.bisect_left(dials, at + 1) - i for i, at in enumerate(dials)), default=0)
    drains = [(count, seconds) for count, seconds in sent if count]
    return Outcome(results, most, took, len(feed.at), drains, hurried)


def group(number: int) -> tuple[str, str]:
    """Return company and agent of a group."""
    return f"company-{number % 20}", f"agent-{number // 20}"


@asynccontextmanager
async def crowd(plan: Plan, running: Cluster) -> AsyncIterator[list[Mover]]:
    """Connect everybody."""
    (host,) = running.hosts
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(total=None),
    ) as session:
        movers = []
        for number, kind in enumerate(plan.kinds):
            # Neighbours are of different groups, so that each group has all kinds.
            company, agent = group(number % plan.groups)
            token = running.keys.user_token(company, agent, f"user-{number}")
            headers = {
                "X-API-Key": running.keys.secret_token,
                "Authorization": f"Bearer {token}",
            }
            url = host.user_url(company, agent)
            movers.append(Mover(kind, (company, agent), url, headers, session))
        try:
            for start in range(0, len(movers), AT_ONCE):
                some = movers[start : start + AT_ONCE]
                for mover in some:
                    mover.start()
                await everybody_ready(some)
            yield movers
        finally:
            await asyncio.gather(*(mover.stop() for mover in movers))


async def restart(host: Host, number: int, plan: Plan) -> float:
    """Have all workers replaced; return how long it took, in seconds."""
    began = time.monotonic()
    host.signal(signal.SIGUSR2)
    limit = plan.workers * (plan.drain + 30)
    while host.log_text().count("rolling restart done") < number:
        assert time.monotonic() - began < limit, host.report(f"did not restart in {limit:g} s")
        assert "rolling restart aborted" not in host.log_text(), host.report("gave up")
        await asyncio.sleep(0.1)
    return time.monotonic() - began


async def everybody_ready(movers: Iterable[Mover]) -> None:
    """Wait until everybody has a `ready` socket."""
    async with asyncio.timeout(SETTLE_SECONDS):
        for mover in movers:
            await mover.is_ready.wait()


async def settled(movers: Sequence[Mover], own: Own) -> None:
    """Wait until everybody has the last of its events, or long enough to be sure."""
    deadline = time.monotonic() + SETTLE_SECONDS
    ends = {of: seqs[-1] for of, seqs in own.items()}
    while time.monotonic() < deadline:
        if all((mover.position or 0) >= ends.get(mover.group, 0) for mover in movers):
            return
        await asyncio.sleep(0.1)


def judged(movers: Iterable[Mover], feed: Feed) -> dict[Kind, Result]:
    """Compare what came with what had to come."""
    results: dict[Kind, Result] = {}
    for mover in movers:
        result = results.setdefault(mover.kind, Result())
        judge(mover, feed.own.get(mover.group, []), result)
        arrived = zip(mover.record.got, mover.record.times, strict=True)
        result.delays += [time - feed.at[seq] for seq, time in arrived if seq in feed.at]
    return results


def judge(mover: Mover, own: list[int], into: Result) -> None:
    """Add one client's account."""
    record = mover.record
    got = set(record.got)
    due = {seq for seq in own if seq > record.first}
    excused = {
        seq
        for after, upto in record.excused
        for seq in own[bisect.bisect_right(own, after) : bisect.bisect_right(own, upto)]
    }
    into.clients += 1
    into.events += len(record.got)
    into.lost += len(due - got - excused)
    into.doubled += len(record.got) - len(got)
    into.disordered += record.wrong + sum(b < a for a, b in itertools.pairwise(record.got))
    into.foreign += len(got - due)
    into.excused += len((due - got) & excused)
    into.guarded += record.guarded
    into.refused += record.refused
    into.reconnects += len(record.dials)
    into.not_recovered += sum(not recovered for recovered in record.recovered)
    into.codes.update(record.codes)
    # No time at all counts for each move that left none.
    into.unready += record.unready + [0.0] * (len(record.dials) - len(record.unready))


def quantiles(values: list[float]) -> str:
    """Return what most, nearly all, and all are below."""
    ordered = sorted(values) or [0.0]
    shown = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    last = len(ordered) - 1
    return ", ".join(f"{name} {ordered[int(share * last)]:.3f} s" for name, share in shown.items())


def table(outcome: Outcome) -> str:
    """Return the outcome for a terminal."""
    rows = [f"{outcome.published} events published"]
    for kind, result in outcome.results.items():
        lost, doubled, disordered, foreign, refused = result.faults
        rows.append(f"{kind}: {result.clients} clients, {result.events} events")
        rows.append(f"  lost {lost}, doubled {doubled}, out of order {disordered}")
        rows.append(f"  foreign {foreign}, refused {refused} {sorted(set(result.refused))[:3]}")
        rows.append(f"  reconnects {result.reconnects}, not recovered {result.not_recovered}")
        rows.append(f"  excused {result.excused}, removed by the guard {result.guarded}")
        rows.append(f"  close codes {dict(result.codes)}")
        rows.append(f"  without a ready socket: {quantiles(result.unready)}")
        rows.append(f"  from the publisher to the client: {quantiles(result.delays)}")
    rows.append(f"most reconnects in a second: {outcome.most_reconnects}")
    rows.append("drains: " + ", ".join(f"{count} in {s:.1f} s" for count, s in outcome.drains))
    rows.append(f"faster than the pace: {outcome.hurried}")
    rows.append("rolling restarts took: " + ", ".join(f"{s:.1f} s" for s in outcome.took))
    return "\n".join(rows)


async def main(plan: Plan, folder: Path) -> int:
    """Run a plan on servers of its own; return 0 if nothing was wrong."""
    with RedisServer() as redis, NatsServer() as nats:
        client = await nats_py.connect(
            nats.url, reconnect_time_wait=0.1, max_reconnect_attempts=-1, error_cb=_ignore
        )
        try:
            outcome = await deploy(plan, folder, redis.url, client, nats.url)
        finally:
            await client.close()
    print(asdict(plan))
    print(table(outcome))
    return int(any(any(result.faults) for result in outcome.results.values()))


async def _ignore(_: Exception) -> None:
    pass


def _plan() -> tuple[Plan, Path]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moves", type=int, default=2000, help="clients that make before break")
    parser.add_argument("--resumes", type=int, default=0, help="clients that resume when closed")
    parser.add_argument("--plain", type=int, default=0, help="clients that ask for nothing")
    parser.add_argument("--rate", type=float, default=1000.0, help="events a second")
    parser.add_argument("--restarts", type=int, default=3, help="rolling restarts")
    parser.add_argument("--pace", type=float, default=500.0, help="reconnects a second")
    parser.add_argument("--drain", type=float, default=30.0, help="shutdown timeout in seconds")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--per-group", type=int, default=2, help="clients that each event goes to")
    parser.add_argument("--folder", type=Path, default=None, help="for the host's log")
    given = vars(parser.parse_args())
    folder = given.pop("folder") or Path(tempfile.mkdtemp(prefix="deploy-"))
    return Plan(**given), folder


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(main(*_plan())))
