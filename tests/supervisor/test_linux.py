"""Calls of Linux."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from daisi_ws.supervisor.linux import raise_open_files_limit, set_process_name


def test_name_is_what_ps_shows() -> None:
    """At most fifteen bytes of it."""
    comm = Path("/proc/self/comm")
    before = comm.read_text().strip()
    try:
        set_process_name("daisi-ws-supervisor")
        assert comm.read_text().strip() == "daisi-ws-superv"
    finally:
        set_process_name(before)


PARENT_OF_ONE_THAT_WAITS = """
import os, signal
from daisi_ws.supervisor.linux import end_with_parent

ready_read, ready_write = os.pipe()
if os.fork() == 0:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    end_with_parent(signal.SIGUSR2)
    os.write(ready_write, b"x")
    info = signal.sigtimedwait({signal.SIGUSR2}, 20)
    print("signalled" if info else "nothing came", flush=True)
else:
    os.read(ready_read, 1)
"""


def test_child_is_signalled_when_its_parent_ends() -> None:
    """It learns of its parent's death by the signal it asked for.

    In an interpreter of its own: libraries that other tests use restart their threads after a
    fork, and a signal that one of those threads does not block would end the child.
    """
    command = [sys.executable, "-c", PARENT_OF_ONE_THAT_WAITS]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout == "signalled\n"


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
