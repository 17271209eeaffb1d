"""Lines for each event, at `debug` only: how an `X-Request-ID` is followed through the pods."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec
import structlog

from daisi_ws.app.ports import Received
from daisi_ws.domain import subjects
from daisi_ws.domain.event import event_id_of
from daisi_ws.domain.packets import Item
from daisi_ws.domain.tracing import TRACEPARENT, parted

log = structlog.get_logger(__name__)


class _Id(msgspec.Struct):
    event_id: str = ""


_ids = msgspec.json.Decoder(_Id)


def tracing() -> bool:
    """Tell whether such lines are written; to be asked once for many events."""
    return bool(log.is_enabled_for(logging.DEBUG))


def event_read(message: Received) -> None:
    """Say that this pod read an event from the stream."""
    try:
        event_id = _ids.decode(message.data).event_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        event_id = ""  # no event: its dead letter's line says why
    _say("event read", message.seq, message.subject, message.request_id, event_id)


def events_taken(peer: str, items: Iterable[Item]) -> None:
    """Say that this pod took events that the reader pushed to it."""
    for item in items:
        try:
            event_id = event_id_of(item.text)
        except msgspec.MsgspecError:
            event_id = ""
        _say("event taken", item.seq, item.subject, item.request_id, event_id, peer=peer)


def _say(what: str, seq: int, subject: str, request_id: str, event_id: str, **context: str) -> None:
    address = subjects.parse(subject)
    request_id, parent = parted(request_id)
    if parent:
        context[TRACEPARENT] = parent
    log.debug(
        what,
        request_id=request_id,
        event_id=event_id,
        company_id=address.company_id if address else None,
        agent_id=address.agent_id if address else None,
        seq=seq,
        subject=subject[:200],
        **context,
    )
