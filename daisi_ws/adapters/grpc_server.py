"""The gRPC server of a pod: Forward and PushEvent, health, reflection.

It hands everything to :class:`daisi_ws.app.ports.Inbound` and cannot reach routing: a forwarded
event cannot loop.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, NoReturn, TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from daisi_ws.adapters.forward_stream import Context, ForwardStream, WrongPod
from daisi_ws.adapters.grpc_options import REQUEST_ID, SERVICE, server_options, unwrap, wrap
from daisi_ws.adapters.grpc_tls import TlsFiles, server_credentials
from daisi_ws.adapters.pb.dws_message_fwd_pb2 import PushEventRequest, PushEventResponse
from daisi_ws.adapters.push_event import payload_of, subject_of
from daisi_ws.app.ports import Inbound
from daisi_ws.config import Config
from daisi_ws.domain.errors import Refusal
from daisi_ws.domain.packets import MalformedPacket
from daisi_ws.domain.tracing import TRACEPARENT, traceparent_of
from daisi_ws.log import RateLimit
from daisi_ws.metrics import Metrics

LOG_SECONDS: Final = 10.0
"""At most one line about malformed packets in this time."""

PushContext: TypeAlias = "grpc.aio.ServicerContext[PushEventRequest, PushEventResponse]"

_LIBRARY: Final = logging.getLogger("grpc._cython.cygrpc")

log = structlog.get_logger(__name__)


def _is_news(record: logging.LogRecord) -> bool:
    """Tell whether a line of the library says more than that a peer was gone before our answer,
    which it reports as an error with a traceback.
    """
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or kind.__name__ != "ExecuteBatchError"


class CannotListen(Exception):
    """The gRPC port cannot be had: the message names it and says why."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The configuration of the gRPC server.

    :param forward_timeout: seconds of silence after which peers give this pod up.
    :param name: host name or IP address that peers connect to, which our certificate must name.
    """

    reflection: bool = False
    forward_timeout: float = 5.0
    tls: TlsFiles | None = None
    name: str = ""

    @classmethod
    def from_config(cls, config: Config, name: str = "") -> ServerSettings:
        """Take what concerns the gRPC server from the configuration."""
        return cls(
            reflection=config.server.enable_reflection,
            forward_timeout=config.app.grpc_client_forward_timeout_seconds,
            tls=TlsFiles.from_config(config.server.grpc_tls),
            name=name,
        )


class GrpcServer:
    """Serves the other pods. To be made inside the running loop.

    :param inbound: what is asked of this pod.
    :param pod_id: this pod: streams that are meant for another one are refused.
    """

    def __init__(
        self, inbound: Inbound, settings: ServerSettings, metrics: Metrics, pod_id: str = ""
    ) -> None:
        self._pod_id = pod_id
        self._inbound = inbound
        self._limit = RateLimit(LOG_SECONDS)
        self._settings = settings
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._streams: set[ForwardStream] = set()
        self._health = health.aio.HealthServicer()
        self._telling: set[asyncio.Task[None]] = set()
        self._server: grpc.aio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen and serve; health says NOT_SERVING until :meth:`set_serving`.

        :param port: 0 takes any free port.
        :return: the port.
        :raises CannotListen: the port is taken, or the address is not ours.
        :raises BadCertificate: a PEM file is unusable.
        """
        _LIBRARY.addFilter(_is_news)
        server = grpc.aio.server(options=server_options())
        server.add_generic_rpc_handlers((self._handlers(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._settings.reflection:
            names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        await self._tell_health(serving=False)
        bound = self._listen(server, host, port)
        await server.start()
        self._server = server
        return bound

    @property
    def serving(self) -> bool:
        """Tell whether the server listens."""
        return self._server is not None

    def set_serving(self, serving: bool) -> None:
        """Tell the standard health service whether this pod is ready."""
        task = self._loop.create_task(self._tell_health(serving))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    @property
    def streams(self) -> int:
        """Return how many peers have a stream open."""
        return len(self._streams)

    def accepted_changed(self) -> None:
        """Tell the peers whose events were withheld that more is accepted; at any time."""
        for stream in self._streams:
            stream.refresh()

    async def stop(self, grace_seconds: float) -> None:
        """End the streams in good order, and close the port.

        :param grace_seconds: other calls may take so long.
        """
        server, self._server = self._server, None
        if server is None:
            return
        await self._tell_health(serving=False)
        for stream in list(self._streams):
            stream.close()
        await server.stop(grace_seconds)

    def _handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Forward": grpc.stream_stream_rpc_method_handler(
                    self._forward, request_deserializer=unwrap, response_serializer=wrap
                ),
                "PushEvent": grpc.unary_unary_rpc_method_handler(
                    self._push_event,
                    request_deserializer=_push_event_request,
                    response_serializer=PushEventResponse.SerializeToString,
                ),
            },
        )

    def _listen(self, server: grpc.aio.Server, host: str, port: int) -> int:
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._settings.tls is None:
                return server.add_insecure_port(address)
            credentials = server_credentials(self._settings.tls, self._settings.name)
            return server.add_secure_port(address, credentials)
        except RuntimeError as error:
            reason = _why_not(host, port) or str(error)
            raise CannotListen(f"cannot listen for gRPC on {address}: {reason}") from None

    async def _tell_health(self, serving: bool) -> None:
        states = health_pb2.HealthCheckResponse
        state = states.SERVING if serving else states.NOT_SERVING
        for service in ("", SERVICE):
            await self._health.set(service, state)

    # -- what is called ---------------------------------------------------------------------

    async def _forward(self, _requests: AsyncIterator[bytes], context: Context) -> None:
        beat = min(1.0, self._settings.forward_timeout / 3)
        stream = ForwardStream(self._inbound, self._metrics, context, beat, self._pod_id)
        self._streams.add(stream)
        try:
            await stream.run()
        except MalformedPacket as problem:
            await self._refuse(stream.peer, context, problem)
        except WrongPod as problem:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(problem))
        finally:
            self._streams.discard(stream)

    async def _refuse(self, peer: str, context: Context, problem: MalformedPacket) -> NoReturn:
        suppressed = self._limit.allow("malformed packet")
        if suppressed is not None:
            log.warning(
                "malformed packet",
                peer=peer,
                address=context.peer(),
                problem=str(problem),
                suppressed=suppressed,
            )
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"malformed packet: {problem}")

    async def _push_event(
        self, request: PushEventRequest | None, context: PushContext
    ) -> PushEventResponse:
        if request is None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "this is no PushEventRequest")
        if not request.HasField("payload"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request has no payload")
        try:
            with structlog.contextvars.bound_contextvars(**_correlation(context)):
                done = self._inbound.push_event(
                    subject_of(request),
                    request.payload.event_id,
                    payload_of(request),
                    request.source_pod_id,
                )
        except Refusal as refusal:
            details = f": {refusal.details}" if refusal.details else ""
            return PushEventResponse(success=False, message=f"{refusal.message}{details}")
        self._metrics.tally.pushed_in += 1
        return PushEventResponse(success=True, message=done)


def _push_event_request(message: bytes) -> PushEventRequest | None:
    """Return a parsed request; None, which is refused without a traceback, if it is none."""
    try:
        return PushEventRequest.FromString(message)
    except DecodeError:
        return None


def _correlation(context: PushContext) -> dict[str, str]:
    """Return the log context that the caller gave."""
    given = {key: str(value) for key, value in context.invocation_metadata() or ()}
    found = {"request_id": given.get(REQUEST_ID, "")[:128]}
    if parent := traceparent_of(given.get(TRACEPARENT, "")):
        found[TRACEPARENT] = parent
    return found


def _why_not(host: str, port: int) -> str:
    """Return why an address cannot be bound: gRPC itself does not say."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return ""
