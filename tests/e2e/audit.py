"""Accounts for every event and every client: lost, doubled, out of order, foreign."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import msgspec
from nats.aio.client import Client as NatsClient

from daisi_ws.client import (
    Backoff,
    Event,
    Frame,
    Lost,
    Ready,
    ReferenceClient,
    admin_url,
    client_session,
    user_url,
)
from tests.cluster import Cluster, Host

SETTLE_SECONDS = 20.0


@dataclass(frozen=True)
class Published:
    """An event that is in the stream."""

    seq: int
    kind: str
    company: str
    agent: str
    chat: str = ""


@dataclass
class Period:
    """One connection of a client: what it got after which `ready`, in the order it came.

    :param ended: the connection was lost, so that only a prefix can be demanded.
    """

    after: int
    pod: str = ""
    seqs: list[int] = field(default_factory=list)
    ended: bool = False


@dataclass
class Choice:
    """A chat looked at: surely after `after`; surely no more after `until`, surely up to `sure`."""

    chat: str
    after: int
    sure: float = float("inf")
    until: float = float("inf")


@dataclass(frozen=True)
class Verdict:
    """What was wrong with one client's events; all zero is right."""

    lost: int = 0
    doubled: int = 0
    disordered: int = 0
    foreign: int = 0

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(
            self.lost + other.lost,
            self.doubled + other.doubled,
            self.disordered + other.disordered,
            self.foreign + other.foreign,
        )


class Watcher:
    """A client with the record of what it got.

    :param wants: tells whether an event is one of its own, chats aside.
    """

    def __init__(
        self,
        url: str,
        key: str,
        token: str,
        session: aiohttp.ClientSession,
        wants: Callable[[Published], bool],
    ) -> None:
        self.client = ReferenceClient(
            url, key, token, session=session, on_frame=self._on_frame, backoff=Backoff(0.05, 1.0)
        )
        self.wants = wants
        self.periods: list[Period] = []
        self.choices: list[Choice] = []
        self.delivered = 0

    @property
    def last_seq(self) -> int:
        """The newest sequence it got, or was told to be complete up to."""
        period = self.periods[-1]
        return period.seqs[-1] if period.seqs else period.after

    async def choose(self, chat: str) -> None:
        """Select a chat and note from where on it is complete."""
        if self.choices:
            self.choices[-1].sure = self.last_seq
        after = await self.client.select_chat(chat)
        if self.choices:
            self.choices[-1].until = max(after, self.last_seq)
        self.choices.append(Choice(chat, after))

    def judge(self, published: Iterable[Published]) -> Verdict:
        """Compare what came with what had to come."""
        total = Verdict()
        for period in self.periods:
            total += self._judge(period, published)
        return total

    def _judge(self, period: Period, published: Iterable[Published]) -> Verdict:
        got = set(period.seqs)
        end = (period.seqs[-1] if period.seqs else period.after) if period.ended else float("inf")
        must, may = set(), set()
        for event in published:
            if event.kind != "messages" and self.wants(event):
                may.add(event.seq)
                if period.after < event.seq <= end:
                    must.add(event.seq)
            elif event.kind == "messages" and self.wants(event):
                sure, possible = self._chosen(event)
                if possible:
                    may.add(event.seq)
                if sure and period.after < event.seq <= end and period is self.periods[0]:
                    must.add(event.seq)
        ordered = sum(b < a for a, b in itertools.pairwise(period.seqs))
        return Verdict(len(must - got), len(period.seqs) - len(got), ordered, len(got - may))

    def _chosen(self, event: Published) -> tuple[bool, bool]:
        of_chat = [c for c in self.choices if c.chat == event.chat]
        sure = any(c.after < event.seq <= c.sure for c in of_chat)
        return sure, any(event.seq <= c.until for c in of_chat)

    def _on_frame(self, frame: Frame) -> None:
        match frame:
            case Ready():
                self.periods.append(Period(frame.seq))
            case Event():
                self.delivered += 1
                assert frame.seq is not None
                self.periods[-1].seqs.append(frame.seq)
            case Lost():
                if self.periods:
                    self.periods[-1].ended = True


