"""Takes the messages of chosen subscriptions out of what a NATS server sends.

The client library wakes a task for what the socket gave, another for each message, and parses with
regular expressions and buffers in between: for events that come one by one that is most of what
they cost. What is taken out here is handed over in the call that the socket's bytes came with.
Everything else goes on to the library, byte for byte and in order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Protocol

from daisi_ws.adapters.nats_headers import parse_headers

MOST_LINE_BYTES: Final = 1024 * 1024
"""Longer than any INFO: whoever sends such a line is no NATS server."""

_END: Final = b"\r\n"
_MESSAGES: Final = (b"MSG", b"HMSG")
_HEAD = re.compile(
    rb"(H)?MSG[ \t]++(?P<subject>\S++)[ \t]++(?P<sid>[0-9]{1,20})[ \t]++"
    rb"(?:(?P<reply>\S++)[ \t]++)?"
    rb"(?(1)(?P<headers>[0-9]{1,20})[ \t]++|)(?P<size>[0-9]{1,20})[ \t]*+\r\n"
)
"""The first line of a message; `size` is that of headers and data together."""
_NO_HEADERS: Final[Mapping[str, str]] = {}


class Taker(Protocol):
    """Who gets the messages of a subscription. Neither call may raise."""

    def take(self, subject: str, reply: str, data: bytes, headers: Mapping[str, str]) -> None:
        """Take one message; `reply` is empty if there is none."""

    def taken(self) -> None:
        """All that came at once has been taken."""


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
            head = _HEAD.match(data, at)
            if head is None:
                at = self._pass_line(data, at)
                if self._held:
                    break
                continue
            _, subject, sid, reply, headers, size = head.groups()
            begin = head.end()
            body, stop = begin + int(headers or 0), begin + int(size)
            taker, after = self._takers.get(int(sid)), stop + len(_END)
            if body > stop:
                self._lost, at = True, end
            elif taker is None:
                at = min(after, end)
                self._passing = after - at
            elif after > end:
                self._hold(data, at, after - at)
                break
            else:
                if passed < at:
                    others.append(data[passed:at])
                passed = at = after
                self._give(taker, subject, reply, data[body:stop], data[begin:body])
        self._turn_to(None)
        others.append(data[passed:at])
        return b"".join(others)

    def _pass_line(self, data: bytes, at: int) -> int:
        """Pass over a line that is not for us, hold one that is cut off, or give up."""
        line_end = data.find(_END, at)
        if line_end < 0 and len(data) - at <= MOST_LINE_BYTES:
            self._hold(data, at, len(data) - at + 1)
            return at
        if line_end >= 0 and not data.startswith(_MESSAGES, at):
            return line_end + len(_END)
        self._lost = True
        return len(data)

    def _hold(self, data: bytes, at: int, needed: int) -> None:
        self._held += data[at:]
        self._needed = needed

    def _turn_to(self, taker: Taker | None) -> None:
        before, self._fed = self._fed, taker
        if before is not None:
            before.taken()

    def _give(
        self, taker: Taker, subject: bytes, reply: bytes | None, data: bytes, headers: bytes
    ) -> None:
        if taker is not self._fed:
            self._turn_to(taker)
        if headers != self._raw_headers:  # the pin, mostly: all messages say the same
            self._headers = parse_headers(headers) if headers else _NO_HEADERS
            self._raw_headers = headers
        taker.take(
            subject.decode("utf-8", "replace"),
            reply.decode("utf-8", "replace") if reply else "",
            data,
            self._headers,
        )
