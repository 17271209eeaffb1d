"""Between the older service's `PushEventRequest` and this project's subjects and JSON.

A `google.protobuf.Struct` knows only doubles: whole numbers become integers again, integers
beyond 2^53 have lost digits on the way, and infinities, which JSON cannot say, become null.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import ListValue, Struct, Value

from daisi_ws.adapters.pb.dws_message_fwd_pb2 import EnrichedEventPayloadMessage, PushEventRequest
from daisi_ws.domain import subjects
from daisi_ws.domain.errors import BadRequest
from daisi_ws.domain.ids import check_id

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_EXACT: Final = 2.0**53
_OPTIONAL: Final = ("agent_id", "message_id", "chat_id", "event_time")
_AGENTS: Final = ("agent", "agents")
_MESSAGES: Final = ("message", "messages")


class _Frame(msgspec.Struct):
    payload: msgspec.Raw


_frame = msgspec.json.Decoder(_Frame)


def subject_of(request: PushEventRequest) -> str:
    """Return the subject that an older pod's event would have been published to.

    :raises BadRequest: an id is outside the alphabet, or a message has no chat.
    """
    payload = request.payload
    company = check_id("target_company_id", request.target_company_id or payload.company_id)
    agent = check_id("target_agent_id", request.target_agent_id or payload.agent_id)
    if request.target_chat_id or payload.event_type in _MESSAGES:
        chat = check_id("target_chat_id", request.target_chat_id or payload.chat_id)
        return subjects.thread(company, agent, chat)
    if payload.event_type in _AGENTS:
        return subjects.admin_pattern(company, agent)
    return subjects.chats(company, agent)


def payload_of(request: PushEventRequest) -> bytes:
    """Return the EnrichedEventPayload as JSON; fields that are empty are absent.

    :raises BadRequest: it has no `event_id`.
    """
    message = request.payload
    if not message.event_id:
        raise BadRequest("event_id must not be empty")
    payload: dict[str, Json] = {
        "event_id": message.event_id,
        "company_id": message.company_id or request.target_company_id,
    }
    payload.update((name, value) for name in _OPTIONAL if (value := getattr(message, name)))
    payload["row_data"] = _object(message.row_data)
    return msgspec.json.encode(payload)


def request_of(subject: str, text: bytes, source: str) -> PushEventRequest:
    """Return what hands an event frame to an older pod.

    :param subject: as published.
    :param text: the JSON text of the frame, made by :func:`daisi_ws.domain.event.event_text`.
    :param source: this pod's ID.
    :raises ValueError: it is no event, or one that has no such form: a number beyond doubles, or
        arrays and objects nested more deeply than protobuf allows.
    """
    address = subjects.parse(subject)
    if address is None:
        raise ValueError(f"{subject!r} is no event's subject")
    try:
        return _request_of(address, text, source)
    # None of them is a ValueError.
    except (DecodeError, OverflowError, RecursionError) as problem:
        raise ValueError(str(problem)) from None


def _request_of(address: subjects.Address, text: bytes, source: str) -> PushEventRequest:
    fields = msgspec.json.decode(_frame.decode(text).payload)
    message = EnrichedEventPayloadMessage(
        event_id=fields["event_id"], company_id=fields["company_id"], event_type=address.event_type
    )
    for name in _OPTIONAL:
        setattr(message, name, fields.get(name) or "")
    message.row_data.update(fields["row_data"])
    return PushEventRequest(
        payload=message,
        target_company_id=address.company_id,
        target_agent_id=address.agent_id,
        target_chat_id=address.chat_id or "",
        source_pod_id=source,
    )


def _object(struct: Struct) -> dict[str, Json]:
    # The order of a protobuf map is arbitrary: sorted, equal events have equal bytes.
    return {name: _value(struct.fields[name]) for name in sorted(struct.fields)}


def _list(values: ListValue) -> list[Json]:
    return [_value(value) for value in values.values]


def _value(value: Value) -> Json:
    match value.WhichOneof("kind"):
        case "number_value":
            return _number(value.number_value)
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return _object(value.struct_value)
        case "list_value":
            return _list(value.list_value)
    return None


def _number(number: float) -> Json:
    if number.is_integer() and abs(number) <= _EXACT:
        return int(number)
    return number
