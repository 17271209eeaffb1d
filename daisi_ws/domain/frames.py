"""The `json.v1` messages: what a server sends, what a client may send."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from daisi_ws.domain.errors import BadRequest, Refusal
from daisi_ws.domain.ids import check_id
from daisi_ws.domain.resume import MAX_SEQ, Claim, Recovery

MessageId = str | int

MAX_ID_CHARACTERS: Final = 128
"""A message's `id` comes back in answers, which wait for a client that does not read them."""


class SelectChat(msgspec.Struct, frozen=True):
    """`select_chat`: look at this thread, and leave the one looked at before.

    :param id: given by the client (ours): answered by a `done` once the thread is live.
    :param claim: the client's position in the thread (ours): it wants what came after.
    """

    chat_id: str
    id: MessageId | None = None
    claim: Claim | None = None


class RefreshToken(msgspec.Struct, frozen=True):
    """`token` (ours): a fresh token for the open connection, of the same identity and scope."""

    token: str
    id: MessageId | None = None


class ResumeFrom(msgspec.Struct, frozen=True):
    """`resume` (ours): give this open connection again what came after a position."""

    claim: Claim
    id: MessageId | None = None


ClientMessage = SelectChat | RefreshToken | ResumeFrom

_Seq = Annotated[int, msgspec.Meta(ge=0, le=MAX_SEQ)]
_Text = Annotated[str, msgspec.Meta(max_length=MAX_ID_CHARACTERS)]
_Number = Annotated[int, msgspec.Meta(ge=-MAX_SEQ - 1, le=MAX_SEQ)]


class _Envelope(msgspec.Struct):
    type: str
    payload: msgspec.Raw = msgspec.Raw(b"null")
    id: _Text | _Number | None = None


class _SelectChatPayload(msgspec.Struct):
    chat_id: str
    last_seq: _Seq | None = None
    stream: str = ""

    def claim(self) -> Claim | None:
        return None if self.last_seq is None else Claim(self.last_seq, self.stream)


class _ResumePayload(msgspec.Struct):
    last_seq: _Seq
    stream: str = ""


class _TokenPayload(msgspec.Struct):
    token: str


_envelope = msgspec.json.Decoder(_Envelope)
_select_chat = msgspec.json.Decoder(_SelectChatPayload)
_token = msgspec.json.Decoder(_TokenPayload)
_resume = msgspec.json.Decoder(_ResumePayload)

KNOWN_TYPES: Literal["select_chat, resume, token"] = "select_chat, resume, token"


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
            chosen = _select_chat.decode(envelope.payload)
            chat_id = check_id("chat_id", chosen.chat_id)
            return SelectChat(chat_id, envelope.id, chosen.claim())
        case "resume":
            resume = _resume.decode(envelope.payload)
            return ResumeFrom(Claim(resume.last_seq, resume.stream), envelope.id)
        case "token":
            return RefreshToken(_token.decode(envelope.payload).token, envelope.id)
        case other:
            raise BadRequest(
                "unknown message type", details=f"known: {KNOWN_TYPES}; got {other[:40]!r}"
            )


def ready(stream: str, seq: int, connection: str, recovery: Recovery | None = None) -> bytes:
    """Return `ready`: everything after `seq` of `stream` reaches this connection.

    :param stream: identity of the stream, name and creation time.
    :param recovery: the answer to the position that the client came with, if it did.
    """
    told = recovery.fields() if recovery is not None else {}
    return msgspec.json.encode(
        {"type": "ready", "stream": stream, "seq": seq, "connection": connection, **told}
    )


def resumed(
    stream: str,
    seq: int,
    recovery: Recovery,
    *,
    message_id: MessageId | None = None,
    chat_id: str | None = None,
) -> bytes:
    """Return `resumed` (ours): everything after `seq` that this connection is subscribed to, or
    of this chat, follows.
    """
    optional = {"id": message_id, "chat_id": chat_id}
    told = {name: value for name, value in optional.items() if value is not None}
    return msgspec.json.encode(
        {"type": "resumed", **told, "stream": stream, "seq": seq, **recovery.fields()}
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


def gap(from_seq: int, to_seq: int, dropped: int) -> bytes:
    """Return `gap` (ours): :func:`events_dropped` for a client that asked for positions."""
    payload = {"from_seq": from_seq, "to_seq": to_seq, "dropped": dropped}
    return msgspec.json.encode({"type": "gap", "payload": payload})


def token_expiring(expires_in_seconds: float) -> bytes:
    """Return the warning (ours) that the token ends soon and a fresh one may be presented.

    :param expires_in_seconds: told rounded to whole seconds.
    """
    return msgspec.json.encode(
        {"type": "token_expiring", "payload": {"expires_in_seconds": round(expires_in_seconds)}}
    )


def reconnect(after_ms: int) -> bytes:
    """Return the hint (ours) that this pod is going away: open the next socket, then leave this.

    :param after_ms: how long to wait before that, in milliseconds.
    """
    return msgspec.json.encode({"type": "reconnect", "payload": {"after_ms": after_ms}})


def done(message_id: MessageId, seq: int) -> bytes:
    """Return the answer (ours) to a client message that carried an `id`.

    :param seq: everything after this sequence comes by the new selection.
    """
    return msgspec.json.encode({"type": "done", "id": message_id, "payload": {"seq": seq}})
