"""One server as a child process: what Redis and NATS have in common."""

from __future__ import annotations

import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import ClassVar, NoReturn, Self

from daisi_ws.embedded.child import Child
from daisi_ws.embedded.errors import EmbeddedServerError
from daisi_ws.embedded.folder import Folder, given_folder, private_folder
from daisi_ws.embedded.ports import free_ports

HOST = "127.0.0.1"
_PORT_ATTEMPTS = 5
_PROBE_TIMEOUT = 0.5
_LOG_LINES = 20
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ServerProcess(ABC):
    """A server that runs in a process of its own, listens on 127.0.0.1 and ends with us.

    The server outlives neither `stop()` nor this process, even if this process is killed with
    SIGKILL. It does not get the terminal's signals: who starts it stops it.
    Blocking, needs no event loop; may be started by any thread, used by one at a time. In a
    process forked from this one, everything that would end the server does nothing.

    :param folder: for data and log, kept after `stop()`; None: a private one, removed by `stop()`.
    :param port: where to listen; 0: a free one, the same for the life of this object.
    :param base: where to make the private folder; None: the platform's folder for temporary files.
    :param start_timeout: how long `start()` waits for the server to answer, in seconds.
    """

    name: ClassVar[str]
    port_count: ClassVar[int] = 1

    def __init__(
        self,
        folder: Path | None = None,
        port: int = 0,
        *,
        base: Path | None = None,
        start_timeout: float = 10.0,
    ) -> None:
        self._given = folder
        self._base = base
        self._start_timeout = start_timeout
        self._port = port
        self._port_may_change = port == 0
        self._folder: Folder | None = None
        self._child: Child | None = None
        self._log_start = 0

    @abstractmethod
    def command(self) -> list[str]:
        """Return program and arguments; may write configuration into `folder`."""

    @abstractmethod
    def probe(self, timeout: float) -> bool:
        """Return whether the server, and not another one at this port, is ready.

        :param timeout: of each step, in seconds.
        :raises OSError: it cannot be reached.
        :raises ValueError: it does not talk the expected protocol.
        """

    @property
    def folder(self) -> Path:
        """The folder with data and log.

        :raises EmbeddedServerError: the server was not started, or is stopped.
        """
        if self._folder is None:
            raise EmbeddedServerError(f"{self.name} has no folder: it is not started")
        return self._folder.path

    @property
    def port(self) -> int:
        """The port for clients; 0 before the first `start()` if none was given."""
        return self._port

    @property
    def address(self) -> str:
        """`host:port` for clients."""
        return f"{HOST}:{self._port}"

    @property
    def pid(self) -> int:
        """The server's process ID.

        :raises EmbeddedServerError: it does not run.
        """
        return self._running_child().pid

    @property
    def guard_pid(self) -> int:
        """The process ID of the server's guard: our child, the server's parent.

        :raises EmbeddedServerError: the server does not run.
        """
        return self._running_child().guard_pid

    @property
    def running(self) -> bool:
        """Whether the server's process exists; a paused one does."""
        return self._child is not None and self._child.running

    @property
    def log_file(self) -> Path:
        """Where the server's output goes."""
        return self.folder / f"{self.name}.log"

    def log_tail(self, lines: int = _LOG_LINES) -> str:
        """Return the last lines of the log; empty if there are none."""
        if self._folder is None or not self.log_file.exists():
            return ""
        text = self.log_file.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def start(self) -> Self:
        """Start the server, on the port it had before if any, and return once it answers.

        :raises EmbeddedServerError: no program, port or folder taken, ended or silent; with the
            last log lines.
        """
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        """Start the server without waiting: the first half of `start()`.

        :raises EmbeddedServerError: it runs already, or see `start()`.
        """
        if self.running:
            raise EmbeddedServerError(f"{self.name} is already running (process {self.pid})")
        try:
            with _uninterrupted():
                if self._folder is None:
                    given = self._given
                    made = private_folder(self._base) if given is None else given_folder(given)
                    self._folder = made
                if self._port == 0:
                    self._port = free_ports(self.port_count)
                self._spawn()
        except BaseException:
            self.stop()
            raise

    def wait_ready(self) -> None:
        """Wait until the server answers: the second half of `start()`.

        :raises EmbeddedServerError: see `start()`; the server is stopped.
        """
        try:
            for _ in range(_PORT_ATTEMPTS):
                if self._ready_or_ended():
                    self._port_may_change = False
                    return
                if not self._port_may_change or not self._port_taken():
                    break
                self._port = free_ports(self.port_count)
                self._spawn()
            self._fail()
        except BaseException:
            self.stop()
            raise

    def stop(self, timeout: float = 5.0) -> None:
        """End the server (SIGTERM, after `timeout` seconds SIGKILL) and give up its folder."""
        self._end(signal.SIGTERM, timeout)
        if self._folder is not None:
            self._folder.release()
            self._folder = None

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would; `start()` goes on with its folder."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """End the server politely if it runs, and start it with the same port and folder."""
        self._end(signal.SIGTERM)
        self.start()

    def pause(self) -> None:
        """Freeze the server (SIGSTOP); returns once it is frozen. Its sockets stay open."""
        self._running_child().pause()

    def resume(self) -> None:
        """Let a paused server go on (SIGCONT)."""
        self._running_child().send(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _running_child(self) -> Child:
        if self._child is None or not self._child.running:
            raise EmbeddedServerError(f"{self.name} does not run")
        return self._child

    def _spawn(self) -> None:
        # What an earlier start has logged says nothing about this one.
        self._log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        self._child = Child(self.command(), self.folder, self.log_file)

    def _end(self, number: signal.Signals, timeout: float = 10.0) -> None:
        if self._child is not None:
            self._child.end(number, timeout)
            self._child = None

    def _ready_or_ended(self) -> bool:
        """Return True once the server is ready, False once it has ended by itself."""
        delay, deadline = 0.002, time.monotonic() + self._start_timeout
        while self.running:
            try:
                if self.probe(_PROBE_TIMEOUT):
                    return True
            except (OSError, ValueError, EmbeddedServerError):
                pass  # not yet, or ended just now; the next look and the deadline decide
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"{self.name} did not answer at {self.address} within"
                    f" {self._start_timeout:g} s; its last log lines:",
                    self.log_tail(),
                )
            time.sleep(delay)
            delay = min(delay * 1.5, 0.05)
        return False

    def _port_taken(self) -> bool:
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            return b"address already in use" in log.read().lower()

    def _fail(self) -> NoReturn:
        code = self._child.exit_code if self._child else None
        reason = f"ended with exit code {code} instead of serving {self.address}"
        if self._port_taken():
            reason = f"cannot listen at {self.address}: the port is taken, choose another"
        raise EmbeddedServerError(f"{self.name} {reason}; its last log lines:", self.log_tail())


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back the signals that people end programs with: what is half made nobody could end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
