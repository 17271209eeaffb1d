"""The durable consumer from which all pods pull: continuously, never with a `fetch` loop.

`ordered`: a priority group with policy `pinned_client` (ADR-42): the server pins one pod and gives
it everything, in stream order. The pin is lost unless a new pull arrives within the priority
timeout, so the reader's pulls expire well under it. There is no reader before the first event:
the pin comes with a message. `shared`: every pod pulls a
part, or joins an existing push consumer's group.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import structlog
from nats.errors import Error as NatsError

from daisi_ws.adapters import trace
from daisi_ws.adapters.nats_acks import Acks
from daisi_ws.adapters.nats_binding import ConsumerMismatch, NatsBinding
from daisi_ws.adapters.nats_connection import API, ApiError, NatsConnection
from daisi_ws.adapters.nats_consumer_view import NatsConsumerView
from daisi_ws.adapters.nats_headers import DESCRIPTION, NO_RESPONDERS, STATUS
from daisi_ws.adapters.nats_pulls import Pulls
from daisi_ws.adapters.nats_stream import JetStream, StreamMissing, request_id_of
from daisi_ws.adapters.nats_subscriber import Subscriber
from daisi_ws.app.ports import Received, StreamHandler
from daisi_ws.app.waiting import end_tasks, until_tick, wait_set
from daisi_ws.domain import consumer
from daisi_ws.domain.consumer import ConsumerSettings
from daisi_ws.domain.errors import Unavailable
from daisi_ws.domain.streams import Point

WRONG_PIN: Final = "423"
ENDED: Final = ("404", "408", "409")
_RETRY_SECONDS: Final = 0.5
_RESIGN_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.2

log = structlog.get_logger(__name__)


class NatsConsumer(NatsConsumerView):
    """:class:`daisi_ws.app.ports.Stream` over JetStream.

    :param outstanding: how many messages may be asked for and not yet received.
    :param known_position: the sequence of the stream up to which this pod knows events to be
        handled: where a consumer that was lost is made anew.
    """

    def __init__(
        self,
        connection: NatsConnection,
        stream: JetStream,
        settings: ConsumerSettings,
        outstanding: int,
        known_position: Callable[[], int],
    ) -> None:
        super().__init__(stream, NatsBinding(connection, stream, settings))
        self._connection = connection
        self._settings = settings
        self._pulls = Pulls(settings, outstanding, time.monotonic)
        self._known_position = known_position
        self._others = Point("", 0)
        self._handler: StreamHandler | None = None
        self._subscriber: Subscriber | None = None
        self._inbox = ""
        self._push_subject = ""
        self._push_group = ""
        self._pin: str | None = None
        self._leaving = False
        self._bound = False
        self._fresh = True
        self._tracing = trace.tracing()
        self._keeper: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._acks = Acks(connection.acknowledge, cumulative=settings.mode == "ordered")
        self.lag = 0
        self.problem = "not bound yet"

    # -- life -------------------------------------------------------------------------------------

    @property
    def bound(self) -> bool:
        """Tell whether the consumer exists and is being pulled from."""
        return self._bound and self._connection.up

    @property
    def working(self) -> bool:
        """Tell whether what keeps the consumer going has not ended, against all expectation."""
        return self._keeper is None or self._leaving or not self._keeper.done()

    @property
    def pulling(self) -> bool:
        """Tell whether messages are asked for, or need not be."""
        return bool(self._push_subject) or self._leaving or not self._pulls.late

    async def prepare(self, known: Collection[Point] = ()) -> None:
        """Find or make stream and consumer.

        :param known: how far others are known to have got, in this stream or in earlier ones: a
            consumer that is missing was lost, and is made again from there; a stream that nobody
            knows has events already that nobody has read.
        :raises ConsumerMismatch: a durable of that name is of another kind.
        :raises StreamMissing: there is no stream and it may not be made.
        :raises Unavailable: NATS does not answer.
        """
        try:
            await self._stream.ensure()
        except StreamMissing as problem:
            self.stream_problem = str(problem)
            raise
        self._saw_stream()
        here = [point for point in known if point.stream == self._stream.identity]
        if here:
            self._others = max(here)
        elif known:
            self._fresh = False
        config = await self._binding.ensure(self._start_after)
        self._push_subject = config.get("deliver_subject") or ""
        self._push_group = config.get("deliver_group") or ""
        self._fresh = False
        self._bound = True
        self.problem = ""

    async def start(self, handler: StreamHandler) -> None:
        """See :meth:`Stream.start`. What cannot be bound now is tried again in the background."""
        self._handler = handler
        self._connection.on_up(self._reconnected)
        self._connection.on_down(self._disconnected)
        self._keeper = asyncio.create_task(self._keep(), name="stream consumer")

    async def resign(self) -> None:
        """See :meth:`Stream.resign`."""
        self._leaving = True
        await end_tasks(self._keeper)
        self._acks.flush()
        try:
            async with asyncio.timeout(_RESIGN_SECONDS):
                await self._drain()
            # Known only now: this pod may have been pinned by what was still on its way.
            pin, self._pin = self._pin, None
            if pin is not None:
                await self._binding.unpin()
        except (Unavailable, ApiError, NatsError, TimeoutError) as problem:
            log.warning("the reading was not handed over", problem=str(problem))

    # -- what the use case asks -------------------------------------------------------------------

    def ack(self, replies: Sequence[str]) -> None:
        """See :meth:`Stream.ack`."""
        self._acks.give(replies)

    def pause(self, paused: bool) -> None:
        """See :meth:`Stream.pause`."""
        before, self._pulls.paused = self._pulls.paused, paused
        if before and not paused:
            self._pull()

    async def pinned(self) -> bool:
        """See :meth:`Stream.pinned`."""
        groups = (await self.info()).get("priority_groups") or ()
        pins = [group.get("pinned_client_id") for group in groups]
        return self._pin is not None and (not pins or self._pin in pins)

    def stand_by(self) -> None:
        """See :meth:`Stream.stand_by`."""
        self._pin = None

    def _start_after(self) -> int | None:
        position = max(self._known_position(), self._others.seq_in(self._stream.identity))
        if self._fresh and not position:
            return None
        # What this pod knows to be handled may run ahead of what every pod has accepted, by at
        # most what may be unacknowledged. Who has seen it already drops it.
        return max(0, position - self._settings.max_ack_pending)

    # -- keeping it going -------------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            try:
                await self._bind()
                await self._watch()
            except (Unavailable, ApiError, NatsError, StreamMissing, ConsumerMismatch) as problem:
                self._unbind(str(problem))
            except Exception as error:  # without this task nothing would be read any more
                log.exception("consumer failed")
                self._unbind(repr(error))
            await asyncio.sleep(_RETRY_SECONDS)

    async def _bind(self) -> None:
        if not self._connection.up:
            raise Unavailable(f"NATS is away: {self._connection.problem}")
        before = self._stream.identity
        if not self._bound:
            await self.prepare()
        if before and before != self._stream.identity:
            log.warning("the stream was made anew", stream=self._stream.identity)
        self._lose_pin()
        await self._subscribe()
        log.info("standing by", stream=self._stream.identity, consumer=self._settings.name)
        if self._settings.mode == "shared":
            self._tell_pinned()
        self._pulls.forget()
        self._pull()

    async def _watch(self) -> None:
        """Pull again whenever a pull has expired without a word."""
        while self._bound:
            self._wake.clear()
            woken = await wait_set(self._wake, until_tick(_LOOK_SECONDS))
            # Nothing tells that a push consumer was deleted.
            if not woken and self._pulls.silent(asked=bool(self._push_subject)):
                await self.info()
            self._tracing = trace.tracing()
            if self._connection.up:
                self._pull()
        raise Unavailable(self.problem)

    def _lose(self, problem: str) -> None:
        self._unbind(problem)
        self._wake.set()

    def _unbind(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("no consumer", problem=problem)
        self.problem = problem
        self._bound = False
        self._acks.drop()
        self._lose_pin()

    def _reconnected(self) -> None:
        # What the old connection had asked for died with it; consumer and stream may have, too.
        self._bound = False
        self._wake.set()

    def _disconnected(self) -> None:
        self._pulls.forget()
        self._acks.drop()
        if self._settings.mode == "ordered":
            # What was on its way is lost, and what was asked for is still sent after reconnecting,
            # before anybody is told: it must not pass for the next in order.
            self._lose_pin()

    def _lose_pin(self) -> None:
        if self._pin is not None or self._settings.mode == "shared":
            self._pin = None
            if self._handler is not None:
                self._handler.on_unpinned()

    # -- pulling ----------------------------------------------------------------------------------

    async def _subscribe(self) -> None:
        await self._unsubscribe()
        subscriber = self._connection.subscriber(self)
        if self._push_subject:
            await subscriber.begin(self._push_subject, self._push_group)
        else:
            self._inbox = self._connection.client.new_inbox()
            await subscriber.begin(self._inbox)
        self._subscriber = subscriber

    async def _unsubscribe(self) -> None:
        subscriber, self._subscriber = self._subscriber, None
        if subscriber is not None:
            try:
                await subscriber.end()
            except NatsError:
                log.debug("subscription was gone")

    async def _drain(self) -> None:
        """End the subscription; what the server has sent by then is still taken."""
        subscriber, self._subscriber = self._subscriber, None
        if subscriber is not None:
            await subscriber.drain()

    def _pull(self) -> None:
        """Ask for more once half of what may be outstanding has come."""
        ready = self._bound and self._subscriber is not None and not self._push_subject
        request = self._pulls.request(self._pin) if ready and not self._leaving else None
        if request is not None:
            subject = f"{API}.{self._binding.api('CONSUMER.MSG.NEXT')}"
            self._connection.publish(subject, request, self._inbox, self._pulls.forget)

    # -- Taker ------------------------------------------------------------------------------------

    def take(self, subject: str, reply: str, data: bytes, headers: Mapping[str, str]) -> None:
        """See :meth:`Taker.take`."""
        try:
            self._take(subject, reply, data, headers)
        except Exception as error:
            log.exception("message not taken in")
            self._lose(repr(error))

    def taken(self) -> None:
        """See :meth:`Taker.taken`."""
        if self._handler is not None:
            try:
                self._handler.on_taken()
            except Exception as error:
                log.exception("messages not handed on")
                self._lose(repr(error))

    def _take(self, subject: str, reply: str, data: bytes, headers: Mapping[str, str]) -> None:
        told = consumer.parse_ack_subject(reply)
        if told is None:
            self._on_status(headers)
            return
        pin = headers.get("Nats-Pin-Id")
        if pin is not None and pin != self._pin:
            self._pin = pin
            self._pulls.forget()
            if not self._leaving:
                self._tell_pinned()
        self._pulls.came()
        self.lag = told.pending
        received = Received(
            told.seq,
            told.stored_ns,
            subject,
            data,
            reply,
            request_id_of(headers, self._stream.name, told.seq),
            told.delivered > 1,
        )
        if self._tracing:
            trace.event_read(received)
        assert self._handler is not None
        self._handler.on_received(received)
        if self._pulls.low:
            self._pull()

    def _on_status(self, headers: Mapping[str, str]) -> None:
        status = headers.get(STATUS, "")
        if status == WRONG_PIN:
            log.info("pinned elsewhere")
            self._lose_pin()
            self._pulls.forget()
        elif status in ENDED:
            description = headers.get(DESCRIPTION, "")
            if "Deleted" in description:
                self._lose(f"the consumer is gone ({description})")
                return
            unused = headers.get("Nats-Pending-Messages")
            self._pulls.ended(None if unused is None else int(unused))
        elif status == NO_RESPONDERS:
            self._lose("the consumer is gone (no responders)")
            return
        else:
            return
        self._pull()

    def _tell_pinned(self) -> None:
        assert self._handler is not None
        self.lag = 0
        self._handler.on_pinned(self._stream.identity)
