"""The configuration as it is now: a reload changes what is hot and names what must wait."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from daisi_ws import log as logging
from daisi_ws.config import Config, ConfigError, kept_by, load, restored, settle
from daisi_ws.domain.slots import ConfigSource

log = structlog.get_logger(__name__)


def configuration_at_start(source: ConfigSource) -> tuple[Config, ConfigError | None]:
    """Return the configuration that a worker starts with.

    The supervisor has read a valid one; if there is none any more, its last good one counts: a
    worker that dies while a file is broken is replaced all the same.

    :return: the configuration, and what is wrong with the files now, if anything.
    :raises ConfigError: something is, and no good one is known.
    """
    try:
        return load(source.path, source.environ, source.flags).config, None
    except ConfigError as error:
        if not source.good:
            raise
        return restored(source.good), error


class LiveConfig:
    """Holds the configuration; `config` is replaced as a whole, so readers see one or the other.

    What needs a restart keeps the value that this process (or, for some keys, its supervisor)
    started with, however often the files are read.

    :param config: as read at the start.
    :ivar waits: keys whose new values wait for a restart.
    """

    def __init__(self, config: Config, source: ConfigSource) -> None:
        self.config = kept_by(config, source.started)
        self.waits = settle(self.config, config).waits
        self._source = source
        self._on_change: list[Callable[[Config], None]] = []

    def on_change(self, callback: Callable[[Config], None]) -> None:
        """Call back after a reload, for who does not ask each time."""
        self._on_change.append(callback)

    def __call__(self) -> Config:
        """Return the configuration as it is now."""
        return self.config

    def reload(self) -> None:
        """Read it again; an invalid one changes nothing."""
        source = self._source
        try:
            wanted = load(source.path, source.environ, source.flags).config
        except ConfigError as error:
            log.warning("configuration not reloaded", problem=str(error))
            return
        settled = settle(self.config, wanted)
        self.config, self.waits = settled.config, settled.waits
        logging.set_level(self.config.log.level)
        for callback in self._on_change:
            callback(self.config)
        log.info("configuration reloaded", hot=settled.hot, waits_for_restart=settled.waits)
