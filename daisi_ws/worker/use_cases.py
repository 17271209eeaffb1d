"""The use cases of a pod and how they are connected; what serves their ports is not said here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from daisi_ws.app.admit import Admission, Tokens
from daisi_ws.app.delivery import Delivery
from daisi_ws.app.hub import Hub
from daisi_ws.app.inbound import Inbound
from daisi_ws.app.ingest import Ingest
from daisi_ws.app.interests import Interests
from daisi_ws.app.membership import Membership
from daisi_ws.app.ports import Kills, Locks, Peers, PodRecord, Pods, Position, Routes, Stream
from daisi_ws.app.pulse import Pulse
from daisi_ws.app.renew import Renewal
from daisi_ws.app.replay import Replays
from daisi_ws.app.resume import Resumption
from daisi_ws.app.route import Router
from daisi_ws.app.takeover import Takeover
from daisi_ws.config import Config
from daisi_ws.domain.outbox import Outbox
from daisi_ws.domain.packets import Item
from daisi_ws.domain.ttl import adaptive_ttl
from daisi_ws.metrics import Metrics


@dataclass(frozen=True, kw_only=True)
class Ports:
    """What a pod's use cases stand on.

    :ivar record: makes this pod's record as of now.
    :ivar legacy: hands an event to an older pod; None: that is not our business.
    """

    pods: Pods
    routes: Routes
    locks: Locks
    kills: Kills
    stream: Stream
    peers: Peers
    tokens: Tokens
    record: Callable[[], PodRecord]
    legacy: Callable[[str, Item], None] | None = None


class UseCases:
    """All use cases of one pod, connected but not started.

    :param config: getter of the configuration.
    :param clock: monotonic seconds; `wall`: Unix time in seconds.
    """

    def __init__(
        self,
        pod_id: str,
        config: Callable[[], Config],
        metrics: Metrics,
        ports: Ports,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._pod_id = pod_id
        self._config = config
        self._shared = config().nats.consumer_mode == "shared"
        self._ports = ports
        self._clock = clock
        self._wall = wall
        self.metrics = metrics
        self.hub = Hub()
        self.delivery = Delivery(self.hub, metrics, clock, lambda: int(wall() * 1e9))
        self._connect_reading()
        self._connect_sessions()
        self._connect_membership()
        self._connect_admission()
        self._connect_inbound()

    def _connect_reading(self) -> None:
        ports = self._ports
        self.router = Router(ports.routes, self._pod_id, self.metrics.tally)
        self.ingest = Ingest(
            pod_id=self._pod_id,
            shared=self._shared,
            stream=ports.stream,
            router=self.router,
            delivery=self.delivery,
            peers=ports.peers,
            pods=ports.pods,
            metrics=self.metrics,
            survey=self._survey,
            wall=self._wall,
            # The other half is for what goes on meanwhile.
            withhold=self._config().app.nats_max_ack_pending // 2,
            legacy=ports.legacy,
        )
        self.interests = Interests(
            pod_id=self._pod_id,
            shared=self._shared,
            hub=self.hub,
            delivery=self.delivery,
            ingest=self.ingest,
            routes=ports.routes,
            peers=ports.peers,
            pods=ports.pods,
            timeout=lambda: self._config().app.barrier_timeout_seconds,
            route_ttl=self._route_ttl,
            clock=self._clock,
        )

    def _connect_sessions(self) -> None:
        ports = self._ports
        self.sessions = Takeover(
            hub=self.hub,
            locks=ports.locks,
            kills=ports.kills,
            peers=ports.peers,
            pod_id=self._pod_id,
            config=self._config,
            metrics=self.metrics,
            clock=self._clock,
        )
        ports.kills.listen(self.sessions.on_kill)
        self.renewal = Renewal(self.hub, ports.locks, self._config, self._clock)

    def _connect_membership(self) -> None:
        ports = self._ports
        self.membership = Membership(
            record=ports.record,
            pods=ports.pods,
            routes=ports.routes,
            peers=ports.peers,
            router=self.router,
            interests=self.interests,
            ingest=self.ingest,
            delivery=self.delivery,
            stream=ports.stream,
            hub=self.hub,
            metrics=self.metrics,
            reassert=self.renewal.verify_now,
            lease=lambda: self._config().app.pod_lease_seconds,
            refresh=lambda: self._config().app.pod_lease_refresh_seconds,
            clock=self._clock,
        )
        self.pulse = Pulse(
            delivery=self.delivery,
            ingest=self.ingest,
            metrics=self.metrics,
            verify_sessions=self.renewal.verify_now,
            wake=self.membership.wake,
            clock=self._clock,
        )

    def _connect_admission(self) -> None:
        self.replays = Replays(
            self._ports.stream,
            lambda: self._config().resume,
            self.metrics,
            self._clock,
            self._wall,
        )
        self.resumption = Resumption(
            shared=self._shared,
            delivery=self.delivery,
            replays=self.replays,
            settings=lambda: self._config().resume,
            metrics=self.metrics,
        )
        self.admission = Admission(
            pod_id=self._pod_id,
            hub=self.hub,
            delivery=self.delivery,
            interests=self.interests,
            sessions=self.sessions,
            tokens=self._ports.tokens,
            resumption=self.resumption,
            outbox=self._outbox,
            timeout=lambda: self._config().app.connect_timeout_seconds,
            clock=self._clock,
        )

    def _connect_inbound(self) -> None:
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

    # -- what one asks of another -----------------------------------------------------------------

    async def _survey(self) -> None:
        await self.membership.survey()

    async def _barrier(self, source: str, interests: Iterable[str]) -> Position | None:
        self.membership.heard(source)
        if self.router.meet([source]):
            self.membership.wake()
        # Who can ask is alive, and waits for what is queued for it.
        self._ports.peers.revive(source)
        return await self.ingest.barrier(interests)

    def _outbox(self) -> Outbox:
        app = self._config().app
        return Outbox(
            app.websocket_message_buffer_size,
            app.websocket_max_buffer_bytes,
            app.websocket_backpressure_drop_policy,
        )

    def _route_ttl(self, interest: str, asked_at: float) -> float:
        config = self._config()
        bounds = config.adaptive_ttl.message_route
        if not bounds.enabled or ".messages." not in interest:
            return config.app.route_ttl_seconds
        return adaptive_ttl(
            self._clock() - asked_at,
            shortest=bounds.min_seconds,
            longest=bounds.max_seconds,
            threshold=bounds.activity_threshold_seconds,
        )
