"""The messages a client gets (`json.v1`), typed, and how they are decoded."""

from __future__ import annotations

import time
from typing import Final

import msgspec

_NULL: Final = msgspec.Raw(b"null")


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
    """

    stream: str = ""
    seq: int = 0
    connection: str = ""
    pod: str = ""


class Event(_Frame, tag="event"):
    """An event, its payload as the bytes that the gateway sent.

    :param seq: stream sequence; None for an event that has none.
    """

    payload: msgspec.Raw
    seq: int | None = None

    def fields(self) -> dict[str, object]:
        """Return the payload decoded."""
        return _fields.decode(self.payload)


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


Frame = Ready | Event | Error | TokenExpiring | Done | Other | Lost

_frame: msgspec.json.Decoder[Ready | Event | Error | TokenExpiring | Done] = msgspec.json.Decoder(
    Ready | Event | Error | TokenExpiring | Done
)
_fields = msgspec.json.Decoder(dict[str, object])


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
