"""Reports, contexts and ports of slots."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daisi_ws.domain.slots import (
    REPORT_LIMIT,
    BootFailed,
    ConfigSource,
    Draining,
    Heartbeat,
    NotReady,
    Ready,
    Report,
    ReportReader,
    WorkerContext,
    encode_report,
    grpc_port,
    process_identifier,
)

EVERY: list[tuple[Report, dict[str, object]]] = [
    (Heartbeat(), {"type": "heartbeat"}),
    (Ready(), {"type": "ready"}),
    (NotReady("redis is away"), {"type": "not_ready", "why": "redis is away"}),
    (
        BootFailed("no stream", "make it", 2),
        {"type": "boot_failed", "problem": "no stream", "hint": "make it", "exit_code": 2},
    ),
    (Draining(), {"type": "draining"}),
]


@pytest.mark.parametrize(("report", "form"), EVERY)
def test_report_is_one_line_of_json(report: Report, form: dict[str, object]) -> None:
    """The form is fixed, and reading gives back what was said."""
    line = encode_report(report)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == form
    assert ReportReader().feed(line) == [report]


@given(st.lists(st.integers(0, len(EVERY) - 1)), st.data())
def test_reports_survive_any_cutting(which: list[int], data: st.DataObject) -> None:
    """A pipe may deliver in pieces of any size."""
    said = [EVERY[n][0] for n in which]
    stream = b"".join(map(encode_report, said))
    reader, heard = ReportReader(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        heard += reader.feed(stream[:size])
        stream = stream[size:]
    assert heard == said


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"hello",
        b"{}",
        b'{"type":"dance"}',
        b"\xff\xfe",
        b'{"type":"not_ready","why":5}',
        b"[" * 99,
    ],
)
def test_lines_that_are_no_report_are_skipped(junk: bytes) -> None:
    """A newer worker may say more; what follows is still heard."""
    assert ReportReader().feed(junk + b"\n" + encode_report(Ready())) == [Ready()]


def test_unknown_fields_are_ignored() -> None:
    """Additions do not break an older supervisor."""
    assert ReportReader().feed(b'{"type":"ready","since":5}\n') == [Ready()]


def test_endless_line_takes_no_memory_and_does_not_end_the_conversation() -> None:
    """It is thrown away; reports after its end are heard."""
    reader = ReportReader()
    for _ in range(100):
        assert reader.feed(b"x" * 50_000) == []
        assert len(reader._rest) <= 65_536
    assert reader.feed(b"\n" + encode_report(Ready())) == [Ready()]


@pytest.mark.parametrize("filler", ["x", "ä", "\x00", "\U0001f600"])
def test_long_report_is_shortened_to_one_pipe_write(filler: str) -> None:
    """Nothing of the kind is lost: type and exit code stay, the texts begin as they did."""
    line = encode_report(BootFailed(filler * 9000, filler * 5000, 2))
    assert REPORT_LIMIT / 4 < len(line) <= REPORT_LIMIT
    (heard,) = ReportReader().feed(line)
    assert isinstance(heard, BootFailed)
    assert heard.exit_code == 2
    assert heard.problem.startswith(filler)
    assert heard.hint.startswith(filler)


def test_each_lane_has_its_own_port_and_files() -> None:
    """Two ports a slot, in a row; a letter a lane."""
    ports = [grpc_port(50051, slot, lane) for slot in range(3) for lane in range(2)]
    assert ports == list(range(50051, 50057))
    assert process_identifier(12, 0) == "12a"
    assert process_identifier(0, 1) == "0b"


def test_context_knows_its_identifier() -> None:
    """Slot and lane."""
    with socket.socket() as listener:
        context = WorkerContext(3, 4, 7, 1, "h-3-7", None, 50058, "s", 1, 4, 5, listener)
    assert context.process_identifier == "3b"
    with pytest.raises(AttributeError):
        context.slot = 1  # type: ignore[misc]


def test_source_does_not_show_secrets() -> None:
    """Its repr leaves environment and flags out."""
    source = ConfigSource(Path("c.yaml"), {"DAISI_WS_AUTH_SECRET_TOKEN": "hush"}, {"a": "hush"})
    assert "c.yaml" in repr(source)
    assert "hush" not in repr(source)
