"""Accounts for every event and every client: lost, doubled, out of order, foreign."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import msgspec
from nats.aio.client import Client as NatsClient
from nats.errors import Error as NatsError

from daisi_ws.client import (
    Backoff,
    Event,
    Lost,
    ReferenceClient,
    admin_url,
    client_session,
    user_url,
)
from tests.chaos.account import (
    PASSING,
    Account,
    Choice,
    Group,
    Judgement,
    Scope,
    Verdict,
    judge,
    place,
)
from tests.chaos.recorder import Recorder
from tests.cluster import Cluster, Host

SETTLE_SECONDS = 20.0


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


class Watcher(Recorder):
    """A client with its account.

    :param positions: it follows its position and resumes, and is judged over its whole life.
    :param streams: generation of each stream identity seen, shared by all.
    """

    def __init__(
        self,
        scope: Scope,
        *,
        url: str,
        key: str,
        token: str,
        session: aiohttp.ClientSession,
        positions: bool,
        streams: dict[str, int],
    ) -> None:
        super().__init__(Account(url, scope, positions), streams)
        self.client = ReferenceClient(
            url,
            key,
            token,
            session=session,
            positions=positions,
            on_frame=self.on_frame,
            backoff=Backoff(0.05, 1.0),
        )
        self.refused: list[str] = []
        self.came: list[tuple[int, float]] = []

    @property
    def pod(self) -> str:
        """The pod it is connected to."""
        return self.account.stretch.pod

    @property
    def stayed(self) -> bool:
        """Tell whether its first connection is still there."""
        return len(self.account.stretches) == 1 and not self.account.stretch.ended

    @property
    def choices(self) -> list[Choice]:
        """The chats that it looked at."""
        return self.account.choices

    async def choose(self, chat: str) -> None:
        """Select a chat; where that is refused, the chat looked at before is left all the same."""
        await self.ask_for(chat)

    def judge(self, published: Iterable[Published]) -> Judgement:
        """Compare what came with what had to come."""
        return self.judge_grouped(grouped(published))

    def judge_grouped(self, groups: Mapping[Group, array[int]]) -> Judgement:
        """Compare what came with what had to come; nothing had to after it was gone for good."""
        stretch = self.account.stretch
        if stretch.ended:
            groups = {g: seqs[: bisect_right(seqs, stretch.top)] for g, seqs in groups.items()}
        return judge(self.account, groups)

    def gaps(self) -> set[str]:
        """Return why events did not come to it, as it was told, and were not given later."""
        return {gap.reason for gap in self.account.gaps if not gap.filled}

    def delays(self, published: Iterable[Published], since: float, until: float) -> list[float]:
        """Return how long each event offered in that time took to get here, in seconds."""
        offered = {event.seq: event.at for event in published if since <= event.at <= until}
        return [arrived - offered[seq] for seq, arrived in self.came if seq in offered]

    def on_event(self, frame: Event) -> tuple[int, float]:
        """Enter an event, and when it came."""
        seq, at = super().on_event(frame)
        self.came.append((seq, time.monotonic()))
        return seq, at

    def on_lost(self, frame: Lost) -> None:
        """Enter that the connection is gone, or a dial in vain."""
        if not frame.code:
            self.refused.append(frame.reason)
        super().on_lost(frame)


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
        event = Published(place(generation, seq), kind, company, agent, chat, at)
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
    """Watchers and a publisher over one cluster.

    :param followers: share of the watchers that follow their position.
    """

    def __init__(
        self, cluster: Cluster, session: aiohttp.ClientSession, followers: float = 0.5
    ) -> None:
        self._cluster = cluster
        self._session = session
        self.watchers: list[Watcher] = []
        self.streams: dict[str, int] = {}
        self._followers = followers
        self._chance = random.Random(1)

    async def user(self, host: Host, company: str, agent: str, user: str) -> Watcher:
        """Connect a user to one host; half of them follow their positions."""
        keys = self._cluster.keys
        return await self._connect(
            Scope("chats", company, agent),
            user_url(host.base_url, company, agent),
            keys.secret_token,
            keys.user_token(company, agent, user),
        )

    async def admin(self, host: Host, admin: str, **scope: str) -> Watcher:
        """Connect an admin to one host; `scope` as in its token. Positions as for users."""
        keys = self._cluster.keys
        company = scope.get("company_id_restriction") or scope.get("subscribed_company_id", "*")
        return await self._connect(
            Scope("agents", company, scope.get("subscribed_agent_id", "*")),
            admin_url(host.base_url),
            keys.admin_secret_token,
            keys.admin_token(admin, **scope),
        )

    async def settle(self, published: list[Published]) -> None:
        """Wait until nothing is missing any more, or long enough to be sure that it never comes."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            if not self.verdict(published).lost and not self.gaps() & PASSING:
                return
            await asyncio.sleep(0.2)

    def verdict(self, published: list[Published]) -> Verdict:
        """Add up all watchers."""
        groups = grouped(published)
        return sum((w.judge_grouped(groups).verdict for w in self.watchers), Verdict())

    def gaps(self) -> set[str]:
        """Return the reasons of all gaps that watchers were told of and that stay."""
        return {reason for w in self.watchers for reason in w.gaps()}

    async def _connect(self, scope: Scope, url: str, key: str, token: str) -> Watcher:
        watcher = Watcher(
            scope,
            url=url,
            key=key,
            token=token,
            session=self._session,
            positions=self._chance.random() < self._followers,
            streams=self.streams,
        )
        await watcher.client.connect(retry=True)
        self.watchers.append(watcher)
        return watcher


def grouped(published: Iterable[Published]) -> dict[Group, array[int]]:
    """Return the sequences of events by kind and address, ascending."""
    groups: dict[Group, list[int]] = defaultdict(list)
    for event in published:
        groups[event.kind, event.company, event.agent, event.chat].append(event.seq)
    return {group: array("q", sorted(seqs)) for group, seqs in groups.items()}


@asynccontextmanager
async def audit(cluster: Cluster, followers: float = 0.5) -> AsyncIterator[Audit]:
    """Run an audit; its clients are closed at the end."""
    session = client_session(cluster.hosts[0].tls)
    running = Audit(cluster, session, followers)
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
