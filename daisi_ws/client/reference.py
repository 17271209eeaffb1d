"""One client of the gateway that stays connected, selects chats and tells frames as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import aiohttp
import msgspec

from daisi_ws.client.answers import Answers
from daisi_ws.client.backoff import Backoff
from daisi_ws.client.ending import (
    ABNORMAL_CLOSURE,
    FINAL_CLOSE_CODES,
    ClientProblem,
    Ended,
    Rejected,
    Unreachable,
)
from daisi_ws.client.frames import Done, Error, Event, Frame, Lost, Ready
from daisi_ws.client.handshake import client_session
from daisi_ws.client.link import Ending, Link
from daisi_ws.client.mailbox import Mailbox
from daisi_ws.client.position import Position


class ReferenceClient:
    """A client with one reading task; frames go to `on_frame`, or to whoever iterates.

    ::

        async with ReferenceClient(url, api_key, token) as client:
            await client.select_chat("chat-7")
            async for frame in client:
                ...

    It redials by itself (a :class:`Lost` frame tells it, a new :class:`Ready` follows) and then
    selects its chat again. After a final close code or refusal it stays away, and iterating
    raises :class:`Ended`.

    :param url: of the WebSocket, see :func:`user_url` and :func:`admin_url`.
    :param api_key: sent as `X-API-Key`.
    :param token: sent as `Authorization: Bearer`, so that it is in nobody's access log.
    :param positions: follow the position in the stream, and hold back events that come again
        (`position` counts them). Without it frames come as they are.
    :param on_frame: called in the reading task for each frame; must not block; if it raises, the
        client ends. With it there is nothing to iterate.
    :param session: from :func:`client_session`, shared by many clients; None: one of our own.
    :param buffer: with so many frames waiting for who iterates, the socket is not read (nor are
        pings answered) until some are taken.
    :param connect_timeout: seconds from dialling to `ready`.
    :param heartbeat: seconds between two pings of ours, by which a dead peer is noticed.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        token: str,
        *,
        positions: bool = False,
        on_frame: Callable[[Frame], None] | None = None,
        session: aiohttp.ClientSession | None = None,
        headers: Mapping[str, str] | None = None,
        backoff: Backoff | None = None,
        buffer: int = 1000,
        connect_timeout: float = 15.0,
        heartbeat: float | None = 20.0,
    ) -> None:
        self.url = url
        self.position = Position() if positions else None
        self.ready: Ready | None = None
        self.reconnects = 0
        self.chat_id: str | None = None
        self._headers = {
            **(headers or {}),
            "X-API-Key": api_key,
            "Authorization": f"Bearer {token}",
        }
        self._backoff = backoff or Backoff()
        self._session = session
        self._own_session = session is None
        self._connect_timeout = connect_timeout
        self._heartbeat = heartbeat
        self._mailbox = Mailbox(buffer)
        self._emit = on_frame or self._mailbox.put
        self._task: asyncio.Task[None] | None = None
        self._first: asyncio.Future[Ready] | None = None
        self._link: Link | None = None
        self._answers = Answers()

    def __repr__(self) -> str:
        return f"ReferenceClient({self.url})"

    async def connect(self, *, retry: bool = False) -> Ready:
        """Connect, and return the first `ready`.

        :param retry: go on dialling while the gateway is unreachable, instead of raising.
        :raises Unreachable: no connection, or none that became ready in time.
        :raises Ended: the gateway does not want this client (:class:`Refused` if it said so by an
            HTTP status).
        """
        if self._task is not None:
            raise RuntimeError("connect() is called once")
        if self._session is None:
            self._session = client_session()
        self._first = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._keep(self._session, retry), name="client")
        self._task.add_done_callback(self._finish)
        try:
            return await asyncio.shield(self._first)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection (code 1000) and stay away. Idempotent.

        An exception that `on_frame` raised is raised here.
        """
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._own_session and self._session is not None:
            await self._session.close()
        if self._task is not None and not self._task.cancelled():
            problem = self._task.exception()
            if problem is not None and not isinstance(problem, ClientProblem):
                raise problem

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Frame:
        frame = await self._mailbox.take()
        if frame is not None:
            return frame
        self._raise_ending()
        raise StopAsyncIteration

    async def receive(self, timeout: float | None = None) -> Frame:
        """Return the next frame.

        :param timeout: seconds to wait for it; None: for ever.
        :raises TimeoutError: none came.
        :raises Ended: the gateway ended the connection for good.
        :raises Unreachable: the client was closed.
        """
        async with asyncio.timeout(timeout):
            frame = await self._mailbox.take()
        if frame is not None:
            return frame
        self._raise_ending()
        raise Unreachable("the client is closed")

    async def wait_ended(self) -> Ended | None:
        """Wait until the client redials no more; return why, None if it was closed by us."""
        if self._task is None:
            raise RuntimeError("connect() comes first")
        await asyncio.wait([self._task])
        problem = None if self._task.cancelled() else self._task.exception()
        return problem if isinstance(problem, Ended) else None

    async def select_chat(self, chat_id: str, *, wait: bool = True, timeout: float = 10.0) -> int:
        """Look at a chat; the choice is repeated after each redial.

        :param wait: for the gateway's word that it is live (its `id`/`done` extension).
        :param timeout: of that wait, in seconds.
        :return: everything after this sequence comes by the new choice; 0 without waiting.
        :raises Rejected: the gateway answered with an error.
        :raises Unreachable: no connection now (the choice is made when there is one).
        :raises TimeoutError: no answer in time.
        """
        before, self.chat_id = self.chat_id, chat_id
        try:
            return await self._ask("select_chat", {"chat_id": chat_id}, wait, timeout)
        except Rejected:
            self.chat_id = before
            raise

    async def present_token(self, token: str, *, wait: bool = True, timeout: float = 10.0) -> None:
        """Present a fresh token on the open connection; later dials use it too.

        Parameters and exceptions as :meth:`select_chat`.
        """
        before = self._headers["Authorization"]
        self._headers["Authorization"] = f"Bearer {token}"
        try:
            await self._ask("token", {"token": token}, wait, timeout)
        except Rejected:
            self._headers["Authorization"] = before
            raise

    async def send(self, text: str) -> None:
        """Send a text message as it is.

        :raises Unreachable: no connection now.
        """
        if self._link is None:
            raise Unreachable("not connected now")
        await self._link.send(text)

    async def _ask(self, kind: str, payload: dict[str, str], wait: bool, timeout: float) -> int:
        number, answer = self._answers.expect()
        try:
            await self.send(_message(kind, payload, number))
            if not wait:
                return 0
            async with asyncio.timeout(timeout):
                return await answer
        finally:
            self._answers.forget(number)

    async def _keep(self, session: aiohttp.ClientSession, retry: bool) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            ending = await self._attempt(session, retry)
            if ending.code in FINAL_CLOSE_CODES:
                raise Ended(ending.code, ending.reason)
            failures = 1 if loop.time() - began >= self._backoff.steady else failures + 1
            delay = self._backoff.delay(failures)
            self._emit(Lost(code=ending.code, reason=ending.reason, retry_in_seconds=delay))
            await asyncio.sleep(delay)
            self.reconnects += 1

    async def _attempt(self, session: aiohttp.ClientSession, retry: bool) -> Ending:
        """Dial, and read until the connection ends."""
        try:
            link = await Link.open(
                session,
                self.url,
                self._headers,
                heartbeat=self._heartbeat,
                timeout=self._connect_timeout,
                on_early=self._emit,
            )
        except Unreachable as problem:
            if self.ready is None and not retry:
                raise
            return Ending(0, str(problem))
        try:
            return await self._read(link)
        except Unreachable as problem:
            return Ending(ABNORMAL_CLOSURE, str(problem))
        finally:
            self._link = None
            self._answers.lost()
            await link.close()

    async def _read(self, link: Link) -> Ending:
        self._link = link
        self._started(link.ready)
        if self.chat_id is not None:
            number = self._answers.number()
            await link.send(_message("select_chat", {"chat_id": self.chat_id}, number))
        position, mailbox = self.position, self._mailbox
        while True:
            frame = await link.next()
            if isinstance(frame, Event):
                if position is not None and not position.take(frame):
                    continue
            elif isinstance(frame, Ending):
                return frame
            elif isinstance(frame, Done):
                self._answers.done(frame)
            elif isinstance(frame, Error):
                self._answers.error(frame)
            self._emit(frame)
            if mailbox.full:
                await mailbox.room()

    def _started(self, ready: Ready) -> None:
        self.ready = ready
        if self.position is not None:
            self.position.start(ready)
        self._emit(ready)
        if self._first is not None and not self._first.done():
            self._first.set_result(ready)

    def _finish(self, task: asyncio.Task[None]) -> None:
        problem: BaseException | None = None if task.cancelled() else task.exception()
        if self._first is not None and not self._first.done():
            self._first.set_exception(problem or Unreachable("the client was closed"))
            self._first.exception()
        self._mailbox.end()

    def _raise_ending(self) -> None:
        if self._task is not None and self._task.done() and not self._task.cancelled():
            problem = self._task.exception()
            if problem is not None:
                raise problem


def _message(kind: str, payload: dict[str, str], number: int) -> str:
    return msgspec.json.encode({"type": kind, "id": number, "payload": payload}).decode()
