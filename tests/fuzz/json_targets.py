"""Client messages, events, tokens' contents and requests: what is JSON."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
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


class Number(str):
    """A number of JSON, as it is spelled."""

    __slots__ = ()


def _no(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def reference(data: bytes | str) -> Any:
    """Parse as RFC 8259 says, numbers as they are spelled; `NOTHING` if it is no JSON."""
    try:
        text = data.decode() if isinstance(data, bytes) else data
        return json.loads(text, parse_int=Number, parse_float=Number, parse_constant=_no)
    except RecursionError:
        raise TooDeep from None
    except ValueError:
        return NOTHING


def clear(data: bytes | str, *, halves: bool = False) -> dict[str, Any]:
    """Parse what has but one meaning: an object without doubled names or great depth; empty if it
    is anything else.

    :param halves: halves of surrogate pairs are let through, too.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            raise ValueError("a name appears again")
        return fields

    try:
        text = data.decode() if isinstance(data, bytes) else data
        if text.count("[") + text.count("{") > 50:
            return {}
        told = json.loads(
            text, parse_int=Number, parse_float=Number, parse_constant=_no, object_pairs_hook=once
        )
        if not halves:
            json.dumps(told, ensure_ascii=False).encode()
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _text(value: object) -> bool:
    return isinstance(value, str) and not isinstance(value, Number)


def _is_id(value: object) -> bool:
    return isinstance(value, str) and _text(value) and _ID.fullmatch(value) is not None


def client_message(data: bytes) -> bool:
    """Understood as the reference understands it, or refused with words that can be sent."""
    text = data.decode(errors="replace")
    try:
        message = frames.parse_client_message(text)
    except BadRequest as refusal:
        json.loads(frames.error(refusal))
        assert not _is_message(clear(text)), refusal
        return False
    try:
        told = reference(text)
    except TooDeep:
        return True
    payload = told["payload"]
    match message:
        case SelectChat():
            assert told["type"] == "select_chat"
            assert message.chat_id == payload["chat_id"]
            assert _ID.fullmatch(message.chat_id)
            assert (message.claim is None) == (payload.get("last_seq") is None)
            _check_claim(message.claim, payload)
        case ResumeFrom():
            assert told["type"] == "resume"
            _check_claim(message.claim, payload)
        case RefreshToken():
            assert told["type"] == "token"
            assert message.token == payload["token"]
    if message.id is not None:
        assert str(message.id) == told["id"]
        json.loads(frames.done(message.id, 1))
    return True


def _check_claim(claim: Claim | None, payload: dict[str, Any]) -> None:
    if claim is None:
        return
    assert isinstance(payload["last_seq"], Number)
    assert str(claim.seq) == payload["last_seq"]
    assert claim.seq is not None
    assert 0 <= claim.seq <= MAX_SEQ
    assert claim.stream == payload.get("stream", "")


def _is_message(told: dict[str, Any]) -> bool:
    """Tell whether it may not be refused."""
    payload = told.get("payload")
    if "id" in told or not isinstance(payload, dict):
        return False
    seq = payload.get("last_seq")
    position = isinstance(seq, Number) and re.fullmatch("0|[1-9][0-9]{0,17}", seq) is not None
    position = position and _text(payload.get("stream", ""))
    match told.get("type"):
        case "select_chat":
            unasked = payload.keys().isdisjoint(("last_seq", "stream"))
            return _is_id(payload.get("chat_id")) and (position or unasked)
        case "resume":
            return position
        case "token":
            return _text(payload.get("token"))
    return False


_ADDRESSES = [
    subjects.parse(subject)
    for subject in (
        "websocket.acme.bot.chats",
        "websocket.acme.bot.messages.c1",
        "websocket.acme.bot.agents",
    )
]


def event(data: bytes) -> bool:
    """The client is given what was published, with `event_type`, and of no other tenant; no event
    is refused.
    """
    accepted = False
    try:
        published = reference(data)
    except TooDeep:
        published = None
    plain = clear(data, halves=True)
    for address in _ADDRESSES:
        assert address is not None
        for seq in (7, None):
            try:
                text = event_text(address, data, seq)
            except NotAnEvent as refused:
                assert refused.reason
                assert refused.problem.encode()
                assert not _is_event(address, plain), refused
                continue
            accepted = True
            if published is None:
                continue
            try:
                sent = reference(text)
            except TooDeep:
                continue
            assert published is not NOTHING, "no JSON was taken for an event"
            assert sent is not NOTHING, "what is sent is no JSON"
            expected = {"type": "event", "payload": published | {"event_type": address.event_type}}
            if b"\\u" in data:
                expected = _mended(expected)
            assert sent == (expected if seq is None else expected | {"seq": "7"})
            assert published["company_id"] == address.company_id
            assert published.get("agent_id") in (None, "", address.agent_id)
            assert isinstance(published["row_data"], dict)
            assert event_id_of(text) == expected["payload"]["event_id"] != ""
            chat = address.chat_id
            assert chat is None or published.get("chat_id") in (None, "", chat)
    return accepted


