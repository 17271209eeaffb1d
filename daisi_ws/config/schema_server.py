"""Configuration of what this host offers: addresses, processes, limits and logs."""

from __future__ import annotations

from typing import Annotated, Literal

from daisi_ws.config.keys import Key, Section, count, seconds
from daisi_ws.config.schema_links import HttpTls, PeerTls

_HOST = r"[^\s/@,]+"


class Server(Section, frozen=True, kw_only=True):
    """Addresses, worker processes, and limits on what clients may send."""

    http_host: Annotated[
        str,
        Key(
            "Address that the HTTP and WebSocket port is bound to.",
            whole=True,
            pattern=_HOST,
            expects="an IP address or a host name",
        ),
    ] = "0.0.0.0"
    http_port: Annotated[
        int,
        Key(
            "Port of HTTP and WebSocket, shared by all workers. 0 takes any free port.",
            whole=True,
            low=0,
            high=65_535,
        ),
    ] = 8080
    metrics_port: Annotated[
        int,
        Key(
            "Port that GET /metrics has for itself, shared by all workers; it is then not found "
            "at http_port. 0 leaves it there.",
            whole=True,
            low=0,
            high=65_535,
            example="9464",
        ),
    ] = 0
    metrics_host: Annotated[
        str,
        Key(
            "Address that metrics_port is bound to.",
            whole=True,
            pattern=_HOST,
            expects="an IP address or a host name",
        ),
    ] = "0.0.0.0"
    http_tls: HttpTls = HttpTls()
    grpc_host: Annotated[
        str,
        Key(
            "Address that the workers' gRPC ports are bound to.",
            whole=True,
            pattern=_HOST,
            expects="an IP address or a host name",
        ),
    ] = "0.0.0.0"
    grpc_port: Annotated[
        int,
        Key(
            "First gRPC port of this host; every worker slot takes two from here on, so that "
            "predecessor and successor can overlap. 0 takes any free ports.",
            whole=True,
            low=0,
            high=65_535,
        ),
    ] = 50051
    advertise_host: Annotated[
        str,
        Key(
            "Address that the other hosts reach this one at. When empty: grpc_host where that is "
            "a concrete address, else the local address of the route to Redis.",
            pattern=r"([^\s/@,]+)?",
            expects="an IP address or host name that other hosts can reach",
            example="10.0.3.17",
        ),
    ] = ""
    pod_id: Annotated[
        str,
        Key(
            "Name of this host in the cluster; worker slot and generation are appended. "
            "The host name when empty.",
            whole=True,
            pattern=r"[A-Za-z0-9_@=+~-]{0,100}",
            expects="at most 100 letters, digits or _ @ = + ~ -",
            example="gateway-1",
        ),
    ] = ""
    workers: Annotated[
        int,
        Key("Worker processes. 0 starts one for each processor core.", whole=True, low=0, high=256),
    ] = 0
    allowed_origins: Annotated[
        tuple[str, ...],
        Key(
            "Values of the Origin header that browsers may connect from; * allows all. When "
            "empty: the same host, or no Origin header.",
            hot=True,
            expects="scheme://host[:port] without path, or *",
            example="https://app.example.com",
        ),
    ] = ()
    trusted_proxies: Annotated[
        tuple[str, ...],
        Key(
            "Networks of the proxies whose word on a client's address counts: header "
            "X-Forwarded-For, and the PROXY protocol. When empty: nobody's.",
            hot=True,
            expects="networks or addresses, such as 10.0.0.0/8, 192.0.2.7 or fd00::/8",
            example="10.0.0.0/8",
        ),
    ] = ()
    proxy_protocol: Annotated[
        bool,
        Key(
            "Whether connections from server.trusted_proxies begin with a header of the PROXY "
            "protocol, version 1 or 2. Others must not have one. Applies to new connections.",
            hot=True,
        ),
    ] = False
    enable_reflection: Annotated[
        bool, Key("Offer gRPC server reflection, for grpcurl and the like.")
    ] = False
    grpc_tls: PeerTls = PeerTls()
    worker_timeout_seconds: Annotated[
        float,
        seconds(
            "Silence of a worker's heartbeat after which it counts as hung and is replaced.",
            1,
            3600,
        ),
    ] = 30
    boot_timeout_seconds: Annotated[
        float,
        seconds("Longest time a new worker may take to become ready to serve.", 1, 3600),
    ] = 60
    handshake_timeout_seconds: Annotated[
        float,
        seconds("Longest time from the TCP connection to the complete request.", 0.1, 300),
    ] = 10
    max_header_bytes: Annotated[
        int,
        count("Largest request line and largest single header.", "bytes", 1024, 65_536, hot=False),
    ] = 8190
    max_message_bytes: Annotated[
        int,
        count(
            "Largest WebSocket message from a client; a larger one closes with 1009. 0 for no "
            "limit. Applies to new connections.",
            "bytes",
            0,
            16_777_216,
        ),
    ] = 65_536
    max_messages_per_second: Annotated[
        float,
        count(
            "Messages one client may send each second in the long run; 0 for no limit.",
            "messages each second",
            0,
            100_000,
        ),
    ] = 50
    message_burst: Annotated[
        int,
        count(
            "Messages one client may send at once before that limit applies.",
            "messages",
            1,
            1_000_000,
        ),
    ] = 100
    shutdown_delay_seconds: Annotated[
        float,
        seconds(
            "How long NOT_READY is announced before accepting stops, so that load balancers "
            "notice first.",
            0,
            300,
        ),
    ] = 0


class Log(Section, frozen=True, kw_only=True):
    """Log lines, written to standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Key("Lines below this level are not written.", hot=True),
    ] = "info"
    format: Annotated[
        Literal["json", "text"],
        Key("json: one object a line, for machines. text: for people.", whole=True),
    ] = "json"
