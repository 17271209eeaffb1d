"""A line as bytes: JSON for machines, text for people."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import TextIO

import orjson
from structlog.typing import EventDict

Render = Callable[[EventDict], bytes]


def as_json(event: EventDict) -> bytes:
    """One object and a line break (RFC 8259)."""
    return orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE)


def colours_for(stream: TextIO | None) -> bool:
    """Whether ``stream`` is a terminal and its user wants colours (https://no-color.org)."""
    return stream is not None and stream.isatty() and not os.environ.get("NO_COLOR")


class Readable:
    """``2026-01-31T12:00:00.000000Z warning  redis is away  attempt=3 address='10.0.0.1'``."""

    _COLOURS: Mapping[str, str] = {"debug": "2", "info": "32", "warning": "33", "error": "31"}

    def __init__(self, colours: bool) -> None:
        self._colours = colours

    def __call__(self, event: EventDict) -> bytes:
        level = str(event.pop("level"))
        head = (
            f"{event.pop('timestamp')} {self._paint(f'{level:<8}', self._COLOURS.get(level, '31'))}"
        )
        traceback = event.pop("exception", None)
        line = f"{head} {self._paint(str(event.pop('event')), '1')}"
        for key, value in event.items():
            line += f"  {self._paint(f'{key}=', '36')}{_bare(value)}"
        if traceback is not None:
            # Indented, so that no line of a message looks like a line of the log.
            line += "\n    " + str(traceback).replace("\n", "\n    ")
        return line.encode() + b"\n"

    def _paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours else text


def _bare(value: object) -> str:
    if isinstance(value, str):
        return (
            value
            if value and not re.search(r"[\s=\"']", value)
            else repr(value).replace("\\\\", "\\")
        )
    return orjson.dumps(value).decode()
