"""What is in a token: read, checked, and written; encryption is the codec's.

::

    user   {company_id, agent_id, user_id, expires_at}
    admin  {admin_id, expires_at, subscribed_company_id?, subscribed_agent_id?,
            company_id_restriction?}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from daisi_ws.domain import principal, rfc3339
from daisi_ws.domain.errors import BadRequest, InvalidToken
from daisi_ws.domain.ids import ANY, check_id, check_scope
from daisi_ws.domain.principal import Kind, Principal

REFUSED: Final = "the token is not valid"
"""The one message for everything that is no token of ours, so that none can be probed for."""

LONGEST_SECONDS: Final = 10 * 31_557_600
"""Longest life of a token: ten years."""


class _User(msgspec.Struct):
    company_id: str
    agent_id: str
    user_id: str
    expires_at: str


class _Admin(msgspec.Struct):
    admin_id: str
    expires_at: str
    subscribed_company_id: str | None = None
    subscribed_agent_id: str | None = None
    company_id_restriction: str | None = None


_user = msgspec.json.Decoder(_User)
_admin = msgspec.json.Decoder(_Admin)


def refused(reason: str) -> InvalidToken:
    """Return the refusal of what is no token of ours; `reason` is for metrics and logs only."""
    return InvalidToken(REFUSED, reason=reason)


def read(kind: Kind, content: bytes) -> Principal:
    """Return who a decrypted token names. Whether it has expired is the caller's question.

    :param content: the JSON text inside the token.
    :raises InvalidToken: not JSON, a field missing or of the wrong type, an id outside the
        alphabet, no RFC 3339 time.
    """
    try:
        return _read_user(content) if kind == "user" else _read_admin(content)
    except (msgspec.MsgspecError, RecursionError, ValueError, BadRequest):
        raise refused("bad_content") from None


def _read_user(content: bytes) -> Principal:
    token = _user.decode(content)
    return principal.user(
        check_id("company_id", token.company_id),
        check_id("agent_id", token.agent_id),
        check_id("user_id", token.user_id),
        rfc3339.parse(token.expires_at),
    )


def _read_admin(content: bytes) -> Principal:
    token = _admin.decode(content)
    return principal.admin(
        check_id("admin_id", token.admin_id),
        rfc3339.parse(token.expires_at),
        check_scope("subscribed_company_id", token.subscribed_company_id),
        check_scope("subscribed_agent_id", token.subscribed_agent_id),
        check_scope("company_id_restriction", token.company_id_restriction),
    )


def requested(kind: Kind, body: bytes, now: float) -> dict[str, object]:
    """Return the content of the token that a request for one describes.

    :param body: the request's JSON object: the content's fields, with `expires_in_seconds`
        instead of `expires_at`; unknown fields are ignored.
    :param now: Unix time in seconds.
    :raises BadRequest: naming every wrong field.
    """
    fields = _object(body)
    problems: list[str] = []
    content: dict[str, object] = {}
    for name, check in _FIELDS[kind]:
        try:
            value = check(name, fields.get(name))
        except BadRequest as error:
            problems.append(error.details or error.message)
        else:
            if value != ANY:  # an absent scope means the same to everyone, older pods included
                content[name] = value
    life = fields.get("expires_in_seconds")
    if type(life) is not int or not 1 <= life <= LONGEST_SECONDS:
        problems.append(
            "expires_in_seconds must be a whole number of seconds from 1 to"
            f" {LONGEST_SECONDS} (ten years)"
        )
    if problems:
        raise BadRequest("the token request is not valid", details="; ".join(problems))
    assert isinstance(life, int)
    content["expires_at"] = rfc3339.format_utc(now + life)
    return content


def _object(body: bytes) -> Mapping[str, object]:
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        fields = None
    if not isinstance(fields, dict):
        raise BadRequest("the token request is not valid", details="the body must be a JSON object")
    return fields


_FIELDS: Final[Mapping[Kind, tuple[tuple[str, Callable[[str, object], str]], ...]]] = {
    "user": (("company_id", check_id), ("agent_id", check_id), ("user_id", check_id)),
    "admin": (
        ("admin_id", check_id),
        ("subscribed_company_id", check_scope),
        ("subscribed_agent_id", check_scope),
        ("company_id_restriction", check_scope),
    ),
}
