"""The parts of the way from the stream to a socket.

Who reads is in :mod:`daisi_ws.app.readiness_reader`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from daisi_ws.app.delivery import Delivery
from daisi_ws.app.membership import Membership
from daisi_ws.app.ports import ReaderRecord
from daisi_ws.app.readiness import ANSWER_SECONDS, SILENCE_SECONDS, Look
from daisi_ws.app.readiness_ports import (
    Connected,
    ConsumerState,
    ConsumerView,
    FilesUsedUp,
    Invalidations,
    Registry,
)
from daisi_ws.domain.errors import Unavailable


def silent(now: float, answered: float | None, who: str) -> Look:
    """Judge by when somebody answered last."""
    if answered is None:
        return Look(f"{who} has not been asked yet")
    if now - answered > SILENCE_SECONDS:
        return Look(f"{who} does not answer")
    return Look(seen=answered)


class LoopPart:
    """The loop turns, and what it writes to sockets is known to be right."""

    name = "loop"
    dependency = ""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery

    def look(self, now: float) -> Look:
        """See :meth:`Part.look`."""
        del now
        if self._delivery.may_write():
            return Look()
        return Look("it stood still: its sessions are being made sure of", at_once=True)


class RedisPart:
    """Redis answers, and tells when a route has changed."""

    name = "redis"
    dependency = "redis"

    def __init__(self, link: Connected, registry: Registry, changes: Invalidations) -> None:
        self._link = link
        self._registry = registry
        self._changes = changes
        self._answered: float | None = None
        self._problem = ""
        self.record: ReaderRecord | None = None

    @property
    def asked(self) -> bool:
        """Tell whether :attr:`record`, who reads, was ever looked up."""
        return self._answered is not None

    def applies(self) -> bool:
        """See :meth:`Probe.applies`."""
        return self._link.up

    async def ask(self, clock: Callable[[], float]) -> None:
        """See :meth:`Probe.ask`. One round trip."""
        try:
            told, record = await asyncio.gather(self._changes.check(), self._registry.reader())
        except Unavailable as problem:
            self._problem = str(problem)
            raise
        self.record = record
        self._answered = clock()
        self._problem = "" if told else "changes of routes were not told: asking for them anew"

    def look(self, now: float) -> Look:
        """See :meth:`Part.look`."""
        if not self._link.up:
            return Look(f"no connection: {self._link.problem}")
        if self._problem:
            return Look(self._problem)
        return silent(now, self._answered, "Redis")


class MembershipPart:
    """This pod is registered, its lease is renewed, and it misses nothing."""

    name = "membership"
    dependency = "redis"

    def __init__(self, membership: Membership, refresh: Callable[[], float]) -> None:
        self._membership = membership
        self._refresh = refresh
        self._refreshed_at: float | None = None
        self._seen = 0.0

    def look(self, now: float) -> Look:
        """See :meth:`Part.look`."""
        refreshed_at = self._membership.refreshed_at
        if refreshed_at is None:
            return Look("not registered yet")
        if refreshed_at != self._refreshed_at:
            self._refreshed_at, self._seen = refreshed_at, now
        if self._membership.catching_up:
            return Look("catching up after an absence", at_once=True)
        if now - self._seen > 1.5 * self._refresh() + SILENCE_SECONDS:
            return Look("the lease is not renewed")
        return Look(seen=self._seen)


class StreamPart:
    """NATS answers, and the stream exists."""

    name = "stream"
    dependency = "nats"

    def __init__(self, connection: Connected, view: ConsumerView) -> None:
        self._connection = connection
        self._view = view
        self._times = 0
        self._seen: float | None = None

    def look(self, now: float) -> Look:
        """See :meth:`Part.look`."""
        if self._view.stream_seen != self._times:
            self._times, self._seen = self._view.stream_seen, now
        if not self._connection.up:
            return Look(f"no connection: {self._connection.problem}")
        if self._view.stream_problem:
            return Look(self._view.stream_problem)
        return silent(now, self._seen, "NATS")


class ConsumerPart:
    """The consumer exists, and messages are asked for: by this pod, and as the server sees it."""

    name = "consumer"
    dependency = "nats"

    def __init__(self, connection: Connected, view: ConsumerView) -> None:
        self._connection = connection
        self._view = view
        self._bound = False
        self._answered: float | None = None
        self._unpulled = 0
        self.state: ConsumerState | None = None
        self.stalled_since: float | None = None

    def applies(self) -> bool:
        """See :meth:`Probe.applies`."""
        return self._view.bound

    async def ask(self, clock: Callable[[], float]) -> None:
        """See :meth:`Probe.ask`. One request."""
        state = await self._view.look(ANSWER_SECONDS)
        before, self.state = self.state, state
        now = self._answered = clock()
        moved = before is None or before.delivered != state.delivered
        self._unpulled = 0 if moved or state.pulled else self._unpulled + 1
        if moved or not state.pending:
            self.stalled_since = None
        elif self.stalled_since is None:
            self.stalled_since = now

    def look(self, now: float) -> Look:
        """See :meth:`Part.look`."""
        bound, self._bound = self._bound, self._view.bound
        if self._bound and not bound:
            self._answered = now  # finding it was an answer
        if not self._connection.up:
            return Look(f"no connection: {self._connection.problem}")
        if not self._bound:
            return Look(self._view.problem or "no consumer yet")
        if not self._view.pulling:
            return Look("this pod asks for no messages")
        if self._unpulled > 1:
            return Look("nobody asks for messages")
        return silent(now, self._answered, "NATS")


class GrpcPart:
    """This pod's own gRPC server takes a new connection and answers a call.

    :param serving: whether it is meant to.
    :param probe: makes a call; raises `Unavailable`.
    """

    name = "grpc"
    dependency = "grpc"

    def __init__(self, serving: Callable[[], bool], probe: Callable[[], Awaitable[None]]) -> None:
        self._serving = serving
        self._probe = probe
        self._answered: float | None = None
        self._problem = ""
        self.files_used_up = False

    def applies(self) -> bool:
        """See :meth:`Probe.applies`."""
        return self._serving()

    async def ask(self, clock: Callable[[], float]) -> None:
        """See :meth:`Probe.ask`. One connection and one call."""
        try:
            await self._probe()
        except Unavailable as problem:
            self._problem = str(problem)
            self.files_used_up = isinstance(problem, FilesUsedUp)
            raise
        self._answered, self._problem, self.files_used_up = clock(), "", False

    def look(self, now: float) -> Look:
        """See :meth:`Part.look`."""
        if not self._serving():
            return Look("not serving")
        if self._problem:
            return Look(self._problem)
        return silent(now, self._answered, "this pod's own server")
