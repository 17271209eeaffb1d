"""`daisi-ws serve` with another worker module, which the test provides in the working directory."""

from __future__ import annotations

import functools
import os
import sys

import daisi_ws.config
from daisi_ws.cli import main, serve, serving

daisi_ws.config.LOADED_BY_THE_SUPERVISOR = True  # type: ignore[attr-defined]
serve.worker_of = functools.partial(  # type: ignore[attr-defined]
    serving.worker_of, module="stand_in_worker"
)
sys.path.insert(0, os.getcwd())  # noqa: PTH109 - as text
main()
