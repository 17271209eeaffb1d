"""Questions to one peer (barriers, displacements) that wait to be sent or to be answered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import count
from typing import Final, TypeAlias

from daisi_ws.domain.errors import Unavailable
from daisi_ws.domain.packets import Barrier, BarrierReply, Call, Displace, Displaced, Failed

Answer: TypeAlias = BarrierReply | Displaced | Failed

_ids = count(1)


class PendingCall:
    """One question, and how many still want to know.

    :param displace: session key, lock value and whether it is only asked about; None for a barrier.
    """

    __slots__ = ("answer", "displace", "id", "interests", "sent_at", "waiters")

    def __init__(self, displace: tuple[str, str, bool] | None = None) -> None:
        self.id = next(_ids)
        self.displace: Final = displace
        self.interests: dict[str, None] = {}
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.sent_at: float | None = None
        self.waiters = 0

    def packet(self) -> Call:
        """Return what is sent."""
        if self.displace is None:
            return Barrier(self.id, list(self.interests))
        return Displace(self.id, *self.displace)


class PeerCalls:
    """All questions to one peer. What breaks off is asked again, as long as somebody waits."""

    __slots__ = ("_barrier", "_sent", "_unsent")

    def __init__(self) -> None:
        self._unsent: dict[int, PendingCall] = {}
        self._sent: dict[int, PendingCall] = {}
        self._barrier: PendingCall | None = None

    def __bool__(self) -> bool:
        return bool(self._unsent or self._sent)

    @property
    def sendable(self) -> bool:
        """Tell whether :meth:`take` has something."""
        return bool(self._unsent)

    def barrier(self, interests: Iterable[str]) -> PendingCall:
        """Ask for a barrier; joins the one that is not on its way yet."""
        if self._barrier is None:
            self._barrier = self._add(PendingCall())
        self._barrier.interests.update(dict.fromkeys(interests))
        return self._barrier

    def displace(self, session_key: str, holder: str, *, only_ask: bool = False) -> PendingCall:
        """Ask for a displacement, or only whether there is something to displace."""
        return self._add(PendingCall((session_key, holder, only_ask)))

    def take(self, now: float) -> Call:
        """Return the next to be sent; only if :attr:`sendable`."""
        call = self._unsent.pop(next(iter(self._unsent)))
        if call is self._barrier:
            self._barrier = None
        call.sent_at = now
        self._sent[call.id] = call
        return call.packet()

    def answered(self, answer: Answer) -> None:
        """Hand an answer to those who wait for it, if anybody does."""
        call = self._sent.pop(answer.id, None)
        if call is not None and not call.answer.done():
            call.answer.set_result(answer)

    async def wait(self, call: PendingCall, timeout: float) -> Answer:
        """Wait for an answer; the question is withdrawn when nobody waits any more.

        :param timeout: seconds.
        :raises TimeoutError: none came in time.
        :raises Unavailable: the peer is given up.
        """
        call.waiters += 1
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(call.answer)
        finally:
            call.waiters -= 1
            if not call.waiters:
                self._withdraw(call)

    def rewind(self) -> None:
        """Ask again what is unanswered: the stream to the peer broke."""
        for call in self._sent.values():
            call.sent_at = None
        self._unsent = self._sent | self._unsent
        self._sent = {}

    def fail(self, problem: str) -> None:
        """Answer everything with :class:`Unavailable`."""
        for call in (*self._sent.values(), *self._unsent.values()):
            if not call.answer.done():
                call.answer.set_exception(Unavailable(problem))
        self._sent.clear()
        self._unsent.clear()
        self._barrier = None

    def _add(self, call: PendingCall) -> PendingCall:
        self._unsent[call.id] = call
        return call

    def _withdraw(self, call: PendingCall) -> None:
        self._unsent.pop(call.id, None)
        self._sent.pop(call.id, None)
        if self._barrier is call:
            self._barrier = None
        call.answer.cancel()
