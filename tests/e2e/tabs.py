"""What outsiders have: a gateway of their own to attack, browser tabs, and a publisher."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import nats as nats_py
import redis.asyncio as redis_asyncio
from nats.aio.client import Client as NatsClient

from daisi_ws.embedded import Servers
from tests.adapters.http_support import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    Response,
    Wire,
    close_payload,
    frame,
)
from tests.cluster import Cluster, Host, Keys, cluster

DEADLINE: Final = 10.0
_TOKEN: Final = re.compile(r"[A-Za-z0-9_=-]{100,}")


@dataclass(frozen=True)
class Gateway:
    """A cluster with a Redis and a NATS that nobody else uses."""

    cluster: Cluster
    servers: Servers
    folder: Path

    @property
    def redis_url(self) -> str:
        """Where its Redis is."""
        return self.servers.redis.url

    @property
    def nats_url(self) -> str:
        """Where its NATS is."""
        return self.servers.nats.url

    @property
    def host(self) -> Host:
        """The first host."""
        return self.cluster.hosts[0]

    @property
    def hosts(self) -> list[Host]:
        """All hosts."""
        return self.cluster.hosts

    @property
    def keys(self) -> Keys:
        """The secrets."""
        return self.cluster.keys

    @asynccontextmanager
    async def redis(self) -> AsyncIterator[redis_asyncio.Redis]:
        """Return a client of its Redis; replies are text."""
        client = redis_asyncio.Redis.from_url(self.redis_url, decode_responses=True)
        try:
            yield client
        finally:
            await client.aclose()

    @asynccontextmanager
    async def feed(self) -> AsyncIterator[Feed]:
        """Return a publisher into its stream."""
        client = await nats_py.connect(self.nats_url)
        try:
            yield Feed(client)
        finally:
            await client.close()

    async def user(
        self, company: str = "acme", agent: str = "bot", user: str = "ann", host: int = 0
    ) -> Tab:
        """Connect a user."""
        token = self.keys.user_token(company, agent, user)
        return await self.user_by(token, company, agent, host)

    async def user_by(
        self, token: str, company: str = "acme", agent: str = "bot", host: int = 0
    ) -> Tab:
        """Connect whom a token names."""
        headers = user_headers(self.keys, token)
        return await Tab.open(self.hosts[host].http_port, f"/ws/{company}/{agent}", headers)

    async def admin(self, admin: str = "root", host: int = 0, /, **scope: str) -> Tab:
        """Connect an admin."""
        headers = admin_headers(self.keys, self.keys.admin_token(admin, **scope))
        return await Tab.open(self.hosts[host].http_port, "/ws/admin", headers)


@asynccontextmanager
async def gateway(
    folder: Path,
    *,
    hosts: int = 1,
    workers: int = 2,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Gateway]:
    """Run a gateway with servers of its own until the block is left.

    :raises AssertionError: a secret or a traceback is in a log.
    """
    servers = await asyncio.to_thread(Servers().start)
    try:
        async with cluster(
            folder,
            servers.redis.url,
            servers.nats.url,
            hosts=hosts,
            workers=workers,
            environment=environment,
        ) as running:
            yield Gateway(running, servers, folder)
            logs = [host.log_text() for host in running.hosts]
            check_logs("\n".join(logs), running.keys)
    finally:
        await asyncio.to_thread(servers.stop)


def check_logs(text: str, keys: Keys) -> None:
    """Check that a log holds no secret, nothing as long as a token, and no traceback."""
    for name, secret in vars(keys).items():
        assert secret not in text, f"{name} is in the log"
    found = _TOKEN.search(text)
    assert found is None, f"perhaps a token is in the log: {found}"
    assert "Traceback" not in text, text[text.index("Traceback") :][:3000]


def user_headers(keys: Keys, token: str) -> dict[str, str]:
    """Return the headers that let a user in."""
    return {"X-API-Key": keys.secret_token, "Authorization": f"Bearer {token}"}


def admin_headers(keys: Keys, token: str) -> dict[str, str]:
    """Return the headers that let an admin in."""
    return {"X-API-Key": keys.admin_secret_token, "Authorization": f"Bearer {token}"}


class NotUpgraded(Exception):
    """The handshake was answered with something else than 101."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"{response.status} {response.body[:300]!r}")
        self.response = response


