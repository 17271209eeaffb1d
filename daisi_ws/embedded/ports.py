"""Free TCP ports for servers that are told where to listen."""

from __future__ import annotations

import random
import socket
from pathlib import Path

LAST_PORT = 65_535
_FIRST_PORT = 10_000
_ENOUGH = 5_000
_ATTEMPTS = 1_000
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
# Not the shared generator: a test run that seeds it would give every process the same ports.
_random = random.SystemRandom()


def free_ports(count: int = 1) -> int:
    """Return the first of `count` consecutive TCP ports that nobody listens on, at any address.

    The ports lie outside the range from which the kernel takes the ports of outgoing connections
    (`ip_local_port_range`): a client that keeps trying to reach a server which is down would else
    now and then get the server's own port, and the server could not come back.

    Somebody else may take a port before it is used, so whoever listens on it must be ready to ask
    again.

    :raises OSError: no such ports found.
    """
    low, high = _candidates()
    for _ in range(_ATTEMPTS):
        first = _random.randrange(low, high - count + 1)
        if all(is_free(port) for port in range(first, first + count)):
            return first
    raise OSError(f"no {count} consecutive free ports between {low} and {high}")


def is_free(port: int) -> bool:
    """Return whether a socket can be bound to a TCP port at every address."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _candidates() -> tuple[int, int]:
    """Return the bounds [low, high) to search: below or above the ephemeral range."""
    try:
        first, last = map(int, _RANGE_FILE.read_text().split())
    except (OSError, ValueError):
        first, last = 32_768, 60_999
    if first - _FIRST_PORT >= _ENOUGH:
        return _FIRST_PORT, first
    if LAST_PORT - last >= _ENOUGH:
        return last + 1, LAST_PORT + 1
    return _FIRST_PORT, LAST_PORT + 1
