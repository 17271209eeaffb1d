"""Where lines go, and which: one way for structlog and for ``logging``."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from daisi_ws.log.clean import clean, clean_traceback
from daisi_ws.log.limit import RateLimit
from daisi_ws.log.render import Readable, Render, as_json, colours_for

LIBRARY_SECONDS = 1.0
"""Shortest time between two lines of a library that say the same."""

_TOLD_APART = 200

Level = Literal["debug", "info", "warning", "error"]

_LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
# One class for all loggers, whose methods `set_level` exchanges: a line below the level costs the
# call of an empty function, and loggers already cached or bound follow a change.
_Logger: type[FilteringBoundLogger] = type(
    "Logger", (structlog.make_filtering_bound_logger(logging.NOTSET),), {}
)
# One list, changed in place: cached loggers hold on to it.
_PROCESSORS: list[Processor] = []
_BOUND: dict[str, object] = {}


def setup(level: Level, format: Literal["json", "text"], **bound: object) -> None:  # noqa: A002
    """Send every log line of this process to standard error.

    May be called again, as after a fork; the last call counts.

    :param level: lines below it are not written.
    :param format: ``json`` for one object a line (RFC 8259) with ``timestamp`` (RFC 3339, UTC),
        ``level`` and ``event`` first; ``text`` for people, in colours where standard error is a
        terminal and ``NO_COLOR`` is not set.
    :param bound: context of every line, such as ``pod_id``.
    """
    _BOUND.clear()
    _BOUND.update(bound)
    render = as_json if format == "json" else Readable(colours_for(sys.stderr))
    _PROCESSORS[:] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        _complete,
        lambda _, __, event: render(event),
    ]
    structlog.configure(
        processors=_PROCESSORS,
        wrapper_class=_Logger,
        logger_factory=lambda *_: _SINK,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _Bridge)]:
        root.removeHandler(handler)
    root.addHandler(_Bridge(render))
    # Its lines hold whole request targets; what is worth a line the gateway says itself.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    logging.captureWarnings(True)
    set_level(level)


def set_level(level: Level) -> None:
    """Change which lines are written, for every logger there is.

    :param level: lines below it are not written. Libraries are heard from ``info`` on.
    """
    number = _LEVELS[level]
    for name, method in vars(structlog.make_filtering_bound_logger(number)).items():
        if not name.startswith("__"):
            setattr(_Logger, name, method)
    logging.getLogger().setLevel(max(number, logging.INFO))


def _hush(stream: TextIO) -> None:
    """Let go of a log that nobody reads: what is left in its buffer would fail the exit, too."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


class _Sink:
    """Writes finished lines; a line that cannot be written is dropped, never raised."""

    def write(self, line: bytes) -> None:
        # Looked up each time, so that redirections hold for loggers already cached.
        stream = sys.stderr
        try:
            stream.buffer.write(line)
            stream.flush()
        except AttributeError:
            if stream is not None:
                stream.write(line.decode())
        except BrokenPipeError:
            _hush(stream)
        except (OSError, ValueError):
            return

    msg = log = debug = info = warning = error = critical = exception = write


_SINK = _Sink()


class _Bridge(logging.Handler):
    """Renders what libraries say through ``logging`` as our own lines.

    One that repeats itself (a port without open files left says so at each turn of its loop) has
    one line each :data:`LIBRARY_SECONDS`, which counts the others.
    """

    def __init__(self, render: Render) -> None:
        super().__init__()
        self._render = render
        self._limit = RateLimit(LIBRARY_SECONDS)

    def emit(self, record: logging.LogRecord) -> None:
        message = _message(record)
        suppressed = self._limit.allow(f"{record.name} {record.levelno} {message[:_TOLD_APART]}")
        if suppressed is None:
            return
        event: EventDict = {
            "level": record.levelname.lower(),
            "event": message,
            "logger": record.name,
        }
        if suppressed:
            event["suppressed"] = suppressed
        if record.exc_info:
            event["exc_info"] = record.exc_info
        event = structlog.contextvars.merge_contextvars(None, "", event)
        event = structlog.processors.format_exc_info(None, "", event)
        _SINK.write(self._render(_complete(None, "", event)))


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - arguments that do not fit must not end their caller
        return f"{record.msg} {record.args!r}"


def _complete(_: object, __: str, event: EventDict) -> EventDict:
    """Timestamp, level and event first; then everything else, masked and escaped."""
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    line: EventDict = {
        "timestamp": now,
        "level": event.pop("level", "info"),
        "event": clean("", event.pop("event", "")),
    }
    traceback = event.pop("exception", None)
    for key, value in {**_BOUND, **event}.items():
        line[key] = clean(key, value)
    if traceback is not None:
        line["exception"] = clean_traceback(str(traceback))
    return line
