"""Puts numbered events of all kinds into the stream, with duplicates and poison among them."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from array import array
from bisect import insort
from collections import defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass, field

import msgspec
from nats.aio.client import Client as NatsClient
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError

from tests.chaos.account import Group, place

SLOW = ("company-slow", "agent-slow")
"""Whose events are made large to fill the outboxes of clients that do not read."""

POISON: tuple[tuple[str, bytes], ...] = (
    ("websocket.company-0.agent-0.chats", b"{not json"),
    ("websocket.company-0.agent-0.chats", b""),
    ("websocket.company-0.agent-0.chats", b"\xff\xfe\x00"),
    ("websocket.company-0.agent-0.chats", b'{"company_id":"company-0"}'),
    ("websocket.company-0.agent-0.chats",
     b'{"event_id":"x","company_id":"company-1","agent_id":"agent-0","row_data":{}}'),
    ("websocket.company-0.agent-0.messages.chat-0", b"[" * 2000),
    ("websocket.company-0.agent-0.nonsense", b"{}"),
    ("websocket.company-0", b"{}"),
    ("websocket.company-0.agent-0.chats", b'{"event_id":"' + b"x" * 500_000),
)  # fmt: skip


@dataclass
class Mix:
    """How the traffic is made.

    :param rate: events each second.
    :param duplicates: share of events that are published again under the same message ID.
    :param poison: messages that are no events, each second.
    """

    rate: float
    duplicates: float = 0.02
    poison: float = 0.5


@dataclass
class Counts:
    """What was published."""

    events: int = 0
    duplicates: int = 0
    doubled: int = 0
    poison: int = 0
    retries: int = 0


@dataclass
class Ledger:
    """All events that are in the stream: sequences by group, and when each was offered."""

    by_group: dict[Group, array[int]] = field(default_factory=lambda: defaultdict(_sequences))
    at: dict[int, float] = field(default_factory=dict)

    def add(self, group: Group, seq: int, at: float) -> None:
        """Take in an event; acknowledgements may come in any order."""
        seqs = self.by_group[group]
        if not seqs or seqs[-1] < seq:
            seqs.append(seq)
        else:
            insort(seqs, seq)
        self.at[seq] = at


def _sequences() -> array[int]:
    return array("q")


class Traffic:
    """A publisher with a memory.

    What is not acknowledged is offered again under the same message ID until it is, so every
    number is in the stream once.

    :param agents: company and agent of the events.
    :ivar generation: of the stream; to be raised when it is made anew.
    """

    def __init__(
        self, nats: NatsClient, agents: list[tuple[str, str]], chats: int, mix: Mix, seed: int
    ) -> None:
        self._nats = nats
        self._jetstream = nats.jetstream()
        self._agents = agents
        self._chats = chats
        self._random = random.Random(seed)
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._run = f"chaos-{seed}-{time.time_ns()}"
        self.mix = mix
        self.counts = Counts()
        self.ledger = Ledger()
        self.generation = 0
        self.paused = False

    async def run(self) -> None:
        """Publish until cancelled."""
        began, due, poison_due = time.monotonic(), 0.0, 0.0
        last = began
        while True:
            now = time.monotonic()
            if not self.paused:
                due += (now - last) * self.mix.rate
                poison_due += (now - last) * self.mix.poison
            last = now
            for _ in range(int(due)):
                self._offer()
            due -= int(due)
            for _ in range(int(poison_due)):
                self.start(self.poison())
            poison_due -= int(poison_due)
            await asyncio.sleep(0.005)

    def start(self, work: Coroutine[object, object, None]) -> None:
        """Do something beside the rest; `drained` waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drained(self) -> None:
        """Return once everything offered so far is acknowledged."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def publish(self, group: Group, size: int = 200) -> None:
        """Publish one event, and remember it once it is stored."""
        kind, company, agent, chat = group
        number, generation, at = next(self._numbers), self.generation, time.monotonic()
        payload = {
            "event_id": f"{number}:{kind}",
            "company_id": company,
            "agent_id": agent,
            "row_data": {"number": number, "generation": generation, "at": at, "text": "x" * size},
        }
        if chat:
            payload["chat_id"] = chat
        subject = f"websocket.{company}.{agent}.{kind}" + (f".{chat}" if chat else "")
        data, headers = msgspec.json.encode(payload), {"Nats-Msg-Id": f"{self._run}-{number}"}
        seq, _ = await self._store(subject, data, headers)
        self.ledger.add(group, place(generation, seq), at)
        self.counts.events += 1
        if self._random.random() < self.mix.duplicates:
            again, known = await self._store(subject, data, headers)
            self.counts.duplicates += 1
            self.counts.doubled += not known or again != seq

    async def poison(self) -> None:
        """Publish a message that is no event."""
        subject, data = self._random.choice(POISON)
        headers = {"Nats-Msg-Id": f"{self._run}-poison-{next(self._numbers)}"}
        await self._store(subject, data, headers)
        self.counts.poison += 1

    async def _store(self, subject: str, data: bytes, headers: dict[str, str]) -> tuple[int, bool]:
        while True:
            try:
                ack = await self._jetstream.publish(subject, data, headers=headers, timeout=2)
            except (NatsError, JetStreamError, TimeoutError, OSError):
                self.counts.retries += 1
                await asyncio.sleep(0.2)
            else:
                return int(ack.seq), bool(ack.duplicate)

    def _offer(self) -> None:
        company, agent = self._random.choice(self._agents)
        kind = self._random.choices(["chats", "messages", "agents"], [3, 5, 2])[0]
        chat = f"chat-{self._random.randrange(self._chats)}" if kind == "messages" else ""
        self.start(self.publish((kind, company, agent, chat)))
