"""Toward pods of the older service: one `PushEvent` per event, in order for each pod.

The older service promises nothing: an event that a pod does not take, after one retry, is lost
for that pod's clients, as it is between older pods. It is counted, and said once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Final, TypeAlias

import grpc.aio
import structlog

from daisi_ws.adapters.grpc_options import PUSH_EVENT, REQUEST_ID, open_channel
from daisi_ws.adapters.grpc_tls import BadCertificate
from daisi_ws.adapters.pb.dws_message_fwd_pb2 import PushEventRequest, PushEventResponse
from daisi_ws.adapters.peer_context import PeerSettings
from daisi_ws.adapters.push_event import request_of
from daisi_ws.app.waiting import end_tasks
from daisi_ws.domain.tracing import TRACEPARENT, parted
from daisi_ws.metrics import Metrics

QUEUE: Final = 1000
"""Events that may wait for one older pod; the oldest give way."""

RETRY_SECONDS: Final = 0.2
CLOSE_SECONDS: Final = 1.0
LABEL: Final = "legacy"

_TRANSIENT: Final = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
_Push: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[PushEventRequest, PushEventResponse]"

log = structlog.get_logger(__name__)


class LegacyForwarder:
    """Hands events to older pods. To be made inside the running loop.

    :param pod_id: this pod.
    :param port: `server.grpc_port`, where older pods listen too.
    """

    def __init__(self, pod_id: str, port: int, settings: PeerSettings, metrics: Metrics) -> None:
        self._pod_id = pod_id
        self._port = port
        self._settings = settings
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._pods: dict[str, _LegacyPod] = {}

    def push(self, pod_id: str, subject: str, text: bytes, request_id: str = "") -> None:
        """Queue an event for an older pod.

        :param pod_id: its host name or IP address.
        :param subject: as published.
        :param text: the JSON text of the event frame.
        """
        pod = self._pods.get(pod_id)
        if pod is None or pod.ended:
            pod = self._pods[pod_id] = _LegacyPod(pod_id, self._settings, self._metrics)
            pod.start(_address(pod_id, self._port))
        try:
            request = request_of(subject, text, self._pod_id)
        except ValueError as problem:
            pod.lost(f"an event has no form there: {problem}")
            return
        pod.put(request, request_id)

    def apply(self, settings: PeerSettings) -> None:
        """Take over changed settings; TLS files apply from the next connection on."""
        self._settings = settings
        for pod in self._pods.values():
            pod.settings = settings

    async def aclose(self) -> None:
        """Stop; what waits is given up."""
        ending = [pod.stop() for pod in self._pods.values()]
        self._pods.clear()
        await asyncio.gather(*ending, return_exceptions=True)


class _LegacyPod:
    """One older pod: its queue, and the task that empties it.

    :attr:`ended` when it takes nothing more: it was idle for long.
    """

    def __init__(self, pod_id: str, settings: PeerSettings, metrics: Metrics) -> None:
        self._pod_id = pod_id
        self.settings = settings
        self._metrics = metrics
        self._queue: deque[tuple[PushEventRequest, str]] = deque()
        self._wake = asyncio.Event()
        self._failing = False
        self._task: asyncio.Task[None] | None = None
        self.ended = False

    def start(self, address: str) -> None:
        """Begin to hand over what is put."""
        self._task = asyncio.get_running_loop().create_task(self._run(address))

    async def stop(self) -> None:
        """End at once."""
        self.ended = True
        await end_tasks(self._task)

    def put(self, request: PushEventRequest, request_id: str) -> None:
        """Add an event at the end; the oldest gives way if there is no room."""
        if len(self._queue) >= QUEUE:
            self._queue.popleft()
            self.lost("its queue is full")
        self._queue.append((request, request_id))
        self._wake.set()

    def lost(self, reason: str) -> None:
        """Count an event that the pod does not get; said once until one gets through."""
        self._metrics.forward_retry_failure.inc()
        if not self._failing:
            self._failing = True
            log.warning("events for an older pod are lost", peer=self._pod_id, reason=reason)

    async def _run(self, address: str) -> None:
        channel: grpc.aio.Channel | None = None
        try:
            channel = await self._opened(address)
            if channel is not None:
                await self._empty(channel)
        finally:
            self.ended = True
            if channel is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE_SECONDS):
                        await channel.close()

    async def _opened(self, address: str) -> grpc.aio.Channel | None:
        """Return a channel once the TLS files are usable; None if there is nothing to do."""
        while await self._has_work():
            try:
                return open_channel(address, self.settings.tls, self.settings.forward_timeout)
            except BadCertificate as problem:
                for _ in range(len(self._queue)):
                    self._queue.popleft()
                    self.lost(str(problem))
                await asyncio.sleep(RETRY_SECONDS)
        return None

    async def _empty(self, channel: grpc.aio.Channel) -> None:
        push: _Push = channel.unary_unary(
            PUSH_EVENT,
            request_serializer=PushEventRequest.SerializeToString,
            response_deserializer=PushEventResponse.FromString,
        )
        while await self._has_work():
            await self._hand_over(push, *self._queue.popleft())
        self.ended = True

    async def _has_work(self) -> bool:
        if not self._queue:
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.settings.idle_timeout):
                    await self._wake.wait()
        return bool(self._queue)

    async def _hand_over(self, push: _Push, request: PushEventRequest, request_id: str) -> None:
        problem = await self._try(push, request, request_id)
        if problem in _TRANSIENT:
            self._metrics.forward_retry_attempts.inc()
            await asyncio.sleep(RETRY_SECONDS)
            problem = await self._try(push, request, request_id)
            if not problem:
                self._metrics.forward_retry_success.inc()
        if problem:
            self.lost(problem)
            return
        self._metrics.grpc_sent.labels(LABEL).inc()
        if self._failing:
            self._failing = False
            log.info("older pod back", peer=self._pod_id)

    async def _try(self, push: _Push, request: PushEventRequest, request_id: str) -> str:
        """Call once; return what was wrong, empty if nothing was."""
        given = zip((REQUEST_ID, TRACEPARENT), parted(request_id), strict=True)
        metadata = tuple((name, value) for name, value in given if value)
        try:
            answer = await push(request, timeout=self.settings.forward_timeout, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "" if answer.success else f"refused: {answer.message}"


def _address(pod_id: str, port: int) -> str:
    return f"[{pod_id}]:{port}" if ":" in pod_id else f"{pod_id}:{port}"
