"""The messages a client gets (`json.v1`), typed, and how they are decoded."""

from __future__ import annotations

import time
from typing import Final

import msgspec

_NULL: Final = msgspec.Raw(b"null")
_THREAD_END: Final = b'"event_type":"message"}'
_LIST_ENDS: Final = (b'"event_type":"chat"}', b'"event_type":"agent"}')
_LONGEST_END: Final = len(_THREAD_END)


class _Frame(msgspec.Struct, tag_field="type", kw_only=True):
    """What all frames have.

    :param received_at: when it was read from the socket, Unix time in seconds.
    """

    received_at: float = 0.0


class Ready(_Frame, tag="ready"):
    """The connection is live: every event after `seq` of `stream` reaches it.

    :param stream: identity of the stream; empty if the gateway does not tell positions.
    :param connection: the gateway's name for this connection.
    :param pod: the pod it ended up on (a header of the handshake); empty if it is not told.
    :param recovered: whether what was missed since the last position follows; None if there was
        no position, or the gateway knows of none.
    :param replayed: so many events follow that were missed.
    :param reason: why nothing was recovered, such as `too_old`: what is shown should be loaded
        anew.
    """

    stream: str = ""
    seq: int = 0
    connection: str = ""
    pod: str = ""
    recovered: bool | None = None
    replayed: int = 0
    reason: str = ""


class Resumed(_Frame, tag="resumed"):
    """Answer to a position told on the open connection, for all of it or for one thread.

    :param seq: everything after it comes, again or for the first time.
    :param chat_id: of the thread; None: it is about all that the connection is subscribed to.
    :param recovered: as in :class:`Ready`, `replayed` and `reason` too.
    """

    stream: str = ""
    seq: int = 0
    recovered: bool = False
    replayed: int = 0
    reason: str = ""
    chat_id: str | None = None
    id: str | int | None = None


class Event(_Frame, tag="event"):
    """An event, its payload as the bytes that the gateway sent.

    :param seq: stream sequence; None for an event that has none.
    """

    payload: msgspec.Raw
    seq: int | None = None

    def fields(self) -> dict[str, object]:
        """Return the payload decoded."""
        return _fields.decode(self.payload)

    def is_of_thread(self) -> bool:
        """Tell whether it is an event of the chat looked at, rather than of a list."""
        # The gateway adds `event_type` at the end, where the publisher did not give it.
        end = bytes(memoryview(self.payload)[-_LONGEST_END:])
        if end.endswith(_LIST_ENDS):
            return False
        return end.endswith(_THREAD_END) or _event_type.decode(self.payload).event_type == "message"


class ErrorBody(msgspec.Struct):
    """Payload of an `error`; `details` is a text or an object, as JSON."""

    code: str
    message: str = ""
    details: msgspec.Raw = _NULL


class Error(_Frame, tag="error"):
    """The gateway could not do something, or dropped events (`EventsDropped`)."""

    payload: ErrorBody
    id: str | int | None = None


class _Expiry(msgspec.Struct):
    expires_in_seconds: float


class TokenExpiring(_Frame, tag="token_expiring"):
    """The token ends soon; a fresh one may be presented on the open connection."""

    payload: _Expiry


class _DoneBody(msgspec.Struct):
    seq: int = 0


class Done(_Frame, tag="done"):
    """A client message with this `id` took effect: all events after `payload.seq` come by it."""

    id: str | int
    payload: _DoneBody = msgspec.field(default_factory=_DoneBody)


class _GapBody(msgspec.Struct):
    from_seq: int
    to_seq: int
    dropped: int = 0


class Gap(_Frame, tag="gap"):
    """The gateway dropped events, all of them between these sequences, both included."""

    payload: _GapBody


class _ReconnectBody(msgspec.Struct):
    after_ms: int = 0


class Reconnect(_Frame, tag="reconnect"):
    """The pod is going away: open the next connection after this time, then leave this one."""

    payload: _ReconnectBody


class Other(_Frame, tag="other"):
    """A message of a type that this client does not know, or none it can read.

    :param name: its type; empty if it has none.
    :param raw: the message as it came.
    """

    name: str
    raw: bytes


class Lost(_Frame, tag="lost"):
    """Not sent by the gateway: the connection is gone and will be made again.

    :param code: WebSocket close code, 1006 if there was no close frame, 0 if dialling failed.
    :param retry_in_seconds: how long the client waits before it dials again.
    """

    code: int
    reason: str
    retry_in_seconds: float


_Sent = Ready | Event | Resumed | Gap | Reconnect | Error | TokenExpiring | Done

Frame = _Sent | Other | Lost

_frame: msgspec.json.Decoder[_Sent] = msgspec.json.Decoder(_Sent)
_fields = msgspec.json.Decoder(dict[str, object])


class _EventType(msgspec.Struct):
    event_type: str = ""


_event_type = msgspec.json.Decoder(_EventType)


class _Typed(msgspec.Struct):
    type: str = ""


_typed = msgspec.json.Decoder(_Typed)


def decode(data: bytes) -> Frame:
    """Decode one text message; what is unknown or unreadable becomes :class:`Other`."""
    frame: Frame
    try:
        frame = _frame.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        frame = Other(name=_name(data), raw=data)
    frame.received_at = time.time()
    return frame


def _name(data: bytes) -> str:
    try:
        return _typed.decode(data).type
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
