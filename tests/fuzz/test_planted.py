"""Each target can fail: with a fault planted in what it tests, the fuzzer finds it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import pytest

from daisi_ws.adapters import (
    http_request,
    pods_redis,
    push_event,
    token_codec_aesgcm,
)
from daisi_ws.adapters.redis_link import Script
from daisi_ws.config import values
from daisi_ws.domain import event, frames, packets, rfc3339, subjects, token, wire
from daisi_ws.domain.consumer import AckSubject, parse_ack_subject
from daisi_ws.domain.ids import check_scope
from tests.fuzz import stream_targets, wire_targets
from tests.fuzz.mutate import Mutator
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

Patch = pytest.MonkeyPatch

INPUTS: Final = 20_000
"""So many are enough for every fault here, and most need less than a hundred."""

PLANTED: Final[dict[str, tuple[str, Callable[[Patch], None]]]] = {}


def plant(target: str) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Note a fault, by its function's name, and the target that has to find it."""

    def add(fault: Callable[[Patch], None]) -> Callable[[Patch], None]:
        PLANTED[fault.__name__] = target, fault
        return fault

    return add


def _any(_: str, value: Any) -> Any:
    return value


@plant("client-message")
def a_chat_of_any_name_is_selected(patch: Patch) -> None:
    patch.setattr(frames, "check_id", _any)


@plant("client-message")
def a_position_is_forgotten(patch: Patch) -> None:
    patch.setattr(frames._SelectChatPayload, "claim", lambda _: None)


@plant("client-message")
def the_largest_positions_are_refused(patch: Patch) -> None:
    small = msgspec.json.Decoder(msgspec.defstruct("Small", [("chat_id", str, None)]))
    patch.setattr(frames, "_resume", small)


@plant("event")
def an_event_of_another_company_is_taken(patch: Patch) -> None:
    patch.setattr(event, "_check_ids", lambda *_: None)


@plant("event")
def an_event_is_refused_for_an_empty_agent(patch: Patch) -> None:
    checked = event._check_ids

    def strict(address: subjects.Address, payload: Any) -> None:
        checked(address, payload)
        if payload.agent_id == "":
            raise event.NotAnEvent("ids_contradict", "empty")

    patch.setattr(event, "_check_ids", strict)


@plant("event")
def half_a_character_makes_an_event_none(patch: Patch) -> None:
    patch.setattr(event, "_ESCAPE", re.compile(rb"(?!)"))


@plant("user-content")
def an_identity_of_any_text_is_believed(patch: Patch) -> None:
    patch.setattr(token, "check_id", _any)


@plant("user-content")
def a_content_that_is_no_text_escapes(patch: Patch) -> None:
    def read(content: bytes) -> None:
        content.decode("ascii")

    patch.setattr(token, "_read_user", read)


@plant("admin-content")
def the_restriction_is_ignored(patch: Patch) -> None:
    patch.setattr(
        token,
        "check_scope",
        lambda name, value: "*" if name == "company_id_restriction" else check_scope(name, value),
    )


@plant("token-request")
def a_token_is_made_for_any_name(patch: Patch) -> None:
    user = tuple((name, _any) for name, _ in token._FIELDS["user"])
    patch.setitem(token._FIELDS, "user", user)


@plant("timestamp")
def the_sign_of_an_offset_is_ignored(patch: Patch) -> None:
    parse = rfc3339.parse
    patch.setattr(rfc3339, "parse", lambda text: parse(text[:17] + text[17:].replace("-", "+")))


@plant("timestamp")
def the_31st_of_any_month_is_a_day(patch: Patch) -> None:
    parse = rfc3339.parse

    def lenient(text: str) -> float:
        try:
            return parse(text)
        except ValueError as error:
            if "day" in str(error):
                return parse(text[:8] + "01" + text[10:])
            raise

    patch.setattr(rfc3339, "parse", lenient)


@plant("subject")
def any_text_is_an_identifier(patch: Patch) -> None:
    patch.setattr(subjects, "is_id", bool)


@plant("route-key")
def blanks_around_a_key_do_not_count(patch: Patch) -> None:
    found = subjects.interest_of
    patch.setattr(subjects, "interest_of", lambda key: found(key.strip()))


@plant("ack-subject")
def a_negative_number_is_one(patch: Patch) -> None:
    def lenient(text: str) -> AckSubject | None:
        return parse_ack_subject(text.replace("-", ""))

    patch.setattr(wire_targets, "parse_ack_subject", lenient)