class Publisher:
    """Puts numbered events of all kinds into the stream at a steady rate, and remembers them."""

    def __init__(self, nats: NatsClient, agents: list[tuple[str, str]], chats: int) -> None:
        self._jetstream = nats.jetstream()
        self._agents = agents
        self._chats = chats
        self._random = random.Random(1)
        self._number = itertools.count(1)
        self.published: list[Published] = []
        self._grew = asyncio.Event()

    async def reached(self, count: int) -> None:
        """Return once so many events are in the stream."""
        while len(self.published) < count:
            self._grew.clear()
            await asyncio.wait_for(self._grew.wait(), 10)

    async def run(self, rate: float, seconds: float) -> None:
        """Publish `rate` events a second for so long; returns when all are acknowledged."""
        started, count = time.monotonic(), int(rate * seconds)
        pending: list[asyncio.Task[None]] = []
        sent = 0
        while sent < count:
            due = min(count, int((time.monotonic() - started) * rate) + 1)
            pending.extend(asyncio.create_task(self._publish()) for _ in range(sent, due))
            sent = due
            await asyncio.sleep(0.005)
        await asyncio.gather(*pending)

    async def publish_one(self, kind: str, company: str, agent: str, chat: str = "") -> Published:
        """Publish one event of a kind."""
        subject = f"websocket.{company}.{agent}.{kind}" + (f".{chat}" if chat else "")
        number = next(self._number)
        payload = {
            "event_id": f"{number}:{kind}",
            "company_id": company,
            "agent_id": agent,
            "row_data": {"number": number, "text": "x" * 200},
        }
        if chat:
            payload["chat_id"] = chat
        headers = {"Nats-Msg-Id": f"{id(self)}-{number}"}
        ack = await self._jetstream.publish(
            subject, msgspec.json.encode(payload), headers=headers, timeout=10
        )
        event = Published(ack.seq, kind, company, agent, chat)
        self.published.append(event)
        self._grew.set()
        return event

    async def _publish(self) -> None:
        company, agent = self._random.choice(self._agents)
        kind = self._random.choices(["chats", "messages", "agents"], [3, 5, 2])[0]
        chat = f"chat-{self._random.randrange(self._chats)}" if kind == "messages" else ""
        await self.publish_one(kind, company, agent, chat)


class Audit:
    """Watchers and a publisher over one cluster."""

    def __init__(self, cluster: Cluster, session: aiohttp.ClientSession) -> None:
        self._cluster = cluster
        self._session = session
        self.watchers: list[Watcher] = []

    async def user(self, host: Host, company: str, agent: str, user: str) -> Watcher:
        """Connect a user to one host."""
        keys = self._cluster.keys
        watcher = Watcher(
            user_url(host.base_url, company, agent),
            keys.secret_token,
            keys.user_token(company, agent, user),
            self._session,
            lambda event: (
                event.kind != "agents" and (event.company, event.agent) == (company, agent)
            ),
        )
        return await self._connect(watcher)

    async def admin(self, host: Host, admin: str, **scope: str) -> Watcher:
        """Connect an admin to one host; `scope` as in its token."""
        keys = self._cluster.keys
        company = scope.get("company_id_restriction") or scope.get("subscribed_company_id", "*")
        agent = scope.get("subscribed_agent_id", "*")
        watcher = Watcher(
            admin_url(host.base_url),
            keys.admin_secret_token,
            keys.admin_token(admin, **scope),
            self._session,
            lambda event: (
                event.kind == "agents"
                and company in ("*", event.company)
                and agent in ("*", event.agent)
            ),
        )
        return await self._connect(watcher)

    async def settle(self, published: list[Published]) -> None:
        """Wait until nothing is missing any more, or long enough to be sure that it never comes."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            if not self.verdict(published).lost:
                return
            await asyncio.sleep(0.2)

    def verdict(self, published: list[Published]) -> Verdict:
        """Add up all watchers."""
        return sum((w.judge(published) for w in self.watchers), Verdict())

    async def _connect(self, watcher: Watcher) -> Watcher:
        await watcher.client.connect(retry=True)
        self.watchers.append(watcher)
        return watcher


@asynccontextmanager
async def audit(cluster: Cluster) -> AsyncIterator[Audit]:
    """Run an audit; its clients are closed at the end."""
    session = client_session()
    running = Audit(cluster, session)
    try:
        yield running
    finally:
        await asyncio.gather(*(w.client.close() for w in running.watchers))
        await session.close()


async def metric(host: Host, name: str) -> float:
    """Return the sum of all series of a metric, as any worker of the host tells it."""
    async with aiohttp.ClientSession() as session, session.get(f"{host.base_url}/metrics") as reply:
        lines = (await reply.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))
