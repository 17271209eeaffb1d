"""The wiring of a worker: every part of a pod, read top to bottom.

Only here are concrete adapters named.
"""

from __future__ import annotations

import os
import time

from daisi_ws import __version__
from daisi_ws.adapters.certificates import Certificates
from daisi_ws.adapters.grpc_probe import GrpcProbe
from daisi_ws.adapters.grpc_server import GrpcServer, ServerSettings
from daisi_ws.adapters.grpc_tls import TlsFiles
from daisi_ws.adapters.http_protocol import HttpSettings
from daisi_ws.adapters.http_server import HttpServer
from daisi_ws.adapters.http_tls import ServedTls
from daisi_ws.adapters.kills_redis import KillsRedis
from daisi_ws.adapters.legacy_grpc import LegacyForwarder
from daisi_ws.adapters.locks_redis import LocksRedis
from daisi_ws.adapters.nats_connection import NatsConnection, NatsSettings
from daisi_ws.adapters.nats_consumer import NatsConsumer
from daisi_ws.adapters.nats_stream import JetStream
from daisi_ws.adapters.peer_context import PeerSettings
from daisi_ws.adapters.peers_grpc import PeersGrpc
from daisi_ws.adapters.pods_redis import PodsRedis
from daisi_ws.adapters.redis_cluster import redis_link
from daisi_ws.adapters.redis_connect import RedisOpener
from daisi_ws.adapters.routes_redis import RoutesRedis
from daisi_ws.app.authenticate import Authenticator
from daisi_ws.app.health import Health, dead_server
from daisi_ws.app.heart import Heart, HeartSettings
from daisi_ws.app.ports import PodRecord
from daisi_ws.app.readiness import Clock, Readiness
from daisi_ws.app.readiness_parts import (
    ConsumerPart,
    GrpcPart,
    LoopPart,
    MembershipPart,
    RedisPart,
    StreamPart,
)
from daisi_ws.app.readiness_reader import ReaderPart
from daisi_ws.config import Config, nats_tls, redis_tls
from daisi_ws.domain.consumer import ConsumerSettings
from daisi_ws.domain.packets import Item
from daisi_ws.domain.slots import WorkerContext
from daisi_ws.metrics import Metrics
from daisi_ws.worker.address import advertised_host, host_port
from daisi_ws.worker.figures import Figures
from daisi_ws.worker.live import LiveConfig
from daisi_ws.worker.token_keys import secrets_of, token_keys
from daisi_ws.worker.use_cases import Ports, UseCases


