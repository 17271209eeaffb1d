"""What the supervisor and its workers know of each other: context, signals, reports, exit codes.

A *slot* is a place for one worker process: its listening socket and its two gRPC ports (*lanes*,
so that a worker and its successor can overlap). Who fills it changes, with a new *generation*
each time.

Supervisor to worker, by signal: SIGTERM drain, SIGINT or a second SIGTERM quick stop, SIGHUP
reload the configuration. The end of the lifeline pipe says that the supervisor is gone: drain
quickly and exit. A worker installs its signal handlers *before* its first report; until then the
supervisor sends no SIGHUP.

Worker to supervisor, by report: one JSON object a line on `report_fd`, a heartbeat about every
second, the others when something changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from daisi_ws.domain.census import Census

if TYPE_CHECKING:
    import socket

EXIT_CLEAN: Final = 0
EXIT_BOOT_FAILED: Final = 3
"""The worker could not start and has said why in a `BootFailed` report."""

HEARTBEAT_SECONDS: Final = 1.0
LANES: Final = 2

REPORT_LIMIT: Final = 4096
"""Bytes of the longest report: PIPE_BUF of Linux, up to which a write is all or nothing."""

_LINE_LIMIT: Final = 65536

Plain = int | float | bool | str | tuple[str, ...] | None
"""A configuration value: of no type of our own, which a worker with newer code would not know."""


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """Where the configuration comes from, so that a worker can load it again on SIGHUP.

    :param path: the configuration file, or None for the default place.
    :param environ: the environment as the supervisor got it; may hold secrets.
    :param flags: values of command line options by key (`server.http_port`); may hold secrets.
    :param started: the values that the supervisor started with, by key; may hold secrets.
    :param good: those that it read last without a problem; may hold secrets.
    """

    path: Path | None
    environ: Mapping[str, str] = field(repr=False)
    flags: Mapping[str, object] = field(repr=False)
    started: Mapping[str, Plain] = field(default_factory=dict, repr=False)
    good: Mapping[str, Plain] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What one worker process is told at its birth; fixed for its life.

    :param slot: its place, from 0.
    :param workers: number of slots.
    :param generation: grows with every process of the slot, also across supervisors.
    :param lane: which of the slot's two gRPC ports and metric files is this process's own.
    :param pod_id: name in the cluster, unique to this process.
    :param predecessor: pod ID of the dead worker that this one replaces; its lease may be removed.
    :param grpc_port: port of its gRPC server.
    :param supervisor_id: random, one per run of a supervisor.
    :param supervisor_pid: process ID of the parent.
    :param lifeline_fd: read end of a pipe that ends when the supervisor does.
    :param report_fd: non-blocking write end of the pipe for reports.
    :param listener: the slot's listening socket; the supervisor keeps it open too.
    :param metrics_listener: the listening socket for scrapes that all workers share, if they have
        a port of their own.
    :param census: counts this worker's clients, and knows those of the whole host.
    """

    slot: int
    workers: int
    generation: int
    lane: int
    pod_id: str
    predecessor: str | None
    grpc_port: int
    supervisor_id: str
    supervisor_pid: int
    lifeline_fd: int
    report_fd: int
    listener: socket.socket
    metrics_listener: socket.socket | None = None
    census: Census = field(default_factory=Census)

    @property
    def process_identifier(self) -> str:
        """Return the identifier of this process's metric files, such as `3a`."""
        return process_identifier(self.slot, self.lane)


def grpc_port(base: int, slot: int, lane: int) -> int:
    """Return the gRPC port of a slot's lane in the range that starts at `base`."""
    return base + LANES * slot + lane


def process_identifier(slot: int, lane: int) -> str:
    """Return the identifier of a lane's metric files: the slot's number and the lane's letter."""
    return f"{slot}{'ab'[lane]}"


class Heartbeat(msgspec.Struct, frozen=True, tag_field="type", tag="heartbeat"):
    """The worker's loop turns."""


class Ready(msgspec.Struct, frozen=True, tag_field="type", tag="ready"):
    """The worker delivers: the path from the stream to its sockets is whole."""


class NotReady(msgspec.Struct, frozen=True, tag_field="type", tag="not_ready"):
    """The worker runs but does not deliver (yet, or any more)."""

    why: str = ""


class BootFailed(msgspec.Struct, frozen=True, tag_field="type", tag="boot_failed"):
    """The worker cannot start and exits.

    :param problem: what is wrong, in one sentence.
    :param hint: the next step for whoever reads it.
    :param exit_code: the supervisor's exit code if this ends it.
    """

    problem: str
    hint: str = ""
    exit_code: int = EXIT_BOOT_FAILED


class Draining(msgspec.Struct, frozen=True, tag_field="type", tag="draining"):
    """The worker takes no new connections and sends its clients away."""


Report = Heartbeat | Ready | NotReady | BootFailed | Draining

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Report)


def encode_report(report: Report) -> bytes:
    """Return a report as one line, its texts shortened until it fits a single pipe write."""
    line = _encoder.encode(report) + b"\n"
    while len(line) > REPORT_LIMIT:
        texts = {k: v for k, v in msgspec.structs.asdict(report).items() if isinstance(v, str)}
        longest = max(texts, key=lambda name: len(texts[name]))
        shorter = texts[longest][: len(texts[longest]) // 2]
        report = msgspec.structs.replace(report, **{longest: shorter})
        line = _encoder.encode(report) + b"\n"
    return line


class ReportReader:
    """Cuts what arrives on a report pipe into reports."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Report]:
        """Return the reports completed by `data`.

        A line that is not a known report is skipped: a newer worker may say more than an older
        supervisor understands.
        """
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest if len(rest) <= _LINE_LIMIT else b""
        reports: list[Report] = []
        for line in lines:
            try:
                reports.append(_decoder.decode(line))
            except msgspec.DecodeError:
                continue
        return reports
