"""A connection on a sink that only remembers, for tests of what happens to connections."""

from __future__ import annotations

import json

from daisi_ws.app.connection import Connection
from daisi_ws.domain import principal
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.outbox import Outbox, Policy
from daisi_ws.domain.principal import Principal
from daisi_ws.domain.wire import text_frame

FOREVER = 1e12


class FakeSink:
    """Remembers what was written and why it was closed; its backlog is set by the test."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed: list[CloseReason] = []
        self.waiting = 0

    def write(self, data: bytes) -> None:
        if not self.closed:
            self.written.append(data)

    def backlog(self) -> int:
        return self.waiting

    def close(self, reason: CloseReason) -> None:
        if not self.closed:
            self.closed.append(reason)

    def messages(self) -> list[dict[str, object]]:
        """Return the JSON of all text frames that were written."""
        data, found = b"".join(self.written), []
        while data:
            size, start = data[1], 2
            if size == 126:
                size, start = int.from_bytes(data[2:4], "big"), 4
            if data[0] == 0x81:
                found.append(json.loads(data[start : start + size]))
            data = data[start + size :]
        return found


def event(seq: int) -> bytes:
    """Return the frame of an event that says its sequence."""
    return text_frame(b'{"seq":%d}' % seq)


def ann(expires_at: float = FOREVER) -> Principal:
    """Return a user's principal."""
    return principal.user("acme", "bot", "ann", expires_at)


def flush(connection: Connection, now: float) -> int:
    """Write what waits, as delivery does at the end of a loop turn; return the bytes."""
    data = connection.take(now)
    if data and connection.sink is not None:
        connection.sink.write(data)
    return len(data)


class Made:
    """A connection with its sink, and the list of what was queued to be flushed."""

    def __init__(
        self,
        name: str = "c1",
        who: Principal | None = None,
        *,
        max_count: int = 3,
        max_bytes: int = 10_000,
        policy: Policy = "drop_oldest",
    ) -> None:
        self.sink = FakeSink()
        self.queued: list[Connection] = []
        self.outbox = Outbox(max_count, max_bytes, policy)
        self.connection = Connection(
            connection_id=name,
            pod_id="pod-1",
            principal=who or ann(),
            request_id="request-1",
            outbox=self.outbox,
            queue=self.queued.append,
        )

    def open(self, position: int = 0, now: float = 0.0) -> Connection:
        """Open the connection; what that wrote is forgotten."""
        self.connection.open(self.sink, b'{"type":"ready"}', position, now)
        self.sink.written.clear()
        return self.connection
