"""The parts of one version of the product, each alone: prints JSON, microseconds of CPU by part.

A program of its own, so that it runs the tree that `PYTHONPATH` names: the pod it builds is that
tree's own (`tests/app/pods.py`), with real Redis, NATS and gRPC. CPU time of this process counts,
not the time on the clock: what waits for a server costs nothing here.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from itertools import count
from typing import Any, Final

import nats
import structlog
import uvloop

from daisi_ws.adapters.token_codec_aesgcm import AesGcmTokenCodec
from daisi_ws.app.authenticate import Authenticator
from daisi_ws.app.ports import Received
from daisi_ws.app.token_ports import TokenKey
from daisi_ws.config import testing_config
from daisi_ws.domain import subjects
from daisi_ws.domain.event import event_text
from daisi_ws.domain.frames import parse_client_message
from daisi_ws.domain.packets import Item
from daisi_ws.domain.wire import text_frame
from daisi_ws.metrics import Metrics
from tests.app.pods import InProcessPod, Tab, pod, roles

AT_ONCE: Final = 100
PATIENT: Final[dict[str, object]] = {
    "app__pod_lease_seconds": 120.0,
    "app__pod_lease_refresh_seconds": 20.0,
}
"""What is measured keeps the loop busy for longer than a pod may be silent."""

_BATCHES: Final = 5
_NS: Final = time.time_ns()
_cpu = time.process_time

Figures = dict[str, float | None]


class NoCache:
    """A token cache that knows nothing."""

    async def get(self, digest: bytes) -> bytes | None:
        """Return nothing."""
        return None

    def put(self, digest: bytes, content: bytes, ttl_seconds: float) -> None:
        """Forget it."""


def now(work: Coroutine[Any, Any, Any]) -> None:
    """Run what never has to wait, without a loop."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise RuntimeError("it waits")


class Parts:
    """Measures, and keeps what was measured.

    :param seconds: CPU time for each part.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.figures: Figures = {}

    def call(self, name: str, work: Callable[[], object]) -> None:
        """Measure a call; the median of a few batches."""
        calls = 1
        while True:
            began = _cpu()
            for _ in range(calls):
                work()
            used = _cpu() - began
            if used >= self._seconds / _BATCHES:
                break
            calls = max(calls * 2, int(calls * self._seconds / _BATCHES / max(used, 1e-4)))
        batches = [used]
        for _ in range(_BATCHES - 1):
            began = _cpu()
            for _ in range(calls):
                work()
            batches.append(_cpu() - began)
        self.figures[name] = sorted(batches)[_BATCHES // 2] / calls * 1e6

    async def steps(self, times: int, **steps: Callable[[], Awaitable[int]]) -> None:
        """Measure steps that follow one another, each answering how often it did what it does."""
        batches: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(times):
            for name, step in steps.items():
                began = _cpu()
                done = await step()
                batches[name].append((_cpu() - began) / done * 1e6)
        for name, values in batches.items():
            self.figures[name.replace("_", " ")] = sorted(values)[len(values) // 2]


def body(number: int) -> bytes:
    """Return an event's payload of about 400 bytes."""
    return (
        b'{"event_id":"%d","company_id":"acme","agent_id":"bot","chat_id":"t",'
        b'"event_time":"2026-01-01T00:00:00Z","row_data":{"text":"%b","n":%d}}'
        % (number, b"x" * 250, number)
    )


# -- without any server ---------------------------------------------------------------------------


