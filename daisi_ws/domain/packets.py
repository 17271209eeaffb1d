"""What pods say to one another on the Forward stream: MessagePack of these structs.

A pod opens one stream to each peer it has something for and sends `Hello`, then `Batch`, `Barrier`
and `Displace`; the peer answers on the same stream. Arrays, not maps: field names cost more than
the events. Fields are only ever added at the end, with a default, so that pods of two versions
understand one another.

Every batch has a number, and every answer to batches names the newest one it answers. What is
accepted is then said twice: the batch was looked at, and the events in it up to a sequence are
taken. Both are needed: sequences alone are no order where several pods read (shared mode, a
redelivered event is older than what was pushed before it), numbers alone cannot say that a part
of a batch is withheld.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class Item(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One event on its way to the connections that want it.

    :param seq: stream sequence.
    :param stored_ns: when the broker stored it, Unix time in nanoseconds.
    :param subject: as published.
    :param text: the JSON text of the event frame, ready to be sent.
    :param request_id: of the message that brought it, empty if it had none; its trace context is
        behind it (:mod:`daisi_ws.domain.tracing`).
    """

    seq: int
    stored_ns: int
    subject: str
    text: bytes
    request_id: str = ""


class Hello(msgspec.Struct, array_like=True, tag=0, frozen=True):
    """First packet of a stream: who is talking.

    :param to: which pod is meant; another one may have its address by now. Empty: not told.
    """

    pod_id: str
    to: str = ""


class Batch(msgspec.Struct, array_like=True, tag=1, gc=False, frozen=True):
    """Events in stream order.

    :param epoch: the reader's number, growing with every new reader; 0 in shared mode.
    :param stream: identity of the stream that the sequences belong to.
    :param upto: nothing for this peer at or before this sequence is still to come. Without
        meaning in shared mode.
    :param items: none if the batch only tells `upto`.
    :param number: grows from batch to batch.
    """

    epoch: int
    stream: str
    upto: int
    items: list[Item]
    number: int


class Barrier(msgspec.Struct, array_like=True, tag=2, frozen=True):
    """These interests now have a route to me: forget what you know of them, and say from where."""

    id: int
    interests: list[str]


class Displace(msgspec.Struct, array_like=True, tag=3, frozen=True):
    """Stop delivering to this session and give up its lock.

    :param session_key: key of the lock; `holder`: its value that is to go.
    :param only_ask: do nothing, but say whether the session is there.
    """

    id: int
    session_key: str
    holder: str
    only_ask: bool = False


class Accepted(msgspec.Struct, array_like=True, tag=11, gc=False, frozen=True):
    """Of all batches up to `number` every event at or before `upto` is accepted.

    An event after `upto` is withheld for a client without room; another `Accepted` follows. One
    that repeats what was said before only tells that the peer is alive and not done yet.
    """

    epoch: int
    upto: int
    number: int


class Stale(msgspec.Struct, array_like=True, tag=12, frozen=True):
    """A reader with a newer number is known here: stop pushing. Answers batches up to `number`."""

    epoch: int
    number: int


class BarrierReply(msgspec.Struct, array_like=True, tag=13, frozen=True):
    """The interests of barrier `id` are seen by all events after `position`.

    :param reading: False if this pod is not (any more) the reader; the rest is void then.
    """

    id: int
    reading: bool
    epoch: int = 0
    stream: str = ""
    position: int = 0


class Displaced(msgspec.Struct, array_like=True, tag=14, frozen=True):
    """The session asked about no longer delivers here.

    :param there: it does; it was only asked about.
    """

    id: int
    there: bool = False


class Failed(msgspec.Struct, array_like=True, tag=15, frozen=True):
    """The barrier or displacement could not be done now.

    :param problem: one sentence for the asking pod's log.
    """

    id: int
    problem: str


class MalformedPacket(Exception):
    """The bytes are no packet of this side of the stream."""


Request: TypeAlias = Hello | Batch | Barrier | Displace
Reply: TypeAlias = Accepted | Stale | BarrierReply | Displaced | Failed
Call: TypeAlias = Barrier | Displace

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)

encode = _encoder.encode

# msgspec lets two of Python's own through: text that is not UTF-8, arrays nested too deeply.
_NOT_A_PACKET = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def decode_request(body: bytes) -> Request:
    """Decode a packet of the pushing side.

    :raises MalformedPacket: it is none.
    """
    try:
        return _requests.decode(body)
    except _NOT_A_PACKET as error:
        raise MalformedPacket(str(error)) from None


def decode_reply(body: bytes) -> Reply:
    """Decode a packet of the accepting side.

    :raises MalformedPacket: it is none.
    """
    try:
        return _replies.decode(body)
    except _NOT_A_PACKET as error:
        raise MalformedPacket(str(error)) from None
