"""Identifiers: what may become part of a subject or a key."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daisi_ws.domain.errors import BadRequest
from daisi_ws.domain.ids import check_id, check_scope, is_id

LETTERS = string.ascii_letters + string.digits + "_@=+~-"


@settings(deadline=None)
@given(st.text(LETTERS, min_size=1, max_size=128))
def test_every_text_of_the_alphabet_is_an_id(text: str) -> None:
    """Letters, digits and six signs, at most 128 of them."""
    assert is_id(text)
    assert check_id("company_id", text) == text
    assert check_scope("company_id", text) == text


@settings(deadline=None, max_examples=500)
@given(st.text(max_size=20), st.characters(exclude_characters=LETTERS), st.text(max_size=20))
def test_one_other_character_is_enough(before: str, character: str, after: str) -> None:
    """Nothing with a character outside the alphabet gets through, wherever it stands."""
    assert not is_id(before + character + after)


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "a" * 129,
            "a.b",
            "*",
            ">",
            "a:b",
            "{a}",
            "a b",
            "a\n",
            "\na",
            "a\x00",
            "a/b",
            "a%2eb",
        ),
        *("é", "ａ", "a\u200b", "\ud800", None, 7, True, b"a", ["a"], {"a": 1}),  # noqa: RUF001
    ],
)
def test_what_is_no_id(value: object) -> None:
    """Separators, wildcards, braces, blanks, controls, look-alikes and other types are refused."""
    assert not is_id(value)
    with pytest.raises(BadRequest) as refusal:
        check_id("agent_id", value)
    assert "agent_id" in refusal.value.message
    assert "[A-Za-z0-9_@=+~-]{1,128}" in (refusal.value.details or "")


def test_refusal_shows_little_of_the_value() -> None:
    """A long value is cut, and shown escaped."""
    with pytest.raises(BadRequest) as refusal:
        check_id("agent_id", "\r\n" + "x" * 10_000)
    details = refusal.value.details or ""
    assert len(details) < 120
    assert "\r" not in details


@pytest.mark.parametrize("value", [None, "", "*"])
def test_empty_scope_means_any(value: object) -> None:
    """No scope, an empty one and `*` are the same."""
    assert check_scope("subscribed_company_id", value) == "*"


@pytest.mark.parametrize("value", ["**", "a*", "*.a", ">", 0, False, [], {}, ["*"]])
def test_what_is_no_scope(value: object) -> None:
    """`*` counts alone only, and other empty things are no scope."""
    with pytest.raises(BadRequest):
        check_scope("subscribed_company_id", value)
