"""Log lines on standard error."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

import daisi_ws.log
from daisi_ws import log
from daisi_ws.log import RateLimit
from daisi_ws.log.clean import clean, clean_text, clean_traceback
from daisi_ws.log.render import Readable, as_json, colours_for

ROOT = Path(daisi_ws.log.__file__).parents[2]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Give structlog, logging and warnings back as they were."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    root.setLevel(level)


def fail(text: str) -> None:
    """Raise an exception with this text."""
    raise ValueError(text)


class Lines:
    """What was written to standard error since last asked, as JSON or as text."""

    def __init__(self, captured: pytest.CaptureFixture[str]) -> None:
        self._captured = captured

    def text(self) -> str:
        """Everything as it was written."""
        return self._captured.readouterr().err

    def json(self) -> list[dict[str, object]]:
        """Every line as the object it must be."""
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """Standard error."""
    return Lines(capsys)


def test_a_json_line_is_one_object_with_time_level_and_event_first(lines: Lines) -> None:
    """A line holds an RFC 3339 time in UTC, its level, event, bound and given context."""
    log.setup("info", "json", pod_id="p-0-1", slot=0)
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.get_logger().warning("redis is away", attempt=3, address=("h", 1))
    (line,) = lines.json()
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert str(line["timestamp"]).endswith("Z")
    written = datetime.fromisoformat(str(line.pop("timestamp")))
    assert datetime.now(UTC) - written < timedelta(seconds=10)
    assert line == {
        "level": "warning",
        "event": "redis is away",
        "pod_id": "p-0-1",
        "slot": 0,
        "request_id": "r1",
        "attempt": 3,
        "address": ["h", 1],
    }


def test_a_change_of_level_reaches_every_logger(lines: Lines) -> None:
    """Loggers made, bound or used before the change follow it, up and down."""
    early = structlog.get_logger()
    log.setup("info", "json")
    used = structlog.get_logger()
    used.info("first")
    bound = used.bind(a=1)
    loggers = (early, used, bound, structlog.get_logger())
    lines.text()

    def written() -> list[object]:
        for logger in loggers:
            logger.debug("d")
            logger.info("i")
            logger.warning("w")
        return [line["event"] for line in lines.json()]

    assert written() == ["i", "w"] * 4
    log.set_level("debug")
    assert written() == ["d", "i", "w"] * 4
    log.set_level("error")
    assert written() == []
    assert not bound.is_enabled_for(logging.WARNING)
    log.set_level("warning")
    assert written() == ["w"] * 4


def test_a_filtered_line_costs_nothing_but_the_call(lines: Lines) -> None:
    """Below the level nothing is rendered or even looked at."""

    class Costly:
        def __repr__(self) -> str:
            raise AssertionError

    log.setup("info", "json")
    logger = structlog.get_logger().bind(costly=Costly())
    logger.debug("not written", other=Costly())
    assert type(logger).debug.__name__ == "_nop"
    assert lines.text() == ""


def test_a_second_setup_reaches_loggers_already_used(lines: Lines) -> None:
    """After a fork a worker sets up its own context and format."""
    log.setup("info", "json", pod_id="supervisor")
    logger = structlog.get_logger()
    logger.info("one")
    log.setup("info", "text", pod_id="worker")
    logger.info("two")
    logging.getLogger("library").warning("three")
    first, second, third = lines.text().splitlines()
    assert json.loads(first)["pod_id"] == "supervisor"
    assert second.endswith("two  pod_id=worker")
    assert "three" in third


@pytest.mark.parametrize(
    "key",
    [
        *("token", "secret", "password", "key", "authorization", "x-api-key", "X-API-Key"),
        *("api_key", "secret_token", "token_aes_key", "redis_password", "Proxy-Authorization"),
        "Cookie",
    ],
)
def test_values_under_secret_names_are_masked(lines: Lines, key: str) -> None:
    """What a name says is secret is masked, at the top and deeper down."""
    log.setup("info", "json")
    structlog.get_logger().info("x", **{key: "hunter2"}, headers={key: ["hunter2"]})
    text = lines.text()
    assert "hunter2" not in text
    assert text.count("********") == 2


@pytest.mark.parametrize(
    "text",
    [
        "GET /ws/c/a?token=hunter2&x=1",
        "GET /ws/c/a?x-api-key=hunter2",
        "GET /ws/c/a?X-API-KEY=hunter2#f",
        "url?next=%3Ftoken%3Dhunter2",
        "secret_token=hunter2,",
        'password="hunter2"',
        "{'X-API-Key': 'hunter2', 'a': 'b'}",
        '{"token": "hunter2"}',
        "X-API-Key: hunter2",
        "Authorization: Bearer hunter2",
        "sent Bearer hunter2-hunter2",
        "redis://user:hunter2@host:1/0",
        "nats://hunter2@host",
    ],
)
def test_secrets_inside_text_are_masked(lines: Lines, text: str) -> None:
    """In events, values, lists, exceptions and tracebacks alike; what is around them stays."""
    log.setup("info", "json")
    try:
        fail(text)
    except ValueError as error:
        structlog.get_logger().exception(text, a=text, b=[text], c={"d": text}, error=error)
    logging.getLogger("lib").error("failed: %s", text)
    written = lines.text()
    assert "hunter2" not in written
    assert written.count("********") >= 7
    assert text[:3] in written


@pytest.mark.parametrize("value", ["token expired", "no token", 5, None, True, "", ["a"], "a@b.c"])
def test_harmless_values_stay_as_they_are(value: object) -> None:
    """Nothing is masked that is no secret."""
    assert clean("reason", value) == value


def test_missing_secrets_are_told_apart_from_masked_ones() -> None:
    """That a secret is not there is no secret."""
    assert [clean("token", value) for value in (None, "", False)] == [None, "", False]


@pytest.mark.parametrize("format_", ["json", "text"])
def test_no_value_can_forge_a_line(lines: Lines, format_: Literal["json", "text"]) -> None:
    """Line breaks and terminal controls in values are escaped; one call is one line."""
    log.setup("info", format_)
    evil = 'a\n{"level":"error"}\r\x1b[31m\x9b2J\u2028\u2029\u202e\x85\x00\ud800z'
    structlog.get_logger().info(evil, user_agent=evil, headers={evil: evil})
    logging.getLogger(evil).warning(evil)
    text = lines.text()
    assert len(text.splitlines()) == 2
    assert not any(ord(c) < 32 for c in text.replace("\n", ""))
    assert r"\x1b[31m\x9b2J" in text.replace("\\\\", "\\")
    assert clean_text("a\nb") == r"a\nb"


def test_a_traceback_in_text_cannot_forge_a_line(lines: Lines) -> None:
    """Every line of a traceback is indented, in JSON it is one string."""
    log.setup("info", "text")
    try:
        fail("x\n2026-01-01T00:00:00Z error  forged")
    except ValueError:
        structlog.get_logger().exception("failed")
    first, *others = lines.text().splitlines()
    assert first.endswith("failed")
    assert any("forged" in line for line in others)
    assert all(line.startswith("    ") for line in others)


def test_anything_can_be_logged(lines: Lines) -> None:
    """Huge numbers, bytes, sets, cycles, objects and long text make a line, bounded in length."""

    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    cycle: list[object] = []
    cycle.append(cycle)
    log.setup("info", "json")
    structlog.get_logger().info(
        "x",
        huge=2**70,
        nan=float("nan"),
        data=b"\x00a",
        numbers={1},
        cycle=cycle,
        broken=Broken(),
        error=OSError("gone"),
        long="x" * 100_000,
        many=list(range(100_000)),
        mapping={1: {2: {3: {4: {5: 6}}}}},
        kind=io.SEEK_SET,
    )
    text = lines.text()
    (line,) = (json.loads(text),)
    assert line["huge"] == str(2**70)
    assert line["broken"] == "<Broken>"
    assert line["error"] == "OSError: gone"
    assert line["numbers"] == [1]
    assert len(text) < 5000


def test_a_long_traceback_keeps_its_end() -> None:
    """The end of a traceback says what happened."""
    text = clean_traceback("x\n" * 50_000 + "ValueError: end")
    assert text.endswith("ValueError: end")
    assert len(text) <= 20_000


def test_libraries_write_through_the_same_way(lines: Lines) -> None:
    """Lines of ``logging`` carry the bound context, the logger's name and a traceback."""
    log.setup("debug", "json", pod_id="p")
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        try:
            fail("boom")
        except ValueError:
            logging.getLogger("nats.aio.client").exception("lost %s", "it")
    logging.getLogger("asyncio").debug("noise")
    logging.getLogger("aiohttp.access").info("GET /ws?token=x")
    (line,) = lines.json()
    assert line["event"] == "lost it"
    assert line["level"] == "error"
    assert line["logger"] == "nats.aio.client"
    assert line["pod_id"] == "p"
    assert line["request_id"] == "r1"
    assert "ValueError: boom" in str(line["exception"])


