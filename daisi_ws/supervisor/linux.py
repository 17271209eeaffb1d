"""The few calls of Linux that Python's standard library does not offer."""

from __future__ import annotations

import ctypes
import os
import resource
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_OPEN_FILES_CAP = 1_048_576

_libc = ctypes.CDLL(None, use_errno=True)


def end_with_parent(signum: signal.Signals) -> None:
    """Have this process signalled when the thread that forked it ends: prctl(2) PR_SET_PDEATHSIG.

    :raises OSError: the kernel refused.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def set_process_name(name: str) -> None:
    """Set the short name that ps and top show; at most 15 bytes count: prctl(2) PR_SET_NAME."""
    _libc.prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]), 0, 0, 0)


def raise_open_files_limit() -> int:
    """Raise the limit of open files as far as allowed (every client is one) and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES_CAP if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES_CAP)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return soft
