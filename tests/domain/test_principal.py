"""Users and admins as one."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daisi_ws.domain import principal, subjects

ids = st.text(string.ascii_letters + string.digits + "_@=+~-", min_size=1, max_size=6)


def test_user() -> None:
    """A user's names: session, kill channel, chat list, threads."""
    ann = principal.user("acme", "bot", "ann", 1.0)
    assert ann.session_key == "session:acme:bot:ann"
    assert ann.kill_channel == "session_kill:acme:bot:ann"
    assert ann.subject == "websocket.acme.bot.chats"
    assert ann.thread("c1") == "websocket.acme.bot.messages.c1"


def test_admin() -> None:
    """An admin's names; there are no threads for admins."""
    root = principal.admin("root", 1.0)
    assert root.session_key == "session:admin:root"
    assert root.kill_channel == "session_kill:admin:root"
    assert root.subject == "websocket.*.*.agents"
    assert root.thread("c1") is None


@pytest.mark.parametrize(
    ("company", "agent", "restriction", "subject"),
    [
        ("*", "*", "*", "websocket.*.*.agents"),
        ("acme", "*", "*", "websocket.acme.*.agents"),
        ("*", "bot", "*", "websocket.*.bot.agents"),
        ("*", "*", "acme", "websocket.acme.*.agents"),
        ("acme", "bot", "acme", "websocket.acme.bot.agents"),
        ("*", "bot", "acme", "websocket.acme.bot.agents"),
        ("other", "*", "acme", ""),
        ("other", "bot", "acme", ""),
    ],
)
def test_restriction_only_narrows(company: str, agent: str, restriction: str, subject: str) -> None:
    """What an admin sees is in the subscription and in the restriction, or it is nothing."""
    assert principal.admin("root", 1.0, company, agent, restriction).subject == subject


@settings(deadline=None)
@given(ids, ids, ids, ids, ids)
def test_admin_never_sees_beyond_its_restriction(
    company: str, agent: str, subscribed: str, subscribed_agent: str, restriction: str
) -> None:
    """An event of another company never has an interest that a restricted admin can have."""
    event = subjects.parse(f"websocket.{company}.{agent}.agents")
    assert event is not None
    for scope in (subscribed, "*"):
        for scope_agent in (subscribed_agent, "*"):
            admin = principal.admin("root", 1.0, scope, scope_agent, restriction)
            if admin.subject in event.interests:
                assert company == restriction


@settings(deadline=None, max_examples=300)
@given(st.tuples(ids, ids, ids), st.tuples(ids, ids, ids), ids)
def test_identities_never_meet(
    one: tuple[str, str, str], two: tuple[str, str, str], admin_id: str
) -> None:
    """Different users have different keys, and no user's key is an admin's."""
    first, second = principal.user(*one, 1.0), principal.user(*two, 1.0)
    assert (first.session_key == second.session_key) == (one == two)
    assert first.session_key != principal.admin(admin_id, 1.0).session_key
    assert first.kill_channel != principal.admin(admin_id, 1.0).kill_channel
