"""A snapshot of the cluster as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from daisi_ws.app.ports import PodRecord
from daisi_ws.cli.cluster import Snapshot, StreamState
from daisi_ws.cli.table import table
from daisi_ws.cli.wording import duration, moment, plural
from daisi_ws.config import FIELDS

_HEADERS = (
    "POD",
    "HOST",
    "SLOT",
    "STATE",
    "ADDRESS",
    "SINCE",
    "CONNECTIONS",
    "EVENTS/S",
    "DELIVERIES/S",
    "P50",
    "P99",
    "",
)
_RESTARTS = {"restart": "SIGUSR2 is enough", "full restart": "of the supervisor, too"}
_NUMBERS = (2, 6, 7, 8, 9, 10)


def as_json(snapshot: Snapshot) -> dict[str, Any]:
    """Return a snapshot for machines."""
    return {
        "ok": not snapshot.troubles,
        "problems": [trouble.problem for trouble in snapshot.troubles],
        "pods": [
            {
                **msgspec.to_builtins(pod),
                "since": datetime.fromtimestamp(pod.started, UTC).isoformat(),
                "reader": pod.pod_id == snapshot.reading,
            }
            for pod in snapshot.pods
        ],
        "hosts": _hosts_json(snapshot.pods),
        "reader": msgspec.to_builtins(snapshot.reader),
        "behind": None if snapshot.stream is None else snapshot.stream.pending,
        "stream": None if snapshot.stream is None else _stream_json(snapshot.stream),
    }


def as_text(snapshot: Snapshot, now: float) -> str:
    """Return a snapshot for people.

    :param now: Unix time in seconds.
    """
    lines = [_headline(snapshot), ""]
    if snapshot.pods:
        lines += [*table(_HEADERS, pod_rows(snapshot, now), right=_NUMBERS), ""]
    if snapshot.stream is not None:
        lines += _stream_lines(snapshot, snapshot.stream, now)
    lines += _waiting_lines(snapshot.pods)
    for trouble in snapshot.troubles:
        lines.append(f"{click.style('problem', fg='red')}   {trouble.problem}")
        if trouble.next_step:
            lines.append(f"          {trouble.next_step}")
    return "\n".join(lines).rstrip()


def pod_rows(snapshot: Snapshot, now: float) -> list[list[str]]:
    """Return the cells of the table of pods."""
    return [
        [
            pod.pod_id,
            pod.host,
            str(pod.slot),
            click.style("READY", fg="green") if pod.ready else click.style("NOT READY", fg="red"),
            pod.address,
            f"{moment(pod.started)} ({duration(max(now - pod.started, 0))})",
            f"{pod.connections:,}",
            f"{pod.events:,}",
            f"{pod.deliveries:,}",
            latency(pod.p50_ms),
            latency(pod.p99_ms),
            click.style("reads the stream", fg="cyan") if pod.pod_id == snapshot.reading else "",
        ]
        for pod in snapshot.pods
    ]


def latency(milliseconds: float) -> str:
    """Return a percentile of the last second, a dash where nothing was delivered."""
    return f"{milliseconds:g} ms" if milliseconds else "-"


def _headline(snapshot: Snapshot) -> str:
    hosts = {pod.host for pod in snapshot.pods}
    word = click.style("PROBLEM", fg="red") if snapshot.troubles else click.style("OK", fg="green")
    connections = sum(pod.connections for pod in snapshot.pods)
    pods = plural(len(snapshot.pods), "pod")
    return (
        f"cluster   {word}, {pods} on {plural(len(hosts), 'host')}, "
        f"{plural(connections, 'connection')}"
    )


def _stream_lines(snapshot: Snapshot, stream: StreamState, now: float) -> list[str]:
    kept = f"last sequence {stream.last_seq:,}, {stream.messages:,} kept"
    lines = [f"stream    {stream.name} ({', '.join(stream.subjects)}), {kept}"]
    consumer = stream.consumer
    if consumer is not None:
        lines.append(
            f"consumer  {consumer.get('name', '')} ({stream.mode}), "
            f"acknowledged up to {stream.ack_floor:,}, {stream.ack_pending:,} not acknowledged yet"
        )
        lines.append(f"behind    {plural(stream.pending, 'event')} not read yet")
    if stream.mode == "ordered":
        lines.append(f"reader    {_reader(snapshot, now)}")
    return [*lines, ""]


def _reader(snapshot: Snapshot, now: float) -> str:
    reader = snapshot.reader
    if reader is None:
        return "nobody yet: chosen with the first event"
    if snapshot.reading is None:
        return f"{reader.pod_id} has gone; the next event chooses another"
    return f"{reader.pod_id} for {duration(max(now - reader.since, 0))}"


def _hosts_json(pods: Sequence[PodRecord]) -> dict[str, Any]:
    hosts: dict[str, Any] = {}
    for pod in pods:
        host = hosts.setdefault(pod.host, {"pods": 0, "ready": 0, "connections": 0})
        host["pods"] += 1
        host["ready"] += pod.ready
        host["connections"] += pod.connections
    waiting = _waiting(pods)
    for name, host in hosts.items():
        host["waits_for_restart"] = waiting.get(name, {})
    return hosts


def _waiting(pods: Sequence[PodRecord]) -> dict[str, dict[str, str]]:
    """Return, by host, the keys whose new values wait, and for what: `restart`, `full restart`.

    What another version says of keys that are not known here is shown as it is.
    """
    waiting: dict[str, dict[str, str]] = {}
    for pod in pods:
        for key in pod.waits:
            field = FIELDS.get(key)
            # A hot one waits with one that it would contradict.
            kind = "restart" if field is None or field.key.hot else field.reload
            waiting.setdefault(pod.host, {})[key] = kind
    return waiting


def _waiting_lines(pods: Sequence[PodRecord]) -> list[str]:
    lines = []
    for host, keys in _waiting(pods).items():
        for kind, how in _RESTARTS.items():
            names = ", ".join(key for key, needs in keys.items() if needs == kind)
            if names:
                lines.append(f"waits     {host}, for a {kind} ({how}): {names}")
    return [*lines, ""] if lines else []


def _stream_json(stream: StreamState) -> dict[str, Any]:
    consumer = stream.consumer
    return {
        "name": stream.name,
        "subjects": list(stream.subjects),
        "messages": stream.messages,
        "first_seq": stream.first_seq,
        "last_seq": stream.last_seq,
        "consumer": None
        if consumer is None
        else {
            "name": consumer.get("name"),
            "mode": stream.mode,
            "ack_floor": stream.ack_floor,
            "num_pending": stream.pending,
            "num_ack_pending": stream.ack_pending,
        },
    }
