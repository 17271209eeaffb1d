"""The wiring of a worker: every part of a pod, read top to bottom.

Only here are concrete adapters named.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

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
from daisi_ws.app.admit import Admission
from daisi_ws.app.authenticate import Authenticator
from daisi_ws.app.delivery import Delivery
from daisi_ws.app.health import Health, dead_server
from daisi_ws.app.heart import Heart, HeartSettings
from daisi_ws.app.hub import Hub
from daisi_ws.app.inbound import Inbound
from daisi_ws.app.ingest import Ingest
from daisi_ws.app.interests import Interests
from daisi_ws.app.membership import Membership
from daisi_ws.app.ports import PodRecord, Position
from daisi_ws.app.pulse import Pulse
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
from daisi_ws.app.renew import Renewal
from daisi_ws.app.replay import Replays
from daisi_ws.app.resume import Resumption
from daisi_ws.app.route import Router
from daisi_ws.app.takeover import Takeover
from daisi_ws.config import Config
from daisi_ws.domain.consumer import ConsumerSettings
from daisi_ws.domain.outbox import Outbox
from daisi_ws.domain.packets import Item
from daisi_ws.domain.slots import WorkerContext
from daisi_ws.domain.ttl import adaptive_ttl
from daisi_ws.metrics import Metrics
from daisi_ws.worker.address import advertised_host, host_port
from daisi_ws.worker.figures import Figures
from daisi_ws.worker.live import LiveConfig
from daisi_ws.worker.token_keys import secrets_of, token_keys


class Parts:
    """All parts of one pod, connected but not started. Nothing here does I/O."""

    def __init__(self, live: LiveConfig, context: WorkerContext) -> None:
        config = live()
        self._live = live
        self._config = config
        self._context = context
        self._http_settings = HttpSettings.from_config(config)
        self._shared = config.nats.consumer_mode == "shared"
        self._started = time.time()
        self.figures = Figures()
        self._address = host_port(advertised_host(config), context.grpc_port)
        self._http_port = context.listener.getsockname()[1]
        self.metrics = Metrics()
        self.hub = Hub()
        self.delivery = Delivery(self.hub, self.metrics)
        self._make_redis()
        self._make_stream()
        self._make_peers()
        self._make_use_cases()
        self._make_servers()

    # -- what there is ----------------------------------------------------------------------------

    def _make_redis(self) -> None:
        config, live, pod_id = self._config, self._live, self._context.pod_id
        stream = config.nats.stream_name
        self.link = redis_link(RedisOpener(config.redis))
        self.pods = PodsRedis(self.link, stream, lambda: live().app.pod_lease_seconds)
        self.routes = RoutesRedis(
            self.link, pod_id, stream, lambda: live().app.route_ttl_seconds, self._shared
        )
        self.locks = LocksRedis(self.link)
        self.kills = KillsRedis(self.link)

    def _make_stream(self) -> None:
        nats, app = self._config.nats, self._config.app
        self.nats = NatsConnection(NatsSettings.from_config(nats), name=self._context.pod_id)
        self.jetstream = JetStream(
            self.nats,
            nats.stream_name,
            bool(nats.create_stream),
            nats.dead_letter_subject,
            nats.stream_replicas,
        )
        self.jetstream.on_new(self.delivery.follow)
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
        self.router = Router(self.routes, self._context.pod_id, self.metrics.tally)
        self.peers = PeersGrpc(
            self._context.pod_id,
            self._address_of,
            PeerSettings.from_config(self._config),
            self.metrics,
            lease_gone=lambda _: self.membership.wake(),
        )
        self.ingest = Ingest(
            pod_id=self._context.pod_id,
            shared=self._shared,
            stream=self.stream,
            router=self.router,
            delivery=self.delivery,
            peers=self.peers,
            pods=self.pods,
            metrics=self.metrics,
            survey=self._survey,
            wall=time.time,
            # The other half is for what goes on meanwhile.
            withhold=self._config.app.nats_max_ack_pending // 2,
            legacy=self._push_legacy if self._config.app.forward_to_legacy_pods else None,
        )
        self.legacy = LegacyForwarder(
            self._context.pod_id,
            self._config.server.grpc_port,
            PeerSettings.from_config(self._config),
            self.metrics,
        )
        self._live.on_change(self._apply)

    def _make_use_cases(self) -> None:
        live, pod_id = self._live, self._context.pod_id
        self.interests = Interests(
            pod_id=pod_id,
            shared=self._shared,
            hub=self.hub,
            delivery=self.delivery,
            ingest=self.ingest,
            routes=self.routes,
            peers=self.peers,
            pods=self.pods,
            timeout=lambda: live().app.barrier_timeout_seconds,
            route_ttl=self._route_ttl,
        )
        self.sessions = Takeover(
            hub=self.hub,
            locks=self.locks,
            kills=self.kills,
            peers=self.peers,
            pod_id=pod_id,
            config=live,
            metrics=self.metrics,
        )
        self.kills.listen(self.sessions.on_kill)
        self.renewal = Renewal(self.hub, self.locks, live)
        self.membership = Membership(
            record=self._record,
            pods=self.pods,
            routes=self.routes,
            peers=self.peers,
            router=self.router,
            interests=self.interests,
            ingest=self.ingest,
            delivery=self.delivery,
            stream=self.stream,
            hub=self.hub,
            metrics=self.metrics,
            reassert=self.renewal.verify_now,
            lease=lambda: live().app.pod_lease_seconds,
            refresh=lambda: live().app.pod_lease_refresh_seconds,
        )
        self.pulse = Pulse(
            delivery=self.delivery,
            ingest=self.ingest,
            metrics=self.metrics,
            verify_sessions=self.renewal.verify_now,
            wake=self.membership.wake,
        )
        self.heart = Heart(self.hub, lambda: HeartSettings.from_config(live()), self.metrics)

    def _make_servers(self) -> None:
        live = self._live
        self._token_secrets = secrets_of(self._config)
        self.authenticator = Authenticator(
            config=live, keys=token_keys(self._token_secrets, self.link), metrics=self.metrics
        )
        self.replays = Replays(self.stream, lambda: live().resume, self.metrics)
        self.resumption = Resumption(
            shared=self._shared,
            delivery=self.delivery,
            replays=self.replays,
            settings=lambda: live().resume,
            metrics=self.metrics,
        )
        self.admission = Admission(
            pod_id=self._context.pod_id,
            hub=self.hub,
            delivery=self.delivery,
            interests=self.interests,
            sessions=self.sessions,
            tokens=self.authenticator,
            resumption=self.resumption,
            outbox=self._outbox,
            timeout=lambda: live().app.connect_timeout_seconds,
        )
        self._make_inbound()
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
        config, server = self._config, self._config.server
        self.http_tls = ServedTls(server.http_tls) if server.http_tls.enabled else None
        self.certificates = Certificates(
            {
                "http": server.http_tls,
                "grpc": server.grpc_tls,
                "nats": config.nats.tls,
                "redis": config.redis.tls,
            },
            self.metrics,
        )
        if self.http_tls is not None:
            self.certificates.on_renewed("http", self.http_tls.renew)
        if peers := TlsFiles.from_config(server.grpc_tls):
            name = advertised_host(config)
            self.certificates.on_renewed("grpc", lambda: peers.check(name))
        self._live.on_change(lambda _: self.certificates.look())

    def _make_inbound(self) -> None:
        self.inbound = Inbound(
            hub=self.hub,
            delivery=self.delivery,
            barrier=self._barrier,
            displace=self.sessions.displace,
            has_session=self.sessions.has_session,
            unserved=self.interests.unserved,
            lapsed=self.membership.lapsed,
            judge=self.membership.judge,
        )
        self.grpc = GrpcServer(
            self.inbound,
            ServerSettings.from_config(self._config, advertised_host(self._config)),
            self.metrics,
            self._context.pod_id,
        )
        self.delivery.on_accepted(self.grpc.accepted_changed)

    def _make_readiness(self) -> None:
        """Follow the way from the stream to a socket: what `/ready` tells, and `/health`."""
        live, config = self._live, self._config
        redis = RedisPart(self.link, self.pods, self.routes)
        consumer = ConsumerPart(self.nats, self.stream)
        reader = ReaderPart(
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

    def _outbox(self) -> Outbox:
        app = self._live().app
        return Outbox(
            app.websocket_message_buffer_size,
            app.websocket_max_buffer_bytes,
            app.websocket_backpressure_drop_policy,
        )

    def _route_ttl(self, interest: str, asked_at: float) -> float:
        config = self._live()
        bounds = config.adaptive_ttl.message_route
        if not bounds.enabled or ".messages." not in interest:
            return config.app.route_ttl_seconds
        return adaptive_ttl(
            time.monotonic() - asked_at,
            shortest=bounds.min_seconds,
            longest=bounds.max_seconds,
            threshold=bounds.activity_threshold_seconds,
        )

    def _record(self) -> PodRecord:
        figures = self.figures
        return PodRecord(
            pod_id=self._context.pod_id,
            host=self._config.server.pod_id,
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

    async def _barrier(self, source: str, interests: Iterable[str]) -> Position | None:
        self.membership.heard(source)
        if self.router.meet([source]):
            self.membership.wake()
        # Who can ask is alive, and waits for what is queued for it.
        self.peers.revive(source)
        return await self.ingest.barrier(interests)

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

    async def _survey(self) -> None:
        await self.membership.survey()

    async def _address_of(self, pod_id: str) -> str | None:
        return await self.membership.address_of(pod_id)
