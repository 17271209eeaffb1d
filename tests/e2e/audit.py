"""Accounts for every event and every client: lost, doubled, out of order, foreign."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import aiohttp
import msgspec
from nats.aio.client import Client as NatsClient
from nats.errors import Error as NatsError

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

GENERATION: Final = 10**9
"""Added to the sequences of each stream that follows one of the same name."""


class _Row(msgspec.Struct):
    generation: int = 0


class _Payload(msgspec.Struct):
    row_data: _Row


_payload = msgspec.json.Decoder(_Payload)


@dataclass(frozen=True)
class Published:
    """An event that is in the stream.

    :param at: when it was first offered to the stream, monotonic seconds.
    """

    seq: int
    kind: str
    company: str
    agent: str
    chat: str = ""
    at: float = 0.0


@dataclass
class Period:
    """One connection of a client: what it got after which `ready`, in the order it came.

    :param times: when each came, monotonic seconds.
    :param ended: the connection was lost, so that only a prefix can be demanded.
    :param code: the close code it was lost with.
    """

    after: int
    pod: str = ""
    stream: str = ""
    seqs: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    ended: bool = False
    code: int = 0


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


_Groups = Mapping[tuple[str, str, str, str], list[Published]]


class Watcher:
    """A client with the record of what it got.

    :param wants: tells whether an event is one of its own, chats aside.
    :param streams: generation of each stream identity seen, shared by all.
    """

    def __init__(
        self,
        *,
        url: str,
        key: str,
        token: str,
        session: aiohttp.ClientSession,
        wants: Callable[[Published], bool],
        streams: dict[str, int],
    ) -> None:
        self.client = ReferenceClient(
            url, key, token, session=session, on_frame=self._on_frame, backoff=Backoff(0.05, 1.0)
        )
        self.wants = wants
        self.periods: list[Period] = []
        self.choices: list[Choice] = []
        self.refused: list[str] = []
        self.delivered = 0
        self._streams = streams

    @property
    def last_seq(self) -> int:
        """The newest sequence it got, or was told to be complete up to."""
        period = self.periods[-1]
        return period.seqs[-1] if period.seqs else period.after

    @property
    def pod(self) -> str:
        """The pod it is connected to."""
        return self.periods[-1].pod

    @property
    def stayed(self) -> bool:
        """Tell whether its first connection is still there."""
        return len(self.periods) == 1 and not self.periods[0].ended

    async def choose(self, chat: str) -> None:
        """Select a chat and note from where on it is complete.

        Where that is refused, the chat looked at before is left all the same.
        """
        if self.choices:
            self.choices[-1].sure = min(self.choices[-1].sure, self.last_seq)
        after = await self.client.select_chat(chat)
        after += self.periods[-1].after // GENERATION * GENERATION
        if self.choices:
            self.choices[-1].until = max(after, self.last_seq)
        self.choices.append(Choice(chat, after))

    def judge(self, published: Iterable[Published]) -> Verdict:
        """Compare what came with what had to come."""
        return self.judge_grouped(_grouped(published))

    def judge_grouped(self, groups: _Groups) -> Verdict:
        """Compare what came with what had to come, the events given by kind and address."""
        own = [events for events in groups.values() if self.wants(events[0])]
        return sum((self._judge(period, own) for period in self.periods), Verdict())

    def missing(self, published: Iterable[Published]) -> list[tuple[int, list[int]]]:
        """Return for each connection after which sequence what is missing, for a message."""
        own = [events for events in _grouped(published).values() if self.wants(events[0])]
        found = (
            (period.after, sorted(self._must(period, own)[0] - set(period.seqs)))
            for period in self.periods
        )
        return [(after, seqs) for after, seqs in found if seqs]

    def delays(self, published: Iterable[Published], since: float, until: float) -> list[float]:
        """Return how long each event offered in that time took to get here, in seconds."""
        offered = {event.seq: event.at for event in published if since <= event.at <= until}
        return [
            arrived - offered[seq]
            for period in self.periods
            for seq, arrived in zip(period.seqs, period.times, strict=True)
            if seq in offered
        ]

    def _judge(self, period: Period, own: list[list[Published]]) -> Verdict:
        got = set(period.seqs)
        must, may = self._must(period, own)
        ordered = sum(b < a for a, b in itertools.pairwise(period.seqs))
        return Verdict(len(must - got), len(period.seqs) - len(got), ordered, len(got - may))

    def _must(self, period: Period, own: list[list[Published]]) -> tuple[set[int], set[int]]:
        """Return what had to come by a connection, and what was allowed to."""
        end = (period.seqs[-1] if period.seqs else period.after) if period.ended else float("inf")
        must, may = set(), set()
        for event in itertools.chain.from_iterable(own):
            if event.kind != "messages":
                may.add(event.seq)
                if period.after < event.seq <= end:
                    must.add(event.seq)
            else:
                sure, possible = self._chosen(event)
                if possible:
                    may.add(event.seq)
                if sure and period.after < event.seq <= end and period is self.periods[0]:
                    must.add(event.seq)
        return must, may

    def _chosen(self, event: Published) -> tuple[bool, bool]:
        of_chat = [c for c in self.choices if c.chat == event.chat]
        sure = any(c.after < event.seq <= c.sure for c in of_chat)
        return sure, any(event.seq <= c.until for c in of_chat)

    def _on_frame(self, frame: Frame) -> None:
        match frame:
            case Ready():
                generation = self._streams.setdefault(frame.stream, len(self._streams))
                after = generation * GENERATION + frame.seq
                self.periods.append(Period(after, frame.pod, frame.stream))
            case Event():
                self.delivered += 1
                assert frame.seq is not None
                generation = _payload.decode(frame.payload).row_data.generation
                self.periods[-1].seqs.append(generation * GENERATION + frame.seq)
                self.periods[-1].times.append(time.monotonic())
            case Lost(code=0, reason=reason):
                self.refused.append(reason)
            case Lost():
                self.periods[-1].ended = True
                self.periods[-1].code = frame.code


class Publisher:
    """Puts numbered events of all kinds into the stream at a steady rate, and remembers them.

    What is not acknowledged is offered again under the same message ID until it is, so every
    number is in the stream once.

    :param mix: how often chats, messages and agents' events come, in proportion.
    :param size: bytes of text in each.
    :ivar generation: of the stream; to be raised when it is made anew.
    """

    def __init__(
        self,
        nats: NatsClient,
        agents: list[tuple[str, str]],
        chats: int,
        *,
        mix: tuple[int, int, int] = (3, 5, 2),
        size: int = 200,
    ) -> None:
        self._jetstream = nats.jetstream()
        self._agents = agents
        self._chats = chats
        self._mix = mix
        self._size = size
        self._random = random.Random(1)
        self._number = itertools.count(1)
        self._pending: set[asyncio.Task[Published]] = set()
        self._grew = asyncio.Event()
        self.published: list[Published] = []
        self.generation = 0

    async def reached(self, count: int) -> None:
        """Return once so many events are in the stream."""
        while len(self.published) < count:
            self._grew.clear()
            await asyncio.wait_for(self._grew.wait(), 10)

    async def run(self, rate: float, seconds: float) -> None:
        """Publish `rate` events a second for so long; returns when all are acknowledged."""
        started, count, sent = time.monotonic(), int(rate * seconds), 0
        while sent < count:
            due = min(count, int((time.monotonic() - started) * rate) + 1)
            for _ in range(sent, due):
                self._offer()
            sent = due
            await asyncio.sleep(0.005)
        await self.drained()

    @asynccontextmanager
    async def flowing(self, rate: float) -> AsyncIterator[None]:
        """Publish `rate` events a second until the block is left, and all are acknowledged."""
        endless = asyncio.create_task(self.run(rate, 3600))
        try:
            yield
        finally:
            endless.cancel()
            await asyncio.gather(endless, return_exceptions=True)
        await self.drained()

    async def drained(self) -> None:
        """Return once everything offered so far is acknowledged."""
        await asyncio.gather(*self._pending)

    async def more(self, count: int) -> None:
        """Return once so many more events are in the stream."""
        await self.reached(len(self.published) + count)

    async def publish_one(self, kind: str, company: str, agent: str, chat: str = "") -> Published:
        """Publish one event of a kind."""
        subject = f"websocket.{company}.{agent}.{kind}" + (f".{chat}" if chat else "")
        number, generation, at = next(self._number), self.generation, time.monotonic()
        payload = {
            "event_id": f"{number}:{kind}",
            "company_id": company,
            "agent_id": agent,
            "row_data": {"number": number, "generation": generation, "text": "x" * self._size},
        }
        if chat:
            payload["chat_id"] = chat
        headers = {"Nats-Msg-Id": f"{id(self)}-{number}"}
        seq = await self._store(subject, msgspec.json.encode(payload), headers)
        event = Published(generation * GENERATION + seq, kind, company, agent, chat, at)
        self.published.append(event)
        self._grew.set()
        return event

    async def _store(self, subject: str, data: bytes, headers: dict[str, str]) -> int:
        while True:
            try:
                ack = await self._jetstream.publish(subject, data, headers=headers, timeout=2)
            except (NatsError, TimeoutError, OSError):
                await asyncio.sleep(0.2)
            else:
                return int(ack.seq)

    def _offer(self) -> None:
        company, agent = self._random.choice(self._agents)
        kind = self._random.choices(["chats", "messages", "agents"], self._mix)[0]
        chat = f"chat-{self._random.randrange(self._chats)}" if kind == "messages" else ""
        task = asyncio.create_task(self.publish_one(kind, company, agent, chat))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)


class Audit:
    """Watchers and a publisher over one cluster."""

    def __init__(self, cluster: Cluster, session: aiohttp.ClientSession) -> None:
        self._cluster = cluster
        self._session = session
        self.watchers: list[Watcher] = []
        self.streams: dict[str, int] = {}

    async def user(self, host: Host, company: str, agent: str, user: str) -> Watcher:
        """Connect a user to one host."""
        keys = self._cluster.keys
        watcher = Watcher(
            url=user_url(host.base_url, company, agent),
            key=keys.secret_token,
            token=keys.user_token(company, agent, user),
            session=self._session,
            wants=lambda event: (
                event.kind != "agents" and (event.company, event.agent) == (company, agent)
            ),
            streams=self.streams,
        )
        return await self._connect(watcher)

    async def admin(self, host: Host, admin: str, **scope: str) -> Watcher:
        """Connect an admin to one host; `scope` as in its token."""
        keys = self._cluster.keys
        company = scope.get("company_id_restriction") or scope.get("subscribed_company_id", "*")
        agent = scope.get("subscribed_agent_id", "*")
        watcher = Watcher(
            url=admin_url(host.base_url),
            key=keys.admin_secret_token,
            token=keys.admin_token(admin, **scope),
            session=self._session,
            wants=lambda event: (
                event.kind == "agents"
                and company in ("*", event.company)
                and agent in ("*", event.agent)
            ),
            streams=self.streams,
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
        groups = _grouped(published)
        return sum((w.judge_grouped(groups) for w in self.watchers), Verdict())

    async def _connect(self, watcher: Watcher) -> Watcher:
        await watcher.client.connect(retry=True)
        self.watchers.append(watcher)
        return watcher


def _grouped(published: Iterable[Published]) -> _Groups:
    groups: dict[tuple[str, str, str, str], list[Published]] = defaultdict(list)
    for event in published:
        groups[event.kind, event.company, event.agent, event.chat].append(event)
    return groups


@asynccontextmanager
async def audit(cluster: Cluster) -> AsyncIterator[Audit]:
    """Run an audit; its clients are closed at the end."""
    session = client_session(cluster.hosts[0].tls)
    running = Audit(cluster, session)
    try:
        yield running
    finally:
        await asyncio.gather(*(w.client.close() for w in running.watchers))
        await session.close()


async def metric(host: Host, name: str) -> float:
    """Return the sum of all series of a metric, as any worker of the host tells it."""
    async with (
        client_session(host.tls) as session,
        session.get(f"{host.base_url}/metrics") as reply,
    ):
        lines = (await reply.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))
