"""The client with a position, against the real gateway."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
from nats.aio.client import Client as NatsClient

from daisi_ws.client import Backoff, Event, Frame, Gap, Lost, Ready, ReferenceClient, Resumed
from tests.cluster import Cluster, cluster

WAIT = 30.0


class Witness:
    """A user who looks at a chat, with everything that was told."""

    def __init__(self, on: Cluster, user: str) -> None:
        keys, host = on.keys, on.hosts[0]
        self.frames: list[Frame] = []
        self._news = asyncio.Event()
        self.client = ReferenceClient(
            host.user_url("acme", "sales"),
            keys.secret_token,
            keys.user_token("acme", "sales", user),
            positions=True,
            on_frame=self._take,
            backoff=Backoff(0.05, 1.0),
        )

    def _take(self, frame: Frame) -> None:
        self.frames.append(frame)
        self._news.set()

    @property
    def events(self) -> list[Event]:
        return [frame for frame in self.frames if isinstance(frame, Event)]

    @property
    def readies(self) -> list[Ready]:
        return [frame for frame in self.frames if isinstance(frame, Ready)]

    @property
    def resumed(self) -> list[Resumed]:
        return [frame for frame in self.frames if isinstance(frame, Resumed)]

    @property
    def seqs(self) -> list[int]:
        return [event.seq or 0 for event in self.events]

    def has_resumed(self, times: int) -> bool:
        """Tell whether its thread was resumed so many times."""
        return len(self.resumed) >= times

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT):
            while not condition():
                self._news.clear()
                await self._news.wait()


class Flow:
    """Events of the list, of the chat and of another chat in turn, until it is stopped."""

    def __init__(self, nats: NatsClient) -> None:
        self._jetstream = nats.jetstream()
        self.wanted: list[int] = []

    async def publish(self, count: int) -> None:
        for number in range(count):
            kind = ("chats", "messages.c", "messages.other")[number % 3]
            payload = {"event_id": "e", "company_id": "acme", "row_data": {"text": "x" * 50}}
            data = msgspec.json.encode(payload)
            ack = await self._jetstream.publish(f"websocket.acme.sales.{kind}", data)
            if not kind.endswith("other"):
                self.wanted.append(ack.seq)

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        stop = asyncio.Event()

        async def run() -> None:
            while not stop.is_set():
                await self.publish(3)
                await asyncio.sleep(0.005)

        task = asyncio.create_task(run())
        try:
            yield
        finally:
            stop.set()
            await task

    async def more(self, count: int) -> None:
        """Return once so many more are in the stream."""
        goal = len(self.wanted) + count
        async with asyncio.timeout(WAIT):
            while len(self.wanted) < goal:
                await asyncio.sleep(0.01)


async def test_cut_connections_lose_nothing(
    tmp_path: Path, redis_url: str, nats_url: str, nats: NatsClient
) -> None:
    """What is published while the client is cut off again and again comes once, told as recovered;
    the list's events come in order, and the thread's do.
    """
    async with cluster(tmp_path, redis_url, nats_url, hosts=1, workers=2) as on:
        witness, flow = Witness(on, "ana"), Flow(nats)
        async with witness.client as client:
            await client.select_chat("c")
            async with flow.going_on():
                for cut in range(3):
                    await flow.more(20)
                    client.drop()
                    await witness.until(partial(witness.has_resumed, cut + 1))
            await witness.until(lambda: len(witness.seqs) >= len(flow.wanted))
            assert client.reconnects >= 3
    assert sorted(witness.seqs) == flow.wanted
    for of_thread in (False, True):
        part = [e.seq for e in witness.events if e.is_of_thread() is of_thread]
        assert part == sorted(part, key=lambda seq: seq or 0)
    assert all(ready.recovered for ready in witness.readies[1:])
    assert all(resumed.recovered for resumed in witness.resumed)


async def test_a_rolling_restart_is_seamless(
    tmp_path: Path, redis_url: str, nats_url: str, nats: NatsClient
) -> None:
    """The client moves; nothing is lost or doubled, and there is always a `ready` connection."""
    environment = {"DAISI_WS_SERVER_SHUTDOWN_DELAY_SECONDS": "0"}
    async with cluster(
        tmp_path, redis_url, nats_url, hosts=1, workers=2, environment=environment
    ) as on:
        witness, flow = Witness(on, "ana"), Flow(nats)
        async with witness.client as client:
            await client.select_chat("c")
            async with flow.going_on():
                await flow.more(20)
                on.hosts[0].signal(signal.SIGUSR2)
                await witness.until(lambda: client.moves)
                await flow.more(50)
            await witness.until(lambda: len(witness.seqs) >= len(flow.wanted))
            assert client.outages.seconds == 0.0
    assert sorted(witness.seqs) == flow.wanted
    assert not [frame for frame in witness.frames if isinstance(frame, Lost | Gap)]
