"""Calls of Linux."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

from daisi_ws.supervisor.linux import end_with_parent, raise_open_files_limit, set_process_name


def test_name_is_what_ps_shows() -> None:
    """At most fifteen bytes of it."""
    comm = Path("/proc/self/comm")
    before = comm.read_text().strip()
    try:
        set_process_name("daisi-ws-supervisor")
        assert comm.read_text().strip() == "daisi-ws-superv"
    finally:
        set_process_name(before)


def test_child_is_signalled_when_its_parent_ends() -> None:
    """A grandchild learns of its parent's death by the signal it asked for."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _parent_of_one_that_waits(write_end)
        finally:
            os._exit(0)
    os.close(write_end)
    os.waitpid(child, 0)
    with os.fdopen(read_end) as said:
        assert said.read() == "waiting SIGUSR2"


def _parent_of_one_that_waits(write_end: int) -> None:
    ready_read, ready_write = os.pipe()
    if os.fork() == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        end_with_parent(signal.SIGUSR2)
        os.write(write_end, b"waiting ")
        os.write(ready_write, b"x")
        try:
            info = signal.sigtimedwait({signal.SIGUSR2}, 20)
            said = signal.Signals(info.si_signo).name if info else "nothing"
        except BaseException as error:  # noqa: BLE001 - this process has no other way to say it
            said = repr(error)
        os.write(write_end, said.encode())
        os._exit(0)
    os.read(ready_read, 1)


def test_limit_of_open_files_is_raised_to_what_is_allowed() -> None:
    """The soft limit grows to the hard one; a higher one is left alone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = min(soft, 256)
    resource.setrlimit(resource.RLIMIT_NOFILE, (low, hard))
    try:
        raised = raise_open_files_limit()
        assert raised == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert raised > low
        assert raise_open_files_limit() == raised
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
