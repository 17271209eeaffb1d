"""Renewal of session locks: what the kill switch did not say, the compare finds out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from daisi_ws.app.connection import Connection, State
from daisi_ws.app.hub import Hub
from daisi_ws.app.ports import Locks
from daisi_ws.config import Config
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.errors import Unavailable
from daisi_ws.domain.ttl import adaptive_ttl

_AT_ONCE: Final = 200

log = structlog.get_logger(__name__)


def lock_ttl(config: Config, idle_seconds: float) -> float:
    """Return how long a session lock lasts, in seconds.

    :param idle_seconds: since the connection's last activity.
    """
    adaptive = config.adaptive_ttl.session_lock
    if not adaptive.enabled:
        return config.app.session_ttl_seconds
    return adaptive_ttl(
        idle_seconds,
        shortest=adaptive.min_seconds,
        longest=adaptive.max_seconds,
        threshold=adaptive.activity_threshold_seconds,
    )


class Renewal:
    """Keeps the locks of the sessions here, and ends sessions whose lock is another's.

    While Redis is away the connections stay; the next renewal asserts their locks again.

    :param config: getter of the configuration, asked each time.
    :param clock: monotonic seconds, the clock of :attr:`Connection.last_seen`.
    """

    def __init__(
        self,
        hub: Hub,
        locks: Locks,
        config: Callable[[], Config],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hub = hub
        self._locks = locks
        self._config = config
        self._clock = clock
        self._away_since: float | None = None
        self.last_renewed = clock()
        """When the last renewal that succeeded began."""

    async def run(self) -> None:
        """Renew at every interval until cancelled."""
        while True:
            await asyncio.sleep(self._config().app.ttl_refresh_interval_seconds)
            await self.verify_now()

    async def verify_now(self) -> bool:
        """Renew all locks; on return the sessions whose lock is another's have ended.

        :return: False if Redis was away, so that nothing more is known than before.
        """
        began = self._clock()
        lost = 0
        try:
            sessions = self._hub.sessions()
            for at in range(0, len(sessions), _AT_ONCE):
                lost += await self._renew(sessions[at : at + _AT_ONCE])
        except Unavailable as error:
            self._say_away(began, error)
            return False
        finally:
            if lost:
                log.info("sessions ended, their locks are other connections'", count=lost)
        self._say_back(began)
        self.last_renewed = began
        return True

    async def _renew(self, sessions: Sequence[Connection]) -> int:
        config, now = self._config(), self._clock()
        held = [s for s in sessions if s.state is not State.CLOSED]
        kept = await self._locks.renew(
            [(s.principal.session_key, s.lock_value, lock_ttl(config, _idle(s, now))) for s in held]
        )
        lost = [session for session, is_kept in zip(held, kept, strict=True) if not is_kept]
        for session in lost:
            reason = CloseReason.MOVED if session.leaving else CloseReason.SESSION_LOST
            session.close(reason, write=False)
        return len(lost)

    def _say_away(self, now: float, error: Unavailable) -> None:
        if self._away_since is None:
            self._away_since = now
            log.warning("session locks not renewed, connections stay", problem=str(error))

    def _say_back(self, now: float) -> None:
        if self._away_since is not None:
            log.info("session locks renewed again", away_seconds=round(now - self._away_since, 3))
            self._away_since = None


def _idle(session: Connection, now: float) -> float:
    """Return how long ago the session's last activity was; one that is joining is active."""
    return now - session.last_seen if session.state is State.OPEN else 0.0
