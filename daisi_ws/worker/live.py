"""The configuration as it is now: a reload changes what is hot and names what must wait."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from daisi_ws import log as logging
from daisi_ws.config import Config, ConfigError, changed, load
from daisi_ws.domain.slots import ConfigSource

log = structlog.get_logger(__name__)


class LiveConfig:
    """Holds the configuration; `config` is replaced as a whole, so readers see one or the other.

    What needs a restart was read when its user was made and is not read again.
    """

    def __init__(self, config: Config, source: ConfigSource) -> None:
        self.config = config
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
            new = load(source.path, source.environ, source.flags).config
        except ConfigError as error:
            log.warning("configuration not reloaded", problem=str(error))
            return
        changes = changed(self.config, new)
        self.config = new
        logging.set_level(new.log.level)
        for callback in self._on_change:
            callback(new)
        log.info("configuration reloaded", hot=changes.hot, waits_for_restart=changes.restart)