UPGRADE: Final = {
    "Host": "gateway.example",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


async def handshake(
    port: int, target: str, headers: Mapping[str, str] | None = None
) -> tuple[Wire, Response]:
    """Send a WebSocket handshake on a new TCP connection and return its answer."""
    wire = await Wire.connect(port)
    try:
        response = await wire.request("GET", target, {**UPGRADE, **(headers or {})})
    except BaseException:
        wire.writer.transport.abort()
        raise
    return wire, response


async def answer(
    port: int,
    method: str,
    target: str,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> Response:
    """Return the answer to one HTTP request on a connection of its own."""
    async with await Wire.connect(port) as wire:
        return await wire.request(method, target, headers, body)


async def refusal(port: int, target: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return how a handshake is refused.

    :raises AssertionError: it was not.
    """
    wire, response = await handshake(port, target, headers)
    async with wire:
        assert response.status != 101, f"{target} was upgraded"
        return response


@dataclass(frozen=True)
class Frame:
    """One text message.

    :param at: when it was read, monotonic seconds.
    """

    data: bytes
    message: dict[str, object]
    at: float

    @property
    def kind(self) -> str:
        """The message's `type`."""
        return str(self.message.get("type"))

    @property
    def seq(self) -> int | None:
        """The message's `seq`."""
        seq = self.message.get("seq")
        assert seq is None or isinstance(seq, int)
        return seq

    @property
    def payload(self) -> dict[str, object]:
        """The message's `payload`."""
        payload = self.message["payload"]
        assert isinstance(payload, dict)
        return payload


_open: set[Tab] = set()


async def close_tabs() -> None:
    """End what a test has left open."""
    while _open:
        await next(iter(_open)).abort()


class Tab:
    """A WebSocket as a browser has it, with everything that came; pings are answered.

    :ivar code: status code of the server's close frame; 1006 if TCP ended without one; None while
        it is open.
    """

    def __init__(self, wire: Wire, response: Response) -> None:
        self.wire = wire
        self.response = response
        self.frames: list[Frame] = []
        self.code: int | None = None
        self.reason = ""
        self.ended_at = 0.0
        _open.add(self)
        self._read = self._pongs = self._ponged = 0
        self._news = asyncio.Condition()
        self._task = asyncio.create_task(self._receive())

    @classmethod
    async def dial(cls, port: int, target: str, headers: Mapping[str, str]) -> Self:
        """Connect; what comes then may be `ready` or the end.

        :raises NotUpgraded: the handshake was refused.
        """
        wire, response = await handshake(port, target, headers)
        if response.status != 101:
            await wire.__aexit__()
            raise NotUpgraded(response)
        return cls(wire, response)

    @classmethod
    async def open(cls, port: int, target: str, headers: Mapping[str, str]) -> Self:
        """Connect, and wait for `ready`.

        :raises NotUpgraded: the handshake was refused.
        :raises AssertionError: it ended before `ready`.
        """
        tab = await cls.dial(port, target, headers)
        try:
            await tab.next("ready")
        except BaseException:
            await tab.abort()
            raise
        return tab

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.abort()

    @property
    def ready(self) -> Frame:
        """The `ready` frame."""
        return next(f for f in self.frames if f.kind == "ready")

    @property
    def connection(self) -> str:
        """The connection's ID."""
        return str(self.ready.message["connection"])

    @property
    def events(self) -> list[Frame]:
        """All events."""
        return [f for f in self.frames if f.kind == "event"]

    @property
    def ids(self) -> list[object]:
        """The `event_id` of all events."""
        return [f.payload["event_id"] for f in self.events]

    async def next(self, kind: str = "event", timeout: float = DEADLINE) -> Frame:
        """Return the next frame of a kind; those before it count as read.

        :raises AssertionError: none came in time, or before the end.
        """
        found: Frame | None = None

        def come() -> bool:
            nonlocal found
            while self._read < len(self.frames):
                self._read += 1
                if self.frames[self._read - 1].kind == kind:
                    found = self.frames[self._read - 1]
                    return True
            return self.code is not None

        await self._wait(come, timeout, f"no {kind!r}")
        assert found is not None, f"ended with {self.code} {self.reason!r} before {kind!r}"
        return found

    async def end(self, timeout: float = DEADLINE) -> int:
        """Return the close code once the server has ended the connection."""
        await self._wait(lambda: self.code is not None, timeout, "not closed")
        assert self.code is not None
        return self.code

    async def got(self, event_id: str, timeout: float = DEADLINE) -> Frame:
        """Return an event once it has come."""
        await self._wait(lambda: event_id in self.ids, timeout, f"no {event_id!r}")
        return next(f for f in self.events if f.payload["event_id"] == event_id)

    def send(self, message: object) -> None:
        """Send a text message: a JSON value, or bytes as they are."""
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.wire.send(frame(TEXT, data))

    async def echo(self, timeout: float = DEADLINE) -> None:
        """Return when the server has answered a ping: all that it wrote before has come."""
        self._pongs += 1
        wanted = self._pongs
        self.wire.send(frame(PING, b"%d" % wanted))
        await self._wait(lambda: self._ponged >= wanted or self.code is not None, timeout, "pong")
        assert self.code is None, f"ended with {self.code} {self.reason!r}"

    async def echo_when_allowed(self) -> None:
        """Return when a ping is answered: those over the limit are not."""
        async with asyncio.timeout(DEADLINE):
            while True:
                with suppress(AssertionError):
                    return await self.echo(0.2)

    async def select_chat(self, chat_id: str) -> None:
        """Select a chat; return once it is live."""
        self.send({"type": "select_chat", "id": "select", "payload": {"chat_id": chat_id}})
        await self.next("done")

    async def close(self, code: int = 1000) -> None:
        """Close as a browser does; return when the server has answered."""
        self.wire.send(frame(CLOSE, close_payload(code)))
        await self.end()
        await self.abort()

    async def abort(self) -> None:
        """End TCP at once."""
        _open.discard(self)
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await self.wire.__aexit__()

    async def came(self, predicate: Callable[[], bool], timeout: float = DEADLINE) -> None:
        """Return when something holds of what came."""
        await self._wait(predicate, timeout, "not")

    async def _wait(self, predicate: Callable[[], bool], timeout: float, what: str) -> None:
        try:
            async with asyncio.timeout(timeout), self._news:
                await self._news.wait_for(predicate)
        except TimeoutError:
            raise AssertionError(f"{what} in {timeout:g} s; got {self.frames[-5:]}") from None

    async def _receive(self) -> None:
        try:
            while True:
                opcode, payload = await _frame(self.wire)
                if opcode == PING:
                    self.wire.send(frame(PONG, payload))
                elif opcode == PONG:
                    self._ponged = int(payload) if payload.isdigit() else self._ponged
                    async with self._news:
                        self._news.notify_all()
                elif opcode == CLOSE:
                    await self._end(int.from_bytes(payload[:2], "big"), payload[2:].decode())
                    self.wire.send(frame(CLOSE, payload[:2]))
                    return
                else:
                    assert opcode == TEXT, opcode
                    await self._take(payload)
        except (asyncio.IncompleteReadError, ConnectionError):
            await self._end(1006, "")

    async def _take(self, data: bytes) -> None:
        self.frames.append(Frame(data, json.loads(data), time.monotonic()))
        async with self._news:
            self._news.notify_all()

    async def _end(self, code: int, reason: str) -> None:
        self.code, self.reason, self.ended_at = code, reason, time.monotonic()
        async with self._news:
            self._news.notify_all()


async def _frame(wire: Wire) -> tuple[int, bytes]:
    """Read one whole frame, however long it takes to come."""
    first, second = await wire.reader.readexactly(2)
    assert first & 0xF0 == 0x80, "servers here send no fragments and no reserved bits"
    assert not second & 0x80, "servers do not mask"
    size = second
    if size > 125:
        size = int.from_bytes(await wire.reader.readexactly(2 if size == 126 else 8), "big")
    return first & 0x0F, await wire.reader.readexactly(size)


class Feed:
    """Publishes events one after the other.

    :ivar sent: how many; an event's `event_id` ends in its number.
    """

    def __init__(self, client: NatsClient) -> None:
        self._client = client
        self._jetstream = client.jetstream()
        self._run = f"{time.monotonic_ns():x}"
        self.sent = 0

    async def put(self, subject: str, event_id: str = "", **fields: object) -> str:
        """Publish an event whose ids are those of its subject; return its `event_id`."""
        event_id = event_id or f"{self._run}:{self.sent + 1}"
        payload = {"event_id": event_id, **_ids(subject), "row_data": {}, **fields}
        await self.raw(subject, json.dumps(payload).encode())
        return event_id

    async def raw(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> int:
        """Publish bytes; return their sequence."""
        self.sent += 1
        ack = await self._jetstream.publish(subject, data, headers=dict(headers or {}) or None)
        return int(ack.seq)

    @asynccontextmanager
    async def steady(self, subjects: Iterable[str], rate: float) -> AsyncIterator[Feed]:
        """Publish to these subjects in turn, `rate` events a second, until the block is left."""

        stop = False

        async def run() -> None:
            began = time.monotonic()
            for number, subject in enumerate(itertools.cycle(subjects)):
                await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
                if stop:
                    return
                await self.put(subject)

        task = asyncio.create_task(run())
        try:
            yield self
        finally:
            # Not cancelled: the library turns a cancellation into something else now and then.
            stop = True
            await task


def _ids(subject: str) -> dict[str, str]:
    parts = subject.split(".")
    ids = dict(zip(("company_id", "agent_id"), parts[1:3], strict=False))
    return ids | ({"chat_id": parts[4]} if len(parts) == 5 else {})


async def stored(redis: redis_asyncio.Redis, key: str) -> str:
    """Return the text under a key, which must be there."""
    text = await redis.get(key)
    assert isinstance(text, str), f"nothing is stored under {key}"
    return text


async def until(
    condition: Callable[[], Awaitable[bool]], timeout: float = DEADLINE, what: str = "it"
) -> None:
    """Ask again and again until it holds.

    :raises AssertionError: it never did.
    """
    deadline = time.monotonic() + timeout
    while not await condition():
        assert time.monotonic() < deadline, f"{what} did not come true in {timeout:g} s"
        await asyncio.sleep(0.02)


async def scrape(host: Host) -> dict[str, float]:
    """Return all series of a host's metrics by their full name with labels."""
    text = (await answer(host.http_port, "GET", "/metrics")).body.decode()
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}
