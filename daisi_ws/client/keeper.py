"""Keeps one client connected: reads, moves to a new connection, dials again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from daisi_ws.client.backoff import Backoff
from daisi_ws.client.credentials import Credentials
from daisi_ws.client.dialler import Dialler
from daisi_ws.client.ending import (
    ABNORMAL_CLOSURE,
    FINAL_CLOSE_CODES,
    TOKEN_EXPIRED,
    Ended,
    Refused,
    Unreachable,
)
from daisi_ws.client.frames import Event, Frame, Lost, Ready, Reconnect
from daisi_ws.client.link import Ending, Link
from daisi_ws.client.mailbox import Mailbox
from daisi_ws.client.move import Move
from daisi_ws.client.outages import Outages
from daisi_ws.client.position import Position
from daisi_ws.client.talk import Talk


class Keeper:
    """The reading task of a client.

    :param mailbox: while it is full nothing is read.
    :param emit: gets each frame.
    :ivar ready: the newest `ready`.
    :ivar reconnects: dials after a connection was lost.
    :ivar moves: connections left for one that was opened before they ended.
    """

    def __init__(
        self,
        *,
        talk: Talk,
        position: Position | None,
        credentials: Credentials,
        backoff: Backoff,
        mailbox: Mailbox,
        emit: Callable[[Frame], None],
    ) -> None:
        self.ready: Ready | None = None
        self.reconnects = 0
        self.moves = 0
        self.outages = Outages()
        self._talk = talk
        self._position = position
        self._credentials = credentials
        self._backoff = backoff
        self._mailbox = mailbox
        self._emit = emit

    async def run(self, dialler: Dialler, first: asyncio.Future[Ready], *, retry: bool) -> None:
        """Stay connected until that is not wanted any more.

        :param first: gets the first `ready`.
        :param retry: go on dialling where there has been no `ready` yet.
        :raises Ended: the gateway does not want this client.
        :raises Unreachable: without `retry`, at the first dial.
        """
        failures = 0
        try:
            while True:
                began = time.monotonic()
                ending = await self._attempt(dialler, first, retry=retry)
                if self._is_final(ending.code):
                    raise Ended(ending.code, ending.reason)
                lasted = ending.code != 0 and time.monotonic() - began >= self._backoff.steady
                failures = 1 if lasted else failures + 1
                await self._wait(ending, self._backoff.delay(failures))
        finally:
            await dialler.close_all()

    async def _wait(self, ending: Ending, delay: float) -> None:
        now = time.time()
        self._emit(
            Lost(code=ending.code, reason=ending.reason, retry_in_seconds=delay, received_at=now)
        )
        await asyncio.sleep(delay)
        self.reconnects += 1

    def _is_final(self, code: int) -> bool:
        # With a fresh token it may come back.
        renewable = code == TOKEN_EXPIRED and self._credentials.renewable
        return code in FINAL_CLOSE_CODES and not renewable

    async def _attempt(
        self, dialler: Dialler, first: asyncio.Future[Ready], *, retry: bool
    ) -> Ending:
        """Dial, and read until the connection ends, or the last of those it moved to."""
        try:
            link = await dialler.dial(self._talk.query())
        except Unreachable as problem:
            if self.ready is None and not retry:
                raise
            return Ending(0, str(problem))
        except Ended as ended:
            if isinstance(ended, Refused) or self._is_final(ended.code):
                raise
            return Ending(0, str(ended))
        while True:
            ending, successor = await self._stay(link, dialler, first)
            if successor is None:
                return ending
            self.moves += 1
            link = successor

    async def _stay(
        self, link: Link, dialler: Dialler, first: asyncio.Future[Ready]
    ) -> tuple[Ending, Link | None]:
        """Read a connection until it ends; return how, and the one it moved to."""
        move = Move(link, lambda: dialler.dial(self._talk.query()), self._backoff)
        successor: Link | None = None
        try:
            ending = await self._read(link, move, first)
            self.outages.began(time.monotonic())
            successor = await move.successor()
        finally:
            move.abandon()
            self._talk.end(moved=successor is not None)
            await dialler.close(link)
        return ending, successor

    async def _read(self, link: Link, move: Move, first: asyncio.Future[Ready]) -> Ending:
        try:
            self._started(link)
            if not first.done():
                first.set_result(link.ready)
            await self._talk.begin(link)
            return await self._read_frames(link, move)
        except Unreachable as problem:
            return Ending(ABNORMAL_CLOSURE, str(problem))

    def _started(self, link: Link) -> None:
        self.ready = link.ready
        self.outages.ended(link.ready_at)
        self._talk.start(link.ready)
        self._emit(link.ready)

    async def _read_frames(self, link: Link, move: Move) -> Ending:
        position, mailbox = self._position, self._mailbox
        while True:
            frame = await link.next()
            if isinstance(frame, Event):
                if position is not None and not position.take(frame):
                    continue
            elif isinstance(frame, Ending):
                return frame
            else:
                self._talk.take(frame)
                if isinstance(frame, Reconnect) and position is not None:
                    move.start(frame.payload.after_ms / 1000)
            self._emit(frame)
            if mailbox.full:
                await mailbox.room()
