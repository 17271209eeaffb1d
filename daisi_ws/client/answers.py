"""Client messages with an `id`, and the `done` or `error` that answers each."""

from __future__ import annotations

import asyncio
import itertools

from daisi_ws.client.ending import Rejected, Unreachable
from daisi_ws.client.frames import Done, Error


class Answers:
    """What was asked and is not answered yet."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._asked: dict[str | int, asyncio.Future[int]] = {}

    def number(self) -> int:
        """Return an ID for a message whose answer nobody waits for."""
        return next(self._ids)

    def expect(self) -> tuple[int, asyncio.Future[int]]:
        """Return a new message ID and the future of its answer (the sequence told by `done`)."""
        number = self.number()
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        return number, answer

    def forget(self, number: int) -> None:
        """Expect no answer any more."""
        self._asked.pop(number, None)

    def done(self, frame: Done) -> None:
        """Take in a `done`."""
        answer = self._asked.get(frame.id)
        if answer is not None and not answer.done():
            answer.set_result(frame.payload.seq)

    def error(self, frame: Error) -> None:
        """Take in an `error`.

        One without `id` answers whatever is asked, except by its code: what a slow client lost
        answers nobody.
        """
        if frame.id is None and frame.payload.code == "EventsDropped":
            return
        problem = Rejected(frame.payload.code, frame.payload.message)
        self._fail(problem, [frame.id] if frame.id is not None else list(self._asked))

    def lost(self) -> None:
        """The connection is gone, and the answers with it."""
        self._fail(Unreachable("the connection was lost before the answer"), list(self._asked))

    def _fail(self, problem: Exception, ids: list[str | int]) -> None:
        for number in ids:
            answer = self._asked.get(number)
            if answer is not None and not answer.done():
                answer.set_exception(problem)
