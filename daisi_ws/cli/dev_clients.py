"""The clients of the demonstration, and what reaches each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import aiohttp
import msgspec

from daisi_ws.cli.tokens import AdminScope, admin_token, user_token
from daisi_ws.client import Event, Frame, ReferenceClient, admin_url, user_url
from daisi_ws.config import Config

COMPANY: Final = "acme"
AGENT: Final = "sales"
CHAT: Final = "chat-7"
STRANGER_COMPANY: Final = "globex"
TOKEN_SECONDS: Final = 86_400.0


class _OnlyId(msgspec.Struct):
    event_id: str


_only_id = msgspec.json.Decoder(_OnlyId)


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event at a client.

    :param received_at: Unix time in seconds.
    """

    event_id: str
    seq: int | None
    received_at: float


@dataclass(slots=True)
class Visitor:
    """A connected client of the demonstration.

    :param slot: of the worker it is connected to, -1 if that is unknown.
    :param kinds: the kinds of events it is to get.
    :param arrivals: what it got, in the order in which it came.
    """

    name: str
    client: ReferenceClient
    kinds: set[str]
    arrivals: list[Arrival] = field(default_factory=list)
    slot: int = -1


class Visitors:
    """Connects clients over one session.

    :param slots: slot of each pod by its ID.
    :ivar on_arrival: called for each event at any of them.
    :ivar keeping: whether arrivals are noted; the clients may stay longer than anybody looks.
    """

    def __init__(
        self,
        config: Config,
        base_url: str,
        session: aiohttp.ClientSession,
        slots: Mapping[str, int],
    ) -> None:
        self._slots = slots
        self._config = config
        self._base_url = base_url
        self._session = session
        self.all: list[Visitor] = []
        self.keeping = True
        self.on_arrival: Callable[[], None] = lambda: None

    async def user(self, name: str, company: str = COMPANY) -> Visitor:
        """Connect a user of the agent; one of another company is to get nothing."""
        visitor = Visitor(
            name,
            ReferenceClient(
                user_url(self._base_url, company, AGENT),
                self._config.auth.secret_token,
                user_token(self._config, company, AGENT, name, TOKEN_SECONDS),
                on_frame=lambda frame: self._on_frame(visitor, frame),
                session=self._session,
            ),
            {"chats"} if company == COMPANY else set(),
        )
        return await self._connect(visitor)

    async def admin(self, name: str) -> Visitor:
        """Connect an admin who sees all agents."""
        visitor = Visitor(
            name,
            ReferenceClient(
                admin_url(self._base_url),
                self._config.auth.admin_secret_token,
                admin_token(self._config, name, AdminScope(), TOKEN_SECONDS),
                on_frame=lambda frame: self._on_frame(visitor, frame),
                session=self._session,
            ),
            {"agents"},
        )
        return await self._connect(visitor)

    async def select_chat(self, visitor: Visitor) -> None:
        """Have a user look at the chat."""
        await visitor.client.select_chat(CHAT)
        visitor.kinds.add("messages")

    async def close(self) -> None:
        """Disconnect all."""
        for visitor in self.all:
            await visitor.client.close()

    async def _connect(self, visitor: Visitor) -> Visitor:
        visitor.slot = self._slots.get((await visitor.client.connect()).pod, -1)
        self.all.append(visitor)
        return visitor

    def _on_frame(self, visitor: Visitor, frame: Frame) -> None:
        if self.keeping and isinstance(frame, Event):
            event_id = _only_id.decode(frame.payload).event_id
            visitor.arrivals.append(Arrival(event_id, frame.seq, frame.received_at))
            self.on_arrival()