def pure(parts: Parts) -> None:
    """Tokens, events, client messages."""
    config = testing_config()
    auth = config.auth
    authenticator = Authenticator(
        config=lambda: config,
        keys={
            "user": [TokenKey(AesGcmTokenCodec(auth.token_aes_key), NoCache())],
            "admin": [TokenKey(AesGcmTokenCodec(auth.admin_token_aes_key), NoCache())],
        },
        metrics=Metrics(),
    )
    asks = {
        "user": b'{"company_id":"acme","agent_id":"bot","user_id":"u","expires_in_seconds":3600}',
        "admin": b'{"admin_id":"root","expires_in_seconds":3600}',
    }
    parts.call("user token generated", lambda: authenticator.issue_user(asks["user"]))
    parts.call("admin token generated", lambda: authenticator.issue_admin(asks["admin"]))
    # More of them than are remembered: none is found again.
    many = auth.token_cache_size + 1000
    users = [authenticator.issue_user(asks["user"]) for _ in range(many)]
    admins = [authenticator.issue_admin(asks["admin"]) for _ in range(many)]
    numbers = count()

    def validate_user() -> None:
        token = users[next(numbers) % many]
        now(authenticator.principal("user", token, ("acme", "bot")))

    def validate_admin() -> None:
        now(authenticator.principal("admin", admins[next(numbers) % many], None))

    parts.call("user token, not cached", validate_user)
    parts.call("admin token, not cached", validate_admin)
    path = ("acme", "bot")
    parts.call("user token, cached", lambda: now(authenticator.principal("user", users[0], path)))
    parts.call(
        "admin token, cached", lambda: now(authenticator.principal("admin", admins[0], None))
    )
    data = body(1)

    def process() -> None:
        address = subjects.parse("websocket.acme.bot.chats")
        assert address is not None
        text_frame(event_text(address, data, 1))

    parts.call("event, bytes to frame", process)
    text = b'{"type":"select_chat","id":1,"payload":{"chat_id":"chat-7"}}'
    parts.call("client message", lambda: parse_client_message(text))


# -- with a pod -----------------------------------------------------------------------------------


def forget(tabs: list[Tab]) -> None:
    """Let go of what was written to sockets that are none."""
    for tab in tabs:
        tab.sink.written.clear()


