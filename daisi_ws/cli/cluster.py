"""The cluster as Redis and NATS know it, read without any gateway's help."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from daisi_ws.adapters.nats_binding import CONSUMER_NOT_FOUND
from daisi_ws.adapters.nats_connection import ApiError, NatsConnection, NatsSettings
from daisi_ws.adapters.nats_stream import STREAM_NOT_FOUND
from daisi_ws.adapters.pods_redis import PodsRedis
from daisi_ws.adapters.redis_cluster import ClusterLink, redis_link
from daisi_ws.adapters.redis_connect import RedisOpener
from daisi_ws.adapters.redis_link import RedisLink
from daisi_ws.app.ports import PodRecord, ReaderRecord
from daisi_ws.cli.links import CONNECT_SECONDS, nats_away, redis_away, stream_missing
from daisi_ws.config import Config
from daisi_ws.domain.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is not well, and what can be done about it."""

    problem: str
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class StreamState:
    """The stream: its size, and the consumer that all pods share.

    :param consumer: its info from the JetStream API; None if there is none.
    """

    name: str
    subjects: Sequence[str]
    messages: int
    first_seq: int
    last_seq: int
    consumer: Mapping[str, Any] | None

    @property
    def ack_floor(self) -> int:
        """Return the sequence up to which everything is acknowledged."""
        return int((self.consumer or {}).get("ack_floor", {}).get("stream_seq", 0))

    @property
    def pending(self) -> int:
        """Return how many events no pod has read."""
        return int((self.consumer or {}).get("num_pending", 0))

    @property
    def ack_pending(self) -> int:
        """Return how many events were read and are not acknowledged."""
        return int((self.consumer or {}).get("num_ack_pending", 0))

    @property
    def mode(self) -> str:
        """Return the consumer mode that its configuration amounts to."""
        config = (self.consumer or {}).get("config", {})
        return "ordered" if config.get("priority_policy") == "pinned_client" else "shared"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The cluster at one moment.

    :param reader: the last pod that became the reader; it may have gone.
    :param stream: None if NATS is away or has no such stream.
    """

    pods: Sequence[PodRecord] = ()
    reader: ReaderRecord | None = None
    stream: StreamState | None = None
    troubles: Sequence[Trouble] = field(default_factory=list)

    @property
    def reading(self) -> str | None:
        """Return the pod that reads the stream now, None if nobody is known to."""
        alive = {pod.pod_id for pod in self.pods}
        reader = self.reader
        return reader.pod_id if reader is not None and reader.pod_id in alive else None


class Observer:
    """Reads snapshots over one connection each to Redis and NATS, kept up in the background."""

    def __init__(
        self, config: Config, link: RedisLink | ClusterLink, connection: NatsConnection
    ) -> None:
        self._config = config
        self._link = link
        self._nats = connection
        self.pods = PodsRedis(link, config.nats.stream_name, lambda: config.app.pod_lease_seconds)

    @classmethod
    @asynccontextmanager
    async def open(cls, config: Config) -> AsyncIterator[Observer]:
        """Connect for the time of the block; what is away shows in the snapshots."""
        link = redis_link(RedisOpener(config.redis))
        connection = NatsConnection(NatsSettings.from_config(config.nats), "daisi-ws status")
        connected = asyncio.Event()
        connection.on_up(connected.set)
        link.start()
        connection.start()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONNECT_SECONDS):
                    await link.wait_up()
                    await connected.wait()
            yield cls(config, link, connection)
        finally:
            await connection.aclose()
            await link.aclose()

    async def snapshot(self) -> Snapshot:
        """Return the cluster as it is now; never raises for what is away."""
        (pods, reader, of_redis), (stream, of_nats) = await asyncio.gather(
            self._read_redis(), self._read_nats()
        )
        troubles = [*of_redis, *of_nats]
        if not of_redis:
            troubles += _of_pods(pods, tls=self._config.server.http_tls.enabled)
        return Snapshot(pods, reader, stream, troubles)

    async def _read_redis(
        self,
    ) -> tuple[Sequence[PodRecord], ReaderRecord | None, Sequence[Trouble]]:
        try:
            pods = await self.pods.records()
            reader = await self.pods.reader()
        except Unavailable:
            away = redis_away(self._config.redis, self._link.problem)
            return (), None, [Trouble(away.message, away.next_step)]
        return sorted(pods, key=lambda pod: (pod.host, pod.slot, pod.generation)), reader, ()

    async def _read_nats(self) -> tuple[StreamState | None, Sequence[Trouble]]:
        nats = self._config.nats
        try:
            info = await self._nats.request(f"STREAM.INFO.{nats.stream_name}", {})
            consumer, troubles = await self._read_consumer()
        except ApiError as error:
            missing = stream_missing(self._config)
            if error.code == STREAM_NOT_FOUND:
                return None, [Trouble(missing.message, missing.next_step)]
            return None, [Trouble(f"NATS refused: {error}")]
        except Unavailable:
            away = nats_away(self._config, self._nats.problem)
            return None, [Trouble(away.message, away.next_step)]
        state = info["state"]
        stream = StreamState(
            name=nats.stream_name,
            subjects=info["config"].get("subjects", []),
            messages=int(state["messages"]),
            first_seq=int(state["first_seq"]),
            last_seq=int(state["last_seq"]),
            consumer=consumer,
        )
        return stream, troubles

    async def _read_consumer(self) -> tuple[Mapping[str, Any] | None, Sequence[Trouble]]:
        nats = self._config.nats
        subject = f"CONSUMER.INFO.{nats.stream_name}.{nats.consumer_name}"
        try:
            return await self._nats.request(subject, {}), ()
        except ApiError as error:
            if error.code != CONSUMER_NOT_FOUND:
                raise
        problem = f"the stream {nats.stream_name} has no consumer {nats.consumer_name}"
        return None, [Trouble(problem, "The first pod makes it: `daisi-ws serve`.")]


def _of_pods(pods: Sequence[PodRecord], *, tls: bool) -> list[Trouble]:
    scheme = "https" if tls else "http"
    if not pods:
        return [Trouble("no pods are running", "Start one: `daisi-ws serve`.")]
    return [
        Trouble(
            f"{pod.pod_id} is NOT READY",
            f"{scheme}://{_host(pod)}:{pod.http_port}/ready says why.",
        )
        for pod in pods
        if not pod.ready
    ]


def _host(pod: PodRecord) -> str:
    return pod.address.rpartition(":")[0]
