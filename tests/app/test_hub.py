"""The index of connections: who wants what."""

from __future__ import annotations

from daisi_ws.app.hub import Hub
from daisi_ws.domain import principal, subjects
from daisi_ws.domain.subjects import Address
from tests.app.connections import FOREVER, Made

CHATS = "websocket.acme.bot.chats"


def address(subject: str) -> Address:
    """Return the parsed subject of an event."""
    parsed = subjects.parse(subject)
    assert parsed is not None
    return parsed


def test_first_and_last_subscribers_change_the_pods_interests() -> None:
    """`add` is True for the first who wants something here, `remove` for the last."""
    hub, a, b = Hub(), Made("a").connection, Made("b").connection
    assert hub.add(a, CHATS)
    assert not hub.add(b, CHATS)
    assert not hub.add(a, CHATS)
    assert hub.wanted(CHATS)
    assert hub.interests() == [CHATS]
    assert not hub.remove(a, CHATS)
    assert not hub.remove(a, CHATS)
    assert hub.remove(b, CHATS)
    assert not hub.remove(b, CHATS)
    assert not hub.wanted(CHATS)
    assert hub.interests() == []
    assert a.interests == b.interests == set()


def test_leaving_returns_what_nobody_wants_any_more() -> None:
    """A connection that leaves takes its interests along, and all trace of itself."""
    hub, a, b = Hub(), Made("a").connection, Made("b").connection
    for connection in (a, b):
        hub.join(connection)
        hub.own_session(connection)
        hub.add(connection, CHATS)
    hub.add(a, "websocket.acme.bot.messages.c1")
    hub.behind.add(a)
    assert len(hub) == 2
    assert hub.leave(a) == ["websocket.acme.bot.messages.c1"]
    assert hub.connections() == [b]
    assert not hub.behind
    assert hub.leave(a) == []
    assert hub.leave(b) == [CHATS]
    assert len(hub) == 0


def test_a_late_leaver_does_not_take_its_successors_session() -> None:
    """The session of an identity is the one that owned it last, whoever leaves when."""
    hub, old, new = Hub(), Made("old").connection, Made("new").connection
    hub.join(old)
    hub.own_session(old)
    hub.join(new)
    hub.own_session(new)
    hub.leave(old)
    assert hub.session("acme:bot:ann") is new
    assert hub.sessions() == [new]
    hub.leave(new)
    assert hub.session("acme:bot:ann") is None


def test_events_match_exact_subjects() -> None:
    """Chat lists and threads are matched by their one name; nobody else's match."""
    hub, a, b = Hub(), Made("a").connection, Made("b").connection
    hub.add(a, CHATS)
    hub.add(b, "websocket.acme.bot.messages.c1")
    assert list(hub.match(address(CHATS))) == [a]
    assert list(hub.match(address("websocket.acme.bot.messages.c1"))) == [b]
    assert list(hub.match(address("websocket.acme.bot.messages.c2"))) == []
    assert list(hub.match(address("websocket.acme.other.chats"))) == []


def test_agent_events_match_each_admin_once() -> None:
    """Company and agent each exact or `*`; a connection with two matching patterns counts once."""
    hub = Hub()
    patterns = {"a": ("*", "*"), "b": ("acme", "*"), "c": ("*", "bot"), "d": ("acme", "bot")}
    made = {name: Made(name).connection for name in [*patterns, "e"]}
    for name, pattern in patterns.items():
        hub.add(made[name], subjects.admin_pattern(*pattern))
    hub.add(made["e"], subjects.admin_pattern("acme", "other"))
    hub.add(made["a"], subjects.admin_pattern("acme", "bot"))
    matched = list(hub.match(address("websocket.acme.bot.agents")))
    assert sorted(c.connection_id for c in matched) == ["a", "b", "c", "d"]


def test_connections_are_counted_by_kind() -> None:
    """Users and admins are counted apart, from the index."""
    hub = Hub()
    user, root = Made("u1").connection, Made("a1", principal.admin("root", FOREVER)).connection
    hub.join(user)
    hub.join(Made("u2").connection)
    hub.join(root)
    assert hub.counts() == {"user": 2, "admin": 1}
    hub.leave(user)
    hub.leave(root)
    assert hub.counts() == {"user": 1, "admin": 0}
