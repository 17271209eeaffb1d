"""The publisher: events at even intervals, each stamped just before it is handed to the kernel.

It runs in a thread, as an event loop's timers are too coarse: whatever comes in bursts of a
millisecond is cheaper to handle than what comes one by one.
"""

from __future__ import annotations

import socket
import sys
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.wire import clock

_SWITCH_SECONDS: Final = 0.0005
_TICK_SECONDS: Final = 0.0002
"""What is due within this time is published together: a thread cannot wake up much more often."""
_OVERSLEEP_SECONDS: Final = 0.00005
_TIMEOUT: Final = 60.0


@dataclass
class Events:
    """Events with consecutive numbers, published to some subjects in turn.

    :param lines: of each subject, its name and the payload after `event_id`.
    :param first: number of the first event.
    :ivar sent_at: when each was published.
    """

    lines: Sequence[tuple[bytes, bytes]]
    first: int
    sent_at: array[float] = field(default_factory=lambda: array("d"))

    def next(self, due: int) -> bytes:
        """Return the `PUB` lines of the events up to `due`, and note the time.

        https://docs.nats.io/reference/reference-protocols/nats-protocol
        """
        pieces = []
        width, now = len(self.lines), clock()
        for index in range(len(self.sent_at), due):
            subject, rest = self.lines[index % width]
            body = b'{"event_id":"%d",%b' % (self.first + index, rest)
            pieces.append(b"PUB %b %d\r\n%b\r\n" % (subject, len(body), body))
            self.sent_at.append(now)
        return b"".join(pieces)


def publish(host: str, port: int, events: Events, rate: float, seconds: float) -> None:
    """Publish more of `events`; return once NATS has taken them all."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    start = len(events.sent_at)
    count = round(rate * seconds)
    with socket.create_connection((host, port), _TIMEOUT) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b'CONNECT {"verbose":false,"pedantic":false,"name":"bench"}\r\n')
        _sync(connection)
        began, sent = clock(), 0
        while sent < count:
            due = min(count, int((clock() - began) * rate) + 1)
            if due > sent:
                connection.sendall(events.next(start + due))
                sent = due
            pause = max(_TICK_SECONDS, began + sent / rate - clock())
            time.sleep(pause - _OVERSLEEP_SECONDS)
        _sync(connection)


def _sync(connection: socket.socket) -> None:
    connection.sendall(b"PING\r\n")
    heard = b""
    while b"PONG\r\n" not in heard:
        piece = connection.recv(65536)
        if not piece or b"-ERR" in piece:
            raise RuntimeError(f"NATS ended the publisher: {piece!r}")
        heard += piece
