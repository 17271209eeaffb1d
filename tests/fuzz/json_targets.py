"""Client messages, events, tokens' contents and requests: what is JSON."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from daisi_ws.domain import frames, rfc3339, subjects, token
from daisi_ws.domain.errors import BadRequest, InvalidToken
from daisi_ws.domain.event import NotAnEvent, event_id_of, event_text
from daisi_ws.domain.frames import RefreshToken, ResumeFrom, SelectChat
from daisi_ws.domain.ids import ALPHABET
from daisi_ws.domain.principal import Kind, Principal
from daisi_ws.domain.resume import MAX_SEQ, Claim
from tests.fuzz.target import Target

_ID = re.compile(ALPHABET)
NOTHING = object()


class TooDeep(Exception):
    """The reference parser gives up where ours need not."""


def _no(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def reference(data: bytes | str) -> Any:
    """Parse as RFC 8259 says, numbers as they are spelled; `NOTHING` if it is no JSON."""
    try:
        text = data.decode() if isinstance(data, bytes) else data
        return json.loads(text, parse_int=str, parse_float=str, parse_constant=_no)
    except RecursionError:
        raise TooDeep from None
    except ValueError:
        return NOTHING


def client_message(data: bytes) -> None:
    """Understood as the reference understands it, or refused with words that can be sent."""
    text = data.decode(errors="replace")
    try:
        message = frames.parse_client_message(text)
    except BadRequest as refusal:
        json.loads(frames.error(refusal))
        return
    try:
        told = reference(text)
    except TooDeep:
        return
    payload = told["payload"]
    match message:
        case SelectChat():
            assert told["type"] == "select_chat"
            assert message.chat_id == payload["chat_id"]
            assert _ID.fullmatch(message.chat_id)
            _check_claim(message.claim)
        case ResumeFrom():
            assert told["type"] == "resume"
            assert str(message.claim.seq) == str(payload["last_seq"])
            _check_claim(message.claim)
        case RefreshToken():
            assert told["type"] == "token"
            assert message.token == payload["token"]
    if message.id is not None:
        assert str(message.id) == told["id"]
        json.loads(frames.done(message.id, 1))


def _check_claim(claim: Claim | None) -> None:
    assert claim is None or claim.seq is None or 0 <= claim.seq <= MAX_SEQ


_ADDRESSES = [
    subjects.parse(subject)
    for subject in (
        "websocket.acme.bot.chats",
        "websocket.acme.bot.messages.c1",
        "websocket.acme.bot.agents",
    )
]


def event(data: bytes) -> None:
    """The client is given what was published, with `event_type`, and of no other tenant."""
    for address in _ADDRESSES:
        assert address is not None
        for seq in (7, None):
            try:
                text = event_text(address, data, seq)
            except NotAnEvent as refused:
                assert refused.reason
                assert refused.problem.encode()
                continue
            try:
                published, sent = reference(data), reference(text)
            except TooDeep:
                continue
            assert published is not NOTHING, "no JSON was taken for an event"
            assert sent is not NOTHING, "what is sent is no JSON"
            expected = {"type": "event", "payload": published | {"event_type": address.event_type}}
            assert sent == (expected if seq is None else expected | {"seq": "7"})
            assert published["company_id"] == address.company_id
            assert published.get("agent_id") in (None, "", address.agent_id)
            assert isinstance(published["row_data"], dict)
            assert event_id_of(text) == published["event_id"] != ""


def _content(kind: Kind, data: bytes) -> None:
    try:
        who = token.read(kind, data)
    except InvalidToken as refused:
        assert refused.message == token.REFUSED
        return
    _check_principal(who)
    try:
        # What is not looked at need not be UTF-8: whoever has the key may write what they like.
        told = reference(data.decode(errors="replace"))
    except TooDeep:
        return
    assert who.kind == kind
    if kind == "user":
        ids = (who.company_id, who.agent_id, who.principal_id)
        assert ids == (told["company_id"], told["agent_id"], told["user_id"])
    else:
        assert who.principal_id == told["admin_id"]


def _check_principal(who: Principal) -> None:
    parts = who.identity.split(":")
    assert all(_ID.fullmatch(part) for part in parts)
    assert parts[-1] == who.principal_id
    if who.kind == "user":
        assert len(parts) == 3
        assert subjects.parse(who.subject) is not None
        return
    assert parts[0] == "admin"
    assert len(parts) == 2
    if who.subject:
        _, company, agent, last = who.subject.split(".")
        assert last == "agents"
        assert all(part == "*" or _ID.fullmatch(part) for part in (company, agent))


def user_content(data: bytes) -> None:
    """Who is in a user's token."""
    _content("user", data)


