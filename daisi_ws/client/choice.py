"""The chat that a client looks at, chosen again on every connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from daisi_ws.client.answers import Answer, Answers
from daisi_ws.client.ending import Rejected
from daisi_ws.client.frames import Done, Resumed
from daisi_ws.client.position import Position

_HOPELESS: Final = frozenset({"BadRequest"})


class Choice:
    """What was chosen, with which message, and how far the thread is known.

    :param position: None: no positions are told.
    :param on_refused: called when `refused` becomes true.
    :ivar chat_id: the chat; None: none was chosen yet.
    :ivar refused: the choice was answered with an error that may pass.
    """

    def __init__(
        self, position: Position | None, answers: Answers, on_refused: Callable[[], None]
    ) -> None:
        self.chat_id: str | None = None
        self.refused = False
        self._position = position
        self._answers = answers
        self._on_refused = on_refused
        self._number: int | None = None

    def choose(self, chat_id: str | None, last_seq: int | None = None) -> None:
        """Choose a chat.

        :param last_seq: its thread is known up to here; None: what comes from now on is enough.
        """
        self.chat_id, self.refused, self._number = chat_id, False, None
        if self._position is not None:
            self._position.choose_thread(last_seq)

    def payload(self) -> dict[str, object]:
        """Return the payload of the `select_chat` that makes the choice."""
        payload: dict[str, object] = {"chat_id": self.chat_id}
        position = self._position
        if position is not None and position.stream and position.thread is not None:
            payload |= {"last_seq": position.thread, "stream": position.stream}
        return payload

    def expect(self) -> tuple[int, Answer]:
        """Return the ID of the message that makes the choice, and its answer.

        Who waits for the answer to the same choice on an earlier connection gets this one.
        """
        number = self._number
        answer = None if number is None else self._answers.expected(number)
        if number is None or answer is None:
            number, answer = self._answers.expect()
        self._number, self.refused = number, False
        answer.add_done_callback(self._answered)
        return number, answer

    def lost(self, *, moved: bool) -> None:
        """The connection is gone; if it moved the choice is answered on the new one."""
        self._answers.lost(keep=self._number if moved else None)
        if self._position is not None:
            self._position.lost()

    def done(self, frame: Done) -> None:
        """Take in a `done`, of this choice or another."""
        if self._position is not None and frame.id == self._number:
            self._position.thread_joined(frame.payload.seq)

    def resumed(self, frame: Resumed) -> None:
        """Take in what the gateway says to the position in the thread."""
        if self._position is not None and frame.id == self._number:
            self._position.thread_resumed(frame)

    def _answered(self, answer: Answer) -> None:
        problem = None if answer.cancelled() else answer.exception()
        if isinstance(problem, Rejected) and problem.code not in _HOPELESS:
            self.refused = True
            self._on_refused()
