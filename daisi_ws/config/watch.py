"""Notices that the files of the configuration have changed, by their content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from daisi_ws.config.environment import secret_files

LOOK_SECONDS = 1.0
"""Between two looks; what two in a row find the same is complete."""

Content = tuple[bytes, ...]


def files_of(path: Path | None, environ: Mapping[str, str]) -> list[Path]:
    """The files that a configuration is read from.

    :param path: the configuration file, None if there is none.
    """
    return [*([] if path is None else [path]), *secret_files(environ)]


class FileWatch:
    """Compares what files hold with what was last acted upon.

    Times and inodes are not asked: they change without the content (a mounted ConfigMap is
    swapped by a symlink) and stay although it changes (`cp -p`). A file that is still being
    written differs from one look to the next; it is acted upon when two looks agree.

    :param files: followed through symlinks in each look.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = tuple(files)
        self._acted = self._seen = self._look()
        self._look_at = 0.0

    def changed(self, now: float) -> list[Path]:
        """The files that hold something new and complete; each change is told once.

        :param now: monotonic seconds; looks closer together than :data:`LOOK_SECONDS` are spared.
        """
        if now < self._look_at:
            return []
        self._look_at = now + LOOK_SECONDS
        before, self._seen = self._seen, self._look()
        if self._seen != before or self._seen == self._acted:
            return []
        pairs = zip(self._files, self._acted, self._seen, strict=True)
        self._acted = self._seen
        return [file for file, old, new in pairs if old != new]

    def acted(self) -> None:
        """What the files hold now is acted upon by somebody else."""
        self._acted = self._seen = self._look()

    def _look(self) -> Content:
        return tuple(_digest(file) for file in self._files)


def _digest(file: Path) -> bytes:
    try:
        return sha256(file.read_bytes()).digest()
    except OSError as error:
        return b"error %d" % (error.errno or 0)
