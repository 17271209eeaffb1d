"""The life of a pod: opened part by part, each undo registered where the part is opened."""

from __future__ import annotations

import asyncio
import gc
from contextlib import AsyncExitStack
from typing import Final

import structlog

from daisi_ws import __version__
from daisi_ws.adapters.grpc_server import CannotListen
from daisi_ws.adapters.grpc_tls import BadCertificate
from daisi_ws.adapters.nats_binding import ConsumerMismatch
from daisi_ws.adapters.nats_login import BadLogin
from daisi_ws.adapters.nats_stream import StreamMissing
from daisi_ws.app.drain import Drain
from daisi_ws.app.ingest import Reading
from daisi_ws.app.waiting import until_tick, wait_set
from daisi_ws.config import Config
from daisi_ws.domain.deadlines import QUICK_STOP_SECONDS
from daisi_ws.domain.errors import Unavailable
from daisi_ws.domain.slots import ConfigSource, WorkerContext
from daisi_ws.domain.streams import Point
from daisi_ws.worker.boot import BootFailure
from daisi_ws.worker.figures import figures
from daisi_ws.worker.host_claim import HostClaim
from daisi_ws.worker.life import Life
from daisi_ws.worker.live import LiveConfig
from daisi_ws.worker.parts import Parts
from daisi_ws.worker.resources import Resources
from daisi_ws.worker.tasks import Tasks, retrying

SUCCESSOR_SECONDS: Final = 3.0
"""A pod accepts connections once it is ready, or after this long, to say why it is not."""

HAND_BACK_SECONDS: Final = 1.0
FIRST_CONNECT_SECONDS: Final = 5.0
_READY_CHECK_SECONDS: Final = 0.02

log = structlog.get_logger(__name__)


async def serve(config: Config, source: ConfigSource, context: WorkerContext) -> None:
    """Run one pod until it has drained.

    :raises BootFailure: it cannot start, and a restart would not help.
    """
    live = LiveConfig(config, source)
    life = Life(context, live.reload)
    life.start()
    try:
        parts = Parts(live, context)
    except (OSError, BadLogin) as error:
        raise BootFailure(str(error), "a file that the configuration names") from None
    async with AsyncExitStack() as stack:
        pod = Pod(parts, live, context, life)
        await pod.open(stack)
        await life.stop.wait()
        await pod.drain()
    pod.raise_failure()


