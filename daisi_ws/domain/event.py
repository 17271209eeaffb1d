"""From the bytes of a JetStream message to the text of an event frame: one JSON pass.

The payload is validated with `row_data` left raw, and the outgoing text is spliced around the
original bytes, so every field, known or not, reaches the client byte for byte. One thing is mended:
half of a surrogate pair (`\\ud83d`), which publishers write where they cut a text within a
character, is no character (RFC 8259 section 8.2) and would be no JSON to many parsers: it becomes
U+FFFD.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from daisi_ws.domain.subjects import Address

_OBJECT: Final = 0x7B  # {
_ESCAPE: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"  # half of one
    rb"|\\."  # any other, so that an escaped backslash begins nothing
)


class NotAnEvent(Exception):
    """The message can never be delivered: it is dead-lettered with this reason.

    :param reason: metric label, from an enumeration.
    :param problem: what was wrong and what would be right, for the log and the dead letter.
    """

    def __init__(self, reason: str, problem: str) -> None:
        super().__init__(f"{reason}: {problem}")
        self.reason = reason
        self.problem = problem


class _Payload(msgspec.Struct, gc=False):
    event_id: str
    company_id: str
    row_data: msgspec.Raw
    agent_id: str | None = None
    message_id: str | None = None
    chat_id: str | None = None
    event_time: str | None = None
    event_type: str | msgspec.UnsetType | None = msgspec.UNSET


_payload = msgspec.json.Decoder(_Payload)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


def event_text(address: Address, data: bytes, seq: int | None) -> bytes:
    """Return the JSON text of the event frame for one stream message.

    :param address: the parsed subject it was published to.
    :param data: the EnrichedEventPayload as published.
    :param seq: its stream sequence, None for an event that has none (pushed by an older pod).
    :raises NotAnEvent: bad JSON, not UTF-8, a required field missing or of the wrong type, ids
        that contradict the subject.
    """
    payload, data = _decode(data)
    _check_ids(address, payload)
    body = data.strip()
    place = b"" if seq is None else b'"seq":%d,' % seq
    if payload.event_type == address.event_type:
        return b'{"type":"event",%b"payload":%b}' % (place, body)
    if payload.event_type is not msgspec.UNSET:
        body = _without_event_type(body)
    kind = address.event_type.encode()
    return b'{"type":"event",%b"payload":%b,"event_type":"%b"}}' % (place, body[:-1], kind)


def event_id_of(text: bytes) -> str:
    """Return the `event_id` inside an event frame's text made by :func:`event_text`."""
    return _frame.decode(text).payload.event_id


class _OnlyId(msgspec.Struct, gc=False):
    event_id: str


class _EventFrame(msgspec.Struct, gc=False):
    payload: _OnlyId


_frame = msgspec.json.Decoder(_EventFrame)


def _decode(data: bytes) -> tuple[_Payload, bytes]:
    """Return the payload and the bytes that it is in: these, or mended ones."""
    try:
        if not data.isascii():
            data.decode()
        try:
            payload = _payload.decode(data)
        except msgspec.DecodeError:
            data = _ESCAPE.sub(_whole, data)
            payload = _payload.decode(data)
    except UnicodeDecodeError as error:
        raise NotAnEvent("not_utf8", f"the payload must be UTF-8: {error}") from None
    except msgspec.ValidationError as error:
        raise NotAnEvent("bad_field", f"the payload is no EnrichedEventPayload: {error}") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise NotAnEvent("bad_json", f"the payload must be one JSON object: {error}") from None
    if memoryview(payload.row_data)[0] != _OBJECT:
        raise NotAnEvent("bad_field", "row_data must be an object")
    if not payload.event_id:
        raise NotAnEvent("bad_field", "event_id must not be empty")
    return payload, data


def _whole(escape: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if escape[1] else escape[0]


def _check_ids(address: Address, payload: _Payload) -> None:
    if payload.company_id != address.company_id:
        raise _contradiction(address, "company_id", payload.company_id)
    if payload.agent_id and payload.agent_id != address.agent_id:
        raise _contradiction(address, "agent_id", payload.agent_id)
    if address.chat_id is not None and payload.chat_id and payload.chat_id != address.chat_id:
        raise _contradiction(address, "chat_id", payload.chat_id)


def _contradiction(address: Address, field: str, value: str) -> NotAnEvent:
    expected = getattr(address, field)
    return NotAnEvent(
        "ids_contradict",
        f"{field} is {value[:140]!r}, but the subject {address.subject} says {expected!r}",
    )


def _without_event_type(body: bytes) -> bytes:
    fields = _fields.decode(body)
    del fields["event_type"]
    return msgspec.json.encode(fields)
