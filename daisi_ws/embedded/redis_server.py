"""A real redis-server as a child process."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from daisi_ws.embedded.binaries import find_redis_server
from daisi_ws.embedded.process import HOST, ServerProcess


class RedisServer(ServerProcess):
    """A Redis that keeps its data in memory; see `ServerProcess` for life and folder.

    :param appendonly: keep the data over `restart()` and `kill()` (append-only file, written
        through once a second).
    :param arguments: more options of redis-server, such as `("--maxclients", "10")`.
    """

    name = "redis-server"

    def __init__(
        self,
        folder: Path | None = None,
        port: int = 0,
        *,
        base: Path | None = None,
        start_timeout: float = 10.0,
        appendonly: bool = False,
        arguments: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, port, base=base, start_timeout=start_timeout)
        self._appendonly = appendonly
        self._arguments = tuple(arguments)

    @property
    def url(self) -> str:
        """`redis://host:port` for clients."""
        return f"redis://{self.address}"

    def command(self) -> list[str]:
        """Return program and arguments."""
        return [
            str(find_redis_server()),
            *("--port", str(self.port)),
            *("--bind", HOST),
            *("--protected-mode", "yes"),
            *("--dir", str(self.folder)),
            *("--save", ""),
            *("--appendonly", "yes" if self._appendonly else "no"),
            *self._arguments,
        ]

    def probe(self, timeout: float) -> bool:
        """See :meth:`ServerProcess.probe`. PING is answered, by the process that we started."""
        with socket.create_connection((HOST, self.port), timeout) as connection:
            connection.settimeout(timeout)
            connection.sendall(b"PING\r\nINFO server\r\n")
            with connection.makefile("rb") as replies:
                if replies.readline() != b"+PONG\r\n":
                    return False
                info = replies.read(int(replies.readline()[1:]))
        return b"process_id:%d\r\n" % self.pid in info
