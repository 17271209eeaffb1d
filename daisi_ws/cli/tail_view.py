"""Frames as lines: for people, or one JSON object each."""

from __future__ import annotations

import shutil
import sys
from typing import Final

import click
import msgspec

from daisi_ws.cli.wording import clock, duration, milliseconds, plural
from daisi_ws.client import (
    Done,
    Error,
    Event,
    Frame,
    Gap,
    Lost,
    Other,
    Ready,
    Reconnect,
    Resumed,
    TokenExpiring,
)
from daisi_ws.domain import rfc3339

_PLAIN_WIDTH: Final = 160
_OLDEST: Final = 3600.0
_NULL: Final = msgspec.Raw(b"null")


class _Payload(msgspec.Struct):
    event_type: str = "event"
    event_id: str = ""
    company_id: str = ""
    agent_id: str | None = None
    chat_id: str | None = None
    event_time: str | None = None
    row_data: msgspec.Raw = _NULL


_payload = msgspec.json.Decoder(_Payload)
_COLOURS: Final = {"chat": "cyan", "message": "green", "agent": "magenta"}


def as_json(frame: Frame) -> str:
    """Return a frame as one line of JSON; an event's payload as it came."""
    if isinstance(frame, Other):
        said = {"type": "other", "name": frame.name, "raw": frame.raw.decode(errors="replace")}
        return msgspec.json.encode({**said, "received_at": frame.received_at}).decode()
    line = msgspec.json.encode(frame)
    # Line breaks in a payload are blank space between its tokens; one object a line has none.
    return (msgspec.json.format(line, indent=-1) if b"\n" in line else line).decode()


def as_text(frame: Frame) -> str:
    """Return a frame as one line for people, cut to the width of the terminal."""
    head, kind, rest = clock(frame.received_at), *_told(frame)
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else _PLAIN_WIDTH
    room = max(width - len(head) - 12, 20)
    if len(rest) > room:
        rest = rest[: room - 1] + "…"
    colour = _COLOURS.get(kind, "red" if kind == "error" else "yellow")
    return f"{click.style(head, dim=True)}  {click.style(f'{kind:<8}', fg=colour)}  {rest}"


def lost(frame: Lost) -> str:
    """Return what to tell of a lost connection."""
    code = f"{frame.code} " if frame.code else ""
    wait = milliseconds(frame.retry_in_seconds)
    return f"connection lost ({code}{frame.reason}), dialling again in {wait}"


def _told(frame: Frame) -> tuple[str, str]:
    """Return the kind of a frame and what it says."""
    said: tuple[str, str]
    match frame:
        case Event():
            said = _event(frame)
        case Ready() | Resumed() | Gap() | Reconnect():
            said = _of_position(frame)
        case Error():
            said = "error", _error(frame)
        case TokenExpiring():
            said = "token", f"expires in {duration(frame.payload.expires_in_seconds)}"
        case Done():
            said = "done", f"message {frame.id} took effect, live after seq {frame.payload.seq}"
        case Lost():
            said = "lost", lost(frame)
        case Other():
            said = frame.name[:8] or "unknown", frame.raw.decode(errors="replace")
    return said


def _of_position(frame: Ready | Resumed | Gap | Reconnect) -> tuple[str, str]:
    match frame:
        case Ready():
            where = f" on {frame.pod}" if frame.pod else ""
            live = f"connection {frame.connection}{where}, live after seq {frame.seq}"
            return "ready", live + _recovery(frame)
        case Resumed():
            what = "all" if frame.chat_id is None else f"chat {frame.chat_id}"
            return "resumed", f"{what}, live after seq {frame.seq}{_recovery(frame)}"
        case Gap():
            body = frame.payload
            where = f"between seq {body.from_seq} and {body.to_seq}"
            return "gap", f"{plural(body.dropped, 'event')} dropped {where}, asking again for them"
        case Reconnect():
            wait = milliseconds(frame.payload.after_ms / 1000)
            return "move", f"the pod is going away, opening another connection in {wait}"


def _recovery(frame: Ready | Resumed) -> str:
    """Return what became of the events since the client's position, if it had one."""
    if frame.recovered is None:
        return ""
    if frame.recovered:
        return f", {plural(frame.replayed, 'missed event')} given again"
    return f", what was missed is not given again ({frame.reason})"


def _error(frame: Error) -> str:
    body = frame.payload
    details = bytes(body.details).decode()
    return f"{body.code}: {body.message}" + ("" if details == "null" else f" {details}")


def _event(frame: Event) -> tuple[str, str]:
    try:
        payload = _payload.decode(frame.payload)
    except msgspec.MsgspecError:
        return "event", bytes(frame.payload).decode(errors="replace")
    seq = "" if frame.seq is None else f"seq {frame.seq}"
    ids = "/".join(part for part in (payload.company_id, payload.agent_id, payload.chat_id) if part)
    row = bytes(payload.row_data).decode(errors="replace")
    parts = (seq, _age(frame.received_at, payload.event_time), ids, row)
    return payload.event_type, "  ".join(part for part in parts if part)


def _age(received_at: float, event_time: str | None) -> str:
    """Return how long after its own `event_time` the event came, where that means something."""
    try:
        age = received_at - rfc3339.parse(event_time or "")
    except ValueError:
        return ""
    return f"+{milliseconds(age)}" if 0 <= age < _OLDEST else ""
