"""What `daisi-ws serve` puts together: settings, the worker's entry point, the reload."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import structlog
from structlog.typing import FilteringBoundLogger

from daisi_ws import log
from daisi_ws.config import (
    Config,
    ConfigError,
    FileWatch,
    Loaded,
    cautions,
    changed,
    load,
    values_of,
)
from daisi_ws.domain.deadlines import deadlines
from daisi_ws.domain.slots import (
    EXIT_BOOT_FAILED,
    BootFailed,
    ConfigSource,
    WorkerContext,
    encode_report,
)
from daisi_ws.embedded import EmbeddedServerError, Servers
from daisi_ws.supervisor.settings import (
    Reloaded,
    ReloadRefused,
    ReloadResult,
    SupervisorSettings,
    Timings,
)

METRICS_DIR_VARIABLE = "DAISI_WS_INTERNAL_METRICS_DIR"

logger: FilteringBoundLogger = structlog.get_logger()


def load_source(source: ConfigSource) -> Loaded:
    """Read and check the configuration.

    :raises ConfigError: with every problem at once.
    """
    return load(source.path, source.environ, source.flags)


def warn(loaded: Loaded) -> None:
    """Say what of the configuration can be used, and should be looked at."""
    for caution in cautions(loaded.config, loaded.origins, time.time()):
        said = f"{caution.key} ({caution.origin}) {caution.wrong}; right: {caution.right}"
        logger.warning("configuration to be looked at", problem=said)


def settings_of(config: Config) -> SupervisorSettings:
    """Return the supervisor's part of the configuration."""
    directory = os.environ.get(METRICS_DIR_VARIABLE)
    return SupervisorSettings(
        name=config.server.pod_id,
        workers=config.server.workers,
        http_host=config.server.http_host,
        http_port=config.server.http_port,
        grpc_host=config.server.grpc_host,
        grpc_port=config.server.grpc_port,
        timings=timings_of(config),
        metrics_dir=Path(directory) if directory else None,
        metrics_host=config.server.metrics_host,
        metrics_port=config.server.metrics_port,
    )


def timings_of(config: Config) -> Timings:
    """Return the supervisor's durations; a reload may change them."""
    ladder = deadlines(config.app.shutdown_timeout_seconds, config.server.shutdown_delay_seconds)
    return Timings(
        kill=ladder.supervisor_kill,
        boot=config.server.boot_timeout_seconds,
        silence=config.server.worker_timeout_seconds,
    )


def worker_of(
    source: Callable[[], ConfigSource], module: str = "daisi_ws.worker"
) -> Callable[[WorkerContext], int]:
    """Return the whole life of a worker process: its code is imported anew in each.

    :param source: asked at the birth of each.
    :param module: has `run(source, context)`, which returns the exit code.
    """

    def run(context: WorkerContext) -> int:
        _forget_own_code()
        try:
            worker = importlib.import_module(module)
        except ImportError as error:
            hint = "install the package again, with its dependencies"
            failed = BootFailed(f"the worker's code cannot be imported: {error}", hint)
            os.write(context.report_fd, encode_report(failed))
            return EXIT_BOOT_FAILED
        return int(worker.run(source(), context))

    return run


class Reload:
    """Reads and checks the configuration again, for SIGHUP.

    :param source: where to read it.
    :param boot: the configuration that the supervisor started with.
    :param files: told that their content has been acted upon.
    """

    def __init__(self, source: ConfigSource, boot: Config, files: FileWatch) -> None:
        self._source = source
        self._boot = boot
        self._last = boot
        self._files = files

    def source(self) -> ConfigSource:
        """Return where a worker that starts now reads it, and what it takes if that is broken."""
        return replace(self._source, started=values_of(self._boot), good=values_of(self._last))

    def __call__(self) -> ReloadResult:
        """Return what changed, or why nothing does."""
        # First: what is written meanwhile is looked at again.
        self._files.acted()
        try:
            loaded = load_source(self._source)
        except ConfigError as error:
            return ReloadRefused(
                [f"{p.key} ({p.origin}): {p.wrong}; right: {p.right}" for p in error.problems]
            )
        new = loaded.config
        hot = changed(self._last, new).hot
        restart = changed(self._boot, new).restart
        self._last = new
        log.set_level(new.log.level)
        warn(loaded)
        return Reloaded(timings_of(new), hot, restart)


class ReloadOnChange:
    """Has the configuration read again, as SIGHUP does, when a file of it has changed."""

    def __init__(self, files: FileWatch) -> None:
        self._files = files

    def __call__(self) -> None:
        """Look, without waiting; to be called about once a second."""
        if found := self._files.changed(time.monotonic()):
            logger.info("configuration changed", files=[str(file) for file in found])
            os.kill(os.getpid(), signal.SIGHUP)


class KeepRunning:
    """Starts an embedded server again that has ended by itself."""

    def __init__(self, servers: Servers) -> None:
        self._servers = (servers.redis, servers.nats)

    def __call__(self) -> None:
        """Look after both, without waiting until they answer."""
        for server in self._servers:
            if server.running:
                continue
            problem = ""
            try:
                server.launch()
            except EmbeddedServerError as error:
                problem = str(error)
            log.limited(
                logger,
                "embedded server ended, starting it",
                level="error",
                server=server.name,
                problem=problem,
            )


def _forget_own_code() -> None:
    """Drop this package's modules, so that a worker runs what is on disk when it is born.

    A rolling restart after an upgrade would otherwise mix new modules with those that the
    supervisor loaded when it started.
    """
    package = __name__.partition(".")[0]
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]
    # The worker's own logging replaces them; it does not know the old module's handler as its own.
    logging.getLogger().handlers.clear()