class Parts(UseCases):
    """All parts of one pod, connected but not started. Nothing here does I/O."""

    def __init__(self, live: LiveConfig, context: WorkerContext) -> None:
        config = live()
        self._live = live
        self._startup = config
        self._context = context
        self._http_settings = HttpSettings.from_config(config)
        self._started = time.time()
        self.figures = Figures()
        self._address = host_port(advertised_host(config), context.grpc_port)
        self._http_port = context.listener.getsockname()[1]
        self.metrics = Metrics()
        self._make_redis()
        self._make_stream()
        self._make_peers()
        self._make_authenticator()
        super().__init__(context.pod_id, live, self.metrics, self._ports_made())
        self.jetstream.on_new(self.delivery.follow)
        self.heart = Heart(self.hub, lambda: HeartSettings.from_config(live()), self.metrics)
        live.on_change(self._apply)
        self._make_servers()

    # -- what there is ----------------------------------------------------------------------------

    def _make_redis(self) -> None:
        config, live, pod_id = self._startup, self._live, self._context.pod_id
        stream, shared = config.nats.stream_name, config.nats.consumer_mode == "shared"
        self.link = redis_link(RedisOpener(config.redis))
        self.pods = PodsRedis(self.link, stream, lambda: live().app.pod_lease_seconds)
        self.routes = RoutesRedis(
            self.link, pod_id, stream, lambda: live().app.route_ttl_seconds, shared
        )
        self.locks = LocksRedis(self.link)
        self.kills = KillsRedis(self.link)

    def _make_stream(self) -> None:
        nats, app = self._startup.nats, self._startup.app
        self.nats = NatsConnection(NatsSettings.from_config(nats), name=self._context.pod_id)
        self.jetstream = JetStream(
            self.nats,
            nats.stream_name,
            bool(nats.create_stream),
            nats.dead_letter_subject,
            nats.stream_replicas,
        )
        consumer = ConsumerSettings(
            name=nats.consumer_name,
            mode=nats.consumer_mode,
            ack_wait=app.nats_ack_wait_seconds,
            max_ack_pending=app.nats_max_ack_pending,
            priority_timeout=nats.priority_timeout_seconds,
        )
        self.stream = NatsConsumer(
            self.nats, self.jetstream, consumer, nats.max_outstanding, lambda: self.delivery.mark
        )

    def _make_peers(self) -> None:
        pod_id, settings = self._context.pod_id, PeerSettings.from_config(self._startup)
        self.peers = PeersGrpc(
            pod_id,
            self._address_of,
            settings,
            self.metrics,
            lease_gone=lambda _: self.membership.wake(),
        )
        port = self._startup.server.grpc_port
        self.legacy = LegacyForwarder(pod_id, port, settings, self.metrics)

    def _make_authenticator(self) -> None:
        self._token_secrets = secrets_of(self._startup)
        self.authenticator = Authenticator(
            config=self._live,
            keys=token_keys(self._token_secrets, self.link),
            metrics=self.metrics,
        )

    def _ports_made(self) -> Ports:
        return Ports(
            pods=self.pods,
            routes=self.routes,
            locks=self.locks,
            kills=self.kills,
            stream=self.stream,
            peers=self.peers,
            tokens=self.authenticator,
            record=self._record,
            legacy=self._push_legacy if self._startup.app.forward_to_legacy_pods else None,
        )

    def _make_servers(self) -> None:
        self.grpc = GrpcServer(
            self.inbound,
            ServerSettings.from_config(self._startup, advertised_host(self._startup)),
            self.metrics,
            self._context.pod_id,
        )
        self.delivery.on_accepted(self.grpc.accepted_changed)
        self._make_readiness()
        self._make_certificates()
        self.http = HttpServer(
            settings=lambda: self._http_settings,
            authenticator=self.authenticator,
            gateway=self.admission,
            probes=self.health,
            metrics=self.metrics,
            writable=self.delivery.writable,
            census=self._context.census,
        )

    def _make_certificates(self) -> None:
        """TLS of the HTTP port, and a look at all certificates."""
        config, server = self._startup, self._startup.server
        self.http_tls = ServedTls(server.http_tls) if server.http_tls.enabled else None
        self.certificates = Certificates(
            {
                "http": server.http_tls,
                "grpc": server.grpc_tls,
                "nats": nats_tls(config.nats),
                "redis": redis_tls(config.redis),
            },
            self.metrics,
        )
        if self.http_tls is not None:
            self.certificates.on_renewed("http", self.http_tls.renew)
        if peers := TlsFiles.from_config(server.grpc_tls):
            name = advertised_host(config)
            self.certificates.on_renewed("grpc", lambda: peers.check(name))
        self._live.on_change(lambda _: self.certificates.look())

    def _make_readiness(self) -> None:
        """Follow the way from the stream to a socket: what `/ready` tells, and `/health`."""
        live, config = self._live, self._startup
        redis = RedisPart(self.link, self.pods, self.routes)
        consumer = ConsumerPart(self.nats, self.stream)
        reader = self._reader_part(redis, consumer)
        call = GrpcProbe(
            config.server.grpc_host,
            self._context.grpc_port,
            advertised_host(config),
            lambda: TlsFiles.from_config(live().server.grpc_tls),
        )
        grpc = GrpcPart(lambda: self.grpc.serving, call)
        membership = MembershipPart(self.membership, lambda: live().app.pod_lease_refresh_seconds)
        stream, loop = StreamPart(self.nats, self.stream), LoopPart(self.delivery)
        self.readiness = Readiness(
            [loop, redis, membership, stream, consumer, reader, grpc],
            [redis, consumer, reader, grpc],
            Clock(),
        )
        self.health = Health(
            self._context.pod_id,
            self.readiness,
            [
                lambda: "" if self.link.working else "nothing keeps up the connection to Redis",
                lambda: "" if self.stream.working else "nothing keeps up the reading",
                lambda: dead_server(self.readiness.states()["grpc"], grpc.files_used_up),
            ],
        )

    def _reader_part(self, redis: RedisPart, consumer: ConsumerPart) -> ReaderPart:
        config = self._startup
        return ReaderPart(
            pod_id=self._context.pod_id,
            shared=self._shared,
            ingest=self.ingest,
            inbound=self.inbound,
            peers=self.peers,
            registry=self.pods,
            redis=redis,
            consumer=consumer,
            handover=config.nats.priority_timeout_seconds,
            most_unacknowledged=config.app.nats_max_ack_pending,
        )

    def _record(self) -> PodRecord:
        figures = self.figures
        return PodRecord(
            pod_id=self._context.pod_id,
            host=self._startup.server.pod_id,
            slot=self._context.slot,
            generation=self._context.generation,
            address=self._address,
            http_port=self._http_port,
            started=self._started,
            version=__version__,
            pid=os.getpid(),
            connections=len(self.hub),
            ready=not self.health.problems(),
            stream=self.delivery.stream,
            position=self.delivery.mark,
            events=figures.events,
            deliveries=figures.deliveries,
            p50_ms=figures.p50_ms,
            p99_ms=figures.p99_ms,
            waits=self._live.waits,
        )

    def _apply(self, config: Config) -> None:
        """Hand a reloaded configuration to who does not ask for it each time."""
        self.peers.apply(PeerSettings.from_config(config))
        self._http_settings = HttpSettings.from_config(config)
        self.legacy.apply(PeerSettings.from_config(config))
        if (secrets := secrets_of(config)) != self._token_secrets:
            self._token_secrets = secrets
            self.authenticator.rekey(token_keys(secrets, self.link))
        app = config.app
        self.delivery.limit(
            app.websocket_message_buffer_size,
            app.websocket_max_buffer_bytes,
            app.websocket_backpressure_drop_policy,
        )

    def _push_legacy(self, pod_id: str, item: Item) -> None:
        self.legacy.push(pod_id, item.subject, item.text, item.request_id)

    async def _address_of(self, pod_id: str) -> str | None:
        return await self.membership.address_of(pod_id)
