"""One connected client, from admission to its end, as delivery sees it."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

from daisi_ws.app.ports import Sink
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.outbox import NOTHING, Outbox
from daisi_ws.domain.principal import Principal
from daisi_ws.domain.streams import Point
from daisi_ws.domain.wire import text_frame

BACKLOG_BYTES: Final = 64 * 1024
"""With more than this not taken by the kernel since the last loop turn, a client is behind."""


class State(Enum):
    """Life of a connection; it only moves down this list."""

    JOINING = "joining"
    OPEN = "open"
    CLOSED = "closed"


class Connection:
    """A client with its principal, its interests and its outbox.

    While `JOINING` events are held; :meth:`open` sends `ready` and then what was held. After
    :meth:`close` nothing is delivered any more, whatever is still on its way.

    :param queue: called once per loop turn in which frames were offered, to be flushed.
    :param may_write: tells whether the session is known to be ours still.
    """

    __slots__ = (
        "__weakref__",
        "_may_write",
        "_queue",
        "_queued",
        "behind_since",
        "chat",
        "connection_id",
        "dropped",
        "interests",
        "last_seen",
        "lock_value",
        "on_close",
        "opened_at",
        "outbox",
        "position",
        "principal",
        "reason",
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
        self.state = State.JOINING
        self.reason: CloseReason | None = None
        self.sink: Sink | None = None
        self.on_close: Callable[[CloseReason], None] | None = None
        self.behind_since: float | None = None
        self.last_seen = 0.0
        self.opened_at = 0.0
        self.dropped = 0
        self._queue = queue
        self._may_write = may_write
        self._queued = False

    def offer(self, seq: int, frame: bytes) -> int:
        """Put an event's frame into the outbox; return how many were dropped for it.

        A burst larger than the outbox is written early while the client keeps up: only one that
        does not read loses anything.
        """
        if self.state is State.CLOSED:
            return 0
        if not self.outbox.has_room(len(frame)) and self._keeps_up():
            self._write()
        dropped = self.outbox.put(seq, frame)
        if self.state is State.JOINING:
            # Nothing is promised yet: `ready` will tell a later position.
            dropped = 0
        self.dropped += dropped
        if not self._queued:
            self._queued = True
            self._queue(self)
        return dropped

    def send(self, message: bytes) -> None:
        """Queue a message that is no event (`error`, `done`, …)."""
        self.offer(NOTHING, text_frame(message))

    def complete_after(self, stream: str) -> int:
        """Return the sequence of `stream` from which on nothing is missing, to be told in `ready`.

        Whoever waits long for its session on a busy subject has lost the first of what was held.
        """
        return max(self.position.seq_in(stream), self.outbox.dropped_upto)

    def open(self, sink: Sink, ready: bytes, position: int, now: float) -> None:
        """Send `ready`, then the held events after `position`. `now` is monotonic seconds."""
        if self.state is State.CLOSED:
            sink.close(self.reason or CloseReason.GOING_AWAY)
            return
        self.sink = sink
        self.state = State.OPEN
        self.opened_at = self.last_seen = now
        self.outbox.discard_upto(position)
        sink.write(text_frame(ready) + self.outbox.take())

    def flush(self, now: float) -> int:
        """Write what waits, as one piece, unless the client is behind; return the bytes."""
        self._queued = False
        sink = self.sink
        if self.state is not State.OPEN or sink is None or not self.outbox:
            return 0
        if sink.backlog() > BACKLOG_BYTES:
            if self.behind_since is None:
                self.behind_since = now
            return 0
        self.behind_since = None
        return self._write()

    def close(self, reason: CloseReason) -> None:
        """Stop delivering now, and end the socket with this reason. Idempotent.

        What waits is written first, unless the session is somebody else's already.
        """
        if self.state is State.CLOSED:
            return
        if self._keeps_up() and reason is not CloseReason.SESSION_LOST:
            self._write()
        self.state = State.CLOSED
        self.reason = reason
        if self.on_close is not None:
            self.on_close(reason)
        if self.sink is not None:
            self.sink.close(reason)

    def _keeps_up(self) -> bool:
        return self.state is State.OPEN and self.behind_since is None and self._may_write()

    def _write(self) -> int:
        if self.sink is None or not self.outbox:
            return 0
        data = self.outbox.take()
        self.sink.write(data)
        return len(data)
