"""What is in a token."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daisi_ws.domain import principal, rfc3339, token
from daisi_ws.domain.errors import BadRequest, InvalidToken
from daisi_ws.domain.ids import is_id
from daisi_ws.domain.principal import Kind

NOW = 1_785_414_896.25
LATER = "2026-07-30T13:34:56.25Z"
USER = {"company_id": "acme", "agent_id": "bot", "user_id": "ann", "expires_at": LATER}
ADMIN = {"admin_id": "root", "expires_at": LATER}


def content(fields: object) -> bytes:
    """JSON text."""
    return json.dumps(fields).encode()


def test_user_content() -> None:
    """A user's content names company, agent and user; unknown fields do not matter."""
    found = token.read("user", content({**USER, "new": {"a": 1}}))
    assert found == principal.user("acme", "bot", "ann", NOW + 3600)


@pytest.mark.parametrize("absent", [{}, {"value": ""}, {"value": None}, {"value": "*"}])
def test_admin_without_scope_sees_all(absent: dict[str, object]) -> None:
    """An absent, empty or null scope means the same as `*`."""
    names = ("subscribed_company_id", "subscribed_agent_id", "company_id_restriction")
    scopes = dict.fromkeys(names, absent["value"]) if absent else {}
    found = token.read("admin", content({**ADMIN, **scopes}))
    assert found == principal.admin("root", NOW + 3600)
    assert found.subject == "websocket.*.*.agents"


def test_admin_with_scope() -> None:
    """Subscription and restriction narrow what an admin sees."""
    scopes = {"subscribed_agent_id": "bot", "company_id_restriction": "acme"}
    found = token.read("admin", content({**ADMIN, **scopes}))
    assert found.subject == "websocket.acme.bot.agents"


def _without(fields: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in fields.items() if key != name}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        *(("user", _without(USER, name)) for name in USER),
        *(("admin", _without(ADMIN, name)) for name in ADMIN),
        *(("user", {**USER, name: 7}) for name in USER),
        *(("user", {**USER, name: None}) for name in USER),
        ("user", ADMIN),
        ("admin", USER),
        ("user", {**USER, "company_id": "a.b"}),
        ("user", {**USER, "agent_id": "*"}),
        ("user", {**USER, "user_id": ""}),
        ("user", {**USER, "user_id": "a" * 129}),
        ("user", {**USER, "expires_at": "tomorrow"}),
        ("user", {**USER, "expires_at": "0000-01-01T00:00:00Z"}),
        ("admin", {**ADMIN, "admin_id": "*"}),
        ("admin", {**ADMIN, "subscribed_company_id": ">"}),
        ("admin", {**ADMIN, "subscribed_agent_id": "a b"}),
        ("admin", {**ADMIN, "company_id_restriction": ["acme"]}),
        ("user", []),
        ("user", "text"),
        ("user", None),
    ],
)
def test_bad_content_is_refused(kind: Kind, fields: object) -> None:
    """Whatever is wrong inside, the refusal says the same, and counts as bad content."""
    with pytest.raises(InvalidToken) as refusal:
        token.read(kind, content(fields))
    assert (refusal.value.message, refusal.value.reason) == (token.REFUSED, "bad_content")
    assert refusal.value.details is None


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff", b"[" * 5000, content(USER) + b"x", b'{"user_id":"\xff"}']
)
def test_content_that_is_no_json(text: bytes) -> None:
    """Bytes that are no JSON text are bad content too."""
    with pytest.raises(InvalidToken):
        token.read("user", text)


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=140), st.sampled_from(["company_id", "agent_id", "user_id"]))
def test_no_other_id_gets_through(text: str, name: str) -> None:
    """Whatever text is in a token's id, only one of the alphabet makes a principal."""
    data = content({**USER, name: text})
    if is_id(text):
        assert text in token.read("user", data).identity.split(":")
    else:
        with pytest.raises(InvalidToken):
            token.read("user", data)


def test_requested_user_content() -> None:
    """A request becomes a content that expires so many seconds from now, in UTC."""
    body = content({**_without(USER, "expires_at"), "expires_in_seconds": 3600, "more": 1})
    assert token.requested("user", body, NOW) == {
        **USER,
        "expires_at": "2026-07-30T13:34:56.250000Z",
    }


def test_requested_admin_content_leaves_out_what_means_all() -> None:
    """Scopes that do not narrow anything are not written: an older pod may take `*` literally."""
    scopes: dict[str, Any] = {
        "subscribed_company_id": "*",
        "subscribed_agent_id": "bot",
        "company_id_restriction": "",
    }
    body = content({"admin_id": "root", "expires_in_seconds": 1, **scopes})
    got = token.requested("admin", body, NOW)
    assert got == {
        "admin_id": "root",
        "subscribed_agent_id": "bot",
        "expires_at": rfc3339.format_utc(NOW + 1),
    }


@pytest.mark.parametrize("life", [None, 0, -1, 1.5, "60", True, token.LONGEST_SECONDS + 1, 10**400])
def test_life_of_a_token_is_bounded(life: object) -> None:
    """A token lives a whole number of seconds, from one to ten years of them."""
    body = content({**USER, "expires_in_seconds": life})
    with pytest.raises(BadRequest, match="not valid") as refusal:
        token.requested("user", body, NOW)
    assert "expires_in_seconds must be a whole number" in (refusal.value.details or "")


@pytest.mark.parametrize("life", [1, token.LONGEST_SECONDS])
def test_bounds_of_life_are_allowed(life: int) -> None:
    """The bounds themselves are fine."""
    got = token.requested("user", content({**USER, "expires_in_seconds": life}), NOW)
    assert rfc3339.parse(str(got["expires_at"])) == pytest.approx(NOW + life, abs=1e-5)


def test_every_wrong_field_is_named() -> None:
    """One answer says all that is wrong."""
    with pytest.raises(BadRequest) as refusal:
        token.requested("user", content({"company_id": "a.b", "agent_id": 7}), NOW)
    for name in ("company_id", "agent_id", "user_id", "expires_in_seconds"):
        assert name in (refusal.value.details or "")


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'"a"', b"{", b"\xff\xfe", b"[" * 9000])
def test_request_that_is_no_object(body: bytes) -> None:
    """A body that is no JSON object is a bad request, whatever else it is."""
    with pytest.raises(BadRequest) as refusal:
        token.requested("admin", body, NOW)
    assert refusal.value.details == "the body must be a JSON object"
