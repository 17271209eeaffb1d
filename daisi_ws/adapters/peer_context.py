"""What all links to peers share: settings, collaborators, and how far this pod reads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from daisi_ws.adapters.grpc_tls import TlsFiles
from daisi_ws.config import Config
from daisi_ws.metrics import Metrics


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """The configuration of forwarding. Times are seconds.

    :param forward_timeout: silence after which a peer that owes an answer is lost; also the
        longest time one attempt to connect may take.
    :param idle_timeout: without use for this long a connection is closed.
    :param health_interval: a connection that was silent for this long is checked.
    :param fail_threshold: failures in a row that open the peer's breaker for `open_duration`.
    :param queue_events: events that may wait for one peer.
    :param tick: between two looks at what is due (progress, idle connections, health).
    """

    forward_timeout: float = 5.0
    idle_timeout: float = 300.0
    health_interval: float = 60.0
    fail_threshold: int = 5
    open_duration: float = 30.0
    queue_events: int = 20_000
    tls: TlsFiles | None = None
    tick: float = 1.0

    @classmethod
    def from_config(cls, config: Config) -> PeerSettings:
        """Take what concerns forwarding from the configuration."""
        app = config.app
        return cls(
            forward_timeout=app.grpc_client_forward_timeout_seconds,
            idle_timeout=app.grpc_pool_idle_timeout_seconds,
            health_interval=app.grpc_pool_health_check_interval_seconds,
            fail_threshold=app.grpc_circuitbreaker_fail_threshold,
            open_duration=app.grpc_circuitbreaker_open_duration_seconds,
            queue_events=config.nats.forward_queue_events,
            tls=TlsFiles.from_config(config.server.grpc_tls),
        )


@dataclass(slots=True)
class Course:
    """Who reads, and how far: what travels with every batch.

    :param epoch: this pod's number as the reader.
    :param progress: sequence up to which it has read; -1 while it is not told.
    :param stale: a peer knows a newer reader: nothing is sent with this epoch any more.
    :param full: pods whose queue has no room.
    """

    epoch: int = 0
    stream: str = ""
    progress: int = -1
    stale: bool = False
    full: set[str] = field(default_factory=set)


@dataclass(slots=True)
class PeerContext:
    """What a link works with.

    :param pod_id: this pod.
    :param clock: monotonic seconds.
    :param lookup: pod ID → gRPC address; None without a lease.
    :param lease_gone: told each time `lookup` found none; may drop the link.
    :param changed: told when something was accepted, or got room.
    :param refused: told the newer epoch when a peer refuses ours.
    """

    pod_id: str
    settings: PeerSettings
    metrics: Metrics
    clock: Callable[[], float]
    lookup: Callable[[str], Awaitable[str | None]]
    lease_gone: Callable[[str], None]
    changed: Callable[[], None]
    refused: Callable[[int], None]
    course: Course = field(default_factory=Course)
