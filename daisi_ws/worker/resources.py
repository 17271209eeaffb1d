"""What this process takes of the machine."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from daisi_ws.metrics import Metrics

_STATM: Final = Path("/proc/self/statm")


class Resources:
    """Tells processor time and memory; the supervisor's are not among them."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._cpu = 0.0

    def tell(self) -> None:
        """Bring the metrics up to date; reads one small file of `/proc`."""
        cpu = time.process_time()
        self._metrics.cpu.inc(cpu - self._cpu)
        self._cpu = cpu
        try:
            resident = int(_STATM.read_bytes().split()[1])
        except OSError:  # no descriptor is left
            return
        self._metrics.memory.set(resident * os.sysconf("SC_PAGE_SIZE"))
