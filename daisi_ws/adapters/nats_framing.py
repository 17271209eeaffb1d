"""Takes the messages of chosen subscriptions out of what a NATS server sends.

The client library wakes a task for what the socket gave, another for each message, and parses with
regular expressions and buffers in between: for events that come one by one that is most of what
they cost. What is taken out here is handed over in the call that the socket's bytes came with.
Everything else goes on to the library, byte for byte and in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from daisi_ws.adapters.nats_headers import parse_headers

MOST_LINE_BYTES: Final = 1024 * 1024
"""Longer than any INFO: whoever sends such a line is no NATS server."""

_END: Final = b"\r\n"
_MESSAGES: Final = (b"MSG", b"HMSG")
_MOST_DIGITS: Final = 20
_NO_HEADERS: Final[Mapping[str, str]] = {}


class Taker(Protocol):
    """Who gets the messages of a subscription. Neither call may raise."""

    def take(self, subject: str, reply: str, data: bytes, headers: Mapping[str, str]) -> None:
        """Take one message; `reply` is empty if there is none."""

    def taken(self) -> None:
        """All that came at once has been taken."""


class _Head(NamedTuple):
    """The first line of a message, and where in the bytes its parts begin and end."""

    sid: int
    subject: bytes
    reply: bytes
    headers: int
    data: int
    end: int


class Framing:
    """Follows the bytes of one connection from their beginning (NATS client protocol).

    What does not look like that protocol ends the following: from there on everything goes to the
    library, which knows what to do about it.

    :param takers: by subscription ID; may change at any time.
    """

    def __init__(self, takers: Mapping[int, Taker]) -> None:
        self._takers = takers
        self._held = bytearray()
        self._needed = 0
        self._passing = 0
        self._lost = False
        self._fed: Taker | None = None
        self._raw_headers = b""
        self._headers = _NO_HEADERS

    def feed(self, data: bytes) -> bytes:
        """Take what can be taken; return what is for the library.

        What is cut off is held until it is complete.
        """
        if self._lost:
            return data
        if self._held:
            self._held += data
            if len(self._held) < self._needed:
                return b""
            data = bytes(self._held)
            self._held.clear()
        return self._split(data)

    def _split(self, data: bytes) -> bytes:
        end = len(data)
        at = min(self._passing, end)
        self._passing -= at
        others: list[bytes] = []
        passed = 0
        while at < end:
            line_end = data.find(_END, at)
            if line_end < 0 and end - at <= MOST_LINE_BYTES:
                self._hold(data, at, end - at + 1)
                break
            if line_end >= 0 and not data.startswith(_MESSAGES, at):
                at = line_end + len(_END)
                continue
            head = _head(data, at, line_end)
            if head is None:
                self._lost, at = True, end
                break
            taker = self._takers.get(head.sid)
            if taker is None:
                at = min(head.end, end)
                self._passing = head.end - at
            elif head.end > end:
                self._hold(data, at, head.end - at)
                break
            else:
                if passed < at:
                    others.append(data[passed:at])
                passed = at = head.end
                self._give(taker, data, head)
        self._turn_to(None)
        others.append(data[passed:at])
        return b"".join(others)

    def _hold(self, data: bytes, at: int, needed: int) -> None:
        self._held += data[at:]
        self._needed = needed

    def _turn_to(self, taker: Taker | None) -> None:
        before, self._fed = self._fed, taker
        if before is not None and before is not taker:
            before.taken()

    def _give(self, taker: Taker, data: bytes, head: _Head) -> None:
        self._turn_to(taker)
        raw = data[head.headers : head.data]
        if raw != self._raw_headers:  # the pin, mostly: all messages say the same
            self._headers = parse_headers(raw) if raw else _NO_HEADERS
            self._raw_headers = raw
        taker.take(
            head.subject.decode(errors="replace"),
            head.reply.decode(errors="replace"),
            data[head.data : head.end - len(_END)],
            self._headers,
        )


def _head(data: bytes, at: int, line_end: int) -> _Head | None:
    """Return the head of the message at `at`; None: it is none that a NATS server sends."""
    words = data[at : max(at, line_end)].split()
    with_headers = words[:1] == [b"HMSG"]
    if not with_headers and words[:1] != [b"MSG"]:
        return None
    numbers = words[-2 if with_headers else -1 :]
    least = 5 if with_headers else 4
    if not (least <= len(words) <= least + 1 and words[2].isdigit()):
        return None
    for number in numbers:
        if not number.isdigit() or len(number) > _MOST_DIGITS:
            return None
    body = line_end + len(_END)
    of_headers, size = (int(numbers[0]) if with_headers else 0), int(numbers[-1])
    if of_headers > size:
        return None
    reply = words[3] if len(words) > least else b""
    start = body + of_headers
    return _Head(int(words[2]), words[1], reply, body, start, body + size + len(_END))
