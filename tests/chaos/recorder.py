"""Enters what a reference client is told and given into its account."""

from __future__ import annotations

import time
from typing import Final

import msgspec

from daisi_ws.client import (
    Done,
    Error,
    Event,
    Frame,
    Gap,
    Lost,
    Ready,
    ReferenceClient,
    Rejected,
    Resumed,
)
from tests.chaos.account import Account, Stretch, place

_KINDS: Final = {"chat": "chats", "message": "messages", "agent": "agents"}


class _Row(msgspec.Struct):
    generation: int = 0
    at: float = 0.0


class _Payload(msgspec.Struct):
    event_type: str
    company_id: str
    agent_id: str
    row_data: _Row
    chat_id: str = ""


_payload = msgspec.json.Decoder(_Payload)


class _Details(msgspec.Struct):
    from_seq: int
    to_seq: int


_details = msgspec.json.Decoder(_Details)


class Recorder:
    """Takes the frames of one client; who wants to know more of them than its account overrides.

    :param streams: generation of each stream identity seen, shared by all clients.
    :ivar client: set by whoever makes it.
    :ivar connected: it is `ready`.
    :ivar pending: a chat was asked for and is not answered yet.
    """

    client: ReferenceClient

    def __init__(self, account: Account, streams: dict[str, int]) -> None:
        self.account = account
        self.connected = False
        self.pending = False
        self._streams = streams
        self._took_up = False

    async def ask_for(self, chat: str) -> None:
        """Look at a chat.

        :raises Rejected: the gateway refuses that; the chat before is left all the same.
        :raises Unreachable: not connected now; the client repeats it when it is.
        :raises TimeoutError: no answer.
        """
        self.pending = True
        self.account.asked(chat)
        try:
            await self.client.select_chat(chat)
        except TimeoutError:
            self.pending = False
            raise
        except Rejected:
            self.pending = False
            self.account.refused()
            raise

    def on_frame(self, frame: Frame) -> None:
        """Enter a frame into the account."""
        match frame:
            case Event():
                self.on_event(frame)
            case Ready():
                self.on_ready(frame)
            case Lost():
                self.on_lost(frame)
            case Done():
                self._on_done(frame)
            case Error():
                self.on_error(frame)
            case Resumed():
                self.on_resumed(frame)
            case Gap():
                self._on_dropped(frame.payload.from_seq, frame.payload.to_seq)
            case _:
                self.on_other(frame)

    def on_event(self, frame: Event) -> tuple[int, float]:
        """Enter an event; return its place, and what it says of when it was offered."""
        body = _payload.decode(frame.payload)
        assert frame.seq is not None
        group = (_KINDS[body.event_type], body.company_id, body.agent_id, body.chat_id)
        seq = place(body.row_data.generation, frame.seq)
        self.account.event(group, seq)
        return seq, body.row_data.at

    def on_ready(self, frame: Ready) -> None:
        """Enter a `ready`."""
        stretch = Stretch(
            self._place(frame.stream, frame.seq),
            frame.pod,
            time.monotonic(),
            frame.recovered,
            frame.reason,
            frame.replayed,
        )
        self.account.ready(stretch)
        self.connected = True
        self.pending = self.client.chat_id is not None
        self._took_up = False

    def on_lost(self, frame: Lost) -> None:
        """Enter that the connection is gone, or a dial in vain (code 0)."""
        if frame.code:
            self.account.lost(time.monotonic(), frame.code)
        self.connected = self.pending = False

    def on_resumed(self, frame: Resumed) -> None:
        """Enter the answer to a position on an open connection."""
        chat = frame.chat_id or ""
        if not frame.recovered:
            seq = self._place(frame.stream, frame.seq)
            self.account.not_given(seq, frame.reason, time.monotonic(), chat)
        elif chat:
            self._took_up = self.account.took_up(chat)
        else:
            self.account.filled()

    def on_error(self, frame: Error) -> None:
        """Enter an `error`: of events that were dropped, or the answer to a question."""
        if frame.payload.code == "EventsDropped":
            details = _details.decode(frame.payload.details)
            self._on_dropped(details.from_seq, details.to_seq)
        else:
            self.pending = False

    def on_other(self, frame: Frame) -> None:
        """Take what is nothing for the account."""

    def _on_done(self, frame: Done) -> None:
        if frame.id != self.client._talk._choice._number:
            return  # of a chat that was asked for again, and left before the answer came
        chat = self.client.chat_id
        self.pending = False
        if chat is not None and not self._took_up:
            self.account.chose(chat, self._here(frame.payload.seq))
        self._took_up = False

    def _on_dropped(self, first: int, last: int) -> None:
        self.account.told(self._here(first - 1), self._here(last), time.monotonic())

    def _here(self, seq: int) -> int:
        return self._place(self.client.ready.stream if self.client.ready else "", seq)

    def _place(self, stream: str, seq: int) -> int:
        return place(self._streams.setdefault(stream, len(self._streams)), seq)
