"""The lines by which one event is followed through the pods."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from daisi_ws import log
from daisi_ws.adapters import trace
from daisi_ws.app.ports import Received
from daisi_ws.domain.packets import Item

SUBJECT = "websocket.acme.sales.chats"
TEXT = b'{"type":"event","seq":7,"payload":{"event_id":"e1","company_id":"acme","row_data":{}}}'


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Give structlog, logging and warnings back as they were."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    log.set_level("info")
    logging.captureWarnings(False)
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_both_ends_of_a_hop_say_the_same_of_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    """Request and event ID, company, agent and sequence; the receiver adds who pushed it."""
    log.setup("debug", "json")
    assert trace.tracing()
    data = b'{"event_id":"e1","company_id":"acme","row_data":{}}'
    trace.event_read(Received(7, 0, SUBJECT, data, "", "r1", False))
    trace.events_taken("gw-0-1", [Item(7, 0, SUBJECT, TEXT, "r1")])
    read, taken = map(json.loads, capsys.readouterr().err.splitlines())
    assert (read["event"], taken["event"]) == ("event read", "event taken")
    assert taken["peer"] == "gw-0-1"
    for name, value in {
        "request_id": "r1",
        "event_id": "e1",
        "company_id": "acme",
        "agent_id": "sales",
        "seq": 7,
    }.items():
        assert read[name] == taken[name] == value


def test_what_is_no_event_has_a_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    """Its subject and place are known."""
    log.setup("debug", "json")
    trace.event_read(Received(8, 0, "websocket.acme", b"\xff", "", "wa_stream-8", False))
    line = json.loads(capsys.readouterr().err)
    assert line["seq"] == 8
    assert line["request_id"] == "wa_stream-8"


def test_at_info_nobody_asks_for_them() -> None:
    """Whoever hands events on looks once and writes none."""
    log.setup("info", "json")
    assert not trace.tracing()


def test_a_trace_context_is_told_beside_the_request_id(capsys: pytest.CaptureFixture[str]) -> None:
    """At both ends of a hop, each under its own name."""
    log.setup("debug", "json")
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    trace.events_taken("gw-0-1", [Item(7, 0, SUBJECT, TEXT, f"r1 {parent}")])
    line = json.loads(capsys.readouterr().err)
    assert (line["request_id"], line["traceparent"]) == ("r1", parent)
