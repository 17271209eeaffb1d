"""sd_notify: addresses, variables, and what is sent when."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress

import pytest

from daisi_ws.supervisor.notify import Manager
from tests.ops.listening import Listener


def manager(listener: Listener, **more: str) -> Manager:
    """Return a manager's notifier that the listener hears."""
    return Manager({"NOTIFY_SOCKET": listener.address, **more})


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_each_state_is_one_message(abstract: bool) -> None:
    """Spelled as sd_notify(3) has it, at both kinds of address; READY is said once."""
    with Listener(abstract=abstract) as listener:
        told = manager(listener)
        told.status("0 of 2 workers ready:\n redis")
        told.status("0 of 2 workers ready:\n redis")
        told.ready()
        told.ready()
        before = time.monotonic_ns() // 1000
        told.reloading()
        told.reloaded()
        told.stopping()
        told.abandon()
        told.stopping()
        while listener.take():
            pass
        *_, reloading, _, _ = listener.messages
        assert before <= int(reloading.pop("MONOTONIC_USEC")) <= time.monotonic_ns() // 1000
        assert listener.messages == [
            {"STATUS": "0 of 2 workers ready: redis"},
            {"READY": "1"},
            {"RELOADING": "1"},
            {"READY": "1"},
            {"STOPPING": "1"},
        ]


def test_reload_before_ready_says_nothing() -> None:
    """READY at the end of a reload would be a lie."""
    with Listener() as listener:
        told = manager(listener)
        told.reloading()
        told.reloaded()
        assert listener.take() is None
        told.abandon()


def test_watchdog_is_told_twice_in_its_time() -> None:
    """WATCHDOG=1 at once, then after half of WATCHDOG_USEC, not before."""
    with Listener() as listener:
        told = manager(listener, WATCHDOG_USEC="4000000", WATCHDOG_PID=str(os.getpid()))
        for now in (10.0, 11.9, 12.0, 13.0):
            told.beat(now)
        assert told.next_beat == 14.0
        told.abandon()
        while listener.take():
            pass
        assert listener.messages == [{"WATCHDOG": "1"}] * 2


@pytest.mark.parametrize(
    "variables",
    [{}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}],
    ids=["not asked", "another process", "no number"],
)
def test_no_watchdog_without_being_asked(variables: dict[str, str]) -> None:
    """sd_watchdog_enabled(3): the variables must be there, and mean this process."""
    with Listener() as listener:
        told = manager(listener, **variables)
        told.beat(10.0)
        assert told.next_beat is None
        assert listener.take() is None
        told.abandon()


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative", "/nobody/listens/here"])
def test_nobody_who_listens_hinders_nothing(address: str) -> None:
    """No manager, an address of another kind, a manager that is gone: all the same."""
    told = Manager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
    told.ready()
    told.beat(10.0)
    told.abandon()


def test_variables_are_taken_out_for_the_workers() -> None:
    """Who is forked later does not speak in this process's name."""
    with Listener() as listener:
        environ = {"NOTIFY_SOCKET": listener.address, "WATCHDOG_USEC": "1", "PATH": "/bin"}
        Manager(environ).abandon()
        assert environ == {"PATH": "/bin"}


def test_what_finds_the_queue_full_is_said_later() -> None:
    """A manager that is busy does not make this process wait, and misses nothing but beats."""
    with Listener() as listener:
        told = manager(listener)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as other:
            stuffed = 0
            with suppress(BlockingIOError):
                while other.sendto(b"X=1", listener.address):
                    stuffed += 1
        told.ready()
        for _ in range(stuffed):
            assert listener.take() == {"X": "1"}
        assert listener.take() is None
        told.flush()
        assert listener.take() == {"READY": "1"}
        told.abandon()
