"""One connected client, from admission to its end, as delivery sees it."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

from daisi_ws.app.ports import Sink
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.outbox import NOTHING, Outbox, Policy
from daisi_ws.domain.principal import Principal
from daisi_ws.domain.resume import Recovery
from daisi_ws.domain.streams import Point, further
from daisi_ws.domain.wire import text_frame

BACKLOG_BYTES: Final = 64 * 1024
"""With more than this not taken by the kernel since the last loop turn, a client is behind."""


class State(Enum):
    """Life of a connection; it only moves down this list."""

    JOINING = "joining"
    OPEN = "open"
    CLOSED = "closed"


# Python 3.11 looks an enum's member up in a function, at more cost than all else in `offer`.
_JOINING: Final = State.JOINING
_OPEN: Final = State.OPEN
_CLOSED: Final = State.CLOSED


class Connection:
    """A client with its principal, its interests and its outbox.

    While `JOINING` events are held; :meth:`open` sends `ready` and then what was held. After
    :meth:`close` nothing is delivered any more, whatever is still on its way.

    :param queue: called once per loop turn in which frames were offered, to be flushed.
    :param may_write: tells whether the session is known to be ours still.
    :ivar deflated: the client takes compressed messages.
    :ivar look_at: when the heart has to look at it again, monotonic seconds; 0 for at once.
    """

    __slots__ = (
        "__weakref__",
        "_held",
        "_limits",
        "_may_write",
        "_queue",
        "_queued",
        "behind_since",
        "chat",
        "connection_id",
        "counted",
        "deflated",
        "dropped",
        "interests",
        "last_seen",
        "leaving",
        "lock_value",
        "look_at",
        "on_close",
        "outbox",
        "position",
        "principal",
        "reason",
        "recovery",
        "request_id",
        "sink",
        "state",
    )

    def __init__(
        self,
        *,
        connection_id: str,
        pod_id: str,
        principal: Principal,
        request_id: str,
        outbox: Outbox,
        queue: Callable[[Connection], None],
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self.connection_id = connection_id
        self.lock_value = f"{pod_id}#{connection_id}"
        self.principal = principal
        self.request_id = request_id
        self.outbox = outbox
        self.interests: set[str] = set()
        self.chat: str | None = None
        self.position = Point("", 0)
        self.state = _JOINING
        self.reason: CloseReason | None = None
        self.recovery: Recovery | None = None
        self.sink: Sink | None = None
        self.on_close: Callable[[CloseReason], None] | None = None
        self.behind_since: float | None = None
        self.leaving = False
        self.deflated = False
        self.last_seen = 0.0
        self.look_at = 0.0
        self.dropped = self.counted = 0
        self._held = False
        self._limits = (outbox.max_count, outbox.max_bytes)
        self._queue = queue
        self._may_write = may_write
        self._queued = False

    @property
    def positions(self) -> bool:
        """Tell whether the client asked for positions: it understands `gap` and `reconnect`."""
        return self.outbox.positions

    @positions.setter
    def positions(self, asked: bool) -> None:
        self.outbox.positions = asked

    def refresh(self, principal: Principal) -> None:
        """Go on with a fresh token, which may end sooner than the one before."""
        self.principal = principal
        self.look_at = 0.0

    @property
    def held(self) -> bool:
        """Tell whether nothing is written for now: see :meth:`hold`."""
        return self._held

    def offer(self, seq: int, frame: bytes) -> int:
        """Put an event's frame into the outbox; return how many were dropped for it.

        A burst larger than the outbox is written early while the client keeps up: only one that
        does not read loses anything.
        """
        state, outbox = self.state, self.outbox
        if state is _CLOSED:
            return 0
        # An empty outbox takes any frame, and most are empty: `size` spares a call for each.
        if outbox.size and not outbox.has_room(len(frame)) and self._keeps_up() and self._takes():
            self._write()
        # Not lost yet: `ready` will tell a later position, or it is read again.
        lossy = state is _JOINING or self._held
        dropped = outbox.put(seq, frame, lossy=lossy)
        if lossy:
            dropped = 0
        self.dropped += dropped
        if not self._queued:
            self._queued = True
            self._queue(self)
        return dropped

    def send(self, message: bytes) -> None:
        """Queue a message that is no event (`error`, `done`, …)."""
        self.offer(NOTHING, text_frame(message))

    def begin_anew(self, told: bytes) -> None:
        """Go on with a stream that was made anew. What is held is of the old one, of which nothing
        was promised: it would come among the new one's events.

        :param told: a message that says so, for who follows positions.
        """
        if self.state is _JOINING or self._held:
            self.outbox.forget_events()
        if self.positions and self.state is _OPEN:
            self.send(told)

    def has(self, point: Point) -> None:
        """Note that everything up to a point has come, or need not."""
        self.position = further(self.position, point)

    def complete_after(self, stream: str) -> int:
        """Return the sequence of `stream` from which on nothing is missing, to be told in `ready`.

        Whoever waits long for its session on a busy subject has lost the first of what was held.
        """
        return max(self.position.seq_in(stream), self.outbox.dropped_upto)

    def open(self, sink: Sink, ready: bytes, position: int, now: float) -> None:
        """Send `ready`, then the held events after `position`. `now` is monotonic seconds."""
        if self.state is _CLOSED:
            sink.close(self.reason or CloseReason.GOING_AWAY)
            return
        self.sink = sink
        self.state = _OPEN
        self.last_seen = now
        self.let_go()
        self.outbox.discard_upto(position)
        if self.recovery is not None:
            self.outbox.merge(self.recovery.events, self.recovery.upto)
            self.recovery = None
        self.dropped += self.outbox.untold
        sink.write(text_frame(ready) + self.outbox.take())

    def hold(self, max_count: int, max_bytes: int) -> None:
        """Write nothing until :meth:`open` or :meth:`release`; at least so much may wait.

        A client that is behind, or reads so little that a burst would not be written any more, is
        not held: it would be given more than it takes, again and again.
        """
        if self._keeps_up():
            self._write()
        if self.behind_since is not None or (self.sink is not None and not self._takes()):
            return
        outbox = self.outbox
        self._held = True
        outbox.max_count = max(outbox.max_count, max_count)
        outbox.max_bytes = max(outbox.max_bytes, max_bytes)

    def release(self, told: bytes, recovery: Recovery) -> None:
        """Go on: the message `told`, then what was missed and what was held, in order."""
        if self.state is _CLOSED:
            return
        upto = recovery.upto if recovery.whole else 0
        self.outbox.merge([*recovery.events, *recovery.others], upto, text_frame(told))
        held = self._held
        if held:
            self.dropped += self.outbox.untold
        self.let_go()
        if held and self._keeps_up():
            self._write()
        else:
            self._enqueue()

    def let_go(self) -> None:
        """Hold nothing any more."""
        if self._held:
            self._held = False
            self.outbox.max_count, self.outbox.max_bytes = self._limits
            self._enqueue()

    def limit(self, max_count: int, max_bytes: int, policy: Policy) -> None:
        """Go on with other limits for what may wait; at once, unless it is held for now."""
        self._limits = (max_count, max_bytes)
        if self._held:
            max_count = max(self.outbox.max_count, max_count)
            max_bytes = max(self.outbox.max_bytes, max_bytes)
        dropped = self.outbox.limit(max_count, max_bytes, policy)
        # As in `offer`: before `ready` nothing is lost by it.
        if self.state is _OPEN and not self._held:
            self.dropped += dropped

    def take(self, now: float) -> bytes:
        """Take what waits, as one piece, to be written at once; nothing if the client is behind."""
        self._queued = False
        sink, outbox = self.sink, self.outbox
        if self.state is not _OPEN or sink is None or self._held:
            return b""
        # Nearly all that are queued have a frame: `size` spares a call for each.
        if not (outbox.size or outbox):
            return b""
        if sink.backlog() > BACKLOG_BYTES:
            if self.behind_since is None:
                self.behind_since = now
            return b""
        self.behind_since = None
        return outbox.take()

    def close(self, reason: CloseReason, *, write: bool = True) -> None:
        """Stop delivering now, and end the socket with this reason. Idempotent.

        :param write: what waits is written first; False if the session is somebody else's already.
        """
        self.mute(reason, write=write)
        if self.sink is not None and self.reason is not None:
            self.sink.close(self.reason)

    def mute(self, reason: CloseReason, *, write: bool = True) -> None:
        """Stop delivering now, as :meth:`close` does, which ends the socket later."""
        if self.state is _CLOSED:
            return
        if write and self._keeps_up():
            self._write()
        self.state = _CLOSED
        self.reason = reason
        if self.on_close is not None:
            self.on_close(reason)

    def _enqueue(self) -> None:
        if not self._queued:
            self._queued = True
            self._queue(self)

    def _keeps_up(self) -> bool:
        if self.state is not _OPEN or self._held:
            return False
        return self.behind_since is None and self._may_write()

    def _takes(self) -> bool:
        """Tell whether the socket's buffer has room for what waits: a burst has a bound, too."""
        if self.sink is None:
            return False
        most = BACKLOG_BYTES + self.outbox.max_bytes
        return self.sink.backlog() + self.outbox.size <= most

    def _write(self) -> None:
        if self.sink is not None and self.outbox:
            self.sink.write(self.outbox.take())
