"""Client messages with an `id`, and the `done`, `resumed` or `error` that answers each."""

from __future__ import annotations

import asyncio
import itertools

from daisi_ws.client.ending import Rejected, Unreachable
from daisi_ws.client.frames import Done, Error, Resumed

Answer = asyncio.Future[int]
"""The sequence that the answer tells; :class:`Rejected` or :class:`Unreachable`."""


class Answers:
    """What was asked and is not answered yet."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._asked: dict[str | int, Answer] = {}

    def expect(self) -> tuple[int, Answer]:
        """Return a new message ID and its answer."""
        number = next(self._ids)
        answer: Answer = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        return number, answer

    def expected(self, number: int) -> Answer | None:
        """Return the answer to this message if it has not come yet."""
        return self._asked.get(number)

    def forget(self, number: int) -> None:
        """Expect no answer any more."""
        self._asked.pop(number, None)

    def done(self, frame: Done) -> None:
        """Take in a `done`."""
        self._answered(frame.id, frame.payload.seq)

    def resumed(self, frame: Resumed) -> None:
        """Take in a `resumed` that no `done` follows."""
        if frame.id is not None:
            self._answered(frame.id, frame.seq)

    def error(self, frame: Error) -> None:
        """Take in an `error`.

        One without `id` answers whatever is asked, except by its code: what a slow client lost
        answers nobody.
        """
        if frame.id is None and frame.payload.code == "EventsDropped":
            return
        problem = Rejected(frame.payload.code, frame.payload.message)
        self._fail(problem, [frame.id] if frame.id is not None else list(self._asked))

    def lost(self, keep: int | None = None) -> None:
        """The connection is gone, and the answers with it.

        :param keep: the message with this ID is sent again on another.
        """
        problem = Unreachable("the connection was lost before the answer")
        self._fail(problem, [number for number in self._asked if number != keep])

    def _answered(self, number: str | int, seq: int) -> None:
        answer = self._asked.pop(number, None)
        if answer is not None and not answer.done():
            answer.set_result(seq)

    def _fail(self, problem: Exception, ids: list[str | int]) -> None:
        for number in ids:
            answer = self._asked.pop(number, None)
            if answer is not None and not answer.done():
                answer.set_exception(problem)
