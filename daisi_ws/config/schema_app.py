"""Configuration of sessions, routes, delivery, forwarding and the drain."""

from __future__ import annotations

from typing import Annotated, Literal

from daisi_ws.config.keys import Key, Section, count, milliseconds, seconds


class App(Section, frozen=True, kw_only=True):
    """Sessions, routes, delivery to clients, forwarding between pods, and the drain."""

    session_ttl_seconds: Annotated[
        float,
        seconds("Life of a session lock without renewal.", 1, 3600),
    ] = 30
    route_ttl_seconds: Annotated[
        float,
        seconds("Life of a route without renewal.", 1, 86_400),
    ] = 300
    ttl_refresh_interval_seconds: Annotated[
        float,
        seconds("Between two renewals of session locks and routes.", 0.1, 3600),
    ] = 10
    session_lock_retry_delay_ms: Annotated[
        int,
        milliseconds(
            "Longest pause between two attempts at a session lock that another pod holds.",
            1,
            10_000,
        ),
    ] = 250
    session_takeover_seconds: Annotated[
        float,
        seconds(
            "How long the holder of a session lock may take to give it up before it is taken by "
            "force.",
            1.5,
            60,
        ),
    ] = 1.5
    admin_session_policy: Annotated[
        Literal["reject", "replace"],
        Key(
            "Second connection of one admin. reject: the newcomer is refused. replace: the older "
            "one is closed, as for users.",
            hot=True,
        ),
    ] = "reject"
    pod_lease_seconds: Annotated[
        float,
        seconds("Silence after which the other pods count a pod as dead.", 0.5, 300),
    ] = 6
    pod_lease_refresh_seconds: Annotated[
        float,
        seconds("Between two renewals of the pod's lease.", 0.1, 60),
    ] = 1.5
    barrier_timeout_seconds: Annotated[
        float,
        seconds("Longest wait for the reading pod's word that it knows a new route.", 0.1, 60),
    ] = 5
    connect_timeout_seconds: Annotated[
        float,
        seconds(
            "Longest time from an accepted request to `ready` (session lock, routes, barrier).",
            0.5,
            300,
        ),
    ] = 10
    token_expiry_warning_seconds: Annotated[
        float,
        seconds("How long before its token expires a client is warned; 0 for no warning.", 0, 3600),
    ] = 30
    ping_interval_seconds: Annotated[
        float,
        seconds("Between two pings to a client.", 0.1, 3600),
    ] = 20
    pong_wait_seconds: Annotated[
        float,
        seconds("A client without any sign of life for this long is dead.", 0.2, 7200),
    ] = 60
    write_timeout_seconds: Annotated[
        float,
        seconds(
            "Longest time a client's socket may take no byte, or the policy block withhold an "
            "event's acceptance for it, before it is closed with 1013.",
            0.1,
            3600,
        ),
    ] = 30
    websocket_message_buffer_size: Annotated[
        int,
        count("Events that may wait for one client.", "events", 1, 1_000_000),
    ] = 100
    websocket_max_buffer_bytes: Annotated[
        int,
        count("Bytes that may wait for one client.", "bytes", 4096, 1_073_741_824),
    ] = 1_048_576
    websocket_backpressure_drop_policy: Annotated[
        Literal["drop_oldest", "block"],
        Key(
            "When a client's buffer is full. drop_oldest: its oldest events go, and it is told "
            "which. block: nothing goes, its events' acceptance is withheld, and at four times the "
            "buffer it is closed with 1013.",
            hot=True,
        ),
    ] = "drop_oldest"
    websocket_slow_client_latency_ms: Annotated[
        int,
        milliseconds(
            "A client that is behind for longer counts as slow, and is named in the log.",
            1,
            3_600_000,
        ),
    ] = 5000
    websocket_slow_client_disconnect_threshold_ms: Annotated[
        int,
        milliseconds("A client that is behind for longer is closed with 1013.", 1, 3_600_000),
    ] = 30_000
    websocket_compression_mode: Annotated[
        Literal["disabled", "no_context_takeover"],
        Key(
            "Compression (permessage-deflate) for new clients that offer it. no_context_takeover: "
            "each event of some length is compressed once, whoever gets it.",
            hot=True,
        ),
    ] = "disabled"
    nats_max_ack_pending: Annotated[
        int,
        count(
            "Events that may be delivered and not yet acknowledged, over all pods.",
            "events",
            1,
            1_000_000,
            hot=False,
        ),
    ] = 5000
    nats_ack_wait_seconds: Annotated[
        float,
        seconds(
            "Time without acknowledgement after which NATS delivers an event again.",
            1,
            3600,
            hot=False,
        ),
    ] = 30
    grpc_client_forward_timeout_seconds: Annotated[
        float,
        seconds("Deadline for another pod to accept a batch of events.", 0.1, 300),
    ] = 5
    grpc_pool_idle_timeout_seconds: Annotated[
        float,
        seconds(
            "A connection to another pod that carries nothing for this long is closed.", 1, 86_400
        ),
    ] = 300
    grpc_pool_health_check_interval_seconds: Annotated[
        float,
        seconds("Between two health checks of an idle connection to another pod.", 0.1, 86_400),
    ] = 60
    grpc_circuitbreaker_fail_threshold: Annotated[
        int,
        count(
            "Failures in a row after which a pod is left alone for a while.", "failures", 1, 1000
        ),
    ] = 5
    grpc_circuitbreaker_open_duration_seconds: Annotated[
        float,
        seconds("How long it is left alone.", 0.1, 3600),
    ] = 30
    drain_reconnects_per_second: Annotated[
        float,
        count(
            "How many clients of a draining worker may come back in any second; it sends away a "
            "sixth fewer, and more only where app.shutdown_timeout_seconds would not suffice.",
            "clients per second",
            1,
            1_000_000,
        ),
    ] = 500
    shutdown_timeout_seconds: Annotated[
        float,
        seconds(
            "Longest time for the drain: clients are sent away in waves, then the worker ends.",
            0.1,
            3600,
        ),
    ] = 30
    forward_to_legacy_pods: Annotated[
        bool,
        Key("Also push events to pods of the older service (those without registry entry)."),
    ] = False


class TtlRange(Section, frozen=True, kw_only=True):
    """A time to live between two bounds: the longer one while there is activity."""

    enabled: Annotated[
        bool,
        Key("Use the range instead of the fixed time in app.*_ttl_seconds.", hot=True),
    ]
    min_seconds: Annotated[
        float, seconds("Time to live without activity.", 1, 86_400, aliases=("min",))
    ]
    max_seconds: Annotated[
        float, seconds("Time to live with activity.", 1, 86_400, aliases=("max",))
    ]
    activity_threshold_seconds: Annotated[
        float,
        seconds(
            "How long after the last activity it still counts.",
            0.1,
            86_400,
            aliases=("activity_threshold",),
        ),
    ]


class AdaptiveTtl(Section, frozen=True, kw_only=True):
    """Times to live of Redis entries that follow the activity behind them."""

    session_lock: TtlRange = TtlRange(
        enabled=False, min_seconds=15, max_seconds=30, activity_threshold_seconds=120
    )
    message_route: TtlRange = TtlRange(
        enabled=True, min_seconds=300, max_seconds=900, activity_threshold_seconds=600
    )