def test_a_wrong_line_of_a_library_is_still_a_line(lines: Lines) -> None:
    """A library whose arguments do not fit its message breaks nothing and is heard."""
    logging.getLogger().handlers.clear()
    log.setup("info", "json")
    logging.getLogger("lib").warning("%d open", "no number")
    (line,) = lines.json()
    assert line["event"] == "%d open ('no number',)"


def test_warnings_become_lines(lines: Lines) -> None:
    """Python's warnings are written like everything else."""
    log.setup("info", "json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old call", DeprecationWarning, stacklevel=1)
    (line,) = lines.json()
    assert line["logger"] == "py.warnings"
    assert "old call" in str(line["event"])


async def test_what_asyncio_complains_about_becomes_a_line(lines: Lines) -> None:
    """An exception that nobody awaited is one line with its traceback."""
    log.setup("info", "json")
    asyncio.get_running_loop().call_exception_handler(
        {"message": "never retrieved", "exception": ValueError("boom")}
    )
    (line,) = lines.json()
    assert line["logger"] == "asyncio"
    assert "never retrieved" in str(line["event"])


def test_repeated_setup_does_not_repeat_lines(lines: Lines) -> None:
    """One record of a library is one line, however often setup was called."""
    for _ in range(3):
        log.setup("info", "json")
    logging.getLogger("lib").warning("once")
    assert len(lines.json()) == 1


