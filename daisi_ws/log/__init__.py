"""Log lines: one JSON object or one readable line each, on standard error.

Every line, whether from structlog or from a library through ``logging``, goes one way: context
merged, secrets masked, control characters escaped, rendered, written at once. Loggers are made by
``structlog.get_logger()``; a change of level or format reaches all of them, bound or not.
"""

from daisi_ws.log.limit import RateLimit, limited
from daisi_ws.log.output import Level, set_level, setup

__all__ = ["Level", "RateLimit", "limited", "set_level", "setup"]