def admin_content(data: bytes) -> None:
    """Who is in an admin's token."""
    _content("admin", data)


def token_request(data: bytes) -> None:
    """What is asked for can be read back as the identity that was asked for."""
    kinds: tuple[Kind, ...] = ("user", "admin")
    for kind in kinds:
        try:
            content = token.requested(kind, data, 1e9)
        except BadRequest as refusal:
            assert json.dumps(refusal.body())
            continue
        who = token.read(kind, json.dumps(content).encode())
        _check_principal(who)
        assert 1e9 < who.expires_at <= 1e9 + token.LONGEST_SECONDS


def timestamp(data: bytes) -> None:
    """A time of RFC 3339, or a ValueError."""
    text = data.decode("latin-1")
    try:
        value = rfc3339.parse(text)
    except ValueError:
        return
    assert text.isascii()
    assert -7e10 < value < 3e11
    again = rfc3339.parse(rfc3339.format_utc(round(value, 3))) if 0 < value < 2e11 else value
    assert abs(again - value) < 0.01


_EVENT = (
    b'{"event_id":"1:m","company_id":"acme","agent_id":"bot","chat_id":"c1","row_data":'
    b'{"a":[1,2.50,"\\u00e9",null,true,{"b":{}}]},"event_time":"2026-01-01T00:00:00Z"}'
)
_EVENT_WORDS = (
    b'"company_id":"evil"', b'"company_id":"acme"', b'"event_type":"agent"', b'"event_type":null',
    b'"row_data":{}', b'"seq":1', b'"type":"ready"', b'"agent_id":""', b'"chat_id":"c2"', b",",
)  # fmt: skip
_TIME = b"2030-01-02T03:04:05.123456789+05:30"
_USER = b'{"company_id":"acme","agent_id":"bot","user_id":"ann","expires_at":"%b"}' % _TIME
_ADMIN = (
    b'{"admin_id":"root","expires_at":"%b","subscribed_company_id":"*",'
    b'"subscribed_agent_id":"bot","company_id_restriction":"acme"}' % _TIME
)

TARGETS = [
    Target(
        "client-message",
        client_message,
        [
            b'{"type":"select_chat","payload":{"chat_id":"c1"},"id":5}',
            b'{"type":"select_chat","payload":{"chat_id":"c1","last_seq":7,"stream":"s@t"}}',
            b'{"type":"resume","payload":{"last_seq":123,"stream":"wa_stream@2026"},"id":"x"}',
            b'{"type":"token","payload":{"token":"abc"}}',
        ],
        [b'"last_seq":', b'"chat_id":"*"', b'"chat_id":"a.b"', b'"type":"token"', b'"id":null'],
    ),
    Target(
        "event",
        event,
        [
            _EVENT,
            b'{"event_id":"e","company_id":"acme","row_data":{}}',
            b'{"event_id":"e","company_id":"acme","row_data":{"x":"\\ud83d"},"event_type":"chat"}',
        ],
        _EVENT_WORDS,
        weight=8,
    ),
    Target("user-content", user_content, [_USER], [b'"user_id":"bob"', b'"company_id":"evil"']),
    Target("admin-content", admin_content, [_ADMIN], [b'"*"', b'"admin_id":"x"', b'""']),
    Target(
        "token-request",
        token_request,
        [
            b'{"company_id":"acme","agent_id":"bot","user_id":"ann","expires_in_seconds":3600}',
            b'{"admin_id":"root","expires_in_seconds":60,"subscribed_company_id":"acme"}',
        ],
        [b'"expires_in_seconds":1e3', b'"user_id":["a"]', b"315576000", b'"*"'],
        weight=3,
    ),
    Target("timestamp", timestamp, [_TIME, b"2016-12-31T23:59:60Z", b"0001-01-01T00:00:00-23:59"]),
]
