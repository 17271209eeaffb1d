"""The messages of `json.v1`."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daisi_ws.domain import frames
from daisi_ws.domain.errors import BadRequest, SessionConflict
from daisi_ws.domain.frames import (
    ClientMessage,
    RefreshToken,
    ResumeFrom,
    SelectChat,
    parse_client_message,
)
from daisi_ws.domain.resume import Claim, Recovery


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type":"select_chat","payload":{"chat_id":"c-1"}}', SelectChat("c-1")),
        ('{"payload":{"chat_id":"c"},"type":"select_chat","id":7}', SelectChat("c", 7)),
        ('{"type":"select_chat","payload":{"chat_id":"c"},"id":"x"}', SelectChat("c", "x")),
        ('{"type":"select_chat","payload":{"chat_id":"c","new":1},"more":[]}', SelectChat("c")),
        (
            f'{{"type":"select_chat","payload":{{"chat_id":"c"}},"id":"{"x" * 128}"}}',
            SelectChat("c", "x" * 128),
        ),
        ('\n {"type":"select_chat","payload":{"chat_id":"\\u0063"}} ', SelectChat("c")),
        (
            '{"type":"select_chat","payload":{"chat_id":"c","last_seq":0,"stream":"s@1"}}',
            SelectChat("c", claim=Claim(0, "s@1")),
        ),
        ('{"type":"resume","payload":{"last_seq":5}}', ResumeFrom(Claim(5))),
        (
            '{"type":"resume","id":1,"payload":{"last_seq":5,"stream":"s@1"}}',
            ResumeFrom(Claim(5, "s@1"), 1),
        ),
        ('{"type":"token","payload":{"token":"abc="}}', RefreshToken("abc=")),
        ('{"type":"token","payload":{"token":"t"},"id":1}', RefreshToken("t", 1)),
    ],
)
def test_what_a_client_may_send(text: str, message: ClientMessage) -> None:
    """Known types with their payload; unknown fields do no harm, also as bytes."""
    assert parse_client_message(text) == message
    assert parse_client_message(text.encode()) == message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("hello", "not JSON"),
        ('{"type":"select_chat"', "not JSON"),
        ("[" * 100_000, "wrong shape"),
        ('{"type":"select_chat","payload":' + "[" * 100_000 + "}", "not JSON"),
        ("\ud800", "not JSON"),
        ("7", "wrong shape"),
        ("[]", "wrong shape"),
        ("null", "wrong shape"),
        ("{}", "wrong shape"),
        ('{"type":null}', "wrong shape"),
        ('{"type":"select_chat","payload":{"chat_id":"c"},"id":1.5}', "wrong shape"),
        ('{"type":"select_chat","payload":{"chat_id":"c"},"id":[]}', "wrong shape"),
        (f'{{"type":"select_chat","payload":{{"chat_id":"c"}},"id":"{"x" * 129}"}}', "wrong shape"),
        (
            '{"type":"select_chat","payload":{"chat_id":"c"},"id":9223372036854775808}',
            "wrong shape",
        ),
        ('{"type":""}', "unknown message type"),
        ('{"type":"SELECT_CHAT","payload":{"chat_id":"c"}}', "unknown message type"),
        ('{"type":"select_chat"}', "bad payload"),
        ('{"type":"select_chat","payload":null}', "bad payload"),
        ('{"type":"select_chat","payload":{}}', "bad payload"),
        ('{"type":"select_chat","payload":{"chat_id":5}}', "bad payload"),
        ('{"type":"select_chat","payload":{"chat_id":""}}', "chat_id"),
        ('{"type":"select_chat","payload":{"chat_id":"a.b"}}', "chat_id"),
        ('{"type":"select_chat","payload":{"chat_id":"*"}}', "chat_id"),
        ('{"type":"select_chat","payload":{"chat_id":">"}}', "chat_id"),
        ('{"type":"select_chat","payload":{"chat_id":"a\\u0000"}}', "chat_id"),
        ('{"type":"token","payload":{"token":1}}', "bad payload"),
        ('{"type":"resume","payload":{}}', "bad payload"),
        ('{"type":"resume","payload":{"last_seq":null}}', "bad payload"),
        ('{"type":"resume","payload":{"last_seq":-1}}', "bad payload"),
        ('{"type":"resume","payload":{"last_seq":9223372036854775808}}', "bad payload"),
        ('{"type":"resume","payload":{"last_seq":1,"stream":5}}', "bad payload"),
        ('{"type":"select_chat","payload":{"chat_id":"c","last_seq":1.5}}', "bad payload"),
    ],
)
def test_what_a_client_may_not_send(text: str, said: str) -> None:
    """Everything else is a BadRequest that says what is wrong."""
    with pytest.raises(BadRequest, match=said) as refused:
        parse_client_message(text)
    assert refused.value.details


def test_an_unknown_type_is_told_which_are_known() -> None:
    """The answer names the known types, and no more of the client's than is useful."""
    with pytest.raises(BadRequest) as refused:
        parse_client_message(json.dumps({"type": "x" * 10_000}))
    assert refused.value.details is not None
    assert "select_chat, resume, token" in refused.value.details
    assert len(refused.value.details) < 200


@given(st.text() | st.binary() | st.recursive(st.text(), st.lists).map(json.dumps))
def test_any_message_is_parsed_or_refused(text: str | bytes) -> None:
    """Whatever a client sends, nothing but a BadRequest comes of it."""
    try:
        parse_client_message(text)
    except BadRequest as refused:
        json.loads(frames.error(refused))


def test_server_messages() -> None:
    """The messages have the wire protocol's fields, spelled so."""
    assert json.loads(frames.ready("wa_stream@1", 42, "c1")) == {
        "type": "ready",
        "stream": "wa_stream@1",
        "seq": 42,
        "connection": "c1",
    }
    found = Recovery(after=7, upto=9, events=[(8, b"x")])  # type: ignore[list-item]
    assert json.loads(frames.ready("s@1", 7, "c1", found)) == {
        "type": "ready",
        "stream": "s@1",
        "seq": 7,
        "connection": "c1",
        "recovered": True,
        "replayed": 1,
    }
    refused = Recovery("too_old")
    assert json.loads(frames.resumed("s@1", 9, refused, message_id=3, chat_id="c-1")) == {
        "type": "resumed",
        "id": 3,
        "chat_id": "c-1",
        "stream": "s@1",
        "seq": 9,
        "recovered": False,
        "reason": "too_old",
    }
    assert "id" not in json.loads(frames.resumed("s@1", 9, refused))
    assert json.loads(frames.error(SessionConflict("held", details="elsewhere"))) == {
        "type": "error",
        "payload": {"code": "SessionConflict", "message": "held", "details": "elsewhere"},
    }
    assert json.loads(frames.error(BadRequest("no"))) == {
        "type": "error",
        "payload": {"code": "BadRequest", "message": "no"},
    }
    dropped = json.loads(frames.events_dropped(3, 9, 5))
    assert dropped["payload"]["code"] == "EventsDropped"
    assert dropped["payload"]["details"] == {"from_seq": 3, "to_seq": 9, "dropped": 5}
    assert json.loads(frames.token_expiring(29.6)) == {
        "type": "token_expiring",
        "payload": {"expires_in_seconds": 30},
    }
    assert json.loads(frames.done("x", 7)) == {"type": "done", "id": "x", "payload": {"seq": 7}}
