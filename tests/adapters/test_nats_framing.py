"""Taking messages out of a NATS connection's bytes: judged by nats-py's own parser."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from daisi_ws.adapters.nats_framing import MOST_LINE_BYTES, Framing
from daisi_ws.adapters.nats_headers import parse_headers

DIRECT, OTHER = 1, 2
Message = tuple[int, str, str, bytes, dict[str, str]]


class Taken:
    """Remembers what was taken, and after how many messages it was told that this is all."""

    def __init__(self, sid: int = DIRECT) -> None:
        self.sid = sid
        self.messages: list[Message] = []
        self.turns: list[int] = []

    def take(self, subject: str, reply: str, data: bytes, headers: Mapping[str, str]) -> None:
        self.messages.append((self.sid, subject, reply, data, dict(headers)))

    def taken(self) -> None:
        self.turns.append(len(self.messages))


class Library:
    """What nats-py's parser makes of bytes."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.others: list[object] = []
        self.broken = False
        self._headers = Client()._process_headers
        self._parser = Parser(self)

    async def feed(self, data: bytes) -> None:
        """Parse some more."""
        if not self.broken:
            try:
                await self._parser.parse(data)
            except ProtocolError:
                self.broken = True

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        parsed = await self._headers(headers) or {}
        message = (sid, subject.decode(), reply.decode(), data, parsed)
        self.messages.append(message)

    async def _process_err(self, text: str) -> None:
        self.others.append(text)

    async def _process_ping(self) -> None:
        self.others.append("ping")

    async def _process_pong(self) -> None:
        self.others.append("pong")

    async def _process_info(self, info: object) -> None:
        self.others.append(info)


def msg(sid: int, data: bytes, headers: bytes = b"", reply: bytes = b"") -> bytes:
    """Return a message as the server sends it."""
    words = [b"HMSG" if headers else b"MSG", b"a.b", b"%d" % sid]
    words += [reply] if reply else []
    words += [b"%d" % len(headers)] if headers else []
    words += [b"%d" % (len(headers) + len(data))]
    return b" ".join(words) + b"\r\n" + headers + data + b"\r\n"


TOKENS = st.from_regex(rb"[a-zA-Z0-9$_.*>-]{1,20}", fullmatch=True)
NAMES = st.from_regex(rb"[A-Za-z][A-Za-z0-9-]{0,10}", fullmatch=True)
VALUES = st.from_regex(rb"[ !-9;-~]{0,20}", fullmatch=True) | st.just("käse".encode())
HEADERS = st.lists(st.tuples(NAMES, VALUES), min_size=1, max_size=4).map(
    lambda pairs: b"NATS/1.0\r\n" + b"".join(b"%b: %b\r\n" % pair for pair in pairs) + b"\r\n"
)
STATUSES = st.sampled_from(
    [
        b"NATS/1.0 404 No Messages\r\n\r\n",
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0 423 Nats-Wrong-Pin-Id\r\n\r\n",
        b"NATS/1.0 408 Timeout\r\nNats-Pending-Messages: 7\r\nNats-Pending-Bytes: 0\r\n\r\n",
        b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 1016\r\n\r\n",
    ]
)
BODIES = st.binary(max_size=60) | st.sampled_from(
    [b"\r\n", b"PING\r\n", b"MSG a 1 5\r\n", b"HMSG a 1 5 9\r\nNATS", b"x" * 5000]
)
MESSAGES = st.builds(
    msg,
    st.sampled_from([DIRECT, DIRECT, OTHER, 30]),
    BODIES,
    st.just(b"") | HEADERS | STATUSES,
    st.just(b"") | TOKENS,
)
LINES = st.sampled_from(
    [
        b"PING\r\n",
        b"PONG\r\n",
        b"+OK\r\n",
        b"-ERR 'Permissions Violation for Publish'\r\n",
        b'INFO {"server_id":"x","version":"2.11.0"}\r\n',
    ]
)


