"""Certificates while the program runs: new files are noticed and used, and their end is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from daisi_ws.config import TlsSection, ends_at, wrong_files
from daisi_ws.domain.rfc3339 import format_utc
from daisi_ws.metrics import Metrics

LOOK_SECONDS: Final = 2.0
"""Between two looks at the files: a new certificate is used after at most this long."""

_SOON_SECONDS: Final = 7 * 86_400

log = structlog.get_logger(__name__)

_Stamp = tuple[tuple[int, int, int, int] | None, ...]


@dataclass(slots=True)
class _Used:
    """A section whose TLS is on.

    :param renew: has its user read the files again.
    :param ends: Unix time of its end; None without certificate of our own.
    :param problem: of new files, as the log was told.
    :param warned: what the log was told about the end.
    """

    section: TlsSection
    renew: list[Callable[[], None]] = field(default_factory=list)
    stamp: _Stamp = ()
    ends: float | None = None
    problem: str = ""
    warned: str = ""


class Certificates:
    """Looks every :data:`LOOK_SECONDS` whether files of TLS are others than before.

    A changed modification time counts, as does a file or a symbolic link that was replaced, on
    whatever level of the path. New files that are wrong are not used: one line says why, until
    they are right.

    :param sections: by use: `http`, `grpc`, `nats`, `redis`; those without TLS are left out.
    :param wall: Unix time.
    """

    def __init__(
        self,
        sections: Mapping[str, TlsSection],
        metrics: Metrics,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._metrics = metrics
        self._wall = wall
        self._used = {use: _Used(section) for use, section in sections.items() if section.enabled}
        for used in self._used.values():
            used.stamp = stamp(used.section)
            used.ends = ends_at(used.section)

    def on_renewed(self, use: str, renew: Callable[[], None]) -> None:
        """Call back when the files of a use are new and right; it may raise OSError."""
        if use in self._used:
            self._used[use].renew.append(renew)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while self._used:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Look at all files now."""
        for use, used in self._used.items():
            now = stamp(used.section)
            if now != used.stamp and self._renewed(use, used):
                used.stamp = now
            if used.ends is not None:
                self._tell_end(use, used, used.ends)

    def _renewed(self, use: str, used: _Used) -> bool:
        wrong = "; ".join(f"{leaf}: {what}" for leaf, what in wrong_files(used.section).items())
        if not wrong:
            try:
                ends = ends_at(used.section)
                for renew in used.renew:
                    renew()
            except (OSError, ValueError) as error:
                wrong = str(error)  # replaced while they were read: the next look decides
            else:
                used.ends, used.problem, used.warned = ends, "", ""
                until = None if ends is None else format_utc(ends)
                log.info("certificate renewed", use=use, file=used.section.cert_file, until=until)
                return True
        if wrong != used.problem:
            used.problem = wrong
            log.error("certificate not renewed: the old one stays in use", use=use, problem=wrong)
        return False

    def _tell_end(self, use: str, used: _Used, ends: float) -> None:
        left = ends - self._wall()
        self._metrics.certificate_expiry.labels(use).set(left)
        file, until = used.section.cert_file, format_utc(ends)
        if left < 0 and used.warned != "expired":
            used.warned = "expired"
            log.error("certificate has expired: replace it", use=use, file=file, until=until)
        elif 0 <= left < _SOON_SECONDS and not used.warned:
            used.warned = "soon"
            log.warning("certificate expires soon: renew it", use=use, file=file, until=until)


def stamp(section: TlsSection) -> _Stamp:
    """Return what changes when a file of a section is replaced, changed, or points elsewhere."""
    names = ("cert_file", "key_file", "ca_file")
    return tuple(_stamp_of(getattr(section, name, "")) for name in names)


def _stamp_of(path: str) -> tuple[int, int, int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
