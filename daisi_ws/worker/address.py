"""Where other hosts reach this pod's gRPC server."""

from __future__ import annotations

import ipaddress
import socket

from daisi_ws.config import Config, redis_target


def advertised_host(config: Config) -> str:
    """Return `advertise_host`, else a concrete `grpc_host`, else our side of the route to Redis."""
    if config.server.advertise_host:
        return config.server.advertise_host
    if not _is_wildcard(config.server.grpc_host):
        return config.server.grpc_host
    target = redis_target(config.redis)
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            target.host, target.port, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return socket.gethostname()


def host_port(host: str, port: int) -> str:
    """Return `host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return not host
