"""How long a client was without a connection that was `ready`."""

from __future__ import annotations


class Outages:
    """Adds up the times without a `ready` connection, after the first one.

    Times are monotonic seconds. A move to a new connection that was ready before the old one
    ended is no outage.

    :ivar count: of those that are over.
    :ivar seconds: all of them together, in seconds.
    :ivar longest: in seconds.
    :ivar since: when the one that goes on began; None: there is none.
    """

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self.longest = 0.0
        self.since: float | None = None

    def began(self, at: float) -> None:
        """Take in that the connection ended."""
        if self.since is None:
            self.since = at

    def ended(self, at: float) -> None:
        """Take in that a connection is, or was then already, `ready`."""
        if self.since is not None and at > self.since:
            self.count += 1
            self.seconds += at - self.since
            self.longest = max(self.longest, at - self.since)
        self.since = None
