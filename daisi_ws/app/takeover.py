"""One session per identity, cluster-wide: whoever comes last has it.

A displaced connection stops delivering first; only then is its lock released or taken. What is
said late (a kill, a release, a renewal) names the lock value it is about, connection included, so
it never harms a newer session of the same identity.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar

import structlog

from daisi_ws.app.connection import Connection, State
from daisi_ws.app.contest import Contest
from daisi_ws.app.hub import Hub
from daisi_ws.app.ports import Acquired, Kills, Locks
from daisi_ws.app.renew import lock_ttl
from daisi_ws.config import Config
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.errors import Refusal, Unavailable
from daisi_ws.log import limited
from daisi_ws.metrics import Metrics

LINGER_SECONDS: Final = 5.0
"""How long the silent socket of a client that moves stays: the next connection may still read
what it missed, and then the client closes this one itself."""

RELEASE_AGAIN_SECONDS: Final = 0.25
"""Between two attempts at giving up locks, while Redis is away."""

_SESSION: Final = "session:"
_KILL: Final = "session_kill:"
_T = TypeVar("_T")

log = structlog.get_logger(__name__)


class Displacer(Protocol):
    """The part of :class:`daisi_ws.app.ports.Peers` that takeovers need."""

    async def displace(self, pod_id: str, session_key: str, holder: str, timeout: float) -> None:
        """See :meth:`Peers.displace`."""

    async def has_session(self, pod_id: str, session_key: str, holder: str, timeout: float) -> bool:
        """See :meth:`Peers.has_session`."""


class Takeover:
    """Gets session locks for newcomers and ends what they displace.

    :param pod_id: this pod's; lock values begin with it.
    :param config: getter of the configuration, asked for each newcomer.
    :param clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        hub: Hub,
        locks: Locks,
        kills: Kills,
        peers: Displacer,
        pod_id: str,
        config: Callable[[], Config],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hub = hub
        self._locks = locks
        self._kills = kills
        self._peers = peers
        self._pod_id = pod_id
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self._joining: dict[str, Connection] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._releasing: set[asyncio.Task[None]] = set()

    async def acquire(self, connection: Connection) -> Acquired:
        """Make this connection the session of its identity; the hub knows it as that then.

        A connection that is displaced meanwhile is closed like any other and gets a conflict.

        :raises SessionConflict: there is a session that is not to be replaced (admins, by
            policy), the connection was closed meanwhile, or others kept coming until
            `app.connect_timeout_seconds` was up.
        :raises InternalServerError: Redis is away.
        """
        config = self._config()
        contest = Contest(
            connection,
            locks=self._locks,
            neighbours=self,
            app=config.app,
            ttl=lock_ttl(config, idle_seconds=0.0),
            metrics=self._metrics,
            clock=self._clock,
        )
        self._joining[connection.lock_value] = connection
        try:
            acquired = await contest.run(self._session(connection.principal.identity))
            contest.check_wanted()
        except BaseException as error:
            reason = error.reason if isinstance(error, Refusal) else "cancelled"
            self._metrics.lock_failure.labels(reason).inc()
            if contest.maybe_owner:
                self._spawn(self.release([connection]))
            raise
        finally:
            del self._joining[connection.lock_value]
        self._own(connection)
        self._metrics.lock_success.inc()
        return acquired

    async def release(self, connections: Iterable[Connection]) -> None:
        """Give up the locks that are still these connections'; without Redis as soon as it is back,
        or they expire.
        """
        leases = [(c.principal.session_key, c.lock_value) for c in connections]
        await self._release(leases)

    async def displace(self, session_key: str, holder: str) -> None:
        """End a session of this pod, then release its lock; other lock values are ignored.

        The lock is released even if there is no such session here any more.

        :param holder: the lock value that is to go.
        :raises Unavailable: the lock may not be released; the session has ended.
        """
        if not self.is_ours(holder):
            return
        self._stop(session_key.removeprefix(_SESSION), holder)
        await self._locks.release([(session_key, holder)])

    def on_kill(self, channel: str, new_pod_id: str, holder: str) -> None:
        """Do what a kill says, see :meth:`Kills.listen`: delivery has stopped on return, the lock
        is released soon after."""
        identity = channel.removeprefix(_KILL)
        if not holder and new_pod_id != self._pod_id:
            session = self._session(identity)
            holder = "" if session is None else session.lock_value
        if self.is_ours(holder):
            self._stop(identity, holder)
            self._spawn(self._release([(_SESSION + identity, holder)]))

    async def aclose(self) -> None:
        """Wait for what was begun in the background."""
        for task in self._releasing:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def is_ours(self, holder: str) -> bool:
        """Tell whether a lock value is of this pod."""
        pod, mark, _ = holder.partition("#")
        return bool(mark) and pod == self._pod_id

    def rival(self, connection: Connection, holder: str) -> Connection | None:
        """Return the connection here that is not yet closed and has, or gets, this lock value."""
        return self._find(connection.principal.identity, holder)

    def displaced(self, rival: Connection) -> None:
        """End a session of this pod: on return it delivers nothing any more."""
        if not rival.leaving:
            rival.close(CloseReason.DISPLACED)
            return
        rival.mute(CloseReason.MOVED)
        loop = asyncio.get_running_loop()
        loop.call_later(LINGER_SECONDS, rival.close, CloseReason.MOVED)

    def has_session(self, session_key: str, holder: str) -> bool:
        """Tell whether a session of this pod is open or about to be."""
        return self._find(session_key.removeprefix(_SESSION), holder) is not None

    def ask(self, connection: Connection, holder: str, timeout: float) -> asyncio.Task[bool | None]:
        """See :meth:`Neighbours.ask`."""
        return self._spawn(self._is_there(connection.principal.session_key, holder, timeout))

    def tell(self, connection: Connection, holder: str, timeout: float) -> asyncio.Task[None]:
        """See :meth:`Neighbours.tell`. By gRPC and by the kill switch at once."""
        return self._spawn(self._tell(connection, holder, timeout))

    async def _is_there(self, session_key: str, holder: str, timeout: float) -> bool | None:
        pod, _, _ = holder.partition("#")
        try:
            return await self._peers.has_session(pod, session_key, holder, timeout)
        except Unavailable:
            return None

    async def _tell(self, connection: Connection, holder: str, timeout: float) -> None:
        principal = connection.principal
        calls = [self._kills.publish(principal.kill_channel, self._pod_id, holder)]
        pod, mark, _ = holder.partition("#")
        if mark:
            calls.append(self._peers.displace(pod, principal.session_key, holder, timeout))
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, Unavailable):
                log.error("holder of a session not told", holder=holder, exc_info=outcome)

    async def _release(self, leases: list[tuple[str, str]]) -> None:
        try:
            await self._locks.release(leases)
        except Unavailable as error:
            count, problem = len(leases), str(error)
            limited(
                log, "session locks not released yet", level="info", count=count, problem=problem
            )
            task = self._spawn(self._release_later(leases))
            self._releasing.add(task)
            task.add_done_callback(self._releasing.discard)

    async def _release_later(self, leases: list[tuple[str, str]]) -> None:
        """Release as soon as Redis answers: an identity that comes back at once is else taken for
        a second one, which an admin is refused for."""
        for _ in range(int(self._config().app.session_ttl_seconds / RELEASE_AGAIN_SECONDS)):
            await asyncio.sleep(RELEASE_AGAIN_SECONDS)
            with suppress(Unavailable):
                return await self._locks.release(leases)
        return None

    def _stop(self, identity: str, holder: str) -> None:
        connection = self._find(identity, holder)
        if connection is not None:
            self.displaced(connection)

    def _find(self, identity: str, holder: str) -> Connection | None:
        for connection in (self._joining.get(holder), self._session(identity)):
            if connection is not None and connection.lock_value == holder:
                return None if connection.state is State.CLOSED else connection
        return None

    def _session(self, identity: str) -> Connection | None:
        """Return the identity's session here that is not yet closed."""
        session = self._hub.session(identity)
        return None if session is None or session.state is State.CLOSED else session

    def _own(self, connection: Connection) -> None:
        before = self._session(connection.principal.identity)
        if before is not None and before is not connection:
            # Its lock had vanished (Redis came back empty), or it would have been asked to go.
            self.displaced(before)
        self._hub.own_session(connection)

    def _spawn(self, work: Coroutine[None, None, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
