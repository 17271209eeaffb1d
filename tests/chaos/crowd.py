"""Clients of every kind, each with its account: users, admins, slow ones, ones that get cut off."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import aiohttp
from aiohttp.connector import AddrInfoType

from daisi_ws.client import (
    Backoff,
    Error,
    Event,
    Frame,
    Lost,
    Ready,
    Reconnect,
    ReferenceClient,
    Rejected,
    Resumed,
    Unreachable,
    admin_url,
    client_session,
    user_url,
)
from tests.chaos.account import Account, Scope
from tests.chaos.meter import Meter
from tests.chaos.recorder import Recorder
from tests.chaos.traffic import SLOW
from tests.cluster import Keys

TOKEN_SECONDS: Final = 7 * 86400.0
LATE_SECONDS: Final = 2.0
GATEWAY: Final = "http://gateway.test"
"""Stands for all hosts, see `Balancer`."""
_SLOW_RECEIVE_BUFFER: Final = 16 * 1024


@dataclass
class Told:
    """What all clients were told, by kind; and who was sent away for good."""

    closes: Counter[int] = field(default_factory=Counter)
    dials_failed: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    recovered: int = 0
    replayed: int = 0
    reconnect_hints: int = 0
    ended: list[str] = field(default_factory=list)


class Watcher(Recorder):
    """A client with its account.

    :param url: of a host name that stands for all hosts: each dial goes to one of them.
    :param ports: of these hosts.
    :param slow: reads through an iterator, and stops reading while `stalled` is set.
    :param streams: generation of each stream identity seen, shared by all.
    """

    def __init__(
        self,
        account: Account,
        *,
        url: str,
        ports: Sequence[int],
        key: str,
        token: str,
        streams: dict[str, int],
        meter: Meter,
        told: Told,
        chance: random.Random,
        slow: bool = False,
    ) -> None:
        super().__init__(account, streams)
        self.slow = slow
        self.reading = asyncio.Event()
        self.reading.set()
        self._meter = meter
        self._told = told
        self._chance = chance
        self._sockets: list[socket.socket] = []
        self._session = _session(self._socket, Balancer(ports, chance))
        self._tasks: list[asyncio.Task[None]] = []
        self.client = ReferenceClient(
            url,
            key,
            token,
            session=self._session,
            positions=account.positions,
            on_frame=None if slow else self.on_frame,
            backoff=Backoff(0.05, 1.0, steady=0.5),
            buffer=20,
        )

    async def open(self) -> None:
        """Connect, dialling until it succeeds."""
        await self.client.connect(retry=True)
        self._tasks.append(asyncio.create_task(self._watch_ending()))
        if self.slow:
            self._tasks.append(asyncio.create_task(self._read_slowly()))

    async def close(self) -> None:
        """Close the connection politely."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self.client.close()
        finally:
            self.connected = False
            await self._session.close()

    async def choose(self, chat: str) -> bool:
        """Look at a chat; tell whether that was accepted."""
        if self.pending or not self.connected:
            return False
        try:
            await self.ask_for(chat)
        except (Unreachable, TimeoutError, Rejected):
            return False
        return True

    def cut(self, *, reset: bool) -> None:
        """Cut its TCP connection off: a reset, or an end of file without any close frame."""
        for sock in self._sockets:
            with suppress(OSError):
                if reset:
                    linger = struct.pack("ii", 1, 0)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                sock.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()

    def on_event(self, frame: Event) -> tuple[int, float]:
        """Enter an event, and how long it took."""
        seq, at = super().on_event(frame)
        self._meter.delivered(at, time.monotonic(), LATE_SECONDS)
        return seq, at

    def on_ready(self, frame: Ready) -> None:
        """Enter and count a `ready`."""
        super().on_ready(frame)
        self._count(frame)

    def on_lost(self, frame: Lost) -> None:
        """Enter and count that the connection is gone, or a dial in vain."""
        if frame.code:
            self._told.closes[frame.code] += 1
        else:
            self._told.dials_failed[_short(frame.reason)] += 1
        super().on_lost(frame)

    def on_resumed(self, frame: Resumed) -> None:
        """Enter and count an answer to a position."""
        super().on_resumed(frame)
        self._count(frame)

    def on_error(self, frame: Error) -> None:
        """Enter and count an `error`."""
        self._told.errors[frame.payload.code] += 1
        super().on_error(frame)

    def on_other(self, frame: Frame) -> None:
        """Count hints, and what should not come."""
        if isinstance(frame, Reconnect):
            self._told.reconnect_hints += 1
        else:
            self._told.errors[f"frame {type(frame).__name__}"] += 1

    def _count(self, answer: Ready | Resumed) -> None:
        self._told.recovered += bool(answer.recovered)
        self._told.replayed += answer.replayed

    async def _read_slowly(self) -> None:
        async for frame in self.client:
            self.on_frame(frame)
            await self.reading.wait()

    async def _watch_ending(self) -> None:
        ended = await self.client.wait_ended()
        self.connected = False
        if ended is not None:
            at = self._meter.now
            self._told.ended.append(f"{self.account.name} at {at:.1f} s: {ended}")

    def _socket(self, info: AddrInfoType) -> socket.socket:
        sock = socket.socket(info[0], info[1], info[2])
        if self.slow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_RECEIVE_BUFFER)
        self._sockets = [s for s in self._sockets if s.fileno() >= 0]
        self._sockets.append(sock)
        return sock


