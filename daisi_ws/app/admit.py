"""A connection's way through the pod: admission, its messages, its end. Users and admins alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from secrets import token_hex
from typing import Protocol

import structlog

from daisi_ws.app.connection import Connection, State
from daisi_ws.app.delivery import Delivery
from daisi_ws.app.hub import Hub
from daisi_ws.app.interests import Interests
from daisi_ws.app.ports import Sink
from daisi_ws.app.resume import Resumption
from daisi_ws.domain import frames
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.errors import (
    BadRequest,
    InternalServerError,
    Refusal,
    SubscriptionFailure,
    Unavailable,
)
from daisi_ws.domain.frames import RefreshToken, ResumeFrom, SelectChat
from daisi_ws.domain.outbox import Outbox
from daisi_ws.domain.principal import Principal
from daisi_ws.domain.resume import Claim
from daisi_ws.domain.streams import Point, further
from daisi_ws.log import limited

log = structlog.get_logger(__name__)


class Sessions(Protocol):
    """What admission needs of session locks."""

    async def acquire(self, connection: Connection) -> object:
        """Make the connection the one of its identity.

        :raises Refusal: it cannot be.
        """

    async def release(self, connections: list[Connection]) -> None:
        """Give back the locks that are still these connections'."""


class Tokens(Protocol):
    """What admission needs of authentication."""

    async def refresh(self, principal: Principal, token: str) -> Principal:
        """Return the principal of a fresh token of the same identity and scope.

        :raises InvalidToken: it is no such token.
        """


