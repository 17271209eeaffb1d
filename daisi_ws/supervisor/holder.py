"""Who holds a TCP port, as far as /proc tells this user."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_LISTEN = "0A"
_SHOWN = 80


def port_holder(port: int) -> str | None:
    """Return `process 4711 (name arguments…)` for the first process that listens on `port`.

    Returns None where there is none, or it is another user's. Of the command line only the first
    words are shown: arguments may hold secrets.
    """
    inodes = {f"socket:[{inode}]" for inode in _listening(port)}
    if not inodes:
        return None
    for process in sorted((p for p in _PROC.iterdir() if p.name.isdigit()), key=_pid):
        if _holds(process, inodes):
            return f"process {process.name} ({_name(process)})"
    return None


def _pid(process: Path) -> int:
    return int(process.name)


def _listening(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            local, state, inode = (line.split()[n] for n in (1, 3, 9))
            if state == _LISTEN and int(local.rpartition(":")[2], 16) == port:
                yield inode


def _holds(process: Path, inodes: set[str]) -> bool:
    try:
        return any(str(fd.readlink()) in inodes for fd in (process / "fd").iterdir())
    except OSError:  # it ended meanwhile, or is not ours to look into
        return False


def _name(process: Path) -> str:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")[:4]
    except OSError:
        return "?"
    return b" ".join(words).decode(errors="replace").strip()[:_SHOWN]
