"""Subjects: the one name that an event, an interest and a route share.

An event's subject is its NATS subject. An interest is a subject too: a user's chat list and
thread are exact subjects; an admin's is the agents subject with `*` where any will do. Who gets
an event is then one look-up by exact name (chats, threads) or four (agents: company and agent
each exact or `*`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from daisi_ws.domain.ids import ANY, is_id

EventType = Literal["chat", "message", "agent"]

PREFIX: Final = "websocket"
FILTER: Final = f"{PREFIX}.>"


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed event subject.

    :param interests: the interests (subjects) that it matches: one, or four for agents.
    """

    subject: str
    event_type: EventType
    company_id: str
    agent_id: str
    chat_id: str | None
    interests: tuple[str, ...]


def chats(company_id: str, agent_id: str) -> str:
    """Return the chat-list subject of a company's agent."""
    return f"{PREFIX}.{company_id}.{agent_id}.chats"


def thread(company_id: str, agent_id: str, chat_id: str) -> str:
    """Return the thread subject of one chat."""
    return f"{PREFIX}.{company_id}.{agent_id}.messages.{chat_id}"


def admin_pattern(company_id: str, agent_id: str) -> str:
    """Return the agents subject that an admin's scope names; each part exact or `*`."""
    return f"{PREFIX}.{company_id}.{agent_id}.agents"


@lru_cache(maxsize=65536)
def parse(subject: str) -> Address | None:
    """Parse an event's subject; None if it is none of the three kinds.

    :param subject: as published; ids outside the alphabet make it no event.
    """
    match subject.split("."):
        case [prefix, company, agent, "chats"] if _valid(prefix, company, agent):
            return Address(subject, "chat", company, agent, None, (subject,))
        case [prefix, company, agent, "messages", chat] if _valid(prefix, company, agent, chat):
            return Address(subject, "message", company, agent, chat, (subject,))
        case [prefix, company, agent, "agents"] if _valid(prefix, company, agent):
            return Address(subject, "agent", company, agent, None, _admin_interests(company, agent))
    return None


def route_key(interest: str) -> str:
    """Return the Redis key of the route (the SET of pod IDs) of an interest.

    Chat lists and threads have the wire contract's keys; admin patterns have the project's own.
    """
    parts = interest.split(".")
    if parts[3] == "agents":
        return f"admin_route:{parts[1]}:{parts[2]}"
    return f"route:{parts[1]}:{parts[2]}:{':'.join(parts[3:])}"


def interest_of(route_key: str) -> str | None:
    """Return the interest whose route a Redis key holds; None for other keys."""
    match route_key.split(":"):
        case ["route", company, agent, "chats"]:
            return chats(company, agent)
        case ["route", company, agent, "messages", chat]:
            return thread(company, agent, chat)
        case ["admin_route", company, agent]:
            return admin_pattern(company, agent)
    return None


def _valid(prefix: str, *ids: str) -> bool:
    return prefix == PREFIX and all(is_id(value) for value in ids)


def _admin_interests(company: str, agent: str) -> tuple[str, ...]:
    return tuple(admin_pattern(c, a) for c in (company, ANY) for a in (agent, ANY))
