"""From a stream message to the text of an event frame."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daisi_ws.domain import subjects
from daisi_ws.domain.event import NotAnEvent, event_id_of, event_text

CHATS = "websocket.acme.bot.chats"
THREAD = "websocket.acme.bot.messages.c1"
AGENTS = "websocket.acme.bot.agents"
REQUIRED: dict[str, Any] = {"event_id": "1:messages:m", "company_id": "acme", "row_data": {"a": 1}}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
known = ["event_id", "company_id", "agent_id", "message_id", "chat_id", "event_time", "event_type"]


def address(subject: str) -> subjects.Address:
    """A subject that is one."""
    found = subjects.parse(subject)
    assert found is not None
    return found


def text_of(data: bytes, subject: str = CHATS, seq: int | None = 7) -> bytes:
    """The frame's text."""
    return event_text(address(subject), data, seq)


def payload(**fields: object) -> bytes:
    """A payload with these fields besides the required ones."""
    return json.dumps({**REQUIRED, **fields}).encode()


@pytest.mark.parametrize(
    ("subject", "kind"), [(CHATS, "chat"), (THREAD, "message"), (AGENTS, "agent")]
)
def test_event_type_is_added(subject: str, kind: str) -> None:
    """A frame is the payload with its kind, beside type and sequence."""
    assert json.loads(text_of(payload(), subject)) == {
        "type": "event",
        "seq": 7,
        "payload": {**REQUIRED, "event_type": kind},
    }


def test_event_without_sequence() -> None:
    """An older pod's event has none, and none is made up."""
    assert json.loads(text_of(payload(), seq=None)) == {
        "type": "event",
        "payload": {**REQUIRED, "event_type": "chat"},
    }


def test_every_byte_is_kept() -> None:
    """Key order, number spelling, blanks, escapes, unknown fields: all as published."""
    body = (
        b'{ "zzz":1.0e+2 , "row_data" : {"b":0.10,"a":12345678901234567890123,"n":-0},'
        b'"company_id":"acme","\\u0061":"\\u00e9\xc3\xa9","event_id":"e"'
    )
    assert text_of(b" \n" + body + b"} \n") == (
        b'{"type":"event","seq":7,"payload":' + body + b',"event_type":"chat"}}'
    )


@pytest.mark.parametrize(
    ("escapes", "sent"),
    [
        (rb"cut \ud83d", rb"cut \ufffd"),
        (rb"\uDE00\uD83D x", rb"\ufffd\ufffd x"),
        (rb"\ud83d\ud83d\ude00", rb"\ufffd\ud83d\ude00"),
        (rb"\ud83d\\ud83d \ude00", rb"\ufffd\\ud83d \ufffd"),
        (rb"\u00e9\ud83d\u00e9", rb"\u00e9\ufffd\u00e9"),
    ],
)
@pytest.mark.parametrize("claimed", [b"", b',"event_type":"agent"'])
def test_half_of_a_character_is_mended(escapes: bytes, sent: bytes, claimed: bytes) -> None:
    """A text that its publisher cut within a character is no reason to lose the event."""
    body = b'{"event_id":"e","company_id":"acme","row_data":{"name":"%b"}%b}' % (escapes, claimed)
    expected = b'"row_data":{"name":"%b"},"event_type":"chat"}}' % sent
    assert text_of(body).endswith(expected)
    assert event_id_of(text_of(body)) == "e"


def test_pairs_and_backslashes_beside_half_a_character_in_a_name() -> None:
    """Names of unknown fields are mended alike, and broken escapes stay what is no JSON."""
    assert rb'"\ufffd":1' in text_of(payload()[:-1] + rb',"\ud83d":1}')
    for broken in (rb"\ud83", rb"\u", rb"\x \ud83d"):
        with pytest.raises(NotAnEvent, match="bad_json"):
            text_of(payload()[:-1] + b',"a":"%b"}' % broken)


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(texts.filter(lambda name: name not in known), values, max_size=5))
def test_any_other_fields_get_through(more: dict[str, object]) -> None:
    """Whatever else is in a payload is in the frame."""
    fields = {**REQUIRED, **more, "row_data": more}
    frame = json.loads(text_of(json.dumps(fields).encode()))
    assert frame["payload"] == {**fields, "event_type": "chat"}


@pytest.mark.parametrize("claimed", ["message", "", None])
def test_event_type_is_the_subjects(claimed: str | None) -> None:
    """A payload that says another kind is corrected, once; the rest of it is kept."""
    data = payload(event_type=claimed, big=10**30)
    text = text_of(data)
    assert text.count(b"event_type") == 1
    assert json.loads(text)["payload"] == {**REQUIRED, "big": 10**30, "event_type": "chat"}


def test_right_event_type_is_kept_as_it_is() -> None:
    """A payload that says its kind rightly is passed on unchanged."""
    data = payload(event_type="chat")
    assert text_of(data) == b'{"type":"event","seq":7,"payload":' + data + b"}"


