"""Metrics: plain integers on the hot path, folded into Prometheus once a second.

Label values come from enumerations, never from clients, subjects, sessions or chats. In the
multiprocess mode of prometheus-client the process identifier is the worker's slot and lane, so
that a replaced worker goes on with its predecessor's files and no ghost series pile up.
"""

from __future__ import annotations

import itertools
import os
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.exposition import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.resume import REASONS

LATENCY_BUCKETS: Final = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
)  # fmt: skip
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MULTIPROC_DIR: Final = "PROMETHEUS_MULTIPROC_DIR"

_KINDS: Final = ("user", "admin")
_ROTATED: Final = ("secret_token", "token_aes_key", "admin_secret_token", "admin_token_aes_key")
_EVENT_TYPES: Final = ("chat", "message", "agent")
_SENT: Final = ("event", "ready", "error", "other")
_RECEIVED: Final = ("select_chat", "resume", "token", "ping", "pong", "invalid", "over_limit")
_REFUSED: Final = (
    "missing_key", "wrong_key", "missing", "malformed", "forged", "bad_content", "expired",
    "wrong_path", "other_identity",
)  # fmt: skip
LIMITS: Final = (
    "connections_host", "connections_worker", "accepts", "address", "identity", "messages",
    "chats", "frames", "message_size", "header_size",
)  # fmt: skip
_NOT_LOCKED: Final = ("conflict", "timeout", "displaced", "redis_unavailable", "cancelled")
_NO_EVENTS: Final = (
    "bad_subject", "not_utf8", "bad_json", "bad_field", "ids_contradict", "internal_error",
)  # fmt: skip
_ENDINGS: Final = tuple(reason.label for reason in CloseReason)
_FILES: Final = ("counter", "histogram", "gauge_livesum", "gauge_livemax", "gauge_livemin")
_FILE_BYTES: Final = 64 * 1024
_DRAINED: Final = ("told", "moved", "closed", "stayed")
_CHANNEL_ENDS: Final = ("idle", "unhealthy", "failed", "dropped", "shutdown")


def use_identifier(identifier: str) -> str:
    """Name this process's metric files; to be called before the first metric is made.

    :param identifier: slot and lane, `0a`. Without it every killed worker leaves its files.
    :return: why this process's metrics are missing in the host's; empty if they are not.
    """
    directory = os.environ.get(MULTIPROC_DIR)
    if directory is None:
        return ""
    try:
        for kind in _FILES:
            _reserve(Path(directory, f"{kind}_{identifier}.db"))
    except OSError as error:
        values.ValueClass = values.MutexValue
        return f"no files in {directory}: {error.strerror}"
    values.ValueClass = values.MultiProcessValue(  # type: ignore[no-untyped-call]
        process_identifier=lambda: identifier
    )
    return ""


def _reserve(file: Path) -> None:
    """Make a metric file of which every page has its place on the disk.

    The library makes files with holes, and maps them: where the disk is full, what is written into
    a hole ends the process (SIGBUS, mmap(2)). A predecessor's file stays as it is.

    :raises OSError: there is no room for it.
    """
    if file.exists():
        return
    # A scrape must not find it before it is complete.
    new = file.with_suffix(".new")
    try:
        with new.open("wb") as opened:
            os.posix_fallocate(opened.fileno(), 0, _FILE_BYTES)
        new.replace(file)
    except OSError:
        new.unlink(missing_ok=True)
        raise


class Tally:
    """Counts of one second, bumped from the loop without any object made."""

    __slots__ = (
        "agent",
        "chat",
        "delivered",
        "duplicates",
        "latency_counts",
        "latency_sum",
        "message",
        "other_sent",
        "pongs",
        "pushed_in",
        "route_hits",
        "route_misses",
        "unwanted",
    )

    def __init__(self) -> None:
        self.latency_counts = [0] * (len(LATENCY_BUCKETS) + 1)
        self.reset()

    def reset(self) -> None:
        """Start over."""
        self.chat = self.message = self.agent = 0
        self.delivered = self.duplicates = self.other_sent = self.pongs = 0
        self.pushed_in = self.unwanted = 0
        self.route_hits = self.route_misses = 0
        self.latency_sum = 0.0
        for index in range(len(self.latency_counts)):
            self.latency_counts[index] = 0

    def observe_latency(self, seconds: float, deliveries: int) -> None:
        """Count `deliveries` of one event.

        :param seconds: from the broker's timestamp to the socket write.
        """
        self.latency_counts[bisect_left(LATENCY_BUCKETS, seconds)] += deliveries
        self.latency_sum += seconds * deliveries


class _Counter(Counter):
    """A counter that finds the children of known label values without the library's checks."""

    def labels(self, *values: str) -> Counter:  # type: ignore[override]
        """Return the child of these values."""
        known: dict[tuple[str, ...], Counter] = vars(self)["_metrics"]
        child = known.get(values)
        return super().labels(*values) if child is None else child

    def inc(self, amount: float = 1, exemplar: dict[str, str] | None = None) -> None:
        """Add an amount; this project has no exemplars."""
        self._value.inc(amount)


