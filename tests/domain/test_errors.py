"""Refusals, against the wire protocol's table."""

from __future__ import annotations

import pytest

from daisi_ws.domain import errors
from daisi_ws.domain.errors import BadRequest, Refusal

TABLE = {
    "InvalidAPIKey": 401,
    "InvalidToken": 403,
    "SessionConflict": 409,
    "RateLimitExceeded": 429,
    "BadRequest": 400,
    "SubscriptionFailure": 500,
    "InternalServerError": 500,
}


@pytest.mark.parametrize("code", TABLE)
def test_codes_are_those_of_the_protocol(code: str) -> None:
    """Each refusal has its HTTP status and its name."""
    kind: type[Refusal] = getattr(errors, code)
    assert kind.code == code
    assert kind.http_status == TABLE[code]


def test_every_refusal_is_in_the_table() -> None:
    """A refusal that the protocol does not know cannot be made."""
    assert {kind.__name__ for kind in Refusal.__subclasses__()} == set(TABLE)


def test_the_body_has_details_only_where_there_are_some() -> None:
    """`details` is left out, not null; the reason is for us alone."""
    assert BadRequest("no", reason="inner").body() == {"code": "BadRequest", "message": "no"}
    assert BadRequest("no", details="why").body()["details"] == "why"


def test_the_reason_defaults_to_the_code() -> None:
    """Every refusal has a label for metrics."""
    assert BadRequest("no").reason == "BadRequest"
    assert BadRequest("no", reason="origin").reason == "origin"