async def compare(data: bytes, cuts: list[int]) -> tuple[Taken, Library]:
    """Feed both with `data` in pieces; fail unless they agree.

    :return: what was taken, and what the library made of the rest.
    """
    taken, rest, whole = Taken(), Library(), Library()
    framing = Framing({DIRECT: taken})
    ends = [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in zip([0, *ends], ends, strict=False):
        await whole.feed(data[start:end])
        before = len(taken.messages)
        await rest.feed(framing.feed(data[start:end]))
        # Told once for all that came at once, and for nothing else.
        assert taken.turns[-1:] == [len(taken.messages)] or before == len(taken.messages)
        assert taken.messages == [m for m in whole.messages if m[0] == DIRECT]
    assert len(taken.turns) == len(set(taken.turns))
    assert rest.messages == [m for m in whole.messages if m[0] != DIRECT]
    assert rest.others == whole.others
    assert rest.broken == whole.broken
    return taken, rest


@given(st.lists(MESSAGES | LINES, max_size=8), st.lists(st.integers(0, 100_000), max_size=12))
def test_whatever_comes_in_whatever_pieces_is_what_the_library_would_give(
    said: list[bytes], cuts: list[int]
) -> None:
    """Messages, headers, statuses and everything between, cut at any byte."""
    asyncio.run(compare(b"".join(said), cuts))


async def test_a_message_is_taken_wherever_it_is_cut() -> None:
    """At each byte, with others before and behind."""
    headers = b"NATS/1.0\r\nNats-Pin-Id: x\r\n\r\n"
    data = msg(OTHER, b"one") + msg(DIRECT, b"two", headers, b"r") + b"PING\r\n" + msg(DIRECT, b"")
    for cut in range(len(data)):
        taken, rest = await compare(data, [cut])
        assert len(taken.messages) == 2
        assert rest.others == ["ping"]
    taken, _ = await compare(data, list(range(len(data))))
    assert len(taken.messages) == 2


async def test_many_in_one_read_are_one_turn() -> None:
    """All are taken, in order, and then it is said that this is all."""
    data = b"".join(msg(DIRECT, b"%d" % n) + msg(OTHER, b"%d" % n) for n in range(100))
    taken, rest = await compare(data, [])
    assert [m[3] for m in taken.messages] == [b"%d" % n for n in range(100)]
    assert len(rest.messages) == 100
    assert taken.turns == [100]


async def test_two_takers_are_told_in_the_order_of_their_messages() -> None:
    """Neither hears of the other's messages."""
    one, two = Taken(DIRECT), Taken(OTHER)
    framing = Framing({DIRECT: one, OTHER: two})
    data = msg(DIRECT, b"1") + msg(DIRECT, b"2") + msg(OTHER, b"3") + msg(DIRECT, b"4")
    assert framing.feed(data) == b""
    assert (one.turns, two.turns) == ([2, 3], [1])


@pytest.mark.parametrize("sid", [DIRECT, OTHER])
async def test_a_huge_payload_in_small_pieces(sid: int) -> None:
    """It is not looked at again with each piece, and comes out whole."""
    body = b"0123456789abcdef" * 65536
    data = msg(DIRECT, b"a") + msg(sid, body) + msg(DIRECT, b"z")
    taken, rest = Taken(), Library()
    framing = Framing({DIRECT: taken})
    for start in range(0, len(data), 1000):
        await rest.feed(framing.feed(data[start : start + 1000]))
    messages = taken.messages + rest.messages
    assert sorted(len(m[3]) for m in messages) == [1, 1, len(body)]


async def test_who_is_no_taker_any_more_gets_nothing() -> None:
    """What comes for a subscription that has ended goes to the library, which knows that, too."""
    taken = Taken()
    takers = {DIRECT: taken}
    framing = Framing(takers)
    assert framing.feed(msg(DIRECT, b"1")) == b""
    takers.clear()
    assert framing.feed(msg(DIRECT, b"2")) == msg(DIRECT, b"2")
    assert len(taken.messages) == 1


@pytest.mark.parametrize(
    "bad",
    [
        b"MSG a 1\r\n",
        b"MSG a x 5\r\n",
        b"MSG a 1 -5\r\n",
        b"MSG a 1 r s 5\r\n",
        b"HMSG a 1 5\r\n",
        b"HMSG a 1 9 5\r\nNATS/1.0\r\n",
        b"MSGS a 1 5\r\n",
        b"MSG a 1 " + b"9" * 30 + b"\r\n",
        b"x" * (MOST_LINE_BYTES + 1),
    ],
)
async def test_what_is_no_nats_protocol_is_left_to_the_library(bad: bytes) -> None:
    """From there on everything: it ends the connection."""
    taken = Taken()
    framing = Framing({DIRECT: taken})
    assert framing.feed(msg(DIRECT, b"1") + bad) == bad
    assert framing.feed(msg(DIRECT, b"2")) == msg(DIRECT, b"2")
    assert [m[3] for m in taken.messages] == [b"1"]


async def test_a_subject_that_is_no_text_is_taken_all_the_same() -> None:
    """It ends up as a dead letter; the library would stop reading over it."""
    taken = Taken()
    Framing({DIRECT: taken}).feed(b"MSG a.\xff 1 2\r\nhi\r\n")
    assert taken.messages == [(DIRECT, "a.\ufffd", "", b"hi", {})]


@pytest.mark.parametrize(
    ("raw", "headers"),
    [
        (b"NATS/1.0\r\nA: 1\r\nB:2\r\nA: 3\r\n\r\n", {"A": "3", "B": "2"}),
        (
            b"NATS/1.0 408 Timed Out\r\nX: y\r\n\r\n",
            {"Status": "408", "Description": "Timed Out", "X": "y"},
        ),
        (b"NATS/1.0\r\nno colon\r\nb ad: 1\r\n\xff: 1\r\n: 2\r\n\r\n", {"": "2"}),
        (b"NATS/1.0\r\nU: a\xe2\x80\xa8b\r\n\r\n", {"U": "a\u2028b"}),
        (b"", {}),
    ],
)
def test_headers(raw: bytes, headers: dict[str, str]) -> None:
    """The last value counts; what is no header is passed over."""
    assert parse_headers(raw) == headers
