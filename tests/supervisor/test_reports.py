"""The pipe of reports."""

from __future__ import annotations

import os

from daisi_ws.domain.slots import Heartbeat, NotReady, Ready, encode_report
from daisi_ws.supervisor.reports import ReportPipe


def test_reports_arrive_and_the_end_is_seen() -> None:
    """Nothing blocks while there is nothing to read; the end comes with the writer's."""
    pipe = ReportPipe()
    assert pipe.read() == []
    os.write(pipe.write_end, encode_report(Heartbeat()) + encode_report(Ready()))
    assert pipe.read() == [Heartbeat(), Ready()]
    assert not pipe.ended
    os.write(pipe.write_end, encode_report(NotReady("redis is away")))
    pipe.close_write_end()
    assert pipe.read() == [NotReady("redis is away")]
    assert pipe.ended
    assert pipe.read() == []
    pipe.close_read_end()


def test_worker_is_not_held_up_by_a_supervisor_that_does_not_read() -> None:
    """A full pipe refuses instead of blocking the worker's loop."""
    pipe = ReportPipe()
    line = encode_report(Heartbeat())
    written = 0
    try:
        while True:
            written += os.write(pipe.write_end, line)
    except BlockingIOError:
        pass
    assert len(pipe.read()) * len(line) == written
    pipe.close_write_end()
    pipe.close_read_end()
