"""Signals to `daisi-ws serve` before the supervisor has handlers of its own."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def coming_up() -> Iterator[None]:
    """Until the end of the block SIGHUP and SIGUSR2 do nothing, SIGTERM and SIGINT end with 0.

    By default the first two would end the process, although what they ask for comes anyway: the
    configuration is about to be read, the workers are about to be started. And SIGTERM would do
    nothing to the first process of a container (pid_namespaces(7)).
    """
    before = {
        number: signal.signal(number, handler)
        for number, handler in (
            (signal.SIGHUP, signal.SIG_IGN),
            (signal.SIGUSR2, signal.SIG_IGN),
            (signal.SIGTERM, _leave),
            (signal.SIGINT, _leave),
        )
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    """End in good order: servers that were started are stopped on the way out."""
    sys.exit(0)
