"""Runs one server and sees to it that the server ends with the process that wanted it.

Run as a script by `process.py`, with neither site-packages nor environment, so that it starts in
milliseconds::

    python -I -S guard.py PARENT PROGRAM ARGUMENT...

PARENT is the process ID of who wants the server. The server's process ID goes to standard output,
what the server prints to standard error, the server's exit code is the guard's.

Each end may be killed with SIGKILL, so there are two ties. The guard looks whether its parent is
still there; a parent-death signal would be tied to the *thread* that started it. The server gets
such a signal (`prctl(2)`, `PR_SET_PDEATHSIG`) for the death of the guard, which has one thread.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1
_LOOK_INTERVAL = 0.2
_GRACE = 3.0
_CANNOT_RUN = 127


def main() -> int:
    """Run the server until it or the parent has gone; return the exit code."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None)
    guard = os.getpid()
    # Not ignored but blocked, so that sigtimedwait below can take it.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGCHLD})
    server = os.fork()
    if server == 0:
        _become(command, libc, guard)
    os.write(1, b"%d\n" % server)
    os.close(1)
    while os.getppid() == parent:
        code = _exit_code(server, _LOOK_INTERVAL)
        if code is not None:
            return code
    return _end(server)


def _become(command: list[str], libc: ctypes.CDLL, guard: int) -> None:
    """Replace this process with the server."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard:
        os._exit(_CANNOT_RUN)
    # Python ignores these two, and what is ignored or blocked stays so in the next program.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.dup2(2, 1)
    try:
        os.execv(command[0], command)  # noqa: S606 - the whole purpose
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error.strerror}\n".encode())
        os._exit(_CANNOT_RUN)


def _exit_code(server: int, timeout: float) -> int | None:
    """Wait up to `timeout` seconds; return the server's exit code, None while it runs."""
    signal.sigtimedwait({signal.SIGCHLD}, timeout)
    process, status = os.waitpid(server, os.WNOHANG)
    if process == 0:
        return None
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _end(server: int) -> int:
    """End the server, which may be stopped, politely if it can be done in time."""
    os.kill(server, signal.SIGTERM)
    os.kill(server, signal.SIGCONT)
    deadline = time.monotonic() + _GRACE
    while (left := deadline - time.monotonic()) > 0:
        code = _exit_code(server, left)
        if code is not None:
            return code
    os.kill(server, signal.SIGKILL)
    os.waitpid(server, 0)
    return 128 + signal.SIGKILL


if __name__ == "__main__":
    sys.exit(main())
