"""A worker process: one pod."""

from __future__ import annotations

import structlog
import uvloop

from daisi_ws import log, metrics
from daisi_ws.config import ConfigError, kept_by
from daisi_ws.domain.slots import EXIT_BOOT_FAILED, EXIT_CLEAN, ConfigSource, WorkerContext
from daisi_ws.worker.boot import BootFailure, report_failure
from daisi_ws.worker.live import configuration_at_start
from daisi_ws.worker.pod import serve

logger = structlog.get_logger(__name__)


def run(source: ConfigSource, context: WorkerContext) -> int:
    """Be a worker until told to stop; return the exit code of the process.

    :param source: where the configuration comes from; it was valid when the supervisor read it,
        and may have been changed since.
    """
    try:
        config, problem = configuration_at_start(source)
    except ConfigError as error:
        report_failure(context, BootFailure(str(error), "mend it; SIGHUP checks it as well"))
        return EXIT_BOOT_FAILED
    kept = kept_by(config, source.started)
    log.setup(kept.log.level, kept.log.format, pod_id=context.pod_id)
    if problem is not None:
        logger.error("started with the last good configuration", problem=str(problem))
    if missing := metrics.use_identifier(context.process_identifier):
        logger.error("metrics of this worker are missing in scrapes", problem=missing)
    try:
        uvloop.run(serve(config, source, context))
    except BootFailure as failure:
        report_failure(context, failure)
        return EXIT_BOOT_FAILED
    return EXIT_CLEAN