@plant("token")
def a_token_has_more_than_one_spelling(patch: Patch) -> None:
    binary = token_codec_aesgcm._binary
    patch.setattr(token_codec_aesgcm, "_binary", lambda text: binary(text.replace("\n", "")))


@plant("packet")
def text_that_is_no_utf_8_escapes(patch: Patch) -> None:
    patch.setattr(packets, "_NOT_A_PACKET", (msgspec.MsgspecError,))


@plant("packet")
def a_field_is_lost_on_the_way(patch: Patch) -> None:
    encode = packets.encode
    patch.setattr(packets, "encode", lambda packet: encode(packet).replace(b"\xa1r", b"\xa0"))


@plant("push-event")
def an_older_pods_ids_are_not_checked(patch: Patch) -> None:
    patch.setattr(push_event, "check_id", _any)


@plant("records")
def a_record_that_is_no_utf_8_escapes(patch: Patch) -> None:
    patch.setattr(pods_redis, "_NO_RECORD", (msgspec.MsgspecError,))


def _script(patch: Patch, name: str, old: str, new: str) -> None:
    script: Script = getattr(wire_targets._locks, name)
    assert old in script.text
    patch.setattr(wire_targets._locks, name, Script(script.text.replace(old, new), "changed"))


@plant("lua")
def a_lock_is_renewed_for_anybody(patch: Patch) -> None:
    rest = "then\n    redis.call('PEXPIRE', fence"
    _script(patch, "_renew", f"if holder == owner {rest}", f"if true {rest}")


@plant("lua")
def a_fence_that_is_no_number_is_an_error(patch: Patch) -> None:
    _script(patch, "_acquire", "(tonumber(number) or 0)", "tonumber(number)")


@plant("origin")
def a_path_is_part_of_an_origin(patch: Patch) -> None:
    patch.setattr(http_request, "_ORIGIN", re.compile(r"(https?)://([^\s/?#@,]+)/?"))


@plant("origin")
def the_port_of_the_other_scheme_may_be_left_out(patch: Patch) -> None:
    patch.setattr(http_request, "_DEFAULT_PORTS", {"http": ":443", "https": ":80"})


@plant("frame-check")
def a_long_frames_length_is_read_wrongly(patch: Patch) -> None:
    patch.setattr(wire, "_EXTENDED", {126: 2, 127: 4})


@plant("frames")
def unmasked_frames_are_taken(patch: Patch) -> None:
    patch.setattr(wire.FrameCheck, "refuses", lambda *_: False)


@plant("frame-check")
def a_message_may_begin_within_another(patch: Patch) -> None:
    patch.setattr(wire, "_CONTROL", 0xFF)


@plant("http")
def any_key_opens_a_websocket(patch: Patch) -> None:
    patch.setattr(http_request, "_is_key", lambda _: True)


@plant("http")
def a_request_id_is_taken_as_it_is(patch: Patch) -> None:
    patch.setattr(http_request, "_REQUEST_ID", re.compile(".*", re.DOTALL))


@plant("http")
def the_first_of_two_origins_counts(patch: Patch) -> None:
    patch.setattr(http_request, "check_origin", lambda *_: None)


@plant("configuration")
def a_secret_that_does_not_fit_is_shown(patch: Patch) -> None:
    patch.setattr(values, "_mismatch", lambda _, value: f"{value!r} does not fit")


@plant("environment")
def the_secret_of_a_variable_is_shown(patch: Patch) -> None:
    patch.setattr(values, "_mismatch", lambda _, value: f"{value!r} does not fit")


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    yield
    subjects.parse.cache_clear()
    stream_targets.close_loop()
    stream_targets.close_file()


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(fault: str, monkeypatch: Patch) -> None:
    """Within a few thousand inputs."""
    name, put = PLANTED[fault]
    put(monkeypatch)
    assert _found(TARGETS[name]) < INPUTS


def test_no_target_is_left_out() -> None:
    """Each has a fault that only it is asked to find."""
    assert {name for name, _ in PLANTED.values()} == set(TARGETS)


def _found(target: Target) -> int:
    """Return how many inputs it takes."""
    count = 0
    for data in Mutator(target.seeds, target.words, target.name).inputs(INPUTS):
        try:
            target.run(data)
        except Exception:  # noqa: BLE001 - whatever it is, it is a finding
            break
        count += 1
    return count
