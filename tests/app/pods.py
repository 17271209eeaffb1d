"""Whole pods in the test's own process: real Redis, NATS and gRPC, sinks instead of sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

from nats.aio.client import Client as NatsClient

from daisi_ws.app.connection import Connection
from daisi_ws.app.ingest import Reading
from daisi_ws.config import testing_config
from daisi_ws.domain import principal
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.frames import ResumeFrom, SelectChat
from daisi_ws.domain.resume import Claim
from daisi_ws.domain.slots import ConfigSource, WorkerContext
from daisi_ws.embedded import free_ports
from daisi_ws.worker.live import LiveConfig
from daisi_ws.worker.parts import Parts
from daisi_ws.worker.tasks import Tasks
from tests.app.connections import FOREVER, FakeSink

_numbers = count(1)


class Tab:
    """A client of a pod: its connection, and the sink that stands for its socket."""

    def __init__(self, pod: InProcessPod, connection: Connection) -> None:
        self.pod = pod
        self.connection = connection
        self.sink = FakeSink()
        pod.parts.admission.open(connection, self.sink)

    def seqs(self) -> list[object]:
        """Return the sequences of the events that were written."""
        return [m["seq"] for m in self.sink.messages() if m["type"] == "event"]

    async def choose(self, chat: str, claim: Claim | None = None) -> None:
        """Select a chat; returns when it is complete."""
        message = SelectChat(chat, claim=claim)
        await self.pod.parts.admission.select_chat(self.connection, message)

    async def resume(self, claim: Claim) -> None:
        """Ask for what came after a position."""
        await self.pod.parts.admission.resume(self.connection, ResumeFrom(claim))

    async def leave(self) -> None:
        """Close the tab."""
        await self.pod.parts.admission.leave(self.connection, CloseReason.CLIENT_LEFT)


class InProcessPod:
    """One pod without HTTP; started and stopped by :func:`pod`."""

    def __init__(self, redis_url: str, nats_url: str, name: str, **config: object) -> None:
        values: dict[str, object] = {
            "redis__address": redis_url,
            "nats__url": nats_url,
            "nats__create_stream": True,
            "nats__priority_timeout_seconds": 1.0,
            "app__pod_lease_seconds": 2.0,
            "app__pod_lease_refresh_seconds": 0.1,
            "server__grpc_host": "127.0.0.1",
        }
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.pod_id = f"{name}-0-{1_000_000_000_000 + next(_numbers)}"
        context = WorkerContext(
            slot=0,
            workers=1,
            generation=1,
            lane=0,
            pod_id=self.pod_id,
            predecessor=None,
            grpc_port=free_ports(1),
            supervisor_id=name,
            supervisor_pid=1,
            lifeline_fd=-1,
            report_fd=-1,
            listener=self._listener,
        )
        live = LiveConfig(testing_config(**(values | config)), ConfigSource(Path(), {}, {}))
        self.parts = Parts(live, context)
        self._port = context.grpc_port
        self.failures: list[BaseException] = []
        self.tasks = Tasks(self.failures.append)

    async def start(self) -> None:
        """Join the cluster and stand by."""
        parts = self.parts
        parts.link.start()
        await parts.link.wait_up()
        await parts.nats.connect_once()
        await parts.grpc.start("127.0.0.1", self._port)
        await parts.membership.join()
        await parts.stream.prepare()
        parts.delivery.start_at(parts.jetstream.identity, await parts.stream.ack_floor())
        await parts.stream.start(parts.ingest)
        self.tasks.spawn("membership", parts.membership.run())
        self.tasks.spawn("pulse", parts.pulse.run())

    async def stop(self) -> None:
        """Leave without ceremony."""
        parts = self.parts
        await self.tasks.cancel()
        await parts.stream.resign()
        parts.ingest.stop()
        await parts.interests.aclose()
        await parts.peers.aclose()
        await parts.replays.aclose()
        await parts.grpc.stop(0.1)
        await parts.nats.aclose()
        await parts.sessions.aclose()
        await parts.link.aclose()
        self._listener.close()
        assert not self.failures

    async def user(
        self, name: str, company: str = "acme", agent: str = "bot", claim: Claim | None = None
    ) -> Tab:
        """Connect a user."""
        who = principal.user(company, agent, name, FOREVER)
        return Tab(self, await self.parts.admission.admit(who, "request", claim))

    async def admin(
        self, name: str, company: str = "*", agent: str = "*", claim: Claim | None = None
    ) -> Tab:
        """Connect an admin."""
        who = principal.admin(name, FOREVER, company, agent)
        return Tab(self, await self.parts.admission.admit(who, "request", claim))


@asynccontextmanager
async def pod(
    redis_url: str, nats_url: str, name: str = "pod", **config: object
) -> AsyncIterator[InProcessPod]:
    """Run a pod until the block is left."""
    made = InProcessPod(redis_url, nats_url, name, **config)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def publish(nats: NatsClient, kind: str = "chats", agent: str = "acme.bot") -> int:
    """Publish an event; return its sequence."""
    company, bot = agent.split(".")
    event = {"event_id": "e", "company_id": company, "agent_id": bot, "row_data": {}}
    subject = f"websocket.{agent}.{kind}"
    ack = await nats.jetstream().publish(subject, json.dumps(event).encode(), timeout=5)
    return int(ack.seq)


async def roles(pods: list[InProcessPod], nats: NatsClient) -> tuple[InProcessPod, InProcessPod]:
    """Return the reader, made by a first event, and the other pod."""
    await publish(nats, agent="nobody.here")
    await until(lambda: any(p.parts.ingest.state is Reading.READER for p in pods))
    reader, other = sorted(pods, key=lambda p: p.parts.ingest.state is not Reading.READER)
    return reader, other


async def until(done: Callable[[], bool], timeout: float = 10.0) -> None:
    """Return once `done` is true."""
    async with asyncio.timeout(timeout):
        while not done():
            await asyncio.sleep(0.005)
