"""A supervisor with a fake worker, run by the tests as a process of its own.

    python fake_host.py '{"folder": …, "workers": 2, …}'

The fake worker is a raw accept loop: whoever connects gets one line of JSON about the process and
the end of the stream. How it behaves is read at its birth (and on SIGHUP) from the file
`worker-SLOT` or else `worker` in the folder:

serve       report, serve, drain on SIGTERM, stop on SIGINT (also when there is no file)
not_ready   alive, but not ready until a SIGHUP finds another mode
boot_failed say so and exit with 3
crash       end with SIGKILL before any report
hang        be ready, then block for ever, deaf to SIGTERM
stubborn    serve, but ignore SIGTERM and SIGINT
no_lifeline serve, but do not notice that the supervisor is gone
leave       serve, with a grandchild that loses its parent
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

from daisi_ws import log
from daisi_ws.domain.slots import (
    BootFailed,
    Draining,
    Heartbeat,
    NotReady,
    Ready,
    Report,
    WorkerContext,
    encode_report,
)
from daisi_ws.supervisor.run import run_supervisor
from daisi_ws.supervisor.settings import (
    EXIT_REFUSED,
    Reloaded,
    ReloadRefused,
    ReloadResult,
    StartError,
    SupervisorSettings,
    Timings,
)

HEARTBEAT_SECONDS = 0.1


class FakeWorker:
    """One worker process."""

    def __init__(self, folder: Path, context: WorkerContext) -> None:
        self._folder = folder
        self._context = context
        self._signals: list[int] = []
        self._wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, lambda number, _: self._signals.append(number))
        self._mode = self._read_mode()

    def run(self) -> int:
        """Live; return the exit code."""
        match self._mode:
            case "boot_failed":
                self._report(BootFailed("the stream is missing", "make it"))
                return 3
            case "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            case "leave":
                _leave_orphan()
        self._report(Heartbeat())
        self._report(NotReady("told to wait") if self._mode == "not_ready" else Ready())
        if self._mode == "hang":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
            threading.Event().wait()
        return self._serve()

    def _serve(self) -> int:
        watched = [self._context.listener.fileno(), self._wake_read]
        if self._mode != "no_lifeline":
            watched.append(self._context.lifeline_fd)
        while True:
            ready = select.select(watched, [], [], HEARTBEAT_SECONDS)[0]
            self._report(Heartbeat())
            if self._context.lifeline_fd in ready:
                return 0
            if self._wake_read in ready:
                os.read(self._wake_read, 100)
            while self._signals:
                signum = self._signals.pop(0)
                if self._handled(signum):
                    return 0
            if self._context.listener.fileno() in ready:
                self._answer_all()

    def _handled(self, signum: int) -> bool:
        self._note(signal.Signals(signum).name)
        if signum == signal.SIGHUP:
            self._mode = self._read_mode()
            self._report(NotReady("again") if self._mode == "not_ready" else Ready())
            return False
        if self._mode == "stubborn":
            return False
        self._report(Draining())
        return True

    def _answer_all(self) -> None:
        with suppress(BlockingIOError):
            while True:
                client, _ = self._context.listener.accept()
                client.sendall(json.dumps(self._about()).encode() + b"\n")
                client.close()

    def _about(self) -> dict[str, object]:
        context = self._context
        return {
            "slot": context.slot,
            "workers": context.workers,
            "generation": context.generation,
            "lane": context.lane,
            "pod_id": context.pod_id,
            "predecessor": context.predecessor,
            "grpc_port": context.grpc_port,
            "supervisor_id": context.supervisor_id,
            "supervisor_pid": context.supervisor_pid,
            "pid": os.getpid(),
            "parent": os.getppid(),
            "group": os.getpgid(0),
            "own_fds": [context.lifeline_fd, context.report_fd, context.listener.fileno()],
            "metrics": os.environ["PROMETHEUS_MULTIPROC_DIR"],
        }

    def _report(self, report: Report) -> None:
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(self._context.report_fd, encode_report(report))

    def _read_mode(self) -> str:
        for name in (f"worker-{self._context.slot}", "worker"):
            with suppress(FileNotFoundError):
                return (self._folder / name).read_text()
        return "serve"

    def _note(self, what: str) -> None:
        with (self._folder / f"signals-{os.getpid()}").open("a") as notes:
            notes.write(f"{what}\n")


def _leave_orphan() -> None:
    """Make a process whose parent ends first, so that PID 1 inherits it."""
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            while os.getppid() != 1:
                select.select([], [], [], 0.001)
        os._exit(0)
    os.waitpid(child, 0)


def main() -> int:
    """Run the host that the argument describes."""
    told = json.loads(sys.argv[1])
    folder = Path(told["folder"])
    timings = Timings(told["kill"], told["boot"], told["silence"])
    log.setup("info", "json")

    def run_worker(context: WorkerContext) -> int:
        return FakeWorker(folder, context).run()

    def reload() -> ReloadResult:
        if (folder / "bad-config").exists():
            return ReloadRefused(["server.workers: is a fish"])
        return Reloaded(timings, ["log.level"], ["server.http_port"])

    try:
        settings = SupervisorSettings(
            name="host",
            workers=told["workers"],
            http_host="127.0.0.1",
            http_port=told["http_port"],
            grpc_host="127.0.0.1",
            grpc_port=told["grpc_port"],
            timings=timings,
            metrics_dir=Path(told["metrics_dir"]) if told["metrics_dir"] else None,
        )
        return run_supervisor(settings, run_worker, reload, lambda: None)
    except StartError as error:
        sys.stderr.write(json.dumps({"event": "refused", "problems": error.problems}) + "\n")
        return EXIT_REFUSED


if __name__ == "__main__":
    sys.exit(main())
