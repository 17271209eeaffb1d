"""The ladder of deadlines of a stop, stated once.

Each rung leaves the one below it time to end by itself::

    client close wait < drain < supervisor kill < process manager kill < orchestrator kill

The worker keeps the first two, the supervisor the third. The last two are what operators put
into supervisord's `stopwaitsecs` (systemd's `TimeoutStopSec`) and into Kubernetes'
`terminationGracePeriodSeconds`.
"""

from __future__ import annotations

from dataclasses import dataclass

CLIENT_CLOSE_SECONDS = 2.0
"""Longest wait for a client's answer to our close frame."""

SUPERVISOR_MARGIN_SECONDS = 5.0
"""From the end of the drain time to the supervisor's SIGKILL."""

MANAGER_MARGIN_SECONDS = 5.0
"""From the supervisor's SIGKILL to that of its own process manager."""

ORCHESTRATOR_MARGIN_SECONDS = 5.0
"""From the process manager's SIGKILL to the end of the pod's grace period."""

QUICK_STOP_SECONDS = 2.0
"""From the second stop signal (SIGINT to the workers) to SIGKILL."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds after which each party gives up waiting; they only grow.

    :param client_close: for a client's answer to our close frame, from its close frame on. The
        others count from the stop signal.
    :param drain: all clients are gone, routes, locks and lease released.
    :param supervisor_kill: SIGKILL to the worker.
    :param manager_kill: `stopwaitsecs`, `TimeoutStopSec`.
    :param orchestrator_kill: `terminationGracePeriodSeconds`.
    """

    client_close: float
    drain: float
    supervisor_kill: float
    manager_kill: float
    orchestrator_kill: float


def deadlines(shutdown_timeout_seconds: float, shutdown_delay_seconds: float = 0.0) -> Deadlines:
    """Return the ladder for `app.shutdown_timeout_seconds` and `server.shutdown_delay_seconds`.

    :param shutdown_timeout_seconds: time for the drain, above 0.
    :param shutdown_delay_seconds: before it, NOT_READY is announced for so long.
    """
    drain = shutdown_delay_seconds + shutdown_timeout_seconds
    supervisor_kill = drain + SUPERVISOR_MARGIN_SECONDS
    manager_kill = supervisor_kill + MANAGER_MARGIN_SECONDS
    return Deadlines(
        client_close=min(CLIENT_CLOSE_SECONDS, shutdown_timeout_seconds / 4),
        drain=drain,
        supervisor_kill=supervisor_kill,
        manager_kill=manager_kill,
        orchestrator_kill=manager_kill + ORCHESTRATOR_MARGIN_SECONDS,
    )
