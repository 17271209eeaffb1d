"""A pod made of the real use cases and Redis adapters, in a simulated process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from daisi_ws.adapters.forward_stream import ForwardStream
from daisi_ws.adapters.kills_redis import KillsRedis
from daisi_ws.adapters.locks_redis import LocksRedis
from daisi_ws.adapters.peer_context import PeerSettings
from daisi_ws.adapters.peers_grpc import PeersGrpc
from daisi_ws.adapters.pods_redis import PodsRedis
from daisi_ws.adapters.routes_redis import RoutesRedis
from daisi_ws.app.connection import Connection, State
from daisi_ws.app.ingest import Reading
from daisi_ws.app.ports import PodRecord
from daisi_ws.config import Config, testing_config
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.errors import Refusal, Unavailable
from daisi_ws.domain.frames import SelectChat
from daisi_ws.domain.principal import Principal
from daisi_ws.domain.resume import Claim
from daisi_ws.metrics import Metrics
from daisi_ws.worker.use_cases import Ports, UseCases
from tests.models.sim_stream import IDENTITY, Consumer

if TYPE_CHECKING:
    from tests.models.world import World

STREAM = "wa_stream"
CONFIG: Config = testing_config(app__websocket_message_buffer_size=1000)
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
    """What `worker/parts.py` makes and `worker/pod.py` starts, in a simulated process: the use
    cases on Redis adapters and links between pods, without servers.
    """

    uses: UseCases

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.process = world.universe.process(name)
        self.pod_id = name
        self.joined = False
        self._link = world.redis.link(self.process)
        self._stream = Consumer(world.universe, world.nats, self.process)
        self._streams: set[ForwardStream] = set()
        self.process.spawn(self._start())

    @property
    def reading(self) -> Reading:
        """Tell whether it reads the stream."""
        return self.uses.ingest.state

    def _make(self) -> UseCases:
        link, metrics = self._link, Metrics()
        peers = PeersGrpc(
            self.pod_id,
            self._address_of,
            SETTINGS,
            metrics,
            lease_gone=lambda _: self.uses.membership.wake(),
        )
        ports = Ports(
            pods=PodsRedis(link, STREAM, lambda: CONFIG.app.pod_lease_seconds),
            routes=RoutesRedis(
                link, self.pod_id, STREAM, lambda: CONFIG.app.route_ttl_seconds, False
            ),
            locks=LocksRedis(link),
            kills=KillsRedis(link),
            stream=self._stream,
            peers=peers,
            tokens=_NoTokens(),
            record=self._record,
        )
        clock, wall = self.process.loop.time, self.world.universe.wall
        return UseCases(self.pod_id, lambda: CONFIG, metrics, ports, clock=clock, wall=wall)

    # -- life -------------------------------------------------------------------------------------

    async def _start(self) -> None:
        self.uses = uses = self._make()
        uses.delivery.on_accepted(self._accepted_changed)
        self.process.spawn(uses.pulse.run())
        self._link.on_up(uses.membership.wake)
        self._link.on_down(uses.membership.wake)
        self._link.start()
        self.world.network.servers[self.pod_id] = self._serve
        await self._link.wait_up()
        await _retrying(uses.membership.join)
        self.process.spawn(uses.membership.run())
        self.process.spawn(uses.renewal.run())
        self.process.spawn(self._renew_routes())
        await _retrying(self._bind)
        await self._stream.start(uses.ingest)
        self.joined = True

    async def _bind(self) -> None:
        self.uses.delivery.start_at(IDENTITY, await self._stream.ack_floor())

    async def _renew_routes(self) -> None:
        while True:
            await asyncio.sleep(CONFIG.app.ttl_refresh_interval_seconds)
            try:
                await self.uses.interests.renew()
            except Unavailable:
                continue

    async def _serve(self, context: Any) -> None:
        stream = ForwardStream(self.uses.inbound, self.uses.metrics, context, 1.0)
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
            self._hand(lambda: self.uses.admission.leave(connection, CloseReason.CLIENT_LEFT))

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
            connection = await self.uses.admission.admit(tab.who, "r", claim)
        except Refusal:
            tab.refused = tab.closed = True
            return
        if tab.closed:
            await self.uses.admission.leave(connection, CloseReason.CLIENT_LEFT)
            return
        tab.connection = connection
        connection.on_close = lambda reason: self._ended(connection, reason)
        self.uses.admission.open(connection, tab)
        if connection.state is State.CLOSED:
            await self.uses.admission.leave(connection, CloseReason.CLIENT_LEFT)

    async def _select(self, tab: Tab, connection: Connection, message: SelectChat) -> None:
        async with tab.turn:  # a client's messages are handled one after the other
            try:
                if connection.state is State.OPEN:
                    await self.uses.admission.select_chat(connection, message)
            except Refusal:
                return

    def _ended(self, connection: Connection, reason: CloseReason) -> None:
        self.process.spawn(self.uses.admission.leave(connection, reason))

    # -- what the use cases ask for ---------------------------------------------------------------

    async def _address_of(self, pod_id: str) -> str | None:
        return await self.uses.membership.address_of(pod_id)

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
            connections=len(self.uses.hub),
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
