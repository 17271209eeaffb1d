"""Limits on who may come, and how often: what is over one is refused, counted and told."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from daisi_ws.adapters.http_answers import Rejection
from daisi_ws.config import Limits as Figures
from daisi_ws.domain.census import Census
from daisi_ws.domain.client_address import subscriber
from daisi_ws.domain.errors import RateLimitExceeded
from daisi_ws.domain.principal import Principal
from daisi_ws.domain.rates import Rates
from daisi_ws.log import RateLimit
from daisi_ws.metrics import Metrics

log = structlog.get_logger()

LOG_SECONDS: Final = 5.0
"""Between two log lines about the same limit; the next one says how many were left out."""

FULL_RETRY_SECONDS: Final = 5.0
"""When to come again who finds the host full; a place may be free before, or not."""


class Settings(Protocol):
    """What is needed of the settings of the HTTP server."""

    @property
    def limits(self) -> Figures:
        """The section `limits` of the configuration."""


class Limits:
    """The limits of one worker.

    :param settings: read each time, so that changes apply.
    :param census: where this worker's clients are counted.
    :param clock: monotonic seconds.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        metrics: Metrics,
        census: Census,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._census = census
        self._clock = clock
        self._accepts = Rates(most_keys=1)
        self._addresses = Rates()
        self._identities = Rates()
        self._lines = RateLimit(LOG_SECONDS, clock)

    def accepts(self) -> float:
        """Count a TCP connection; return 0, or in how many seconds one would be served."""
        limits = self._settings().limits
        if not limits.accepts_per_second:
            return 0.0
        now = self._clock()
        return self._accepts.take("", now, limits.accepts_per_second, limits.accept_burst)

    def check_accepted(self, wait: float, remote: str) -> None:
        """Refuse requests of a connection that came over the limit.

        :param wait: what :meth:`accepts` said of it.
        :raises Rejection: 429.
        """
        if wait:
            raise self._refused("accepts", wait, remote=remote)

    def check_address(self, remote: str) -> None:
        """Count a handshake from an address.

        :raises Rejection: 429, there were too many.
        """
        limits = self._settings().limits
        rate, burst = limits.address_handshakes_per_second, limits.address_handshake_burst
        if not rate:
            return
        wait = self._addresses.take(subscriber(remote), self._clock(), rate, burst)
        if wait:
            raise self._refused("address", wait, remote=remote)

    def check_identity(self, principal: Principal, remote: str) -> None:
        """Count a handshake of a user or an admin.

        :raises Rejection: 429, there were too many.
        """
        limits = self._settings().limits
        rate, burst = limits.identity_handshakes_per_second, limits.identity_handshake_burst
        if not rate:
            return
        wait = self._identities.take(principal.identity, self._clock(), rate, burst)
        if wait:
            raise self._refused("identity", wait, remote=remote, identity=principal.identity)

    def enter(self, remote: str) -> None:
        """Take a place for a connection; :meth:`leave` gives it back.

        :raises Rejection: 429, none is free.
        """
        limits, census = self._settings().limits, self._census
        if 0 < limits.connections_per_worker <= census.here:
            raise self._refused("connections_worker", FULL_RETRY_SECONDS, remote=remote)
        if 0 < limits.connections_per_host <= census.host:
            raise self._refused("connections_host", FULL_RETRY_SECONDS, remote=remote)
        census.add(1)

    def leave(self) -> None:
        """Give a place back."""
        self._census.add(-1)

    def reached(self, limit: str, **context: object) -> None:
        """Count what was over a limit and say so, at most one line in a while for each limit."""
        self._metrics.limited.labels(limit).inc()
        left_out = self._lines.allow(limit)
        if left_out is None:
            return
        if left_out:
            context["suppressed"] = left_out
        log.warning("limit reached", limit=limit, **context)

    def _refused(self, limit: str, wait: float, **context: object) -> Rejection:
        self.reached(limit, **context)
        refusal = RateLimitExceeded(_TOLD[limit], details="try again later", reason=limit)
        headers = {"Retry-After": str(math.ceil(wait))}
        return Rejection(refusal, refusal.http_status, headers=headers, close=True)


_TOLD: Final = {
    "accepts": "too many connections at a time",
    "address": "too many connections from your address",
    "identity": "too many connections of this identity",
    "connections_worker": "too many clients here",
    "connections_host": "too many clients here",
}
