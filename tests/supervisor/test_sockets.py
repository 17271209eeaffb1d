"""Ports: taken all or none, held for good, and never shared by accident."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace

import pytest

from daisi_ws.embedded import free_ports
from daisi_ws.supervisor import sockets
from daisi_ws.supervisor.settings import StartError, SupervisorSettings, Timings
from daisi_ws.supervisor.sockets import Ports, take_ports

SETTINGS = SupervisorSettings(
    name="host",
    workers=2,
    http_host="127.0.0.1",
    http_port=0,
    grpc_host="127.0.0.1",
    grpc_port=0,
    timings=Timings(kill=1, boot=1, silence=1),
)

IP_LOCAL_PORT_RANGE = 51
"""ip(7), since Linux 6.3; not in Python's `socket`."""


@pytest.fixture
def stranger() -> Iterator[int]:
    """A port on which somebody else listens, sharing it with whoever asks."""
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as server:
        yield int(server.getsockname()[1])


def test_listeners_share_one_port_and_connections_spread() -> None:
    """One socket a slot; the kernel gives each of them connections."""
    with take_ports(replace(SETTINGS, workers=4)) as ports, ExitStack() as clients:
        assert {sock.getsockname() for sock in ports.listeners} == {("127.0.0.1", ports.http_port)}
        for _ in range(200):
            client = socket.create_connection(("127.0.0.1", ports.http_port))
            clients.enter_context(closing(client))
        counts = [_accept_all(listener) for listener in ports.listeners]
        assert sum(counts) == 200
        assert min(counts) > 10


def _accept_all(listener: socket.socket) -> int:
    count = 0
    while True:
        try:
            accepted, _ = listener.accept()
        except BlockingIOError:
            return count
        accepted.close()
        count += 1


def test_listeners_do_not_block_and_have_room() -> None:
    """A thousand connections wait in one slot's queue without any being refused."""
    with take_ports(replace(SETTINGS, workers=1)) as ports, ExitStack() as clients:
        assert not ports.listeners[0].getblocking()
        for _ in range(1024):
            client = socket.create_connection(("127.0.0.1", ports.http_port), timeout=5)
            clients.enter_context(closing(client))
        assert _accept_all(ports.listeners[0]) == 1024


def test_grpc_range_is_two_ports_a_slot_in_a_row() -> None:
    """Port 0 finds such a range."""
    with take_ports(replace(SETTINGS, workers=3)) as ports:
        numbers = [sock.getsockname()[1] for sock in ports.reserved]
        assert numbers == list(range(ports.grpc_port, ports.grpc_port + 6))


