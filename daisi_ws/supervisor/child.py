"""The birth of a worker process.

The child comes out of `os.fork` with everything of its parent: pipes, other slots' sockets,
signal handlers that write into the parent's pipe. It drops all of that before it runs anything
of its own, and never returns into the parent's code.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import structlog
from structlog.typing import FilteringBoundLogger

from daisi_ws.domain.slots import WorkerContext
from daisi_ws.supervisor.linux import end_with_parent, set_process_name

log: FilteringBoundLogger = structlog.get_logger()

EXIT_CRASHED = 1
_STDERR = 2


def fork_worker(
    context: WorkerContext,
    drop_parents: Callable[[], None],
    run_worker: Callable[[WorkerContext], int],
) -> int:
    """Fork a worker and return its process ID.

    :param drop_parents: closes, in the child, what belongs to the supervisor.
    :param run_worker: the worker's whole life; its result is the exit code.
    :raises OSError: the system has no room for another process.
    """
    # A signal that hit the child before it dropped the parent's handlers would be written into
    # the parent's pipe, and the supervisor would take it for its own.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _live(context, drop_parents, run_worker, mask)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid


def _live(
    context: WorkerContext,
    drop_parents: Callable[[], None],
    run_worker: Callable[[WorkerContext], int],
    mask: set[int | signal.Signals],
) -> NoReturn:
    code = EXIT_CRASHED
    try:
        drop_parents()
        _settle(context)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        code = run_worker(context)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else EXIT_CRASHED
    except BaseException:
        log.exception("worker crashed", slot=context.slot, pod_id=context.pod_id)
    finally:
        _leave(code)


def _leave(code: int) -> NoReturn:
    """End without the interpreter's clean-up, which would run the parent's exit handlers."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _settle(context: WorkerContext) -> None:
    """Make the process a worker: own process group, own name, no terminal input."""
    end_with_parent(signal.SIGTERM)
    if os.getppid() != context.supervisor_pid:  # it died before that call
        os._exit(EXIT_CRASHED)
    # Ctrl-C in a terminal reaches the whole group; the supervisor alone decides what it means.
    os.setpgid(0, 0)
    set_process_name(f"daisi-ws-{context.slot}")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    # A hung worker is sent SIGABRT and says where it hangs.
    faulthandler.enable(_STDERR)