class _BulkHistogram(Histogram):
    """A histogram that takes a second's observations at once."""

    def observe_many(self, counts: list[int], total: float) -> None:
        """Add counts per bucket (not cumulated) and the sum of the observed values."""
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)
        self._sum.inc(total)


class Metrics:
    """All metrics of a worker. `tally` is for the hot path, the rest for rarer things."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.tally = Tally()
        self._make_connections()
        self._make_sessions()
        self._make_drain()
        self._make_forwarding()
        self._make_stream()
        self._make_process()

    def _counter(self, name: str, text: str, **labels: Sequence[str]) -> Counter:
        """Make a counter; of the labels' known values each combination is there from the start.

        A series that comes with its first event has no increase at that event, and a dashboard
        cannot tell "never" from "no such metric".
        """
        counter = _Counter(f"dws_{name}", text, tuple(labels), registry=self.registry)
        for values_of_labels in itertools.product(*labels.values()) if labels else ():
            counter.labels(*values_of_labels)
        return counter

    def _gauge(self, name: str, text: str, *labels: str, mode: str = "livesum") -> Gauge:
        return Gauge(
            f"dws_{name}",
            text,
            labels,
            registry=self.registry,
            multiprocess_mode=mode,  # type: ignore[arg-type]
        )

    def _make_connections(self) -> None:
        self.active_connections = self._gauge(
            "active_connections", "WebSocket connections open now.", "type"
        )
        self.connections = self._counter(
            "connections", "WebSocket connections accepted.", type=_KINDS
        )
        self.closed = self._counter("connections_closed", "Connections ended.", reason=_ENDINGS)
        self.connection_duration = Histogram(
            "dws_connection_duration_seconds",
            "How long connections lasted, in seconds.",
            registry=self.registry,
            buckets=(1, 10, 60, 300, 1800, 7200, 43200),
        )
        self.messages_sent = self._counter(
            "messages_sent", "Messages written to clients, by type.", type=_SENT
        )
        self.messages_received = self._counter(
            "messages_received", "Messages read from clients, by kind.", kind=_RECEIVED
        )
        self.limited = self._counter(
            "limited", "What clients did over a limit, by the limit.", limit=LIMITS
        )
        self.messages_dropped = self._counter(
            "websocket_messages_dropped",
            "Events a slow client lost by policy.",
            reason=["slow_client"],
        )
        self.buffer_capacity = self._gauge(
            "websocket_buffer_capacity", "Frames that all outboxes together may hold."
        )
        self.buffer_used = self._gauge(
            "websocket_buffer_used_count", "Frames that wait in outboxes."
        )
        self.resumes = self._counter(
            "resumes",
            "Positions that clients came back with, by outcome.",
            outcome=("recovered", *REASONS),
        )
        self.resumed_events = self._counter("resumed_events", "Missed events given to them.")
        self.resume_scans = self._counter(
            "resume_scans", "Reads of a range of the stream for who came back, many at once."
        )
        self.slow_clients = self._gauge("slow_clients", "Clients that are behind for too long.")

    def _make_sessions(self) -> None:
        self.auth_success = self._counter("auth_success", "Accepted tokens.", type=_KINDS)
        self.auth_failure = self._counter(
            "auth_failure", "Refused keys and tokens.", type=_KINDS, reason=_REFUSED
        )
        self.previous_keys = self._counter(
            "auth_previous_key",
            "Accepted API keys and tokens of the previous key, by configuration key.",
            key=_ROTATED,
        )
        self.cache = self._counter(
            "cache_lookups",
            "Look-ups in caches, by outcome (hit, miss).",
            cache=["token_memory"],
            outcome=["hit", "miss"],
        )
        self.lock_attempts = self._counter(
            "session_lock_attempts",
            "Attempts at session locks.",
            user_type=_KINDS,
            lock_type=["initial", "retry", "force"],
        )
        self.lock_success = self._counter("session_lock_success", "Session locks acquired.")
        self.lock_failure = self._counter(
            "session_lock_failure", "Session locks not acquired.", reason=_NOT_LOCKED
        )
        self.conflicts = self._counter(
            "session_conflicts", "Admissions that met another session of the identity.", type=_KINDS
        )

    def _make_drain(self) -> None:
        self.draining = self._gauge("draining", "Workers that drain now.")
        self.drain_left = self._gauge(
            "drain_connections_left", "Connections that draining workers still have."
        )
        self.drained = self._counter(
            "drain_connections", "Connections that drains sent away.", outcome=_DRAINED
        )

    def _make_forwarding(self) -> None:
        self.grpc_sent = self._counter(
            "grpc_messages_sent", "Events pushed to peers, by pod slot.", target_pod=()
        )
        self.grpc_received = self._counter("grpc_messages_received", "Events pushed to this pod.")
        self.forward_retry_attempts = self._counter(
            "grpc_forward_retry_attempts", "Pushes tried again."
        )
        self.forward_retry_success = self._counter(
            "grpc_forward_retry_success", "Pushes that went through when tried again."
        )
        self.forward_retry_failure = self._counter(
            "grpc_forward_retry_failure", "Pushes given up: the peer's lease is gone."
        )
        self.pool_created = self._counter(
            "grpc_pool_connections_created", "Channels to peers opened."
        )
        self.pool_closed = self._counter(
            "grpc_pool_connections_closed", "Channels to peers closed.", reason=_CHANNEL_ENDS
        )
        self.pool_size = self._gauge("grpc_pool_size", "Channels to peers open now.")
        self.breaker_tripped = self._counter(
            "grpc_circuitbreaker_tripped", "Times a peer's breaker opened."
        )
        self.breaker_open = self._gauge("grpc_circuitbreaker_open", "Breakers open now.")

    def _make_stream(self) -> None:
        self.events = self._counter(
            "events_received", "Events that the reader handed on.", event_type=_EVENT_TYPES
        )
        self.redelivered = self._counter(
            "redeliveries", "Events read more than once and dropped as known."
        )
        self.dead_letters = self._counter(
            "dead_letters", "Messages that are no events, by what is wrong.", reason=_NO_EVENTS
        )
        self.reader = self._gauge("reader", "1 where this pod reads the stream.")
        self.reader_changes = self._counter("reader_takeovers", "Times a pod became the reader.")
        self.stream_lag = self._gauge(
            "stream_lag_events", "Events in the stream not yet read.", mode="livemax"
        )
        self.route_cache = self._counter(
            "route_cache_lookups", "Route look-ups by outcome.", outcome=["hit", "miss"]
        )
        self.unrouted = self._counter("events_without_audience", "Events that nobody wanted.")
        self.catch_ups = self._counter(
            "catch_ups",
            "Times a pod read what it had missed from the stream.",
            outcome=["complete", "failed"],
        )
        self.delivery_latency = _BulkHistogram(
            "dws_delivery_latency_seconds",
            "From the broker's timestamp to the socket write, in seconds.",
            registry=self.registry,
            buckets=LATENCY_BUCKETS,
        )

    def _make_process(self) -> None:
        self.loop_lag = self._gauge(
            "loop_lag_seconds", "How late the loop's timers are, in seconds.", mode="livemax"
        )
        self.workers = self._gauge(
            "workers", "Workers that the host is meant to have.", mode="livemax"
        )
        self.worker_deaths = self._counter(
            "worker_deaths", "Workers that died and have a successor."
        )
        self.cpu = self._counter("cpu_seconds", "Processor time of the workers, in seconds.")
        self.memory = self._gauge(
            "resident_memory_bytes", "Memory of the workers that is resident, in bytes."
        )
        self.build = self._gauge(
            "build_info", "1 for the version that a worker runs.", "version", mode="livemax"
        )
        self.tasks = self._gauge("tasks", "Tasks of the workers' loops, waiting ones included.")
        self.dependency_up = self._gauge(
            "dependency_up", "1 while a dependency answers.", "dependency", mode="livemin"
        )
        self.ready = self._gauge("ready", "Workers that are READY.")
        self.ready_part = self._gauge(
            "ready_part", "1 while a part of the way to a socket works.", "part", mode="livemin"
        )
        self.certificate_expiry = self._gauge(
            "certificate_expiry_seconds",
            "How long until a certificate of ours ends, in seconds; negative after it.",
            "use",
            mode="livemin",
        )
        # The file of its kind is opened with it: later there may be no descriptor left.
        self.ready_part.labels("loop").set(1)

    def fold(self) -> None:
        """Move the tally into the metrics; once a second."""
        tally = self.tally
        for kind in _EVENT_TYPES:
            if count := getattr(tally, kind):
                self.events.labels(kind).inc(count)
        for counter, count in (
            (self.messages_sent.labels("event"), tally.delivered),
            (self.messages_sent.labels("other"), tally.other_sent),
            (self.messages_received.labels("pong"), tally.pongs),
            (self.redelivered, tally.duplicates),
            (self.unrouted, tally.unwanted),
            (self.grpc_received, tally.pushed_in),
            (self.route_cache.labels("hit"), tally.route_hits),
            (self.route_cache.labels("miss"), tally.route_misses),
        ):
            if count:
                counter.inc(count)
        self.delivery_latency.observe_many(tally.latency_counts, tally.latency_sum)
        tally.reset()

    def exposition(self) -> bytes:
        """Return the text for a scrape: all workers of the host in multiprocess mode."""
        if MULTIPROC_DIR not in os.environ:
            return generate_latest(self.registry)
        whole = CollectorRegistry()
        MultiProcessCollector(whole, path=os.environ[MULTIPROC_DIR])  # type: ignore[no-untyped-call]
        return generate_latest(whole)
