"""Subjects: the name that an event, an interest and a route share."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daisi_ws.domain import subjects
from daisi_ws.domain.ids import is_id

ids = st.text(string.ascii_letters + string.digits + "_@=+~-", min_size=1, max_size=8)


def test_chat_list() -> None:
    """An event of a chat list has one interest: its subject."""
    address = subjects.parse("websocket.acme.bot.chats")
    assert address == subjects.Address(
        "websocket.acme.bot.chats", "chat", "acme", "bot", None, ("websocket.acme.bot.chats",)
    )


def test_thread() -> None:
    """An event of a thread has one interest, and a chat."""
    address = subjects.parse("websocket.acme.bot.messages.c1")
    assert address is not None
    assert (address.event_type, address.chat_id) == ("message", "c1")
    assert address.interests == ("websocket.acme.bot.messages.c1",)


def test_agents() -> None:
    """An event of an agent table has the four interests that admins may have in it."""
    address = subjects.parse("websocket.acme.bot.agents")
    assert address is not None
    assert (address.event_type, address.chat_id) == ("agent", None)
    assert sorted(address.interests) == [
        "websocket.*.*.agents",
        "websocket.*.bot.agents",
        "websocket.acme.*.agents",
        "websocket.acme.bot.agents",
    ]


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "websocket",
        "websocket.acme.bot",
        "websocket.acme.bot.other",
        "websocket.acme.bot.chats.more",
        "websocket.acme.bot.messages",
        "websocket.acme.bot.messages.c1.more",
        "websocket.acme.bot.agents.more",
        "other.acme.bot.chats",
        "Websocket.acme.bot.chats",
        "websocket..bot.chats",
        "websocket.*.bot.chats",
        "websocket.acme.*.agents",
        "websocket.acme.bot.messages.>",
        "websocket.acme.b:t.chats",
        "websocket.acme.{bot}.chats",
        "websocket.acme.bot.messages.é",
        f"websocket.{'a' * 129}.bot.chats",
        "websocket.acme.bot.chats\n",
    ],
)
def test_what_is_no_event(subject: str) -> None:
    """Other shapes, wildcards and ids outside the alphabet are no event's subject."""
    assert subjects.parse(subject) is None


@settings(deadline=None, max_examples=300)
@given(st.lists(st.text(max_size=6) | ids, min_size=1, max_size=6))
def test_only_ids_get_through(parts: list[str]) -> None:
    """Whatever text stands where an id belongs, only ids make an address."""
    address = subjects.parse(".".join(["websocket", *parts]))
    if address is not None:
        assert is_id(address.company_id)
        assert is_id(address.agent_id)
        assert address.chat_id is None or is_id(address.chat_id)


@settings(deadline=None)
@given(ids, ids, ids)
def test_interest_and_route_key_are_one_to_one(company: str, agent: str, chat: str) -> None:
    """Every interest has a key of its own, from which it is found again."""
    interests = {
        subjects.chats(company, agent),
        subjects.thread(company, agent, chat),
        *(subjects.admin_pattern(c, a) for c in (company, "*") for a in (agent, "*")),
    }
    keys = [subjects.route_key(interest) for interest in interests]
    assert len(set(keys)) == len(interests)
    assert {subjects.interest_of(key) for key in keys} == interests


def test_route_keys_are_the_contracts() -> None:
    """The keys that older pods know are spelled as they spell them."""
    assert subjects.route_key(subjects.chats("acme", "bot")) == "route:acme:bot:chats"
    assert subjects.route_key(subjects.thread("acme", "bot", "c1")) == "route:acme:bot:messages:c1"
    assert subjects.route_key(subjects.admin_pattern("acme", "*")) == "admin_route:acme:*"


@pytest.mark.parametrize(
    "key",
    ["", "route", "route:a:b", "route:a:b:messages", "session:a:b:c", "pods", "admin_route:a"],
)
def test_other_keys_are_no_routes(key: str) -> None:
    """A key that is no route's has no interest."""
    assert subjects.interest_of(key) is None


def test_every_event_of_a_scope_meets_its_pattern() -> None:
    """The interests of an event are exactly the admin patterns that admit it."""
    names = ("acme", "other", "*")
    event = subjects.parse("websocket.acme.bot.agents")
    assert event is not None
    for company in names:
        for agent in ("bot", "other", "*"):
            admits = company in ("acme", "*") and agent in ("bot", "*")
            assert (subjects.admin_pattern(company, agent) in event.interests) == admits
