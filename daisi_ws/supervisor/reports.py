"""The supervisor's ends of the pipes to its workers."""

from __future__ import annotations

import os
from contextlib import suppress

from daisi_ws.domain.slots import Report, ReportReader

_CHUNK = 65536


class ReportPipe:
    """The pipe on which one worker reports; both ends do not block."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        os.set_blocking(self.write_end, False)
        self.ended = False
        self._reader = ReportReader()

    def read(self) -> list[Report]:
        """Return every report that has arrived; sets `ended` when no more can come."""
        reports: list[Report] = []
        while not self.ended:
            try:
                data = os.read(self.read_end, _CHUNK)
            except BlockingIOError:
                break
            if not data:
                self.ended = True
            reports += self._reader.feed(data)
        return reports

    def close_write_end(self) -> None:
        """Leave writing to the worker, so that the pipe ends with it."""
        os.close(self.write_end)

    def close_read_end(self) -> None:
        """Stop listening."""
        with suppress(OSError):
            os.close(self.read_end)
