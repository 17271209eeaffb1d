"""A pod made of the real use cases and Redis adapters, in a simulated process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from daisi_ws.adapters.forward_stream import ForwardStream
from daisi_ws.adapters.kills_redis import KillsRedis
from daisi_ws.adapters.locks_redis import LocksRedis
from daisi_ws.adapters.peer_context import PeerSettings
from daisi_ws.adapters.peers_grpc import PeersGrpc
from daisi_ws.adapters.pods_redis import PodsRedis
from daisi_ws.adapters.routes_redis import RoutesRedis
from daisi_ws.app.admit import Admission
from daisi_ws.app.connection import Connection, State
from daisi_ws.app.delivery import Delivery
from daisi_ws.app.hub import Hub
from daisi_ws.app.inbound import Inbound
from daisi_ws.app.ingest import Ingest
from daisi_ws.app.interests import Interests
from daisi_ws.app.membership import Membership
from daisi_ws.app.ports import PodRecord, Position
from daisi_ws.app.pulse import Pulse
from daisi_ws.app.renew import Renewal
from daisi_ws.app.replay import Replays
from daisi_ws.app.resume import Resumption
from daisi_ws.app.route import Router
from daisi_ws.app.takeover import Takeover
from daisi_ws.config import Config, testing_config
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.errors import Refusal, Unavailable
from daisi_ws.domain.frames import SelectChat
from daisi_ws.domain.outbox import Outbox
from daisi_ws.domain.principal import Principal
from daisi_ws.domain.resume import Claim
from daisi_ws.metrics import Metrics
from tests.models.sim_stream import IDENTITY, Consumer

if TYPE_CHECKING:
    from tests.models.world import World

STREAM = "wa_stream"
CONFIG: Config = testing_config()
SETTINGS = PeerSettings(idle_timeout=1e9, health_interval=1e9)


class Tab:
    """A client: it remembers what was written to its socket. The world checks it as it comes."""

    def __init__(self, world: World, pod: SimPod, who: Principal) -> None:
        self.world = world
        self.pod = pod
        self.who = who
        self.connection: Connection | None = None
        self.ready_at = 0
        self.closed = False
        self.refused = False
        self.since: dict[str, int] = {}
        """From which sequence each subject it looks at is promised."""
        self.last: dict[str, int] = {}
        self.newest = 0
        self.asked: dict[int, str] = {}
        self.turn = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        """Tell whether it is to get events."""
        return self.ready_at > 0 and not self.closed and self.pod.process.alive

    # -- Sink -------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """See :meth:`Sink.write`."""
        if self.closed or not self.pod.process.alive:
            return
        while data:
            size, start = data[1], 2
            if size == 126:
                size, start = int.from_bytes(data[2:4], "big"), 4
            self.world.arrived(self, json.loads(data[start : start + size]))
            data = data[start + size :]

    def backlog(self) -> int:
        """See :meth:`Sink.backlog`."""
        return 0

    def close(self, reason: CloseReason) -> None:
        """See :meth:`Sink.close`."""
        self.closed = True


class SimPod:
    """As `worker/parts.py` connects it and `worker/pod.py` starts it, without servers."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.process = world.universe.process(name)
        self.pod_id = name
        self.joined = False
        self._streams: set[ForwardStream] = set()
        self.process.spawn(self._start())

    # -- wiring -----------------------------------------------------------------------------------

    def _connect(self) -> None:
        world, clock = self.world, self.process.loop.time
        self.metrics = Metrics()
        self.hub = Hub()
        self.delivery = Delivery(
            self.hub, self.metrics, clock, lambda: int(world.universe.wall() * 1e9)
        )
        self.link = world.redis.link(self.process)
        self.pods = PodsRedis(self.link, STREAM, lambda: CONFIG.app.pod_lease_seconds)
        self.routes = RoutesRedis(
            self.link, self.pod_id, STREAM, lambda: CONFIG.app.route_ttl_seconds, False
        )
        self.locks = LocksRedis(self.link)
        self.kills = KillsRedis(self.link)
        self.stream = Consumer(world.universe, world.nats, self.process)
        self.router = Router(self.routes, self.pod_id, self.metrics.tally)
        self.peers = PeersGrpc(
            self.pod_id,
            self._address_of,
            SETTINGS,
            self.metrics,
            lease_gone=lambda _: self.membership.wake(),
        )
        self.ingest = Ingest(
            pod_id=self.pod_id,
            shared=False,
            stream=self.stream,
            router=self.router,
            delivery=self.delivery,
            peers=self.peers,
            pods=self.pods,
            metrics=self.metrics,
            survey=self._survey,
            wall=world.universe.wall,
        )
        self._connect_use_cases(clock)

    def _connect_use_cases(self, clock: Callable[[], float]) -> None:
        self.interests = Interests(
            pod_id=self.pod_id,
            shared=False,
            hub=self.hub,
            delivery=self.delivery,
            ingest=self.ingest,
            routes=self.routes,
            peers=self.peers,
            pods=self.pods,
            timeout=lambda: CONFIG.app.barrier_timeout_seconds,
            route_ttl=lambda *_: CONFIG.app.route_ttl_seconds,
            clock=clock,
        )
        self.sessions = Takeover(
            hub=self.hub,
            locks=self.locks,
            kills=self.kills,
            peers=self.peers,
            pod_id=self.pod_id,
            config=lambda: CONFIG,
            metrics=self.metrics,
            clock=clock,
        )
        self.kills.listen(self.sessions.on_kill)
        self.renewal = Renewal(self.hub, self.locks, lambda: CONFIG, clock)
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
            lease=lambda: CONFIG.app.pod_lease_seconds,
            refresh=lambda: CONFIG.app.pod_lease_refresh_seconds,
            clock=clock,
        )
        self.pulse = Pulse(
            delivery=self.delivery,
            ingest=self.ingest,
            metrics=self.metrics,
            verify_sessions=self.renewal.verify_now,
            wake=self.membership.wake,
            clock=clock,
        )
        self.resumption = Resumption(
            shared=False,
            delivery=self.delivery,
            replays=Replays(
                self.stream, lambda: CONFIG.resume, self.metrics, clock, self.world.universe.wall
            ),
            settings=lambda: CONFIG.resume,
            metrics=self.metrics,
        )
        self.admission = Admission(
            pod_id=self.pod_id,
            hub=self.hub,
            delivery=self.delivery,
            interests=self.interests,
            sessions=self.sessions,
            tokens=_NoTokens(),
            resumption=self.resumption,
            outbox=lambda: Outbox(1000, 10_000_000, "drop_oldest"),
            timeout=lambda: CONFIG.app.connect_timeout_seconds,
            clock=clock,
        )
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
        self.delivery.on_accepted(self._accepted_changed)

    # -- life -------------------------------------------------------------------------------------

    async def _start(self) -> None:
        self._connect()
        self.process.spawn(self.pulse.run())
        self.link.on_up(self.membership.wake)
        self.link.on_down(self.membership.wake)
        self.link.start()
        self.world.network.servers[self.pod_id] = self._serve
        await self.link.wait_up()
        await _retrying(self.membership.join)
        self.process.spawn(self.membership.run())
        self.process.spawn(self.renewal.run())
        self.process.spawn(self._renew_routes())
        await _retrying(self._bind)
        await self.stream.start(self.ingest)
        self.joined = True

    async def _bind(self) -> None:
        self.delivery.start_at(IDENTITY, await self.stream.ack_floor())

    async def _renew_routes(self) -> None:
        while True:
            await asyncio.sleep(CONFIG.app.ttl_refresh_interval_seconds)
            try:
                await self.interests.renew()
            except Unavailable:
                continue

    async def _serve(self, context: Any) -> None:
        stream = ForwardStream(self.inbound, self.metrics, context, 1.0)
        self._streams.add(stream)
        try:
            await stream.run()
        finally:
            self._streams.discard(stream)

    # -- clients ----------------------------------------------------------------------------------

    def connect(self, who: Principal, last_seq: int | None) -> Tab:
        """Have a client connect; it is ready, or refused, later.

        :param last_seq: the position that it claims, if it does.
        """
        tab = Tab(self.world, self, who)
        claim = None if last_seq is None else Claim(last_seq)
        self._hand(lambda: self._admit(tab, claim))
        return tab

    def disconnect(self, tab: Tab) -> None:
        """Have a client go."""
        connection = tab.connection
        tab.closed = True
        if connection is not None:
            self._hand(lambda: self.admission.leave(connection, CloseReason.CLIENT_LEFT))

    def choose(self, tab: Tab, number: int, chat: str) -> None:
        """Have a client select a chat."""
        connection = tab.connection
        if connection is not None:
            self._hand(lambda: self._select(tab, connection, SelectChat(chat, number)))

    def _hand(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        def begin() -> None:
            self.process.spawn(work())

        self.process.hand(begin)

    async def _admit(self, tab: Tab, claim: Claim | None) -> None:
        try:
            connection = await self.admission.admit(tab.who, "r", claim)
        except Refusal:
            tab.refused = tab.closed = True
            return
        if tab.closed:
            await self.admission.leave(connection, CloseReason.CLIENT_LEFT)
            return
        tab.connection = connection
        connection.on_close = lambda reason: self._ended(connection, reason)
        self.admission.open(connection, tab)
        if connection.state is State.CLOSED:
            await self.admission.leave(connection, CloseReason.CLIENT_LEFT)

    async def _select(self, tab: Tab, connection: Connection, message: SelectChat) -> None:
        async with tab.turn:  # a client's messages are handled one after the other
            try:
                if connection.state is State.OPEN:
                    await self.admission.select_chat(connection, message)
            except Refusal:
                return

    def _ended(self, connection: Connection, reason: CloseReason) -> None:
        self.process.spawn(self.admission.leave(connection, reason))

    # -- as in Parts ------------------------------------------------------------------------------

    async def _barrier(self, source: str, interests: Iterable[str]) -> Position | None:
        self.membership.heard(source)
        if self.router.meet([source]):
            self.membership.wake()
        return await self.ingest.barrier(interests)

    async def _survey(self) -> None:
        await self.membership.survey()

    async def _address_of(self, pod_id: str) -> str | None:
        return await self.membership.address_of(pod_id)

    def _accepted_changed(self) -> None:
        for stream in self._streams:
            stream.refresh()

    def _record(self) -> PodRecord:
        return PodRecord(
            pod_id=self.pod_id,
            host=self.pod_id,
            slot=0,
            generation=1,
            address=self.pod_id,
            http_port=1,
            started=0.0,
            version="0",
            pid=1,
            connections=len(self.hub),
        )


class _NoTokens:
    async def refresh(self, principal: Principal, token: str) -> Principal:
        """Nobody asks here."""
        raise AssertionError("no tokens are refreshed")


async def _retrying(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        try:
            await work()
        except Unavailable:
            await asyncio.sleep(0.5)
        else:
            return