def test_text_is_for_people() -> None:
    """Level, event, then key=value, quoted where blanks would mislead; colours on demand."""
    event: Mapping[str, object] = {
        "timestamp": "t",
        "level": "info",
        "event": "pod is ready",
        "a": "x y",
        "n": 1,
        "e": "",
        "l": ["p", 2],
    }
    plain = Readable(colours=False)(dict(event)).decode()
    assert plain == "t info     pod is ready  a='x y'  n=1  e=''  l=[\"p\",2]\n"
    coloured = Readable(colours=True)(dict(event)).decode()
    assert "\x1b[32minfo" in coloured


def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe gets none, a terminal does unless NO_COLOR is set."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert colours_for(Terminal())
    assert not colours_for(io.StringIO())
    assert not colours_for(None)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours_for(Terminal())


def test_a_closed_standard_error_harms_nobody() -> None:
    """A process whose log reader is gone, or that has no standard error, goes on."""
    code = (
        "import os, sys, structlog\n"
        "from daisi_ws import log\n"
        "log.setup('info', 'json')\n"
        "logger = structlog.get_logger()\n"
        "reader, writer = os.pipe()\n"
        "os.close(reader)\n"
        "os.dup2(writer, 2)\n"
        "logger.info('nobody reads this')\n"
        "sys.stderr = None\n"
        "logger.info('nor this')\n"
        "print('alive')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False, text=True
    )
    assert (done.returncode, done.stdout) == (0, "alive\n")


def test_standard_error_may_be_replaced() -> None:
    """Lines go to what standard error is at that moment, a text stream included."""
    log.setup("info", "json")
    logger = structlog.get_logger()
    logger.info("first")
    with pytest.MonkeyPatch.context() as patch:
        stream = io.StringIO()
        patch.setattr(sys, "stderr", stream)
        logger.info("second")
    assert json.loads(stream.getvalue())["event"] == "second"


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rate_limit_lets_one_line_through_per_interval() -> None:
    """Each event has its own interval, and the next line knows how many were held back."""
    clock = Clock()
    limit = log.RateLimit(5, clock)
    assert [limit.allow("a") for _ in range(4)] == [0, None, None, None]
    assert limit.allow("b") == 0
    clock.now += 4.9
    assert limit.allow("a") is None
    clock.now += 0.1
    assert limit.allow("a") == 4
    assert limit.allow("a") is None
    clock.now += 50
    assert [limit.allow("a"), limit.allow("b")] == [1, 0]


def test_rate_limit_is_bounded_in_memory() -> None:
    """Events beyond the bound push out the oldest."""
    limit = log.RateLimit(5, Clock(), most_events=2)
    assert [limit.allow(event) for event in ("a", "a", "b", "c")] == [0, None, 0, 0]
    assert limit.allow("c") is None
    assert limit.allow("a") == 0


def test_limited_lines_count_what_was_held_back(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The helper writes the first line and says how many it left out before the next."""
    clock = Clock()
    monkeypatch.setitem(daisi_ws.log.limit._LIMITS, 5.0, log.RateLimit(5, clock))
    log.setup("info", "json")
    logger = structlog.get_logger()
    sent = [log.limited(logger, "queue is full", peer=n) for n in range(3)]
    assert sent == [True, False, False]
    clock.now += 5
    assert log.limited(logger, "queue is full", level="error", peer=3)
    first, second = lines.json()
    assert (first["level"], first["peer"]) == ("warning", 0)
    assert "suppressed" not in first
    assert (second["level"], second["suppressed"], second["peer"]) == ("error", 2, 3)


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=10,
)


@settings(max_examples=200)
@given(key=st.text(), value=_ANYTHING)
def test_any_value_makes_one_clean_line(key: str, value: object) -> None:
    """Whatever is logged can be rendered, on one line, without controls that move a terminal."""
    line = {"timestamp": "t", "level": "info", "event": "e", "value": clean(key, value)}
    for rendered in (as_json(dict(line)), Readable(colours=False)(dict(line))):
        text = rendered.decode()
        assert text.endswith("\n")
        assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202e]", text[:-1])


def test_a_library_that_repeats_itself_is_heard_once(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next line of the same text, after a while, counts those that were held back."""
    now = [100.0]
    monkeypatch.setattr(RateLimit.__init__, "__defaults__", (lambda: now[0], 1000))
    log.setup("info", "json")
    library = logging.getLogger("library")
    for _ in range(5):
        library.error("no file left")
    library.error("something else")
    library.warning("no file left")
    now[0] += 1.5
    library.error("no file left")
    assert [(line["event"], line.get("suppressed")) for line in lines.json()] == [
        ("no file left", None),
        ("something else", None),
        ("no file left", None),
        ("no file left", 4),
    ]
