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
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from daisi_ws.adapters import trace
from daisi_ws.adapters.nats_binding import ConsumerGone, ConsumerMismatch, NatsBinding, StreamGone
from daisi_ws.adapters.nats_connection import (
    API,
    API_TIMEOUT_SECONDS,
    ApiError,
    NatsConnection,
)
from daisi_ws.adapters.nats_pulls import Pulls
from daisi_ws.adapters.nats_stream import JetStream, StreamMissing, request_id_of
from daisi_ws.app.ports import Bounds, Received, StreamHandler
from daisi_ws.app.readiness_ports import ConsumerState
from daisi_ws.domain import consumer
from daisi_ws.domain.consumer import ConsumerSettings
from daisi_ws.domain.errors import Unavailable
from daisi_ws.domain.streams import Point
from daisi_ws.domain.subjects import FILTER

WRONG_PIN: Final = "423"
ENDED: Final = ("404", "408", "409")
NO_RESPONDERS: Final = "503"
_RETRY_SECONDS: Final = 0.5
_RESIGN_SECONDS: Final = 1.0
_TICK_SECONDS: Final = 0.25

log = structlog.get_logger(__name__)


class NatsConsumer:
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
        self._connection = connection
        self._stream = stream
        self._settings = settings
        self._binding = NatsBinding(connection, stream, settings)
        self._pulls = Pulls(settings, outstanding, time.monotonic)
        self._known_position = known_position
        self._others = Point("", 0)
        self._handler: StreamHandler | None = None
        self._subscription: Subscription | None = None
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
        self._acks: set[asyncio.Task[None]] = set()
        self.lag = 0
        self.problem = "not bound yet"
        self.stream_problem = ""
        self.stream_seen = 0

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
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
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
        last = replies[-1:] if self._settings.mode == "ordered" else replies
        task = asyncio.create_task(self._send_acks(last))
        self._acks.add(task)
        task.add_done_callback(self._acks.discard)

    def pause(self, paused: bool) -> None:
        """See :meth:`Stream.pause`."""
        before, self._pulls.paused = self._pulls.paused, paused
        if before and not paused:
            self._pull()

    def stand_by(self) -> None:
        """See :meth:`Stream.stand_by`."""
        self._pin = None

    async def info(self, timeout: float = API_TIMEOUT_SECONDS) -> dict[str, Any]:
        """Return the consumer's info.

        :param timeout: seconds.
        :raises Unavailable: NATS does not answer, or the consumer is gone.
        """
        try:
            info = await self._binding.info(timeout)
        except ConsumerGone as problem:
            self._saw_stream()
            self._lose(str(problem))
            raise
        except StreamGone as problem:
            self.stream_problem = str(problem)
            self._lose(str(problem))
            raise
        self._saw_stream()
        return info

    async def look(self, timeout: float) -> ConsumerState:
        """See :meth:`ConsumerView.look`."""
        info = await self.info(timeout)
        await self._binding.give_again(info)
        return ConsumerState(
            pending=int(info["num_pending"]),
            unacknowledged=int(info["num_ack_pending"]),
            delivered=int(info["delivered"]["consumer_seq"]),
            pulled=bool(info.get("num_waiting") or info.get("push_bound")),
        )

    def _saw_stream(self) -> None:
        self.stream_problem = ""
        self.stream_seen += 1

    async def ack_floor(self) -> int:
        """See :meth:`Stream.ack_floor`."""
        return int((await self.info())["ack_floor"]["stream_seq"])

    async def unread_after(self) -> tuple[int, bool]:
        """See :meth:`Stream.unread_after`."""
        info = await self.info()
        groups = info.get("priority_groups") or ()
        pinned = any(group.get("pinned_client_id") for group in groups)
        return int(info["ack_floor"]["stream_seq"]), pinned

    async def outstanding(self) -> tuple[int, int]:
        """See :meth:`Stream.outstanding`."""
        info = await self.info()
        return int(info["ack_floor"]["stream_seq"]), int(info["delivered"]["stream_seq"])

    async def read(
        self, after: int, upto: int, subject: str = FILTER, limit: int | None = None
    ) -> list[Received]:
        """See :meth:`Stream.read`."""
        return await self._stream.read(after, upto, subject, limit)

    async def bounds(self) -> Bounds:
        """See :meth:`Stream.bounds`."""
        return await self._stream.bounds()

    async def dead_letter(self, message: Received, reason: str, problem: str) -> None:
        """See :meth:`Stream.dead_letter`."""
        await self._stream.dead_letter(message, reason, problem)

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
            try:
                await asyncio.wait_for(self._wake.wait(), _TICK_SECONDS)
            except TimeoutError:
                # Nothing tells that a push consumer was deleted.
                if self._pulls.silent(asked=bool(self._push_subject)):
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
        self._lose_pin()

    def _reconnected(self) -> None:
        # What the old connection had asked for died with it; consumer and stream may have, too.
        self._bound = False
        self._wake.set()

    def _disconnected(self) -> None:
        self._pulls.forget()
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
        client = self._connection.client
        if self._push_subject:
            self._subscription = await client.subscribe(
                self._push_subject, queue=self._push_group, cb=self._take
            )
        else:
            self._inbox = client.new_inbox()
            self._subscription = await client.subscribe(
                self._inbox, cb=self._take, pending_msgs_limit=-1, pending_bytes_limit=-1
            )

    async def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None and self._connection.up:
            try:
                await subscription.unsubscribe()
            except NatsError:
                log.debug("subscription was gone")

    async def _drain(self) -> None:
        """End the subscription; what the server has sent by then is still taken."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None and self._connection.up:
            await subscription.drain()

    def _pull(self) -> None:
        """Ask for more once half of what may be outstanding has come."""
        ready = self._bound and self._subscription is not None and not self._push_subject
        request = self._pulls.request(self._pin) if ready and not self._leaving else None
        if request is None:
            return
        task = asyncio.create_task(self._send_pull(request))
        self._acks.add(task)
        task.add_done_callback(self._acks.discard)

    async def _send_pull(self, request: bytes) -> None:
        try:
            await self._connection.client.publish(
                f"{API}.{self._binding.api('CONSUMER.MSG.NEXT')}", request, reply=self._inbox
            )
        except NatsError as error:
            self._pulls.forget()
            log.debug("pull not sent", problem=str(error))

    async def _send_acks(self, replies: Sequence[str]) -> None:
        client = self._connection.client
        try:
            for reply in replies:
                await client.publish(reply, b"")
        except NatsError as error:
            log.debug("acknowledgement not sent: it comes again", problem=str(error))

    def _on_message(self, message: Msg) -> None:
        headers = message.headers
        told = consumer.parse_ack_subject(message.reply)
        if told is None:
            self._on_status(headers or {})
            return
        if headers:
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
            message.subject,
            message.data,
            message.reply,
            request_id_of(headers, self._stream.name, told.seq),
            told.delivered > 1,
        )
        if self._tracing:
            trace.event_read(received)
        assert self._handler is not None
        self._handler.on_received(received)
        if self._pulls.low:
            self._pull()

    async def _take(self, message: Msg) -> None:
        """Handle a message; the library would go on with the next as if this one had been."""
        try:
            self._on_message(message)
        except Exception as error:
            log.exception("message not taken in")
            self._lose(repr(error))

    def _on_status(self, headers: dict[str, str]) -> None:
        status = headers.get("Status", "")
        if status == WRONG_PIN:
            log.info("pinned elsewhere")
            self._lose_pin()
            self._pulls.forget()
        elif status in ENDED:
            description = headers.get("Description", "")
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