class Balancer(aiohttp.abc.AbstractResolver):
    """Resolves any name to one of several ports, as a load balancer would."""

    def __init__(self, ports: Sequence[int], chance: random.Random) -> None:
        self._ports = ports
        self._chance = chance

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        """Return one address."""
        del port, family
        return [
            aiohttp.abc.ResolveResult(
                hostname=host,
                host="127.0.0.1",
                port=self._chance.choice(self._ports),
                family=socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
        ]

    async def close(self) -> None:
        """Do nothing."""


def _session(
    factory: Callable[[AddrInfoType], socket.socket], balancer: Balancer
) -> aiohttp.ClientSession:
    session = client_session()
    connector = session.connector
    assert isinstance(connector, aiohttp.TCPConnector)
    connector._socket_factory = factory
    connector._resolver = balancer
    connector._use_dns_cache = False
    return session


def _short(reason: str) -> str:
    """Return a reason without what differs from client to client."""
    if "refused with HTTP" in reason:
        return reason.partition("refused with ")[2].partition(":")[0][:60]
    for known in ("not ready within", "closed before ready", "cannot connect"):
        if known in reason:
            return known
    return reason[:60]


class Crowd:
    """All clients."""

    def __init__(
        self, keys: Keys, ports: Sequence[int], meter: Meter, chance: random.Random
    ) -> None:
        self._keys = keys
        self._ports = ports
        self._meter = meter
        self._chance = chance
        self.told = Told()
        self.streams: dict[str, int] = {}
        self.watchers: list[Watcher] = []
        self.chats = 3
        self.cuts = 0
        self.choices = 0

    @property
    def connected(self) -> int:
        """Clients that are connected now."""
        return sum(w.connected for w in self.watchers)

    async def gather(
        self, agents: list[tuple[str, str]], users: int, admins: int, slow: int
    ) -> None:
        """Connect everybody."""
        made = [self._user(n, *agents[n % len(agents)]) for n in range(users)]
        made += [self._admin(n) for n in range(admins)]
        made += [self._user(10_000 + n, *SLOW, slow=True) for n in range(slow)]
        self.watchers += made
        for start in range(0, len(made), 25):
            await asyncio.gather(*(w.open() for w in made[start : start + 25]))

    async def leave(self) -> None:
        """Close all connections politely."""
        await asyncio.gather(*(w.close() for w in self.watchers))

    async def change_chats(self, rate: float) -> None:
        """Have users look at other chats, so many a second, until cancelled."""
        users = [w for w in self.watchers if w.account.scope.kind == "chats" and not w.slow]
        tasks: set[asyncio.Task[bool]] = set()
        while True:
            await asyncio.sleep(self._chance.expovariate(rate))
            who = self._chance.choice(users)
            if self._pending_choice(who):
                task = asyncio.create_task(who.choose(f"chat-{self._chance.randrange(self.chats)}"))
                self.choices += 1
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    async def drop_out(self, rate: float) -> None:
        """Cut TCP connections of clients at random, so many a second, until cancelled."""
        while True:
            await asyncio.sleep(self._chance.expovariate(rate))
            self.cut_one()

    def cut_one(self) -> None:
        """Cut the TCP connection of some client."""
        who = self._chance.choice([w for w in self.watchers if not w.slow])
        if who.connected:
            self.cuts += 1
            who.cut(reset=self._chance.random() < 0.5)

    def _pending_choice(self, who: Watcher) -> bool:
        return who.connected and not who.pending

    def _user(self, number: int, company: str, agent: str, *, slow: bool = False) -> Watcher:
        user = f"user-{number}"
        return self._watcher(
            Account(user, Scope("chats", company, agent), positions=bool(number // 2 % 4)),
            user_url(GATEWAY, company, agent),
            self._keys.secret_token,
            self._keys.user_token(company, agent, user, TOKEN_SECONDS),
            slow=slow,
        )

    def _admin(self, number: int) -> Watcher:
        company = f"company-{number % 5}"
        scopes: list[tuple[dict[str, str], Scope]] = [
            ({}, Scope("agents", "*", "*")),
            ({"subscribed_company_id": company}, Scope("agents", company, "*")),
            (
                {"company_id_restriction": company, "subscribed_agent_id": "agent-1"},
                Scope("agents", company, "agent-1"),
            ),
        ]
        scope, sees = scopes[number % len(scopes)]
        admin = f"admin-{number}"
        return self._watcher(
            Account(admin, sees, positions=bool(number // 3 % 3)),
            admin_url(GATEWAY),
            self._keys.admin_secret_token,
            self._keys.admin_token(admin, TOKEN_SECONDS, **scope),
        )

    def _watcher(
        self, account: Account, url: str, key: str, token: str, *, slow: bool = False
    ) -> Watcher:
        return Watcher(
            account,
            url=url,
            ports=self._ports,
            key=key,
            token=token,
            streams=self.streams,
            meter=self._meter,
            told=self.told,
            chance=self._chance,
            slow=slow,
        )
