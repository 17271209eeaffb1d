"""A handle on a supervisor that runs as a process of its own (see `fake_host.py`)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from tests.processes import is_alive, wait_until_gone

FAKE_HOST = Path(__file__).with_name("fake_host.py")
DEADLINE = 20.0

Line = Mapping[str, Any]


class Host:
    """A supervisor and what it says.

    :param folder: where the fake workers find their mode.
    :param deaf_after: an event after which nobody reads the log any more.
    :param prefix: command before the interpreter, such as `unshare`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 2,
        http_port: int = 0,
        grpc_port: int = 0,
        kill: float = 30.0,
        boot: float = 30.0,
        silence: float = 30.0,
        metrics_dir: Path | None = None,
        deaf_after: str | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.lines: list[Line] = []
        self.text = ""
        self._said = threading.Condition()
        self._deaf_after = deaf_after
        told = {
            "folder": str(folder),
            "workers": workers,
            "http_port": http_port,
            "grpc_port": grpc_port,
            "kill": kill,
            "boot": boot,
            "silence": silence,
            "metrics_dir": str(metrics_dir) if metrics_dir else None,
        }
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(FAKE_HOST), json.dumps(told)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(FAKE_HOST.parents[2]), "TMPDIR": str(folder)},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as said:
            for raw in said:
                with self._said:
                    self.text += raw
                    with suppress(json.JSONDecodeError):
                        self.lines.append(json.loads(raw))
                    self._said.notify_all()
                if self.lines and self.lines[-1]["event"] == self._deaf_after:
                    return

    def wait_for(self, event: str, count: int = 1, **fields: object) -> Line:
        """Return the log line of an event, its `count`-th, waiting for it."""

        def found() -> list[Line]:
            return [
                line
                for line in self.lines
                if line["event"] == event and fields.items() <= line.items()
            ]

        with self._said:
            if not self._said.wait_for(lambda: len(found()) >= count, DEADLINE):
                raise AssertionError(f"no line {event!r} {fields}; the log:\n{self.text}")
            return found()[count - 1]

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for what only looking can tell."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, f"it never came true; the log:\n{self.text}"
            time.sleep(0.01)

    def started(self) -> Self:
        """Wait until all workers are ready."""
        self.wait_for("all workers ready")
        return self

    @property
    def pid(self) -> int:
        """The supervisor's process ID."""
        return int(self.wait_for("supervisor started")["pid"])

    @property
    def port(self) -> int:
        """The HTTP port."""
        return int(self.wait_for("supervisor started")["http"].rpartition(":")[2])

    def worker_pids(self) -> list[int]:
        """Return every worker that was ever started, in order."""
        with self._said:
            return [line["worker_pid"] for line in self.lines if line["event"] == "worker started"]

    def set_mode(self, mode: str, slot: int | None = None) -> None:
        """Say how workers born from now on behave."""
        name = "worker" if slot is None else f"worker-{slot}"
        (self.folder / name).write_text(mode)

    def ask(self, timeout: float = DEADLINE) -> dict[str, Any]:
        """Connect and return what the worker that accepted says of itself."""
        with socket.create_connection(("127.0.0.1", self.port), timeout) as client:
            return answer_of(client)

    def ask_until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Connect again and again until the wanted worker answers."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            answer = self.ask()
            if wanted(answer):
                return answer
        raise AssertionError("the wanted worker never answered")

    def signals_of(self, pid: int) -> list[str]:
        """Return the signals that a fake worker has taken."""
        notes = self.folder / f"signals-{pid}"
        return notes.read_text().split() if notes.exists() else []

    def send(self, signum: signal.Signals) -> None:
        """Signal the supervisor."""
        self.process.send_signal(signum)

    def exit_code(self) -> int:
        """Wait for the end and return the exit code; nothing of the host may be left."""
        code = self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        left = wait_until_gone(self.worker_pids(), DEADLINE)
        assert not left, f"workers left running: {left}"
        return code

    def stop(self) -> int:
        """Stop politely and return the exit code."""
        self.send(signal.SIGTERM)
        return self.exit_code()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End everything that is left, by process ID."""
        self.process.kill()
        self.process.wait(DEADLINE)
        for pid in self.worker_pids():
            if is_alive(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._reader.join(DEADLINE)


def answer_of(client: socket.socket) -> dict[str, Any]:
    """Read the worker's line up to the end of the stream.

    :raises ConnectionError: reset, or closed without an answer.
    """
    data = b""
    while chunk := client.recv(65536):
        data += chunk
    if not data.endswith(b"\n"):
        raise ConnectionError(f"closed in the middle: {data!r}")
    answer: dict[str, Any] = json.loads(data)
    return answer
