"""What keeps a worker from starting, and how the supervisor is told."""

from __future__ import annotations

import os

import structlog

from daisi_ws.domain.slots import BootFailed, WorkerContext, encode_report

log = structlog.get_logger(__name__)


class BootFailure(Exception):
    """This worker cannot start, and a restart would not help.

    :param problem: what is wrong; `hint`: the next step.
    """

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint


def report_failure(context: WorkerContext, failure: BootFailure) -> None:
    """Tell the supervisor why this worker ends."""
    log.error("cannot start", problem=failure.problem, hint=failure.hint or None)
    try:
        report = BootFailed(failure.problem, failure.hint)
        os.write(context.report_fd, encode_report(report))
    except OSError:
        log.warning("the supervisor could not be told")