class Admission:
    """:class:`daisi_ws.app.gateway_ports.Gateway` of one pod.

    :param outbox: makes a connection's outbox.
    :param timeout: getter of the seconds that an admission may take.
    """

    def __init__(
        self,
        *,
        pod_id: str,
        hub: Hub,
        delivery: Delivery,
        interests: Interests,
        sessions: Sessions,
        tokens: Tokens,
        resumption: Resumption,
        outbox: Callable[[], Outbox],
        timeout: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pod_id = pod_id
        self._hub = hub
        self._delivery = delivery
        self._interests = interests
        self._sessions = sessions
        self._tokens = tokens
        self._resumption = resumption
        self._outbox = outbox
        self._timeout = timeout
        self._clock = clock
        self._accepting = True

    def accepting(self) -> bool:
        """See :meth:`Gateway.accepting`."""
        return self._accepting

    def stop_accepting(self) -> None:
        """Refuse new connections from now on."""
        self._accepting = False

    async def admit(
        self, principal: Principal, request_id: str, claim: Claim | None = None
    ) -> Connection:
        """See :meth:`Gateway.admit`. Session and interests are asked for at the same time.

        Whoever comes with a position may have a connection that still delivers (make before
        break): its session is taken over only when nothing else can fail any more.
        """
        connection = Connection(
            connection_id=token_hex(16),
            pod_id=self._pod_id,
            principal=principal,
            request_id=request_id,
            outbox=self._outbox(),
            queue=self._delivery.queue,
            may_write=self._delivery.may_write,
        )
        if claim is not None:
            self._resumption.hold(connection)
        self._hub.join(connection)
        try:
            async with asyncio.timeout(self._timeout()):
                complete = self._subscribe(connection)
                if claim is None or claim.seq is None:
                    await self._sessions.acquire(connection)
                    connection.position = await complete
                else:
                    connection.position = await complete
                    await self._resumption.joining(connection, claim)
                    await self._sessions.acquire(connection)
                if claim is not None and self._resumption.is_outrun(connection):
                    await self._resumption.joining(connection, claim)
        except BaseException as error:  # noqa: BLE001 - whatever it was, all is given back
            await self.leave(connection, CloseReason.INTERNAL_ERROR)
            raise _refusal(error) from None
        log.debug("session and routes are ours", connection_id=connection.connection_id)
        return connection

    def open(self, connection: Connection, sink: Sink) -> None:
        """See :meth:`Gateway.open`."""
        stream = self._delivery.stream
        recovery = connection.recovery = self._resumption.checked(connection)
        if recovery is not None and recovery.recovered:
            position = recovery.after
        else:
            position = connection.complete_after(stream)
        ready = frames.ready(stream, position, connection.connection_id, recovery)
        connection.open(sink, ready, position, self._clock())
        log.debug("ready told", connection_id=connection.connection_id, seq=position)
        upto = max(position, 0 if recovery is None else recovery.upto)
        connection.has(Point(stream, upto))
        self._delivery.has(connection, upto)

    async def select_chat(self, connection: Connection, message: SelectChat) -> None:
        """See :meth:`Gateway.select_chat`. The old chat is left at once."""
        subject = connection.principal.thread(message.chat_id)
        if subject is None:
            raise BadRequest("admins select no chats", details="select_chat is for users")
        claim = message.claim
        if claim is not None:
            self._resumption.hold(connection)
        try:
            position = await self._look_at(connection, subject, silent=claim is not None)
        except BaseException:
            connection.let_go()
            raise
        seq = position.seq_in(self._delivery.stream)
        if claim is not None:
            seq = await self._resumption.resume_chat(connection, message, claim, position)
        if message.id is not None:
            connection.send(frames.done(message.id, seq))

    async def resume(self, connection: Connection, message: ResumeFrom) -> None:
        """See :meth:`Gateway.resume`."""
        await self._resumption.resume(connection, message)

    async def refresh_token(self, connection: Connection, message: RefreshToken) -> None:
        """See :meth:`Gateway.refresh_token`."""
        connection.refresh(await self._tokens.refresh(connection.principal, message.token))
        if message.id is not None:
            connection.send(frames.done(message.id, self._delivery.mark))

    async def leave(self, connection: Connection, reason: CloseReason) -> None:
        """See :meth:`Gateway.leave`. What is somebody else's by now is not touched."""
        connection.close(reason)
        self._delivery.forget(connection)
        self._interests.unwanted(self._hub.leave(connection))
        try:
            await self._sessions.release([connection])
        except Unavailable as problem:
            log.info("session lock not handed back, it expires", problem=str(problem))

    def _subscribe(self, connection: Connection) -> asyncio.Future[Point]:
        if connection.principal.subject:
            return self._interests.want(connection, connection.principal.subject)
        if not self._delivery.stream:
            problem = "this pod does not know the stream yet; try again in a moment"
            raise SubscriptionFailure("not admitted", details=problem)
        at_once: asyncio.Future[Point] = asyncio.get_running_loop().create_future()
        at_once.set_result(self._delivery.point)
        return at_once

    async def _look_at(self, connection: Connection, subject: str, *, silent: bool) -> Point:
        """Subscribe to a thread instead of the one before; return from where it is complete.

        :param silent: see :meth:`Interests.want`: events of a thread that was not selected after
            all would be out of order when it is asked for again.
        """
        if connection.chat == subject:
            return further(self._delivery.point, connection.position)
        self._leave_chat(connection)
        connection.chat = subject
        try:
            position = await self._interests.want(connection, subject, silent=silent)
        except Unavailable as error:
            self._leave_chat(connection)
            raise SubscriptionFailure("chat not selected", details=_away(error)) from None
        except Refusal:
            self._leave_chat(connection)
            raise
        if connection.state is State.CLOSED or connection.chat != subject:
            self._unsubscribe(connection, subject)
        connection.has(position)
        # What the connection has by now is not given to it again, of no subject: it may come from a
        # pod that was ahead of this one.
        return connection.position

    def _leave_chat(self, connection: Connection) -> None:
        subject, connection.chat = connection.chat, None
        if subject is not None:
            self._unsubscribe(connection, subject)

    def _unsubscribe(self, connection: Connection, subject: str) -> None:
        if self._hub.remove(connection, subject):
            self._interests.unwanted([subject])


def _refusal(error: BaseException) -> BaseException:
    if isinstance(error, Unavailable):
        return InternalServerError("not admitted", details=_away(error))
    if isinstance(error, TimeoutError):
        return SubscriptionFailure("not admitted in time", details="try again in a moment")
    return error


def _away(error: Unavailable) -> str:
    """Return what a client is told of a dependency that is away. Which one, and at what address,
    is for the log alone."""
    limited(log, "clients are refused: a dependency is away", problem=str(error))
    return "something that this needs does not answer; try again"
