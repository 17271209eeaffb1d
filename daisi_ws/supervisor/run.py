"""`run_supervisor`: the supervisor's life from the first port to the last worker."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack

import structlog
from structlog.typing import FilteringBoundLogger

from daisi_ws.domain.slots import WorkerContext
from daisi_ws.supervisor.linux import raise_open_files_limit, set_process_name
from daisi_ws.supervisor.metrics_files import metrics_directory
from daisi_ws.supervisor.notify import Manager
from daisi_ws.supervisor.settings import ReloadResult, SupervisorSettings
from daisi_ws.supervisor.shell import Shell
from daisi_ws.supervisor.signals import signal_pipe
from daisi_ws.supervisor.sockets import take_ports

log: FilteringBoundLogger = structlog.get_logger()


def run_supervisor(
    settings: SupervisorSettings,
    run_worker: Callable[[WorkerContext], int],
    reload: Callable[[], ReloadResult],
    beside: Callable[[], None],
) -> int:
    """Keep `settings.workers` workers running until asked to stop.

    Signals: SIGTERM and SIGINT drain and stop (a second one is quick, a third one immediate),
    SIGHUP reloads the configuration, SIGUSR2 restarts the workers one by one. A service manager
    that asks for it (NOTIFY_SOCKET) is told how it goes. To be called from the main thread of a
    process without other threads: it forks.

    :param run_worker: a worker's whole life, called in each forked process with its context; its
        result is the process's exit code. Whatever it needs, it imports itself.
    :param reload: reads and checks the configuration on SIGHUP.
    :param beside: looks after what runs beside the workers, about once a second; must not block.
    :return: exit code: 0 stopped as asked, 3 (or what the worker named) a worker could not start,
        4 stopped as asked, but a worker had to be killed.
    :raises StartError: a port is taken or cannot be bound; nothing was started.
    """
    begun = time.monotonic()
    with ExitStack() as stack:
        signals = stack.enter_context(signal_pipe())
        ports = stack.enter_context(take_ports(settings))
        metrics = stack.enter_context(metrics_directory(settings.metrics_dir))
        manager = Manager(os.environ)
        stack.callback(manager.abandon)
        set_process_name("daisi-ws")
        log.info(
            "supervisor started",
            pid=os.getpid(),
            name=settings.name,
            workers=settings.workers,
            http=f"{settings.http_host}:{ports.http_port}",
            grpc_ports=f"{ports.grpc_port}-{ports.grpc_port + len(ports.reserved) - 1}",
            open_files=raise_open_files_limit(),
        )
        shell = Shell(
            settings,
            ports,
            signals,
            metrics,
            manager,
            run_worker=run_worker,
            reload=reload,
            beside=beside,
        )
        stack.callback(shell.close)
        code = shell.run()
        uptime = round(time.monotonic() - begun, 3)
        log.info("supervisor stopped", exit_code=code, uptime_seconds=uptime)
    return code