def _mended(fields: dict[str, Any]) -> dict[str, Any]:
    """Return it with U+FFFD for each half of a surrogate pair."""
    text = json.dumps(fields, ensure_ascii=False).encode("utf-16-le", "surrogatepass")
    mended = json.loads(text.decode("utf-16-le", "replace"))
    assert isinstance(mended, dict)
    return mended


def _is_event(address: subjects.Address, told: dict[str, Any]) -> bool:
    optional = ("agent_id", "message_id", "chat_id", "event_time", "event_type")
    return (
        _text(told.get("event_id"))
        and told["event_id"] != ""
        and told.get("company_id") == address.company_id
        and isinstance(told.get("row_data"), dict)
        and all(told.get(name) is None or _text(told[name]) for name in optional)
        and told.get("agent_id") in (None, "", address.agent_id)
        and (address.chat_id is None or told.get("chat_id") in (None, "", address.chat_id))
    )


def _content(kind: Kind, data: bytes) -> bool:
    try:
        who = token.read(kind, data)
    except InvalidToken as refused:
        assert refused.message == token.REFUSED
        assert not _is_content(kind, clear(data))
        return False
    _check_principal(who)
    try:
        # What is not looked at need not be UTF-8: whoever has the key may write what they like.
        told = reference(data.decode(errors="replace"))
    except TooDeep:
        return True
    assert who.kind == kind
    assert abs(who.expires_at - _moment(told["expires_at"])) < 0.01
    _check_names(who, told)
    return True


def _check_names(who: Principal, told: dict[str, Any]) -> None:
    """Demand that it is who the fields name, and sees no more than they say."""
    if who.kind == "user":
        ids = [told["company_id"], told["agent_id"], told["user_id"]]
        assert [who.company_id, who.agent_id, who.principal_id] == ids
        assert who.identity == ":".join(ids)
        assert who.subject == f"websocket.{ids[0]}.{ids[1]}.chats"
        return
    assert who.principal_id == told["admin_id"]
    assert who.identity == f"admin:{told['admin_id']}"
    subscribed = told.get("subscribed_company_id") or "*"
    agent = told.get("subscribed_agent_id") or "*"
    restriction = told.get("company_id_restriction") or "*"
    both = {subscribed, restriction} - {"*"}
    company = both.pop() if both else "*"
    assert who.subject == ("" if both else f"websocket.{company}.{agent}.agents")


def _is_content(kind: Kind, told: dict[str, Any]) -> bool:
    names = ("company_id", "agent_id", "user_id") if kind == "user" else ("admin_id",)
    scopes = ("subscribed_company_id", "subscribed_agent_id", "company_id_restriction")
    usual = re.fullmatch(
        r"20[0-4]\d-0[1-9]-[01]\dT[01]\d:[0-5]\d:[0-5]\dZ", str(told.get("expires_at"))
    )
    return (
        usual is not None
        and told["expires_at"][8:10] != "00"
        and all(_is_id(told.get(name)) for name in names)
        and (kind == "user" or all(told.get(name) in (None, "", "*") for name in scopes))
    )


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


def user_content(data: bytes) -> bool:
    """Who is in a user's token."""
    return _content("user", data)


def admin_content(data: bytes) -> bool:
    """Who is in an admin's token, and what it may see."""
    return _content("admin", data)


def token_request(data: bytes) -> bool:
    """What is asked for can be read back as the identity that was asked for."""
    accepted = False
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
        accepted = True
        try:
            told = reference(data)
        except TooDeep:
            continue
        _check_names(who, told)
        assert abs(who.expires_at - 1e9 - int(told["expires_in_seconds"])) < 0.01
    return accepted


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _moment(text: str) -> float:
    """Return Unix time as the standard library reads it; a leap second is the moment after :59."""
    whole, rest = text[:17].upper(), text[17:]
    second, rest = rest[:2], rest[2:].upper().replace("Z", "+00:00")
    fraction, sign, offset = rest.partition("-") if "-" in rest else rest.partition("+")
    leap = second == "60"
    moment = datetime.fromisoformat(whole + ("59" if leap else second) + sign + offset)
    return (moment - _EPOCH).total_seconds() + leap + float(f"0{fraction or '.0'}")


def timestamp(data: bytes) -> bool:
    """A time of RFC 3339, the same that the standard library reads, or a ValueError."""
    text = data.decode("latin-1")
    try:
        value = rfc3339.parse(text)
    except ValueError:
        return False
    assert text.isascii()
    assert abs(value - _moment(text)) < 0.01
    again = rfc3339.parse(rfc3339.format_utc(round(value, 3))) if 0 < value < 2e11 else value
    assert abs(again - value) < 0.01
    return True


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
            b'{"event_id":"e","company_id":"acme","agent_id":"","chat_id":null,"row_data":{}}',
            b'{"event_id":"e","company_id":"acme","row_data":{"x":"\\ud83d"},"event_type":"chat"}',
            rb'{"event_id":"\ude00\ud83d\ude00","company_id":"acme","row_data":{"\\ud83d":"\n"}}',
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
