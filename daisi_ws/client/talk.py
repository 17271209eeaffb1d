"""What is said on the connections of one client, and what has to be said again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from daisi_ws.client.answers import Answer, Answers
from daisi_ws.client.backoff import Backoff
from daisi_ws.client.choice import Choice
from daisi_ws.client.credentials import Credentials
from daisi_ws.client.ending import Rejected, Unreachable
from daisi_ws.client.frames import Done, Error, Frame, Gap, Ready, Resumed, TokenExpiring
from daisi_ws.client.link import Link
from daisi_ws.client.position import Position
from daisi_ws.client.repair import Repair

ANSWER_SECONDS: Final = 30.0
"""So long the answer to a question of the client's own is waited for."""


class Talk:
    """Asks for a chat and for what is missing, on whichever connection there is.

    :param position: None: no positions are told, and none asked for.
    :param room: waits until there is room for what is asked for.
    :param pauses: between questions of its own.
    """

    def __init__(
        self,
        position: Position | None,
        credentials: Credentials,
        room: Callable[[], Awaitable[None]],
        pauses: Backoff,
    ) -> None:
        self._position = position
        self._credentials = credentials
        self._room = room
        self._answers = Answers()
        self._repair = Repair(self._is_needed, self._ask_again, pauses)
        self._choice = Choice(position, self._answers, self._repair.look)
        self._link: Link | None = None
        self._token_ends = False

    @property
    def chat_id(self) -> str | None:
        """The chat looked at."""
        return self._choice.chat_id

    def query(self) -> dict[str, str]:
        """Return the query parameters of a handshake: the position, if there is to be one."""
        position = self._position
        if position is None:
            return {}
        if not position.stream:
            return {"last_seq": ""}
        return {"last_seq": str(position.seq), "stream": position.stream}

    async def begin(self, link: Link) -> None:
        """Go on with a connection that is `ready`.

        :raises Unreachable: it is gone already.
        """
        self._link = link
        self._token_ends = False
        if self._choice.chat_id is not None:
            await self._choose()
        self._repair.look()

    def start(self, ready: Ready) -> None:
        """Take in a `ready`."""
        if self._position is not None:
            self._position.start(ready)

    def end(self, *, moved: bool) -> None:
        """The connection is gone.

        :param moved: there is another already.
        """
        self._link = None
        self._repair.stop()
        self._choice.lost(moved=moved)

    def take(self, frame: Frame) -> None:
        """Take in a frame that is no event."""
        position = self._position
        match frame:
            case Done():
                self._choice.done(frame)
                self._answers.done(frame)
            case Error():
                self._answers.error(frame)
            case Resumed(chat_id=None):
                if position is not None:
                    position.resumed(frame)
                self._answers.resumed(frame)
            case Resumed():
                self._choice.resumed(frame)
            case Gap() if position is not None:
                position.gap(frame)
            case TokenExpiring():
                self._token_ends = self._credentials.renewable
        self._repair.look()

    async def select_chat(
        self, chat_id: str, last_seq: int | None, *, wait: bool, timeout: float
    ) -> int:
        """See :meth:`daisi_ws.client.ReferenceClient.select_chat`."""
        before = self._choice.chat_id
        self._choice.choose(chat_id, last_seq)
        if not wait:
            await self._choose()
            return 0
        number, answer = self._choice.expect()
        try:
            message = _message("select_chat", self._choice.payload(), number)
            return await self._ask(message, number, answer, timeout)
        except Rejected:
            if self._choice.chat_id == chat_id:
                self._choice.choose(before)
            raise

    async def present_token(self, token: str, *, wait: bool, timeout: float) -> None:
        """See :meth:`daisi_ws.client.ReferenceClient.present_token`."""
        before, self._credentials.token = self._credentials.token, token
        number, answer = self._answers.expect()
        message = _message("token", {"token": token}, number)
        try:
            await self._ask(message, number, answer if wait else None, timeout)
        except Rejected:
            self._credentials.token = before
            raise

    async def send(self, text: str) -> None:
        """Send a text message as it is.

        :raises Unreachable: no connection now.
        """
        if self._link is None:
            raise Unreachable("not connected now")
        await self._link.send(text)

    def drop(self) -> None:
        """See :meth:`daisi_ws.client.ReferenceClient.drop`."""
        if self._link is not None:
            self._link.drop()

    async def _ask(self, message: str, number: int, answer: Answer | None, timeout: float) -> int:
        try:
            await self.send(message)
            if answer is None:
                return 0
            async with asyncio.timeout(timeout):
                return await answer
        finally:
            self._answers.forget(number)

    async def _choose(self) -> Answer:
        number, answer = self._choice.expect()
        await self.send(_message("select_chat", self._choice.payload(), number))
        return answer

    # -- what has to be said again ----------------------------------------------------------------

    def _is_needed(self) -> bool:
        position = self._position
        lacking = position is not None and (position.behind or position.thread_behind)
        return self._link is not None and (self._token_ends or self._choice.refused or lacking)

    async def _ask_again(self) -> None:
        await self._room()
        if self._token_ends:
            async with asyncio.timeout(ANSWER_SECONDS):
                token = await self._credentials.renew()
            await self.present_token(token, wait=True, timeout=ANSWER_SECONDS)
            self._token_ends = False
        elif self._position is not None and self._position.behind:
            await self._resume(self._position)
        elif self._choice.chat_id is not None:
            await asyncio.wait([await self._choose()], timeout=ANSWER_SECONDS)

    async def _resume(self, position: Position) -> None:
        number, answer = self._answers.expect()
        payload: dict[str, object] = {"last_seq": position.seq, "stream": position.stream}
        await self._ask(_message("resume", payload, number), number, answer, ANSWER_SECONDS)


def _message(kind: str, payload: dict[str, object], number: int) -> str:
    return msgspec.json.encode({"type": kind, "id": number, "payload": payload}).decode()
