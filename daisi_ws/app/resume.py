"""Clients that come back with their position, and what they missed, joined to what comes.

While what was missed is read, what comes is held in the connection's outbox. Both are then
written in order, each event once: nothing between them can be missing, because the read reaches
to where the connection is complete, or further, if the outbox could not hold everything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import structlog

from daisi_ws.app.connection import Connection
from daisi_ws.app.delivery import Delivery
from daisi_ws.app.replay import Replays
from daisi_ws.config import Resume
from daisi_ws.domain import frames
from daisi_ws.domain.frames import ResumeFrom, SelectChat
from daisi_ws.domain.resume import Claim, NotRecovered, Recovery
from daisi_ws.domain.streams import Point, further
from daisi_ws.metrics import Metrics

log = structlog.get_logger(__name__)


class Resumption:
    """Answers claims, at the handshake and on open connections.

    :param shared: events come in no order, so that one sequence is no complete position.
    :param settings: getter of the bounds.
    """

    def __init__(
        self,
        *,
        shared: bool,
        delivery: Delivery,
        replays: Replays,
        settings: Callable[[], Resume],
        metrics: Metrics,
    ) -> None:
        self._shared = shared
        self._delivery = delivery
        self._replays = replays
        self._settings = settings
        self._metrics = metrics

    def hold(self, connection: Connection) -> None:
        """Hold what comes for a connection, in an outbox as large as what it may have missed.

        One that is behind is not held.
        """
        connection.positions = True
        settings = self._settings()
        connection.hold(settings.max_events, settings.max_bytes)

    async def joining(self, connection: Connection, claim: Claim) -> None:
        """Read what a joining connection missed; its answer comes with `ready`."""
        subject = connection.principal.subject
        interests = (subject,) if subject else ()
        connection.recovery = await self._recover(connection, interests, claim, connection.position)

    def is_outrun(self, connection: Connection) -> bool:
        """Tell whether what was read has a gap to what is held by now: too much has come since."""
        recovery = connection.recovery
        if recovery is None or not recovery.recovered:
            return False
        return connection.outbox.dropped_upto > recovery.upto

    def checked(self, connection: Connection) -> Recovery | None:
        """Return the answer for a connection that is opened now: nothing may wait any more."""
        recovery = connection.recovery
        if recovery is None:
            return None
        if recovery.recovered and recovery.stream != self._delivery.stream:
            recovery = Recovery("other_stream")
        elif self.is_outrun(connection):
            recovery = Recovery("busy")
        self._count(connection, recovery)
        return recovery

    async def resume(self, connection: Connection, message: ResumeFrom) -> None:
        """Answer a `resume` message: everything that this connection is subscribed to."""
        self.hold(connection)
        await self._answer(
            connection,
            tuple(connection.interests),
            message.claim,
            position=further(self._delivery.point, connection.position),
            message_id=message.id,
        )

    async def resume_chat(
        self, connection: Connection, message: SelectChat, claim: Claim, position: Point
    ) -> int:
        """Answer a `select_chat` with a position in the thread.

        :param position: from where the thread is live; the connection is held since before.
        :return: from where the thread is complete now.
        """
        return await self._answer(
            connection,
            () if connection.chat is None else (connection.chat,),
            claim,
            position=position,
            message_id=message.id,
            chat_id=message.chat_id,
        )

    async def _answer(
        self,
        connection: Connection,
        interests: Collection[str],
        claim: Claim,
        *,
        position: Point,
        message_id: frames.MessageId | None,
        chat_id: str | None = None,
    ) -> int:
        # Who was behind may have caught up since, but what came meanwhile was not held.
        if connection.held:
            recovery = await self._recover(connection, interests, claim, position)
        else:
            recovery = Recovery("busy")
        self._count(connection, recovery)
        stream = self._delivery.stream
        seq = recovery.after if recovery.recovered else position.seq_in(stream)
        told = frames.resumed(stream, seq, recovery, message_id=message_id, chat_id=chat_id)
        connection.release(told, recovery)
        if recovery.recovered:
            self._delivery.has(connection, recovery.upto)
            connection.has(Point(stream, recovery.upto))
        return seq

    async def _recover(
        self, connection: Connection, interests: Collection[str], claim: Claim, position: Point
    ) -> Recovery:
        if self._shared:
            return Recovery("unordered")
        stream, had = self._delivery.stream, self._delivery.had(connection)
        upto = max(position.seq_in(stream), self._delivery.mark)
        try:
            recovery = await self._read(connection, interests, claim, Point(stream, upto), had)
            while upto < connection.outbox.dropped_upto:
                upto = connection.outbox.dropped_upto
                recovery = await self._read(connection, interests, claim, Point(stream, upto), had)
        except NotRecovered as refused:
            return Recovery(refused.reason)
        return recovery if self._delivery.stream == stream else Recovery("other_stream")

    async def _read(
        self,
        connection: Connection,
        interests: Collection[str],
        claim: Claim,
        upto: Point,
        had: int,
    ) -> Recovery:
        """Read what came after the claim, and what that would overtake.

        The reader, whose word a thread is read up to, may be ahead of what it has given this pod:
        for long, if it does not reach it. A client that got the thread's events first would take
        the others for had, should its connection end before they come.

        :param had: up to here the connection had everything that it was subscribed to.
        :raises NotRecovered: something of it is not to be had.
        """
        recovery = await self._replays.read(interests, claim, upto.stream, upto.seq)
        others = connection.interests.difference(interests)
        if not others:
            return replace(recovery, whole=True)
        if recovery.upto <= had:
            return recovery
        if self._delivery.unsequenced_expected:
            # They may have been given already, by an older pod, and could not be told from these.
            raise NotRecovered("busy")
        since = Claim(had, upto.stream)
        try:
            rest = await self._replays.read(others, since, upto.stream, recovery.upto)
        except NotRecovered as refused:
            # That is not about the position which the client claims: it may ask again.
            passing = refused.reason if refused.reason == "unavailable" else "busy"
            raise NotRecovered(passing) from None
        lost = 0 < connection.outbox.dropped_from <= had
        return replace(recovery, others=rest.events, whole=not lost)

    def _count(self, connection: Connection, recovery: Recovery) -> None:
        self._metrics.resumes.labels(recovery.reason or "recovered").inc()
        self._metrics.resumed_events.inc(len(recovery.events))
        log.info(
            "resumed" if recovery.recovered else "not resumed",
            request_id=connection.request_id,
            events=len(recovery.events),
            reason=recovery.reason,
        )
