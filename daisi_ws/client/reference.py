"""One client of the gateway that stays connected, selects chats and tells frames as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

import aiohttp

from daisi_ws.client.backoff import Backoff
from daisi_ws.client.credentials import Credentials, TokenSource
from daisi_ws.client.dialler import Dialler
from daisi_ws.client.ending import ClientProblem, Ended, Unreachable
from daisi_ws.client.frames import Frame, Ready
from daisi_ws.client.handshake import client_session
from daisi_ws.client.keeper import Keeper
from daisi_ws.client.mailbox import Mailbox
from daisi_ws.client.outages import Outages
from daisi_ws.client.position import Position
from daisi_ws.client.talk import Talk

REPAIR_PAUSES: Final = Backoff(shortest=0.2, longest=10.0, steady=10.0)
"""Before a slow client asks again for what it could not take."""


class ReferenceClient:
    """A client with one reading task; frames go to `on_frame`, or to whoever iterates.

    ::

        async with ReferenceClient(url, api_key, token, positions=True) as client:
            await client.select_chat("chat-7")
            async for frame in client:
                ...

    It redials by itself (a :class:`Lost` frame tells it, a new :class:`Ready` follows) and then
    selects its chat again. After a final close code or refusal it stays away, and iterating
    raises :class:`Ended`.

    With `positions` it misses nothing by that: it tells the gateway how far it has got, in all
    and in the thread looked at, gets what it missed, and holds back what comes again. It asks
    for what it was too slow for (a :class:`Gap` tells it, a :class:`Resumed` follows), and goes
    over to a new connection before a pod that is going away ends the old one (a
    :class:`Reconnect`, then the new :class:`Ready`, without a :class:`Lost`). Where a `Ready` or
    `Resumed` has `recovered` false, events are missing: what is shown should be loaded anew; for
    the reasons `busy` and `unavailable` it asks again, and another `Resumed` follows. What is
    given again after a gap, or in a thread, has lower sequences than what came before.

    :param url: of the WebSocket, see :func:`user_url` and :func:`admin_url`.
    :param api_key: sent as `X-API-Key`.
    :param token: sent as `Authorization: Bearer`; or what fetches one, asked before each dial and
        when the gateway warns that the token ends, so that its end does not end the client.
    :param positions: ask for what was missed (`position` tells how far it has got). Without it
        frames come as they are.
    :param on_frame: called in the reading task for each frame; must not block; if it raises, the
        client ends. With it there is nothing to iterate.
    :param session: from :func:`client_session`, shared by many clients; None: one of our own.
    :param headers: more of them for the handshake.
    :param backoff: between dials that fail.
    :param pauses: before asking again for what was missed on an open connection.
    :param buffer: with so many frames waiting for who iterates, the socket is not read (nor are
        pings answered) until some are taken.
    :param connect_timeout: seconds from dialling to `ready`.
    :param heartbeat: seconds between two pings of ours, by which a dead peer is noticed.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        token: TokenSource,
        *,
        positions: bool = False,
        on_frame: Callable[[Frame], None] | None = None,
        session: aiohttp.ClientSession | None = None,
        headers: Mapping[str, str] | None = None,
        backoff: Backoff | None = None,
        pauses: Backoff = REPAIR_PAUSES,
        buffer: int = 1000,
        connect_timeout: float = 15.0,
        heartbeat: float | None = 20.0,
    ) -> None:
        self.url = url
        self.position = Position() if positions else None
        self._credentials = Credentials(api_key, token, headers)
        self._session = session
        self._own_session = session is None
        self._connect_timeout = connect_timeout
        self._heartbeat = heartbeat
        self._mailbox = Mailbox(buffer)
        self._emit = on_frame or self._mailbox.put
        self._task: asyncio.Task[None] | None = None
        self._first: asyncio.Future[Ready] | None = None
        self._talk = Talk(self.position, self._credentials, self._mailbox.room, pauses)
        self._keeper = Keeper(
            talk=self._talk,
            position=self.position,
            credentials=self._credentials,
            backoff=backoff or Backoff(),
            mailbox=self._mailbox,
            emit=self._emit,
        )

    def __repr__(self) -> str:
        return f"ReferenceClient({self.url})"

    @property
    def ready(self) -> Ready | None:
        """The newest `ready`; None: there was none yet."""
        return self._keeper.ready

    @property
    def reconnects(self) -> int:
        """How often it dialled again after a connection was lost."""
        return self._keeper.reconnects

    @property
    def moves(self) -> int:
        """How often it went over to a connection that was opened before the old one ended."""
        return self._keeper.moves

    @property
    def outages(self) -> Outages:
        """The times without a `ready` connection."""
        return self._keeper.outages

    @property
    def chat_id(self) -> str | None:
        """The chat looked at; None: none yet."""
        return self._talk.chat_id

    async def connect(self, *, retry: bool = False) -> Ready:
        """Connect, and return the first `ready`.

        :param retry: go on dialling while the gateway is unreachable, instead of raising.
        :raises Unreachable: no connection, or none that became ready in time.
        :raises Ended: the gateway does not want this client (:class:`Refused` if it said so by an
            HTTP status).
        :raises RuntimeError: it was called before.
        """
        if self._task is not None:
            raise RuntimeError("connect() is called once")
        if self._session is None:
            self._session = client_session()
        dialler = Dialler(
            self._session,
            self.url,
            self._credentials,
            heartbeat=self._heartbeat,
            timeout=self._connect_timeout,
            on_early=self._emit,
        )
        self._first = asyncio.get_running_loop().create_future()
        keep = self._keeper.run(dialler, self._first, retry=retry)
        self._task = asyncio.create_task(keep, name="client")
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
        """Wait until the client redials no more; return why, None if it was closed by us.

        :raises RuntimeError: :meth:`connect` was never called.
        """
        if self._task is None:
            raise RuntimeError("connect() comes first")
        await asyncio.wait([self._task])
        problem = None if self._task.cancelled() else self._task.exception()
        return problem if isinstance(problem, Ended) else None

    async def select_chat(
        self,
        chat_id: str,
        *,
        last_seq: int | None = None,
        wait: bool = True,
        timeout: float = 10.0,
    ) -> int:
        """Look at a chat; the choice is repeated after each redial.

        :param last_seq: with `positions`: the thread is known up to here, what came since is
            wanted, too.
        :param wait: for the gateway's word that it is live (its `id`/`done` extension).
        :param timeout: of that wait, in seconds.
        :return: everything after this sequence comes by the new choice; 0 without waiting.
        :raises Rejected: the gateway answered with an error.
        :raises Unreachable: no connection now (the choice is made when there is one).
        :raises TimeoutError: no answer in time.
        """
        return await self._talk.select_chat(chat_id, last_seq, wait=wait, timeout=timeout)

    async def present_token(self, token: str, *, wait: bool = True, timeout: float = 10.0) -> None:
        """Present a fresh token on the open connection; later dials use it too.

        Parameters and exceptions as :meth:`select_chat`.
        """
        await self._talk.present_token(token, wait=wait, timeout=timeout)

    async def send(self, text: str) -> None:
        """Send a text message as it is.

        :raises Unreachable: no connection now.
        """
        await self._talk.send(text)

    def drop(self) -> None:
        """Cut the connection without a close frame, if there is one; it is lost then.

        For who wants to see what comes of that.
        """
        self._talk.drop()

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
