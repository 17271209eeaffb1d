"""A child process that ends with us, however we end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from daisi_ws.embedded.errors import EmbeddedServerError

_GUARD = Path(__file__).with_name("guard.py")
_TIMEOUT = 10.0


class Child:
    """A program run by a guard (see `guard.py`), which is our child; the program is the guard's.

    It gets no signals from the terminal. A process forked from ours has no power over it.

    :param command: program (absolute path) and arguments.
    :param folder: its working directory.
    :param log: file to which its output is appended.
    :raises EmbeddedServerError: it could not be started.
    """

    def __init__(self, command: Sequence[str], folder: Path, log: Path) -> None:
        self._owner = os.getpid()
        guard = [sys.executable, "-I", "-S", str(_GUARD), str(self._owner), *command]
        with log.open("ab") as output:
            self._guard = subprocess.Popen(  # noqa: S603 - our own program
                guard,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd=folder,
                start_new_session=True,
            )
        assert self._guard.stdout is not None
        with self._guard.stdout as said:
            pid = said.readline()
        if not pid:
            raise EmbeddedServerError(f"the guard of {command[0]} ended with {self._guard.wait()}")
        self.pid = int(pid)

    @property
    def guard_pid(self) -> int:
        """The process ID of the guard."""
        return self._guard.pid

    @property
    def running(self) -> bool:
        """Whether the program's process exists; a paused one does. False in a forked process."""
        return self._owner == os.getpid() and self._guard.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The program's exit code, 128 + n if signal n ended it; None while it runs."""
        return self._guard.poll()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the program has gone."""
        if self.running:
            # It may have gone just now, and its guard is about to say so.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def pause(self) -> None:
        """Freeze the program; returns once it is frozen.

        :raises EmbeddedServerError: it does not freeze.
        """
        self.send(signal.SIGSTOP)
        deadline = time.monotonic() + _TIMEOUT
        while _state(self.pid) != "T":
            if time.monotonic() > deadline or not self.running:
                raise EmbeddedServerError(f"process {self.pid} cannot be paused")
            time.sleep(0.001)

    def end(self, number: signal.Signals, timeout: float = _TIMEOUT) -> None:
        """Send a signal that ends it, paused or not; SIGKILL after `timeout` seconds."""
        if self._owner != os.getpid():
            return
        self.send(number)
        self.send(signal.SIGCONT)
        try:
            self._guard.wait(timeout)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            self._guard.wait(_TIMEOUT)


def _state(pid: int) -> str:
    """Return the letter of `/proc/<pid>/stat`, field 3 (`proc(5)`); empty if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[0]
