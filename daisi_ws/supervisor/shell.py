"""The supervisor's thin shell: waits for signals, reports and time, and does what the rules say."""

from __future__ import annotations

import mmap
import os
import random
import secrets
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import structlog
from structlog.typing import FilteringBoundLogger

from daisi_ws.domain.census import Census
from daisi_ws.domain.slots import LANES, WorkerContext, grpc_port
from daisi_ws.supervisor.child import fork_worker
from daisi_ws.supervisor.fleet import Fleet
from daisi_ws.supervisor.metrics_files import drop_live_gauges
from daisi_ws.supervisor.notify import Manager
from daisi_ws.supervisor.reports import ReportPipe
from daisi_ws.supervisor.settings import ReloadRefused, ReloadResult, SupervisorSettings
from daisi_ws.supervisor.signals import SignalPipe
from daisi_ws.supervisor.sockets import Ports
from daisi_ws.supervisor.states import Action, Death, Exit, Forget, Fork, Life, Say, Send

log: FilteringBoundLogger = structlog.get_logger()

LONGEST_WAIT_SECONDS = 1.0
"""A signal that was lost (a full pipe) is made up for after so long."""

_PID_1 = 1


class Shell:
    """Runs a fleet until it has ended.

    :param manager: the service manager, which is told how it goes.
    :param run_worker: called in each forked process; its result is the exit code.
    :param reload: reads and checks the configuration again.
    :param beside: looks after what runs beside the workers.
    """

    def __init__(
        self,
        settings: SupervisorSettings,
        ports: Ports,
        signals: SignalPipe,
        metrics: Path,
        manager: Manager,
        *,
        run_worker: Callable[[WorkerContext], int],
        reload: Callable[[], ReloadResult],
        beside: Callable[[], None],
    ) -> None:
        self._workers = settings.workers
        self._ports = ports
        self._signals = signals
        self._metrics = metrics
        self._manager = manager
        self._run_worker = run_worker
        self._reload = reload
        self._beside = beside
        self._beside_at = 0.0
        self._fleet = Fleet(
            settings.name,
            settings.workers,
            settings.timings,
            # Milliseconds: a supervisor that is restarted within one second repeats no pod ID.
            epoch=lambda: time.time_ns() // 1_000_000,
            chance=random.random,
        )
        # Shared with the workers: anonymous memory that they are forked with.
        self._clients = memoryview(mmap.mmap(-1, 8 * LANES * settings.workers)).cast("q")
        self._supervisor_id = secrets.token_hex(8)
        self._lifeline_read, self._lifeline_write = os.pipe()
        self._pipes: dict[int, ReportPipe] = {}
        self._poll = select.poll()
        self._poll.register(signals.read_end, select.POLLIN)
        self._by_fd: dict[int, int] = {}
        self._exit_code: int | None = None

    def run(self) -> int:
        """Start the workers, serve until they have all ended, and return the exit code."""
        self._act(self._fleet.start(time.monotonic()))
        while self._exit_code is None:
            self._tell_manager(time.monotonic())
            ready = self._wait()
            if self._signals.read_end in ready:
                self._take_signals()
            for fd in ready & self._by_fd.keys():
                self._take_reports(self._by_fd[fd])
            self._reap()
            now = time.monotonic()
            self._act(self._fleet.tick(now))
            if now >= self._beside_at:
                self._beside_at = now + LONGEST_WAIT_SECONDS
                self._beside()
        return self._exit_code

    def _tell_manager(self, now: float) -> None:
        self._manager.status(self._fleet.status())
        if self._fleet.started(now) and not self._fleet.stopping:
            self._manager.ready()
        self._manager.beat(now)

    def close(self) -> None:
        """Let go of the lifeline: a worker that is still there ends itself."""
        os.close(self._lifeline_write)
        os.close(self._lifeline_read)
        for pipe in self._pipes.values():
            pipe.close_read_end()

    def _wait(self) -> set[int]:
        seconds = LONGEST_WAIT_SECONDS
        for wakeup in (self._fleet.next_wakeup(), self._manager.next_beat):
            if wakeup is not None:
                seconds = min(seconds, max(0.0, wakeup - time.monotonic()))
        # Rounded up: a wait that ends a little early would spin until the time has come.
        return {fd for fd, _ in self._poll.poll(int(seconds * 1000) + 1)}

    def _take_signals(self) -> None:
        for signum in self._signals.read():
            now = time.monotonic()
            match signum:
                case signal.SIGTERM | signal.SIGINT:
                    self._manager.stopping()
                    self._act(self._fleet.stop(signum.name, now))
                    self._ports.stop_listening()
                case signal.SIGUSR2:
                    self._act(self._fleet.roll(now))
                case signal.SIGHUP:
                    self._take_reload()
                case _:  # SIGCHLD: every turn of the loop looks for the dead anyway
                    pass

    def _take_reload(self) -> None:
        if self._fleet.stopping:
            return
        self._manager.reloading()
        result = self._reload()
        if isinstance(result, ReloadRefused):
            log.error("reload refused, nothing changed", problems=list(result.problems))
        else:
            log.info("configuration reloaded", hot=list(result.hot), restart=list(result.restart))
            self._act(self._fleet.reload(result.timings))
        self._manager.reloaded()

    def _take_reports(self, pid: int) -> None:
        pipe = self._pipes[pid]
        for report in pipe.read():
            self._act(self._fleet.report(pid, report, time.monotonic()))
        if pipe.ended and self._by_fd.pop(pipe.read_end, None) is not None:
            self._poll.unregister(pipe.read_end)

    def _reap(self) -> None:
        # One by one: until its turn, a dead worker keeps its process ID, so that no signal that
        # the rules ask for meanwhile can hit a stranger.
        for pid, death in self._dead():
            if pid in self._pipes:
                self._take_reports(pid)
            self._act(self._fleet.exited(pid, death, time.monotonic()))

    def _dead(self) -> Iterator[tuple[int, Death]]:
        # As PID 1 of a container all orphans are ours to reap. Otherwise only the workers are
        # asked after: children of others in this process (the embedded servers) are theirs.
        asked = [-1] if os.getpid() == _PID_1 else list(self._pipes)
        for which in asked:
            while True:
                try:
                    pid, status = os.waitpid(which, os.WNOHANG)
                except ChildProcessError:
                    break
                if pid == 0:
                    break
                yield pid, _death(status)
                if which > 0:
                    break

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Fork(life=life):
                    self._fork(life)
                case Send(pid=pid, signal=signum):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signum)
                case Forget():
                    self._forget(action)
                case Say(level=level, event=event, fields=fields):
                    getattr(log, level)(event, **fields)
                case Exit(code=code):
                    self._exit_code = code

    def _fork(self, life: Life) -> None:
        if self._fleet.stopping:  # decided earlier in the same list of actions
            return
        try:
            pid = self._born(life)
        except OSError as error:
            why = f"cannot start a process: {error.strerror}"
            self._act(self._fleet.fork_failed(life, why, time.monotonic()))
            return
        self._act(self._fleet.forked(life, pid))

    def _born(self, life: Life) -> int:
        pipe = ReportPipe()
        context = WorkerContext(
            slot=life.slot,
            workers=self._workers,
            generation=life.generation,
            lane=life.lane,
            pod_id=life.pod_id,
            predecessor=life.predecessor,
            grpc_port=grpc_port(self._ports.grpc_port, life.slot, life.lane),
            supervisor_id=self._supervisor_id,
            supervisor_pid=os.getpid(),
            lifeline_fd=self._lifeline_read,
            report_fd=pipe.write_end,
            listener=self._ports.listeners[life.slot],
            metrics_listener=self._ports.metrics,
            census=self._census(life.slot, life.lane),
        )
        try:
            pid = fork_worker(context, lambda: self._drop(pipe, life.slot), self._run_worker)
        except OSError:
            pipe.close_read_end()
            raise
        finally:
            pipe.close_write_end()
        self._pipes[pid] = pipe
        self._by_fd[pipe.read_end] = pid
        self._poll.register(pipe.read_end, select.POLLIN)
        return pid

    def _census(self, slot: int, lane: int) -> Census:
        return Census(self._clients, LANES * slot + lane)

    def _drop(self, own: ReportPipe, slot: int) -> None:
        """Close, in a forked child, everything that is not the child's."""
        self._signals.abandon()
        self._manager.abandon()
        os.close(self._lifeline_write)
        for pipe in (own, *self._pipes.values()):
            pipe.close_read_end()
        self._ports.keep_only(slot)

    def _forget(self, gone: Forget) -> None:
        pipe = self._pipes.pop(gone.pid)
        if self._by_fd.pop(pipe.read_end, None) is not None:
            self._poll.unregister(pipe.read_end)
        pipe.close_read_end()
        self._census(gone.slot, gone.lane).clear()
        drop_live_gauges(self._metrics, gone.slot, gone.lane)


def _death(status: int) -> Death:
    if os.WIFSIGNALED(status):
        return Death(signal=os.WTERMSIG(status))
    return Death(code=os.WEXITSTATUS(status))
