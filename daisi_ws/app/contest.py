"""One newcomer's way to its session lock, whoever has it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final, Protocol

from daisi_ws.app.connection import Connection, State
from daisi_ws.app.ports import Acquired, Held, Locks
from daisi_ws.config import App
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.errors import InternalServerError, SessionConflict, Unavailable
from daisi_ws.metrics import Metrics

CERTAIN_SECONDS: Final = 1.0
"""So long a session must be there to count as another's: the end of one whose network broke is
noticed late, and who comes then is its own successor."""

_FIRST_PAUSE_SECONDS: Final = 0.005
_UNKNOWN_SECONDS: Final = 0.3
"""How long to ask again when Redis does not answer: long enough for a new connection to it."""


class Neighbours(Protocol):
    """What a contest needs to know of the sessions of this pod and of others."""

    def is_ours(self, holder: str) -> bool:
        """Tell whether a lock value is of this pod."""

    def rival(self, connection: Connection, holder: str) -> Connection | None:
        """Return the connection here that is not yet closed and has, or gets, this lock value."""

    def displaced(self, rival: Connection) -> None:
        """End a session of this pod: on return it delivers nothing any more."""

    def ask(self, connection: Connection, holder: str, timeout: float) -> asyncio.Task[bool | None]:
        """Ask the holder's pod whether it has the session; None: it does not answer.

        :param timeout: seconds.
        """

    def tell(self, connection: Connection, holder: str, timeout: float) -> asyncio.Task[None]:
        """Have the holder's pod end its session; done when it was told, at best when it has.

        :param timeout: seconds.
        """


class Contest:
    """Tries until the lock is ours or hopeless; used once.

    :param owner: who wants its identity's lock.
    :param ttl: seconds that a lock lasts.
    :param clock: monotonic seconds.
    """

    def __init__(
        self,
        owner: Connection,
        *,
        locks: Locks,
        neighbours: Neighbours,
        app: App,
        ttl: float,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._owner = owner
        self._key = owner.principal.session_key
        self._locks = locks
        self._neighbours = neighbours
        self._app = app
        self._ttl = ttl
        self._metrics = metrics
        self._clock = clock
        self._deadline = clock() + app.connect_timeout_seconds
        self._holder = ""
        self._force_at = 0.0
        self._pause = _FIRST_PAUSE_SECONDS
        self._told: asyncio.Task[None] | None = None
        self._asked: asyncio.Task[bool | None] | None = None
        self._there_since = 0.0
        self.met = False
        self.maybe_owner = False
        """Whether the lock may be ours; after an unanswered question it may."""

    @property
    def _rejects(self) -> bool:
        return self._owner.principal.kind == "admin" and self._app.admin_session_policy == "reject"

    async def run(self, before: Connection | None) -> Acquired:
        """Return once the lock is ours.

        A session of this pod is ended only after Redis has answered: while it is away nobody
        loses a session to a newcomer who cannot get one.

        :param before: the identity's open session on this pod, if any.
        :raises SessionConflict: the holder is not to be replaced, the owner was itself displaced,
            or the time is up.
        :raises InternalServerError: Redis is away.
        """
        if before is not None and self._rejects and not before.leaving:
            self._count_conflict()
            raise self._conflict()
        result = await self._ask("initial")
        try:
            while isinstance(result, Held):
                result = await self._next(result)
        finally:
            self._stop_asking()
        return result

    async def _next(self, held: Held) -> Acquired | Held:
        self.check_wanted()
        now = self._clock()
        if now >= self._deadline:
            raise SessionConflict(
                "the session is contended",
                details="other connections of this identity keep opening; try again later",
                reason="timeout",
            )
        self._meet(held, now)
        legacy = "#" not in held.holder
        if self._neighbours.is_ours(held.holder):
            rival = self._neighbours.rival(self._owner, held.holder)
            if rival is not None:
                self._replace_local(rival)
            return await self._ask("force", held.holder)
        if self._rejects and legacy:
            raise self._conflict()
        if self._rejects and held.alive and not held.leaving:
            return await self._respect(held.holder, self._deadline - now)
        if self._told is None:
            left = self._force_at - now
            self._told = self._neighbours.tell(self._owner, held.holder, max(left, 0.1))
        # An older pod has no lease to look at: it counts as alive until its time is up.
        if now >= self._force_at or not (held.alive or legacy):
            return await self._ask("force", held.holder)
        await self._wait(self._force_at - now, self._told)
        self.check_wanted()
        return await self._ask("retry")

    async def _respect(self, holder: str, patience: float) -> Acquired | Held:
        """Refuse if the session is there; take its place if it is not, and its pod cannot say so to
        Redis. Without an answer wait: the pod may be dead, its lease about to end."""
        answer = self._asked
        if answer is None:
            answer = self._asked = self._neighbours.ask(self._owner, holder, patience)
        elif answer.done():
            there, now = answer.result(), self._clock()
            if there is False:
                return await self._ask("force", holder)
            if there:
                self._there_since = self._there_since or now
                if now - self._there_since >= CERTAIN_SECONDS:
                    raise self._conflict()
            self._asked = None  # to be asked again after a pause, however quick the answer was
        await self._wait(patience, answer)
        self.check_wanted()
        return await self._ask("retry")

    def _meet(self, held: Held, now: float) -> None:
        rival = self._neighbours.rival(self._owner, held.holder)
        if not (held.leaving or (rival is not None and rival.leaving)):
            self._count_conflict()
        if held.holder != self._holder:
            self._holder = held.holder
            self._force_at = now + self._app.session_takeover_seconds
            self._pause = _FIRST_PAUSE_SECONDS
            self._told = None
            self._stop_asking()

    def _stop_asking(self) -> None:
        self._there_since = 0.0
        if self._asked is not None:
            self._asked.cancel()
            self._asked = None

    def _replace_local(self, rival: Connection) -> None:
        """End a session of this pod; it stops delivering before its lock is asked for."""
        if self._rejects and not rival.leaving:
            raise self._conflict()
        self._neighbours.displaced(rival)

    async def _wait(
        self, most: float, answer: asyncio.Task[None] | asyncio.Task[bool | None]
    ) -> None:
        """Wait for the holder's pod to answer; at the longest for this turn's pause."""
        cap = self._app.session_lock_retry_delay_ms / 1000
        pause = min(self._pause, cap) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        self._pause = min(self._pause * 2, cap)
        if answer.done():
            await asyncio.sleep(min(pause, most))
        else:
            await asyncio.wait((answer,), timeout=min(pause, most))

    async def _ask(self, lock_type: str, holder: str = "") -> Acquired | Held:
        """Ask for the lock, in place of `holder` if one is named; without an answer ask again:
        an owner is recognised as itself."""
        kind, owner = self._owner.principal.kind, self._owner.lock_value
        give_up_at = 0.0
        pause = _FIRST_PAUSE_SECONDS
        while True:
            self._metrics.lock_attempts.labels(kind, lock_type).inc()
            self.maybe_owner = True
            try:
                if holder:
                    result = await self._locks.take(self._key, holder, owner, self._ttl)
                else:
                    result = await self._locks.acquire(self._key, owner, self._ttl)
            except Unavailable:
                now = self._clock()
                give_up_at = give_up_at or now + _UNKNOWN_SECONDS
                if now + pause >= min(give_up_at, self._deadline):
                    raise _redis_away() from None
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                pause *= 2
                lock_type = "retry"
            else:
                self.maybe_owner = isinstance(result, Acquired)
                return result

    def check_wanted(self) -> None:
        """Stop where the owner has been closed meanwhile.

        :raises SessionConflict: it has been displaced, or its client has left.
        """
        if self._owner.state is State.CLOSED:
            reason = self._owner.reason or CloseReason.DISPLACED
            if reason is CloseReason.GOING_AWAY:
                raise InternalServerError("this server is going away", reason="cancelled")
            raise SessionConflict(
                "the session was taken over by a newer connection", reason=reason.label
            )

    def _count_conflict(self) -> None:
        if not self.met:
            self.met = True
            self._metrics.conflicts.labels(self._owner.principal.kind).inc()

    def _conflict(self) -> SessionConflict:
        return SessionConflict(
            "this identity already has a session",
            details="end the other connection first; sessions of admins are not replaced",
            reason="conflict",
        )


def _redis_away() -> InternalServerError:
    return InternalServerError(
        "sessions cannot be opened at the moment",
        details="the session store does not answer; try again in a few seconds",
        reason="redis_unavailable",
    )
