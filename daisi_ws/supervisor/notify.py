"""What the service manager is told: sd_notify(3) and sd_watchdog_enabled(3), without libsystemd.

systemd gives a service of `Type=notify` the address of a datagram socket. Without one (a
terminal, a container, supervisord) nothing is said and nothing is sent.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import MutableMapping

SOCKET_VARIABLE = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE = "WATCHDOG_USEC"
WATCHDOG_PID_VARIABLE = "WATCHDOG_PID"

_BEATS = 2
"""Watchdog messages in the time after which the manager would miss one (the man page's advice)."""


class Manager:
    """The service manager, as far as it asked to be told.

    What cannot be sent at once (its queue is full) is kept and sent by `flush`: a READY that got
    lost would make it wait for ever.

    :param environ: its variables are taken out, so that no worker speaks in this process's name.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        address = environ.pop(SOCKET_VARIABLE, "")
        microseconds = environ.pop(WATCHDOG_VARIABLE, "")
        meant = environ.pop(WATCHDOG_PID_VARIABLE, "") or str(os.getpid())
        self._address = _address(address)
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        watched = self._socket is not None and meant == str(os.getpid()) and microseconds.isdigit()
        self._interval = int(microseconds) / 1e6 / _BEATS if watched else 0.0
        self._beat_at = 0.0
        self._waiting: deque[bytes] = deque()
        self._status = ""
        self._ready = False

    @property
    def next_beat(self) -> float | None:
        """When `beat` is due (monotonic seconds); None where no watchdog waits for it."""
        return self._beat_at if self._interval else None

    def beat(self, now: float) -> None:
        """Tell the watchdog, if it is time, that this process's loop turns."""
        self.flush()
        if self._interval and now >= self._beat_at:
            self._beat_at = now + self._interval
            if not self._waiting:  # a beat that is told late would be a lie
                self._say("WATCHDOG=1")

    def ready(self) -> None:
        """Say, the first time, that the service has started."""
        if not self._ready:
            self._ready = True
            self._say("READY=1")

    def reloading(self) -> None:
        """Say that a reload begins; `reloaded` must follow."""
        if self._ready:
            self._say("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """Say that a reload is over, whether it changed anything or not."""
        if self._ready:
            self._say("READY=1")

    def stopping(self) -> None:
        """Say that the service ends."""
        self._say("STOPPING=1")

    def status(self, text: str) -> None:
        """Show one line to whoever asks `systemctl status`; said when it changes."""
        if text != self._status:
            self._status = text
            self._waiting = deque(m for m in self._waiting if not m.startswith(b"STATUS="))
            self._say(f"STATUS={' '.join(text.split())}")

    def flush(self) -> None:
        """Send what is still waiting."""
        while self._waiting and self._sent(self._waiting[0]):
            self._waiting.popleft()

    def abandon(self) -> None:
        """Let go of the socket, in a forked child or at the end."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._interval = 0.0

    def _say(self, *lines: str) -> None:
        if self._socket is None:
            return
        self._waiting.append("\n".join(lines).encode())
        self.flush()

    def _sent(self, message: bytes) -> bool:
        """Send a message; True also for one that can never be sent."""
        if self._socket is None:
            return True
        try:
            self._socket.sendto(message, self._address)
        except BlockingIOError:
            return False
        except OSError:
            # The manager is gone or of another kind. A service that serves goes on.
            return True
        return True


def _address(given: str) -> str:
    """Return the address for sendto: `@` begins a name of the abstract namespace (unix(7)).

    Anything but a path and such a name (`vsock:` of virtual machines) is not served.
    """
    if given.startswith("@"):
        return "\0" + given[1:]
    return given if given.startswith("/") else ""
