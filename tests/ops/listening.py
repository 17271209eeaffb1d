"""The other end of sd_notify: a socket that takes what a service manager would be told."""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import Final, Self

DEADLINE: Final = 60.0


class Listener:
    """A datagram socket, and the messages that came, each as its variables.

    :param abstract: has a name of the abstract namespace instead of a path.
    """

    def __init__(self, *, abstract: bool = False) -> None:
        # Short: 108 bytes are all that an address can be (unix(7)).
        self._folder = Path(tempfile.mkdtemp(prefix="sd-", dir="/tmp"))
        name = str(self._folder / "notify")
        self.address = f"@{name}" if abstract else name
        self.messages: list[dict[str, str]] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{name}" if abstract else name)

    def take(self, seconds: float = 0.0) -> dict[str, str] | None:
        """Return the next message; None if none comes in so many seconds."""
        self.socket.settimeout(max(seconds, 0.001))
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            return None
        said = dict(line.partition("=")[::2] for line in data.decode().split("\n"))
        self.messages.append(said)
        return said

    def until(self, **variables: str) -> list[dict[str, str]]:
        """Return the messages up to the next that has this in its variables, waiting for it.

        :raises AssertionError: it does not come in time.
        """
        deadline = time.monotonic() + DEADLINE
        came: list[dict[str, str]] = []
        while (left := deadline - time.monotonic()) > 0:
            if (said := self.take(left)) is not None:
                came.append(said)
                if all(value in said.get(name, "") for name, value in variables.items()):
                    return came
        raise AssertionError(f"no {variables} among {came}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        shutil.rmtree(self._folder)
