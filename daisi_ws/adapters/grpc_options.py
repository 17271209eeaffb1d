"""The gRPC service between pods: its names, and how channels and servers are set up."""

from __future__ import annotations

from typing import Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from daisi_ws.adapters.grpc_tls import TlsFiles, channel_credentials
from daisi_ws.adapters.pb.dws_message_fwd_pb2 import Packet

SERVICE: Final = "dws_message_fwd.MessageForwardingService"
FORWARD: Final = f"/{SERVICE}/Forward"
PUSH_EVENT: Final = f"/{SERVICE}/PushEvent"

MESSAGE_BYTES: Final = 16 * 1024 * 1024
REQUEST_ID: Final = "x-request-id"

Options = list[tuple[str, int]]

# A peer whose process is stopped keeps its TCP connections: only pings notice. The documented
# `keepalive_timeout_ms` has no effect, the wait for a ping's answer is this internal one
# (https://github.com/grpc/grpc/pull/39239), and it is a minute unless it is set.
_KEEPALIVE: Final[Options] = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
]


def wrap(body: bytes) -> bytes:
    """Return a serialized `Packet` with this body."""
    return Packet(body=body).SerializeToString()


def unwrap(message: bytes) -> bytes:
    """Return the body of a serialized `Packet`; empty, which is no packet, if it is none."""
    try:
        return Packet.FromString(message).body
    except DecodeError:
        return b""


def open_channel(address: str, tls: TlsFiles | None, timeout: float) -> grpc.aio.Channel:
    """Return a new channel, which connects with its first call.

    :param timeout: seconds one attempt to connect may take, TLS handshake included.
    :raises BadCertificate: a PEM file is unusable.
    """
    options: Options = [
        *_KEEPALIVE,
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.enable_retries", 0),
        # A channel of its own connection: closing one must not leave its socket to the next.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # Also the deadline of one attempt to connect. A stopped peer that goes on within it is
        # connected then, instead of having failed many times.
        ("grpc.min_reconnect_backoff_ms", max(200, int(timeout * 1000))),
    ]
    # Without the scheme an address such as `unix:1` would be taken for one of another kind.
    target = f"dns:///{address}"
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, channel_credentials(tls), options=options)


def server_options() -> Options:
    """Return the options of the gRPC server."""
    return [
        *_KEEPALIVE,
        ("grpc.keepalive_permit_without_calls", 1),
        # Else the pings of a connection that is open for long count as a flood, and after a few
        # the server ends it. The documented name of the interval that is allowed is not its key:
        # https://github.com/vllm-project/vllm/pull/55102
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.max_concurrent_streams", 256),
        # Another process on the same port would take half of the connections.
        ("grpc.so_reuseport", 0),
    ]