def test_event_id_is_found_again() -> None:
    """The ID can be read back from the frame's text."""
    assert event_id_of(text_of(payload())) == REQUIRED["event_id"]


@pytest.mark.parametrize(
    ("subject", "fields"),
    [
        (CHATS, {"agent_id": None}),
        (CHATS, {"agent_id": ""}),
        (CHATS, {"agent_id": "bot"}),
        (CHATS, {"chat_id": "any"}),
        (THREAD, {"chat_id": "c1"}),
        (THREAD, {"chat_id": ""}),
        (THREAD, {"message_id": "m", "event_time": "now"}),
    ],
)
def test_ids_that_agree(subject: str, fields: dict[str, object]) -> None:
    """Ids that say what the subject says, or nothing, are fine."""
    assert text_of(payload(**fields), subject)


@pytest.mark.parametrize(
    ("subject", "fields"),
    [
        (CHATS, {"company_id": "other"}),
        (CHATS, {"company_id": ""}),
        (CHATS, {"agent_id": "other"}),
        (THREAD, {"chat_id": "other"}),
        (AGENTS, {"agent_id": "other"}),
    ],
)
def test_ids_that_contradict(subject: str, fields: dict[str, object]) -> None:
    """A payload of another company, agent or chat than its subject's is no event."""
    with pytest.raises(NotAnEvent, match="but the subject") as problem:
        text_of(payload(**fields), subject)
    assert problem.value.reason == "ids_contradict"


def test_contradiction_shows_little_of_the_value() -> None:
    """A huge id does not become a huge log line."""
    with pytest.raises(NotAnEvent) as problem:
        text_of(payload(company_id="x" * 100_000))
    assert len(problem.value.problem) < 400


@pytest.mark.parametrize(
    "fields",
    [
        {"event_id": ""},
        {"event_id": None},
        {"event_id": 7},
        {"company_id": None},
        {"row_data": []},
        {"row_data": "{}"},
        {"row_data": None},
        {"agent_id": 7},
        {"chat_id": {}},
        {"message_id": 1},
        {"event_time": 1785414896},
        {"event_type": 7},
    ],
)
def test_field_of_the_wrong_type(fields: dict[str, object]) -> None:
    """Known fields have the contract's types, the required ones are not empty."""
    with pytest.raises(NotAnEvent) as problem:
        text_of(payload(**fields))
    assert problem.value.reason == "bad_field"
    assert problem.value.problem


@pytest.mark.parametrize("name", list(REQUIRED))
def test_missing_field(name: str) -> None:
    """Without a required field it is no event."""
    data = json.dumps({k: v for k, v in REQUIRED.items() if k != name}).encode()
    with pytest.raises(NotAnEvent, match=name) as problem:
        text_of(data)
    assert problem.value.reason == "bad_field"


ROW = b'{"event_id":"e","company_id":"acme","row_data":%b}'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"not json",
        ROW % b'{"a":1,}',
        ROW % b'{"a":01}',
        ROW % b'{"a":NaN}',
        ROW % b"{'a':1}",
        ROW % b'{"a":"line\nbreak"}',
        ROW % b'{"a":"\\x"}',
        ROW % b'{"a":tru}',
        ROW % b'{"a" 1}',
        ROW % b"{} // comment",
        ROW % b"{}" + b"{}",
        b"\xef\xbb\xbf" + ROW % b"{}",
        ROW % (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ],
)
def test_bad_json(data: bytes) -> None:
    """What is not one JSON object, in the raw part too, never becomes part of a frame."""
    with pytest.raises(NotAnEvent) as problem:
        text_of(data)
    assert problem.value.reason == "bad_json"


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf"])
def test_not_utf8(bad: bytes) -> None:
    """Bytes that are no UTF-8 never become part of a text frame, wherever they stand."""
    for data in (ROW % (b'{"a":"' + bad + b'"}'), payload()[:-1] + b',"x":"' + bad + b'"}'):
        with pytest.raises(NotAnEvent) as problem:
            text_of(data)
        assert problem.value.reason == "not_utf8"


@pytest.mark.parametrize("data", [b"[]", b"null", b"1", b'"text"'])
def test_json_that_is_no_object(data: bytes) -> None:
    """JSON of another type is no event."""
    with pytest.raises(NotAnEvent) as problem:
        text_of(data)
    assert problem.value.reason == "bad_field"


@settings(deadline=None, max_examples=500)
@given(
    st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace"))
)
def test_garbage_never_raises_anything_else(data: bytes) -> None:
    """Whatever the bytes, the outcome is a frame of valid JSON or `NotAnEvent`."""
    for whole in (data, ROW % data, payload()[:-1] + b"," + data + b"}"):
        try:
            text = text_of(whole)
        except NotAnEvent:
            continue
        assert json.loads(text)["type"] == "event"
