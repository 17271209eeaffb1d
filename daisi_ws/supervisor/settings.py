"""What the supervisor needs to know of the configuration, and what a reload changes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

EXIT_REFUSED: Final = 2
"""The configuration is invalid or a port is taken; nothing was started."""

EXIT_KILLED: Final = 4
"""Stopped as asked, but a worker did not end in its drain time and was killed."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Durations in seconds; a reload may change them.

    :param kill: from SIGTERM to SIGKILL of a worker; more than its drain time.
    :param boot: a new worker must be ready within it in a rolling restart, and must have given a
        first sign of life within it in any case.
    :param silence: a worker without heartbeat for so long is hung.
    """

    kill: float
    boot: float
    silence: float


@dataclass(frozen=True, slots=True)
class SupervisorSettings:
    """What is fixed for the life of a supervisor, and the first timings.

    :param name: name of the host in the cluster; slot and generation are appended for pod IDs.
    :param workers: number of slots.
    :param http_port: shared by all slots; 0 takes any free port.
    :param grpc_port: first of two ports a slot; 0 takes any free range.
    :param metrics_dir: directory for metric files; None makes a private one.
    :param metrics_port: shared by all slots, for scrapes only; 0 means that there is none.
    """

    name: str
    workers: int
    http_host: str
    http_port: int
    grpc_host: str
    grpc_port: int
    timings: Timings
    metrics_dir: Path | None = None
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 0


@dataclass(frozen=True, slots=True)
class Reloaded:
    """A valid configuration was read.

    :param timings: the supervisor's own part of it.
    :param hot: keys that changed and apply at once.
    :param restart: keys that differ from what the processes run with and wait for a restart.
    """

    timings: Timings
    hot: Sequence[str] = ()
    restart: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ReloadRefused:
    """The configuration is invalid; nothing changes.

    :param problems: every problem, one sentence each, without secrets.
    """

    problems: Sequence[str]


ReloadResult = Reloaded | ReloadRefused


class StartError(Exception):
    """The supervisor does not start: a port is taken or cannot be bound.

    :param problems: every problem with its next step, one sentence each.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
