"""The `json.v1` messages: what a server sends, what a client may send."""

from __future__ import annotations

from typing import Literal

import msgspec

from daisi_ws.domain.errors import BadRequest, Refusal
from daisi_ws.domain.ids import check_id

MessageId = str | int


class SelectChat(msgspec.Struct, frozen=True):
    """`select_chat`: look at this thread, and leave the one looked at before.

    :param id: given by the client (ours): answered by a `done` once the thread is live.
    """

    chat_id: str
    id: MessageId | None = None


class RefreshToken(msgspec.Struct, frozen=True):
    """`token` (ours): a fresh token for the open connection, of the same identity and scope."""

    token: str
    id: MessageId | None = None


ClientMessage = SelectChat | RefreshToken


class _Envelope(msgspec.Struct):
    type: str
    payload: msgspec.Raw = msgspec.Raw(b"null")
    id: MessageId | None = None


class _SelectChatPayload(msgspec.Struct):
    chat_id: str


class _TokenPayload(msgspec.Struct):
    token: str


_envelope = msgspec.json.Decoder(_Envelope)
_select_chat = msgspec.json.Decoder(_SelectChatPayload)
_token = msgspec.json.Decoder(_TokenPayload)

KNOWN_TYPES: Literal["select_chat, token"] = "select_chat, token"


def parse_client_message(text: str | bytes) -> ClientMessage:
    """Parse a client's text message.

    :raises BadRequest: not JSON, unknown type, or a payload of the wrong shape.
    """
    try:
        envelope = _envelope.decode(text)
    except msgspec.ValidationError as error:
        raise BadRequest(
            "message has the wrong shape", details=f'want {{"type","payload"}}: {error}'
        ) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadRequest("message is not JSON", details=str(error)) from None
    try:
        return _parse_payload(envelope)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequest(f"bad payload for {envelope.type}", details=str(error)) from None


def _parse_payload(envelope: _Envelope) -> ClientMessage:
    match envelope.type:
        case "select_chat":
            chat_id = _select_chat.decode(envelope.payload).chat_id
            return SelectChat(check_id("chat_id", chat_id), envelope.id)
        case "token":
            return RefreshToken(_token.decode(envelope.payload).token, envelope.id)
        case other:
            raise BadRequest(
                "unknown message type", details=f"known: {KNOWN_TYPES}; got {other[:40]!r}"
            )


def ready(stream: str, seq: int, connection: str) -> bytes:
    """Return `ready`: everything after `seq` of `stream` reaches this connection.

    :param stream: identity of the stream, name and creation time.
    """
    return msgspec.json.encode(
        {"type": "ready", "stream": stream, "seq": seq, "connection": connection}
    )


def error(refusal: Refusal) -> bytes:
    """Return the `error` message that tells a refusal."""
    return msgspec.json.encode({"type": "error", "payload": refusal.body()})


def events_dropped(from_seq: int, to_seq: int, dropped: int) -> bytes:
    """Return the `error` that tells a slow client what it lost by policy.

    :param from_seq: sequence of the first event lost; `to_seq` of the last.
    """
    return msgspec.json.encode(
        {
            "type": "error",
            "payload": {
                "code": "EventsDropped",
                "message": "events were dropped because this client reads too slowly",
                "details": {"from_seq": from_seq, "to_seq": to_seq, "dropped": dropped},
            },
        }
    )


def token_expiring(expires_in_seconds: float) -> bytes:
    """Return the warning (ours) that the token ends soon and a fresh one may be presented."""
    return msgspec.json.encode(
        {"type": "token_expiring", "payload": {"expires_in_seconds": round(expires_in_seconds)}}
    )


def done(message_id: MessageId, seq: int) -> bytes:
    """Return the answer (ours) to a client message that carried an `id`.

    :param seq: everything after this sequence comes by the new selection.
    """
    return msgspec.json.encode({"type": "done", "id": message_id, "payload": {"seq": seq}})
