"""A connection's way through the pod: admission, its messages, its end. Users and admins alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol
from uuid import uuid4

import structlog

from daisi_ws.app.connection import Connection, State
from daisi_ws.app.delivery import Delivery
from daisi_ws.app.hub import Hub
from daisi_ws.app.interests import Interests
from daisi_ws.app.ports import Sink
from daisi_ws.domain import frames
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.errors import (
    BadRequest,
    InternalServerError,
    Refusal,
    SubscriptionFailure,
    Unavailable,
)
from daisi_ws.domain.frames import RefreshToken, SelectChat
from daisi_ws.domain.outbox import Outbox
from daisi_ws.domain.principal import Principal
from daisi_ws.domain.streams import Point

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

    async def admit(self, principal: Principal, request_id: str) -> Connection:
        """See :meth:`Gateway.admit`. Session and interests are asked for at the same time."""
        connection = Connection(
            connection_id=uuid4().hex,
            pod_id=self._pod_id,
            principal=principal,
            request_id=request_id,
            outbox=self._outbox(),
            queue=self._delivery.queue,
            may_write=self._delivery.may_write,
        )
        self._hub.join(connection)
        session = asyncio.ensure_future(self._sessions.acquire(connection))
        try:
            async with asyncio.timeout(self._timeout()):
                connection.position = await self._subscribe(connection)
                await session
        except BaseException as error:  # noqa: BLE001 - whatever it was, all is given back
            # The release must come after whatever the acquisition has already sent.
            session.cancel()
            await asyncio.gather(session, return_exceptions=True)
            await self.leave(connection, CloseReason.INTERNAL_ERROR)
            raise _refusal(error) from None
        return connection

    def open(self, connection: Connection, sink: Sink) -> None:
        """See :meth:`Gateway.open`."""
        position = connection.complete_after(self._delivery.stream)
        ready = frames.ready(self._delivery.stream, position, connection.connection_id)
        connection.open(sink, ready, position, self._clock())

    async def select_chat(self, connection: Connection, message: SelectChat) -> None:
        """See :meth:`Gateway.select_chat`. The old chat is left at once."""
        subject = connection.principal.thread(message.chat_id)
        if subject is None:
            raise BadRequest("admins select no chats", details="select_chat is for users")
        position = self._delivery.point
        if connection.chat != subject:
            self._leave_chat(connection)
            connection.chat = subject
            try:
                position = await self._interests.want(connection, subject)
            except Unavailable as error:
                self._leave_chat(connection)
                raise SubscriptionFailure("chat not selected", details=str(error)) from None
            except Refusal:
                self._leave_chat(connection)
                raise
            if connection.state is State.CLOSED or connection.chat != subject:
                self._unsubscribe(connection, subject)
        if message.id is not None:
            connection.send(frames.done(message.id, position.seq_in(self._delivery.stream)))

    async def refresh_token(self, connection: Connection, message: RefreshToken) -> None:
        """See :meth:`Gateway.refresh_token`."""
        connection.principal = await self._tokens.refresh(connection.principal, message.token)
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

    async def _subscribe(self, connection: Connection) -> Point:
        if not connection.principal.subject:
            return self._delivery.point
        return await self._interests.want(connection, connection.principal.subject)

    def _leave_chat(self, connection: Connection) -> None:
        subject, connection.chat = connection.chat, None
        if subject is not None:
            self._unsubscribe(connection, subject)

    def _unsubscribe(self, connection: Connection, subject: str) -> None:
        if self._hub.remove(connection, subject):
            self._interests.unwanted([subject])


def _refusal(error: BaseException) -> BaseException:
    if isinstance(error, Unavailable):
        return InternalServerError("try again in a moment", details=str(error))
    if isinstance(error, TimeoutError):
        return SubscriptionFailure("not admitted in time", details="try again in a moment")
    return error