class Pod:
    """Starts and stops what :class:`Parts` has connected."""

    def __init__(self, parts: Parts, live: LiveConfig, context: WorkerContext, life: Life) -> None:
        self._parts = parts
        self._live = live
        self._context = context
        self._life = life
        self._tasks = Tasks(self._failed)
        self._failure: BaseException | None = None
        self._serving = False

    # -- start ------------------------------------------------------------------------------------

    async def open(self, stack: AsyncExitStack) -> None:
        """Start everything, in the order in which one part needs the other.

        :raises BootFailure: it cannot start, and a restart would not help.
        """
        parts, spawn = self._parts, self._tasks.spawn
        stack.push_async_callback(self._tasks.cancel)
        # Its record is what `status` shows.
        spawn("report", self._life.report(parts.health.problems, parts.membership.wake))
        spawn("pulse", parts.pulse.run())
        spawn("readiness", parts.readiness.run())
        spawn("figures", self._every_second())
        spawn("heart", parts.heart.run())
        spawn("certificates", parts.certificates.run())
        await self._connect(stack)
        await self._open_grpc(stack)
        spawn("join", self._join())
        await self._wait_ready()
        tls, metrics_listener = parts.http_tls, self._context.metrics_listener
        await parts.http.start(
            self._context.listener, metrics_listener, None if tls is None else tls.context
        )
        stack.push_async_callback(parts.http.close)
        # What was imported and made by now lives as long as the process.
        gc.collect()
        gc.freeze()

    async def _connect(self, stack: AsyncExitStack) -> None:
        parts = self._parts
        parts.link.on_up(parts.membership.wake)
        parts.link.on_down(parts.membership.wake)
        parts.link.start()
        stack.push_async_callback(parts.link.aclose)
        stack.push_async_callback(parts.nats.aclose)
        stack.push_async_callback(parts.replays.aclose)
        if self._live().nats.retry_on_failed_connect:
            parts.nats.start()
            return
        hint = "start it, or set nats.retry_on_failed_connect: true to wait for it"
        try:
            await parts.nats.connect_once()
            async with asyncio.timeout(FIRST_CONNECT_SECONDS):
                await parts.link.wait_up()
        except Unavailable as problem:
            raise BootFailure(str(problem), hint) from None
        except TimeoutError:
            raise BootFailure(f"Redis is away: {parts.link.problem}", hint) from None

    async def _open_grpc(self, stack: AsyncExitStack) -> None:
        parts = self._parts
        try:
            await parts.grpc.start(self._live().server.grpc_host, self._context.grpc_port)
        except CannotListen as error:
            raise BootFailure(str(error), "free the port or change server.grpc_port") from None
        except BadCertificate as error:
            raise BootFailure(str(error), "see server.grpc_tls") from None
        stack.push_async_callback(parts.grpc.stop, HAND_BACK_SECONDS)
        stack.push_async_callback(parts.peers.aclose)
        stack.push_async_callback(parts.legacy.aclose)

    async def _wait_ready(self) -> None:
        """Wait until this pod is ready, has failed, or has waited long enough."""
        loop = asyncio.get_running_loop()
        end = loop.time() + SUCCESSOR_SECONDS
        while self._parts.health.problems() and loop.time() < end:
            if self._life.stop.is_set():
                return
            await wait_set(self._life.stop, _READY_CHECK_SECONDS)

    # -- join -------------------------------------------------------------------------------------

    async def _join(self) -> None:
        """Become a member as soon as Redis and NATS are there."""
        parts, config = self._parts, self._live()
        await parts.link.wait_up()
        claim = HostClaim(
            parts.pods,
            config.server.pod_id,
            lambda: self._live().app.pod_lease_seconds,
            self._context,
        )
        await claim.take()
        self._tasks.spawn("host claim", claim.keep())
        await retrying(self._register, "register in Redis")
        self._tasks.spawn("membership", parts.membership.run())
        self._tasks.spawn("renewal", parts.renewal.run())
        self._tasks.spawn("routes", self._renew_routes())
        await retrying(self._bind, "read the stream")
        await parts.stream.start(parts.ingest)

    async def _register(self) -> None:
        if self._context.predecessor is not None:
            await self._parts.pods.remove(self._context.predecessor)
        await self._parts.membership.join()

    async def _bind(self) -> None:
        parts = self._parts
        reader = await parts.pods.reader()
        known = [Point(r.stream, r.position) for r in await parts.pods.records() if r.stream]
        if reader is not None:
            known.append(Point(reader.stream, 0))
        try:
            await parts.stream.prepare(known)
        except ConsumerMismatch as error:
            raise BootFailure(str(error)) from None
        except StreamMissing as error:
            raise Unavailable(str(error)) from None
        parts.delivery.start_at(parts.jetstream.identity, await parts.stream.ack_floor())

    def _failed(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._life.stop.set()
        self._life.hurry.set()

    def raise_failure(self) -> None:
        """Raise what ended this pod, if it did not end by itself.

        :raises BootFailure: it could not start.
        """
        if self._failure is not None:
            raise self._failure

    # -- what runs all the time -------------------------------------------------------------------

    async def _every_second(self) -> None:
        parts = self._parts
        resources = Resources(parts.metrics)
        parts.metrics.workers.set(self._context.workers)
        parts.metrics.build.labels(__version__).set(1)
        if self._context.predecessor is not None:
            parts.metrics.worker_deaths.inc()
        while True:
            await asyncio.sleep(until_tick(1.0))
            resources.tell()
            parts.figures = figures(parts.metrics.tally)
            parts.metrics.fold()
            states, problems = parts.health.states(), parts.health.problems()
            parts.metrics.ready.set(0 if problems else 1)
            if (not problems) != self._serving:
                self._serving = not problems
                parts.grpc.set_serving(self._serving)
            for part, state in states.items():
                parts.metrics.ready_part.labels(part).set(1 if state.ready else 0)
            for name, up in parts.health.dependencies(states).items():
                parts.metrics.dependency_up.labels(name).set(1 if up else 0)
            if parts.ingest.state is Reading.READER:
                parts.metrics.stream_lag.set(parts.stream.lag)
            else:
                parts.metrics.stream_lag.set(0)

    async def _renew_routes(self) -> None:
        while True:
            await asyncio.sleep(self._live().app.ttl_refresh_interval_seconds)
            try:
                await self._parts.interests.renew()
            except Unavailable as problem:
                log.info("routes not renewed", problem=str(problem))

    # -- leave ------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Leave in good order; returns when nothing is left to do."""
        parts, life, config = self._parts, self._life, self._live()
        parts.health.drain()
        drain = Drain(
            parts.hub,
            [self._hand_over_reading],
            farewells=parts.locks,
            metrics=parts.metrics,
            pace=lambda: self._live().app.drain_reconnects_per_second,
            handshakes=parts.http.handshakes,
            stop_admitting=parts.admission.stop_accepting,
        )
        self._tasks.spawn("hurry", self._hurry(drain))
        await wait_set(life.hurry, config.server.shutdown_delay_seconds)
        # Whoever has been accepted by now is still served, and then sent away like the others.
        parts.http.stop_accepting()
        # Of a host that stops nobody accepts any more; else the supervisor keeps the socket.
        self._context.listener.close()
        seconds = config.app.shutdown_timeout_seconds
        if life.hurry.is_set():
            seconds = QUICK_STOP_SECONDS / 2
        await drain.run(max(seconds - HAND_BACK_SECONDS, seconds / 2))
        await self._hand_back()

    async def _hand_over_reading(self) -> None:
        """Let another pod read; finish what was taken."""
        parts = self._parts
        await self._tasks.cancel("join")
        await parts.stream.resign()
        try:
            # The next reader reads again what is not acknowledged by then.
            async with asyncio.timeout(self._live().app.grpc_client_forward_timeout_seconds):
                await parts.ingest.finish()
        except TimeoutError:
            log.info("not everything was accepted", after=parts.ingest.position)
        parts.ingest.stop()
        try:
            await parts.pods.resign_reader(self._context.pod_id)
        except Unavailable as problem:
            log.warning("the reader's record stays", problem=str(problem))

    async def _hand_back(self) -> None:
        """Give back what others would otherwise wait for, in a few round trips."""
        parts = self._parts
        await self._tasks.cancel("membership", "renewal", "routes", "host claim")
        try:
            async with asyncio.timeout(HAND_BACK_SECONDS):
                await parts.interests.aclose()
                await parts.sessions.release(parts.hub.sessions())
                await parts.membership.leave()
        except (TimeoutError, Unavailable) as problem:
            log.warning("not everything was handed back: it expires", problem=str(problem))

    async def _hurry(self, drain: Drain) -> None:
        await self._life.hurry.wait()
        drain.hurry()