class OnPods:
    """Everything that needs a pod, or two.

    :param first: reads the stream.
    """

    def __init__(self, parts: Parts, first: InProcessPod, second: InProcessPod) -> None:
        self._parts = parts
        self._first = first
        self._second = second
        self._names = count()
        self._tabs: list[Tab] = []
        self._old: list[Tab] = []

    async def measure(self, times: int, users: int) -> None:
        """Measure every part; the last ones run ahead of the stream."""
        await self._routes(times)
        await self._connections(times)
        await self._sessions(times)
        for clients in (1, 10, 100, 500):
            await self._broadcast(clients)
        await self._crowd(users)
        await self._to_sockets(times)

    async def _routes(self, times: int) -> None:
        routes, kills = self._first.parts.routes, self._first.parts.kills
        interests = [subjects.chats("acme", f"r{i}") for i in range(AT_ONCE)]

        async def route_registered() -> int:
            await routes.add(interests)
            return AT_ONCE

        async def route_read() -> int:
            await routes.owners(interests)
            return AT_ONCE

        async def route_removed() -> int:
            await routes.remove(interests)
            return AT_ONCE

        async def kill_published() -> int:
            await asyncio.gather(
                *(kills.publish(f"session_kill:acme:b:{i}", "pod", "") for i in range(AT_ONCE))
            )
            return AT_ONCE

        await self._parts.steps(
            times,
            route_registered=route_registered,
            route_read=route_read,
            route_removed=route_removed,
            kill_published=kill_published,
        )
        router = self._first.parts.router
        address = subjects.parse("websocket.acme.bot.chats")
        assert address is not None
        await router.read([address])
        self._parts.call("route looked up", lambda: router.owners(address))

    async def _connections(self, times: int) -> None:
        first = self._first

        async def registration() -> int:
            names = [f"u{next(self._names)}" for _ in range(AT_ONCE)]
            self._tabs = await asyncio.gather(*(first.user(n, agent=n) for n in names))
            return AT_ONCE

        async def deregistration() -> int:
            await asyncio.gather(*(tab.leave() for tab in self._tabs))
            return AT_ONCE

        async def lifecycle() -> int:
            await registration()
            await asyncio.gather(*(tab.choose("chat") for tab in self._tabs))
            return await deregistration()

        await self._parts.steps(
            times, registration=registration, deregistration=deregistration, lifecycle=lifecycle
        )

    async def _sessions(self, times: int) -> None:
        first, second = self._first, self._second
        names = [f"s{i}" for i in range(AT_ONCE)]
        self._old = await asyncio.gather(*(first.user(name) for name in names))

        async def replace(where: InProcessPod) -> int:
            fresh = await asyncio.gather(*(where.user(name) for name in names))
            # Their servers would notice that they were displaced, and give back the rest.
            await asyncio.gather(*(tab.leave() for tab in self._old))
            self._old = fresh
            return AT_ONCE

        async def session_conflict() -> int:
            return await replace(first)

        async def pod_handoff() -> int:
            return await replace(second)

        async def pod_handoff_back() -> int:
            return await replace(first)

        await self._parts.steps(
            times,
            session_conflict=session_conflict,
            pod_handoff=pod_handoff,
            pod_handoff_back=pod_handoff_back,
        )
        del self._parts.figures["pod handoff back"]
        await asyncio.gather(*(tab.leave() for tab in self._old))

    def _items(self, agents: list[str]) -> list[Item]:
        delivery = self._first.parts.delivery
        made = []
        for place, agent in enumerate(agents, delivery.mark + 1):
            subject = subjects.chats("acme", agent)
            address = subjects.parse(subject)
            assert address is not None
            data = body(place).replace(b'"agent_id":"bot"', b'"agent_id":"%b"' % agent.encode())
            made.append(Item(place, _NS, subject, event_text(address, data, place)))
        return made

    def _deliver(self, items: list[Item]) -> None:
        delivery = self._first.parts.delivery
        delivery.accept(delivery.epoch, delivery.stream, 0, items)
        delivery.flush()

    async def _broadcast(self, clients: int) -> None:
        tabs = await asyncio.gather(
            *(self._first.user(f"b{i}", agent="wide") for i in range(clients))
        )
        # Delivered once each: a mark behind them would drop them all.
        batches = []
        for _ in range(_BATCHES):
            items = self._items(["wide"] * max(10, 2000 // clients))
            began = _cpu()
            for item in items:
                self._deliver([item])
            batches.append((_cpu() - began) / len(items) * 1e6)
            forget(tabs)
            await asyncio.sleep(0)
        self._parts.figures[f"broadcast to {clients}"] = sorted(batches)[_BATCHES // 2]
        await asyncio.gather(*(tab.leave() for tab in tabs))

    async def _crowd(self, users: int) -> None:
        agents = [f"w{i}" for i in range(users)]
        tabs = await asyncio.gather(*(self._first.user("u", agent=agent) for agent in agents))
        items = self._items(agents * 10)
        began = _cpu()
        for start in range(0, len(items), 256):
            self._deliver(items[start : start + 256])
            await asyncio.sleep(0)
        self._parts.figures[f"{users} users x 10 messages"] = (_cpu() - began) * 1e6
        got = sum(len(tab.seqs()) for tab in tabs)
        assert got == len(items), f"{got} of {len(items)} delivered"
        await asyncio.gather(*(tab.leave() for tab in tabs))

    async def _to_sockets(self, times: int) -> None:
        """From what the NATS library hands over to the write, a hundred events in a turn."""
        tab = await self._first.user("u", agent="stream")
        ingest = self._first.parts.ingest
        subject = subjects.chats("acme", "stream")
        data = body(1).replace(b'"agent_id":"bot"', b'"agent_id":"stream"')

        async def stream_to_connection() -> int:
            position = max(ingest.position, self._first.parts.delivery.mark)
            tab.sink.written.clear()
            for seq in range(position + 1, position + 1 + AT_ONCE):
                unique = data.replace(b'"1"', b'"%d"' % seq)
                ingest.on_received(Received(seq, _NS, subject, unique, "", "", False))
            async with asyncio.timeout(10):
                while ingest.position < position + AT_ONCE or not tab.sink.written:
                    await asyncio.sleep(0)
            return AT_ONCE

        await stream_to_connection()
        await self._parts.steps(times, stream_to_connection=stream_to_connection)
        await tab.leave()


async def on_pods(parts: Parts, redis_url: str, nats_url: str, times: int, users: int) -> None:
    """Measure what needs pods."""
    client = await nats.connect(nats_url)
    try:
        async with (
            pod(redis_url, nats_url, "a", **PATIENT) as a,
            pod(redis_url, nats_url, "b", **PATIENT) as b,
        ):
            reader, other = await roles([a, b], client)
            gc.collect()
            gc.freeze()
            await OnPods(parts, reader, other).measure(times, users)
    finally:
        await client.close()


def main() -> None:
    """Arguments: URLs of an empty Redis and NATS, CPU seconds a part, repeats, users."""
    redis_url, nats_url, seconds, times, users = sys.argv[1:]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    parts = Parts(float(seconds))
    pure(parts)
    uvloop.run(on_pods(parts, redis_url, nats_url, int(times), int(users)))
    sys.stdout.write(json.dumps(parts.figures) + "\n")


if __name__ == "__main__":
    main()
