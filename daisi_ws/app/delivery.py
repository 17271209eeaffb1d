"""From an accepted event to the sockets: synchronous, never waits.

Every pod accepts a prefix of one total order (one reader, one ordered stream from it), so one
high-water mark removes duplicates, whatever is redelivered or pushed twice, and is a complete
position. A reader that was displaced and does not know it yet is fenced by its epoch.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import structlog

from daisi_ws.app.connection import Connection, State
from daisi_ws.app.doubles import NOBODY, Doubles
from daisi_ws.app.hub import Hub
from daisi_ws.app.ports import Position, Sink
from daisi_ws.domain import frames, subjects
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.outbox import UNSEQUENCED, Policy
from daisi_ws.domain.packets import Item
from daisi_ws.domain.resume import Recovery
from daisi_ws.domain.streams import Point, is_older
from daisi_ws.domain.subjects import Address
from daisi_ws.domain.tracing import TRACEPARENT, parted
from daisi_ws.domain.wire import Deflater, text_frame
from daisi_ws.metrics import Metrics

STALE: Final = -1
SHARED_EPOCH: Final = 0
PAUSE_SECONDS: Final = 1.0
"""A loop that stood still longer than this may have lost its sessions without knowing."""

_RECENT: Final = 100_000

log = structlog.get_logger(__name__)


class Delivery:
    """Accepts events for this pod's connections and flushes their outboxes once per loop turn.

    :param clock: monotonic seconds; `wall_ns`: Unix time in nanoseconds.
    """

    def __init__(
        self,
        hub: Hub,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._hub = hub
        self._metrics = metrics
        self._tally = metrics.tally
        self._clock = clock
        self._wall_ns = wall_ns
        self._dirty: list[Connection] = []
        self._timings: list[tuple[int, int]] = []
        self._scheduled = False
        self._freed = False
        self._recent: OrderedDict[int, None] = OrderedDict()
        self._ahead: dict[Connection, int] = {}
        self._doubles = Doubles(clock)
        self._deflater = Deflater()
        self._on_accepted: list[Callable[[], None]] = []
        self._open = asyncio.Event()
        self._open.set()
        self._shut = False
        self._released = asyncio.Event()
        self._released.set()
        self._trusted_at = clock()
        self.mark = 0
        self.epoch = 0
        self.stream = ""

    # -- who may push -----------------------------------------------------------------------------

    def fence(self, epoch: int) -> None:
        """From now accept only readers with at least this epoch."""
        self.epoch = max(self.epoch, epoch)

    def start_at(self, stream: str, seq: int) -> None:
        """Begin with nothing missed: all up to `seq` of `stream` was before this pod's time."""
        if self.follow(stream):
            self.mark = max(self.mark, seq)

    def follow(self, stream: str) -> bool:
        """Go over to a stream that was made anew, from its beginning; False if it is older.

        Who follows positions is told before the first event: its sequences begin anew.
        """
        if stream == self.stream:
            return True
        if self.stream and is_older(stream, self.stream):
            return False
        known, self.stream = self.stream, stream
        if known:
            told = frames.resumed(stream, 0, Recovery("other_stream"))
            for connection in self._hub.connections():
                connection.begin_anew(told)
        self.mark = 0
        self._recent.clear()
        self._ahead.clear()
        return True

    @property
    def point(self) -> Point:
        """Return up to where everything was handed to the connections here."""
        return Point(self.stream, self.mark)

    def complete_after(self, where: Position) -> Point:
        """Return from where a newcomer is complete whose interests the reader knew at `where`.

        If the reader does not know yet that the stream was made anew, the next one reads all
        routes, and the new stream from its beginning.
        """
        self.fence(where.epoch)
        if not self.follow(where.stream):
            return self.point
        return Point(self.stream, max(where.seq, self.mark))

    def has(self, connection: Connection, upto: int) -> None:
        """Note that a connection has, or never had to get, everything up to `upto`.

        The reader's word may overtake events that are on their way here: they come too late.
        """
        if upto > self.had(connection) and connection.state is not State.CLOSED:
            self._ahead[connection] = upto

    def had(self, connection: Connection) -> int:
        """Return the sequence up to which a connection was given, or need not get, everything."""
        return max(self.mark, self._ahead.get(connection, 0))

    async def wait_open(self) -> None:
        """Wait while this pod catches up on its own, or is held: pushed events come after that."""
        await self._open.wait()

    async def wait_released(self) -> None:
        """Wait while this pod is held: what it would take in has nowhere to go."""
        await self._released.wait()

    @property
    def is_open(self) -> bool:
        """Tell whether events are accepted now."""
        return self._open.is_set()

    def shut(self, shut: bool) -> None:
        """Stop accepting pushed events, or go on."""
        self._shut = shut
        self._turn_gate()

    # -- events -----------------------------------------------------------------------------------

    def accept(self, epoch: int, stream: str, upto: int, items: list[Item]) -> int:
        """Hand events to the connections that want them.

        :param upto: nothing for this pod at or before this sequence is still to come.
        :return: the sequence up to which everything is accepted, :data:`STALE` if a newer reader
            or a newer stream is known.
        """
        if epoch < self.epoch or not self.follow(stream):
            return STALE
        self.epoch = epoch
        tracing = bool(items) and log.is_enabled_for(logging.DEBUG)
        for item in items:
            had = self._doubles.take(item.text) if self._is_new(item.seq, epoch) else None
            if had != NOBODY:
                self._tally.duplicates += 1
                if had is None:
                    continue
            count = self._deliver(item.seq, item.stored_ns, item.subject, item.text, had)
            if tracing:
                _tell_delivered(item, count)
        self.mark = max(self.mark, upto)
        if self._ahead:
            self._ahead = {c: seq for c, seq in self._ahead.items() if seq > self.mark}
        return self.accepted_upto()

    def accept_and_flush(self, epoch: int, stream: str, upto: int, items: list[Item]) -> int:
        """Accept what came at once, and write it: see :meth:`accept`."""
        self._scheduled = True
        try:
            return self.accept(epoch, stream, upto, items)
        finally:
            self.flush()

    def wanted(self, address: Address) -> bool:
        """Tell whether anybody here wants an event."""
        return bool(self._hub.match(address))

    def deliver_unsequenced(self, event_id: str, subject: str, text: bytes) -> int | None:
        """Deliver an event that has no sequence: an older pod pushed it, and the reader hands it
        on, too. Whichever comes first counts; from the reader it still comes for those who have
        subscribed meanwhile, as it is after the position that they were told.

        :return: to how many; None if it is known already.
        """
        self._doubles.expect()
        if not self._doubles.push(event_id, self._hub.moment):
            return None
        return self._deliver(UNSEQUENCED, self._wall_ns(), subject, text)

    @property
    def unsequenced_expected(self) -> bool:
        """Tell whether connections may have events that came without a sequence."""
        return self._doubles.expected

    def accepted_upto(self) -> int:
        """Return the sequence up to which everything is accepted (policy `block` withholds)."""
        held = self.held_floor()
        return self.mark if held is None else min(self.mark, held - 1)

    def held_floor(self) -> int | None:
        """Return the lowest sequence withheld for a client without room, None if none is.

        Only the acknowledgement waits for it: what is over a limit waits in its outbox.
        """
        if not self._hub.behind:
            return None
        behind = (c for c in self._hub.behind if c.state is State.OPEN)
        floors = (c.outbox.held_from() for c in behind)
        return min((floor for floor in floors if floor is not None), default=None)

    def on_accepted(self, callback: Callable[[], None]) -> None:
        """Call back when what was withheld may have been accepted, or this pod is sure again."""
        self._on_accepted.append(callback)

    def _is_new(self, seq: int, epoch: int) -> bool:
        if epoch != SHARED_EPOCH:
            if seq <= self.mark:
                return False
            self.mark = seq
            return True
        if seq in self._recent:
            return False
        self._recent[seq] = None
        if len(self._recent) > _RECENT:
            self._recent.popitem(last=False)
        self.mark = max(self.mark, seq)
        return True

    def _deliver(
        self, seq: int, stored_ns: int, subject: str, text: bytes, had: int = NOBODY
    ) -> int:
        """Hand an event to who wants it; return how many that are.

        :param had: at this moment all who wanted it were given it.
        """
        address = subjects.parse(subject)
        if address is None:
            return 0
        hub = self._hub
        wanting = hub.match(address) if had == NOBODY else hub.match_since(address, had)
        if not wanting:
            return 0
        frame, deflated = text_frame(text), b""
        ahead, count = self._ahead, 0
        for connection in wanting:
            if ahead and 0 < seq <= ahead.get(connection, 0):
                continue
            if connection.deflated:
                deflated = deflated or self._deflater.text_frame(text)
                connection.offer(seq, deflated)
            else:
                connection.offer(seq, frame)
            count += 1
        self._tally.delivered += count
        self._timings.append((stored_ns, count))
        return count

    # -- the end of the loop turn -----------------------------------------------------------------

    def queue(self, connection: Connection) -> None:
        """Note that a connection has something to flush in this loop turn."""
        self._dirty.append(connection)
        if not self._scheduled:
            self._schedule()

    def flush(self) -> None:
        """Write every outbox that got something: one write per socket."""
        self._scheduled = False
        if not self.may_write():
            return
        now = self._clock()
        dirty, self._dirty = self._dirty, []
        self._write(dirty, now)
        self._observe()
        if self._freed:
            self._freed = False
            self._tell_accepted()

    def writable(self, connection: Connection) -> None:
        """A client that was behind reads again: send what waits for it."""
        if connection in self._hub.behind:
            self._hub.behind.discard(connection)
            connection.behind_since = None
            self.queue(connection)
            self._freed = True

    def limit(self, max_count: int, max_bytes: int, policy: Policy) -> None:
        """Go on with other limits for what may wait for a client; who is connected has them too."""
        for connection in self._hub.connections():
            connection.limit(max_count, max_bytes, policy)
            self._count_dropped(connection)
        self._tell_accepted()

    def forget(self, connection: Connection) -> None:
        """A connection is gone: what was withheld for it is withheld no longer."""
        self._count_dropped(connection)
        self._ahead.pop(connection, None)
        if connection in self._hub.behind:
            self._hub.behind.discard(connection)
            self._tell_accepted()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self.flush)

    def _write(self, dirty: list[Connection], now: float) -> None:
        """Write all in a row, and only then look at who is behind, lost something or failed.

        Between system calls little else runs, and nothing that is called out to finds events taken
        and not written yet.
        """
        behind = self._hub.behind
        pieces: list[tuple[Connection, Sink, bytes]] = []
        unusual: list[Connection] = []
        failed: list[Connection] = []
        for connection in dirty:
            try:
                data, sink = connection.take(now), connection.sink
                if data and sink is not None:
                    pieces.append((connection, sink, data))
            except Exception:  # the others still get theirs
                log.exception("outbox not taken", request_id=connection.request_id)
                failed.append(connection)
            if (
                connection.behind_since is not None
                or connection.dropped != connection.counted
                or connection in behind
            ):
                unusual.append(connection)
        for connection, sink, data in pieces:
            try:
                sink.write(data)
            except Exception:  # the others still get theirs
                log.exception("outbox not written", request_id=connection.request_id)
                failed.append(connection)
        for connection in failed:
            connection.close(CloseReason.INTERNAL_ERROR)
        for connection in unusual:
            self._settle(connection)

    def _settle(self, connection: Connection) -> None:
        """Count what was dropped for a connection, and note whether it is behind."""
        if connection.dropped != connection.counted:
            self._count_dropped(connection)
        behind = self._hub.behind
        if connection.behind_since is None:
            if connection in behind:
                behind.discard(connection)
                self._freed = True
        elif connection.outbox.overflowed:
            connection.close(CloseReason.TOO_SLOW)
        # One that has left since it was queued would stay here, and withhold what waits for it.
        elif connection.state is State.OPEN:
            behind.add(connection)

    def _count_dropped(self, connection: Connection) -> None:
        dropped = connection.dropped - connection.counted
        connection.counted = connection.dropped
        self._metrics.messages_dropped.labels("slow_client").inc(dropped)

    def _observe(self) -> None:
        timings, self._timings = self._timings, []
        now_ns = self._wall_ns()
        for stored_ns, count in timings:
            self._tally.observe_latency(max(0, now_ns - stored_ns) / 1e9, count)

    def _tell_accepted(self) -> None:
        for callback in self._on_accepted:
            callback()

    # -- a process that stood still ---------------------------------------------------------------

    def trust(self, now: float) -> None:
        """Say that the loop turns and the sessions are known to be ours; several times a second."""
        was_trusted, self._trusted_at = self.may_write(), now
        # A pause too short to be noticed by its tick may have kept a flush from writing, and the
        # reader from going on.
        if self._dirty:
            self._schedule()
        if not was_trusted:
            self._tell_accepted()

    def hold(self) -> None:
        """Be sure of nothing until :meth:`release`, and accept nothing."""
        self._released.clear()
        self._turn_gate()

    def release(self) -> None:
        """Go on writing."""
        self._released.set()
        self._trusted_at = self._clock()
        self.flush()
        self._turn_gate()

    def may_write(self) -> bool:
        """Tell whether the sessions, and the reading, are known to be ours.

        Only then sockets may be written, and events be handed on and acknowledged.
        """
        return self._released.is_set() and self._clock() - self._trusted_at <= PAUSE_SECONDS

    def _turn_gate(self) -> None:
        if self._shut or not self._released.is_set():
            self._open.clear()
        elif not self._open.is_set():
            self._open.set()
            self._tell_accepted()


def _tell_delivered(item: Item, connections: int) -> None:
    """Say, at `debug`, to how many an event went: one line whatever their number."""
    request_id, parent = parted(item.request_id)
    context = {TRACEPARENT: parent} if parent else {}
    log.debug(
        "event delivered",
        request_id=request_id,
        seq=item.seq,
        subject=item.subject[:200],
        connections=connections,
        **context,
    )
