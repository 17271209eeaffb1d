"""Signals as bytes in a pipe: the handler only queues, the loop acts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)


class SignalPipe:
    """The signals of `WATCHED` since the last `read`, in order; `read_end` becomes readable."""

    def __init__(self, read_end: int, write_end: int) -> None:
        self.read_end = read_end
        self._write_end = write_end

    def read(self) -> list[signal.Signals]:
        """Return and remove what has arrived."""
        try:
            data = os.read(self.read_end, 4096)
        except BlockingIOError:
            return []
        return [signal.Signals(number) for number in data if number in WATCHED]

    def abandon(self) -> None:
        """Undo everything in a forked child, where the pipe is still the parent's.

        To be called with all signals blocked. SIGHUP stays ignored until the worker handles it:
        by default it would end a worker that boots during a reload.
        """
        signal.set_wakeup_fd(-1)
        for signum in WATCHED:
            signal.signal(signum, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        os.close(self.read_end)
        os.close(self._write_end)


@contextmanager
def signal_pipe() -> Iterator[SignalPipe]:
    """Catch the signals of `WATCHED` until the end of the block."""
    read_end, write_end = os.pipe()
    for end in (read_end, write_end):
        os.set_blocking(end, False)
    before_fd = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    before = {signum: signal.signal(signum, _queued) for signum in WATCHED}
    try:
        yield SignalPipe(read_end, write_end)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(before_fd)
        os.close(read_end)
        os.close(write_end)


def _queued(signum: int, frame: FrameType | None) -> None:
    """Do nothing: the interpreter has written the number into the pipe by now."""
