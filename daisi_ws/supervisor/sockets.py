"""The host's ports: one listening socket a slot, one for scrapes that all slots share, and the gRPC
ports kept free for the workers.

SO_REUSEPORT lets a second supervisor of the same user bind the same port without a word and take
half of the connections. So the first socket binds and listens *without* it, which fails if anyone
else listens and leaves no gap for a race, and gets the flag only then, for its siblings.

The default gRPC ports lie in Linux's range for outgoing connections: without care, any client
socket could take the port that a successor needs. A bound socket that does not listen keeps the
kernel from handing the port out, and lets the worker's server bind it too (SO_REUSEADDR on both).
"""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from daisi_ws.domain.slots import LANES
from daisi_ws.supervisor.holder import port_holder
from daisi_ws.supervisor.settings import StartError, SupervisorSettings

BACKLOG = 4096
"""Connections that may wait while a slot's worker is replaced; `net.core.somaxconn` caps it."""

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST_PORT = 10_000
_RANGE_TRIES = 200
# Not the shared generator: where that is seeded, every process would try the same ports.
_random = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Ports:
    """What the supervisor holds for its life.

    :param listeners: one listening socket a slot, all at one address.
    :param reserved: bound sockets of the gRPC range, in order from `grpc_port`.
    :param metrics: listening socket for scrapes, which any worker answers; None if they come to
        the others.
    """

    listeners: tuple[socket.socket, ...]
    reserved: tuple[socket.socket, ...]
    metrics: socket.socket | None = None

    @property
    def http_port(self) -> int:
        """Return the port of HTTP and WebSocket."""
        return int(self.listeners[0].getsockname()[1])

    @property
    def grpc_port(self) -> int:
        """Return the first port of the gRPC range."""
        return int(self.reserved[0].getsockname()[1])

    def stop_listening(self) -> None:
        """Let go of the listening sockets; each is closed when its worker lets go of it, too.

        Whoever connects then is refused and tries elsewhere, instead of waiting for nobody.
        """
        for listener in self.listeners:
            listener.close()

    def keep_only(self, slot: int) -> None:
        """Close, in a forked child, every socket but the slot's listener and that for scrapes."""
        for number, listener in enumerate(self.listeners):
            if number != slot:
                listener.close()
        for reserved in self.reserved:
            reserved.close()


@contextmanager
def take_ports(settings: SupervisorSettings) -> Iterator[Ports]:
    """Bind all ports and hold them until the end of the block.

    :raises StartError: one is taken or cannot be bound; names every such port and, where it can
        be found, the process that holds it.
    """
    problems: list[str] = []
    with ExitStack() as stack:
        listeners = _listeners(settings, problems, stack)
        reserved = _reserve(settings, problems, stack)
        metrics = _metrics_listener(settings, problems, stack)
        if problems:
            raise StartError(problems)
        yield Ports(tuple(listeners), tuple(reserved), metrics)


def _listeners(
    settings: SupervisorSettings, problems: list[str], stack: ExitStack
) -> list[socket.socket]:
    host, port = settings.http_host, settings.http_port
    sockets: list[socket.socket] = []
    try:
        for _ in range(settings.workers):
            listener = _bind(host, port, stack, reuse_port=bool(sockets))
            listener.listen(BACKLOG)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.setblocking(False)
            sockets.append(listener)
            port = listener.getsockname()[1]
    except OSError as error:
        problems.append(_problem("server.http_port", host, port, error))
    return sockets


def _metrics_listener(
    settings: SupervisorSettings, problems: list[str], stack: ExitStack
) -> socket.socket | None:
    host, port = settings.metrics_host, settings.metrics_port
    if port == 0:
        return None
    try:
        listener = _bind(host, port, stack)
        listener.listen(BACKLOG)
    except OSError as error:
        problems.append(_problem("server.metrics_port", host, port, error))
        return None
    # Every worker is woken for each scrape, and all but one find nothing to accept.
    listener.setblocking(False)
    return listener


def _reserve(
    settings: SupervisorSettings, problems: list[str], stack: ExitStack
) -> list[socket.socket]:
    host, first, count = settings.grpc_host, settings.grpc_port, LANES * settings.workers
    if first == 0:
        return _reserve_any(host, count, problems, stack)
    if first + count > 65536:
        problems.append(
            f"server.grpc_port {first}: {settings.workers} workers need the {count} ports from "
            f"there on, which end after 65535; choose {65536 - count} or less"
        )
        return []
    sockets: list[socket.socket] = []
    for port in range(first, first + count):
        try:
            sockets.append(_bind(host, port, stack))
        except OSError as error:
            problems.append(_problem("server.grpc_port", host, port, error))
            if error.errno != errno.EADDRINUSE:
                break
    return sockets


def _reserve_any(
    host: str, count: int, problems: list[str], stack: ExitStack
) -> list[socket.socket]:
    last: OSError | None = None
    for first in _random.sample(_quiet_ports(count), _RANGE_TRIES):
        with ExitStack() as attempt:
            try:
                sockets = [_bind(host, first + n, attempt) for n in range(count)]
            except OSError as error:
                last = error
                continue
            stack.push(attempt.pop_all())
            return sockets
    why = f": {last.strerror}" if last else ""
    problems.append(f"server.grpc_port 0: no {count} free ports in a row on {host}{why}")
    return []


def _quiet_ports(count: int) -> range:
    """Return the first ports of ranges outside those that the kernel gives to connections."""
    low, high = 32_768, 60_999
    with suppress(OSError, ValueError):
        low, high = map(int, _EPHEMERAL.read_text().split())
    below, above = range(_FIRST_PORT, low - count), range(high + 1, 65536 - count)
    best = max(below, above, key=len)
    return best if len(best) > _RANGE_TRIES else range(_FIRST_PORT, 65536 - count)


def _bind(host: str, port: int, stack: ExitStack, *, reuse_port: bool = False) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = stack.enter_context(socket.socket(family, kind, protocol))
    # Connections of an earlier run in TIME_WAIT do not hinder.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(address)
    return bound


def _problem(key: str, host: str, port: int, error: OSError) -> str:
    where = f"{key}: cannot use port {port} on {host}"
    if isinstance(error, socket.gaierror):
        return f"{where}: {host} is no address of this host ({error.strerror})"
    if error.errno == errno.EADDRINUSE:
        holder = port_holder(port)
        by = f" by {holder}" if holder else ""
        return f"{where}: it is taken{by}; stop that process or choose another port"
    if error.errno == errno.EACCES:
        return f"{where}: not permitted for this user; choose a port above 1023"
    return f"{where}: {error.strerror}"
