"""A worker process: one pod."""

from __future__ import annotations

import uvloop

from daisi_ws import log, metrics
from daisi_ws.config import ConfigError, load
from daisi_ws.domain.slots import EXIT_BOOT_FAILED, EXIT_CLEAN, ConfigSource, WorkerContext
from daisi_ws.worker.boot import BootFailure, report_failure
from daisi_ws.worker.pod import serve


def run(source: ConfigSource, context: WorkerContext) -> int:
    """Be a worker until told to stop; return the exit code of the process.

    :param source: where the configuration comes from; it was valid when the supervisor read it,
        and may have been changed since.
    """
    try:
        config = load(source.path, source.environ, source.flags).config
    except ConfigError as error:
        report_failure(context, BootFailure(str(error), "mend it; SIGHUP checks it as well"))
        return EXIT_BOOT_FAILED
    log.setup(config.log.level, config.log.format, pod_id=context.pod_id)
    metrics.use_identifier(context.process_identifier)
    try:
        uvloop.run(serve(config, source, context))
    except BootFailure as failure:
        report_failure(context, failure)
        return EXIT_BOOT_FAILED
    return EXIT_CLEAN