GRPC_SERVER = """
import sys, grpc
from concurrent import futures
server = grpc.server(futures.ThreadPoolExecutor(1))
assert server.add_insecure_port(sys.argv[1])
server.start()
print("started", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "[::]"])
def test_worker_can_bind_a_reserved_port(host: str) -> None:
    """A real gRPC server starts beside the reservation and answers there."""
    with take_ports(replace(SETTINGS, grpc_host=host)) as ports:
        command = [sys.executable, "-c", GRPC_SERVER, f"{host}:{ports.grpc_port}"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == b"started\n"
            with socket.create_connection(("127.0.0.1", ports.grpc_port), 5) as client:
                assert client.recv(9), "HTTP/2 settings"
            server.kill()


def _reserve_among_ephemeral(stack: ExitStack) -> Ports:
    """Reserve ports of the range from which Linux takes those of outgoing connections."""
    for first in range(50051, 60000, 20):
        with suppress(StartError):
            return stack.enter_context(take_ports(replace(SETTINGS, grpc_port=first)))
    raise AssertionError("no free ports")


def test_kernel_does_not_hand_out_a_reserved_port(stranger: int) -> None:
    """An outgoing connection that may choose among reserved ports only finds none free."""
    with ExitStack() as stack, socket.socket() as outgoing:
        ports = _reserve_among_ephemeral(stack)
        first, last = ports.grpc_port, ports.grpc_port + len(ports.reserved) - 1
        choice = struct.pack("I", last << 16 | first)
        try:
            outgoing.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, choice)
        except OSError:
            pytest.skip("Linux before 6.3 cannot limit the choice")
        with pytest.raises(OSError, match=r"[Cc]annot assign"):
            outgoing.connect(("127.0.0.1", stranger))
    with socket.socket() as outgoing:
        outgoing.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, choice)
        outgoing.connect(("127.0.0.1", stranger))
        assert first <= outgoing.getsockname()[1] <= last


def test_all_taken_ports_are_named_at_once() -> None:
    """HTTP and gRPC in one message, although the stranger allows sharing; nothing stays bound."""
    first = free_ports(4)
    taken = first + 1
    settings = replace(SETTINGS, http_port=taken, grpc_port=first)
    with (
        socket.create_server(("127.0.0.1", taken), reuse_port=True),
        pytest.raises(StartError) as refused,
        take_ports(settings),
    ):
        raise AssertionError("not reached")
    http, grpc_problem = refused.value.problems
    where = f"cannot use port {taken} on 127.0.0.1: it is taken"
    assert http.startswith(f"server.http_port: {where}")
    assert grpc_problem.startswith(f"server.grpc_port: {where}")
    assert f"by process {os.getpid()} (" in http
    for port in range(first, first + 4):
        with socket.socket() as free:
            free.bind(("127.0.0.1", port))


def test_scrapes_share_one_listener_if_they_have_a_port() -> None:
    """A forked child keeps it; without a port there is none; one that is taken is named."""
    port = free_ports(1)
    with take_ports(SETTINGS) as ports:
        assert ports.metrics is None
    with take_ports(replace(SETTINGS, metrics_port=port)) as ports:
        assert ports.metrics is not None
        ports.keep_only(1)
        socket.create_connection(("127.0.0.1", port)).close()
        assert not ports.metrics.getblocking()
        with (
            pytest.raises(StartError, match=f"server.metrics_port: cannot use port {port}"),
            take_ports(replace(SETTINGS, metrics_port=port)),
        ):
            raise AssertionError("not reached")


def test_own_ports_are_refused_to_a_second_supervisor() -> None:
    """From the first moment on: before any worker accepts."""
    with take_ports(SETTINGS) as ports:
        second = replace(SETTINGS, http_port=ports.http_port)
        with pytest.raises(StartError, match="is taken"), take_ports(second):
            raise AssertionError("not reached")


def test_two_that_start_at_the_same_moment_do_not_both_get_the_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A rival that gets in between our bind and our listen has the port to itself."""
    with take_ports(SETTINGS) as ports:
        settings = replace(SETTINGS, http_port=ports.http_port)
    real = sockets._bind
    with ExitStack() as rival:

        def bind_then_rival(
            host: str, port: int, stack: ExitStack, *, reuse_port: bool = False
        ) -> socket.socket:
            bound = real(host, port, stack, reuse_port=reuse_port)
            monkeypatch.setattr(sockets, "_bind", real)
            rival.enter_context(take_ports(settings))
            return bound

        monkeypatch.setattr(sockets, "_bind", bind_then_rival)
        with pytest.raises(StartError, match="is taken"), take_ports(settings):
            raise AssertionError("not reached")


def test_a_host_that_stops_refuses_once_its_workers_have_let_go() -> None:
    """Until then a worker's copy still takes connections; then nobody waits for nobody."""
    with take_ports(SETTINGS) as ports:
        address = ("127.0.0.1", ports.http_port)
        workers = [listener.dup() for listener in ports.listeners]
        ports.stop_listening()
        ports.stop_listening()
        with socket.create_connection(address, timeout=5):
            pass
        for worker in workers:
            worker.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=5)


def test_ports_are_free_again_afterwards() -> None:
    """The end of the block gives everything back."""
    with take_ports(SETTINGS) as ports:
        settings = replace(SETTINGS, http_port=ports.http_port, grpc_port=ports.grpc_port)
    with take_ports(settings) as again:
        assert (again.http_port, again.grpc_port) == (settings.http_port, settings.grpc_port)


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_ipv6(host: str) -> None:
    """IPv6 addresses work, with and without brackets."""
    with take_ports(replace(SETTINGS, http_host=host, grpc_host=host)) as ports:
        assert ports.listeners[1].family is socket.AF_INET6
        with socket.create_connection(("::1", ports.http_port), 5):
            pass


def test_ipv4_stranger_blocks_the_dual_stack_address(stranger: int) -> None:
    """The IPv6 wildcard covers IPv4 too, so a listener there counts."""
    settings = replace(SETTINGS, http_host="::", http_port=stranger)
    with pytest.raises(StartError, match=f"port {stranger} on ::: it is taken"):
        take_ports(settings).__enter__()


def test_range_that_does_not_fit_is_refused_with_what_would() -> None:
    """Ports end at 65535."""
    settings = replace(SETTINGS, workers=8, grpc_port=65530)
    with pytest.raises(StartError, match="choose 65520 or less"), take_ports(settings):
        raise AssertionError("not reached")


@pytest.mark.parametrize(
    ("host", "why"),
    [("no-such-host.invalid", "is no address of this host"), ("192.0.2.1", "[Cc]annot assign")],
)
def test_foreign_address_is_refused_once_for_each_key(host: str, why: str) -> None:
    """A name that does not resolve, an address of somebody else: one problem, not one a port."""
    settings = replace(SETTINGS, workers=4, http_host=host, grpc_host=host, grpc_port=20000)
    with pytest.raises(StartError, match=why) as refused, take_ports(settings):
        raise AssertionError("not reached")
    assert len(refused.value.problems) == 2
