"""Tokens as text: what is accepted, and that nothing else is."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from daisi_ws.adapters.token_codec_aesgcm import MOST_CHARACTERS, AesGcmTokenCodec
from daisi_ws.domain.errors import InvalidToken
from daisi_ws.domain.token import REFUSED

KEY = "0f" * 32
CONTENT: dict[str, Any] = {
    "company_id": "acme",
    "agent_id": "bot",
    "user_id": "ann",
    "expires_at": "2026-07-30T12:34:56Z",
}
codec = AesGcmTokenCodec(KEY)


def reason_of(token: str, of: AesGcmTokenCodec = codec) -> str:
    """Have a token refused; return why. What a client is told is always the same."""
    with pytest.raises(InvalidToken) as refusal:
        of.decode(token)
    assert refusal.value.message == REFUSED
    assert refusal.value.details is None
    return refusal.value.reason


def older_service(content: bytes, *, padded: bool = True) -> str:
    """A token as the contract describes it, made without our code."""
    nonce = os.urandom(12)
    sealed = AESGCM(bytes.fromhex(KEY)).encrypt(nonce, content, None)
    text = base64.urlsafe_b64encode(nonce + sealed).decode()
    return text if padded else text.rstrip("=")


def test_round_trip() -> None:
    """What is encoded is decoded, as JSON text."""
    assert json.loads(codec.decode(codec.encode(CONTENT))) == CONTENT


@pytest.mark.parametrize("length", range(60, 66))
def test_padding_may_be_left_out(length: int) -> None:
    """Tokens of every length are accepted with and without padding; ours are padded."""
    content = b"x" * length
    assert codec.decode(older_service(content)) == content
    assert codec.decode(older_service(content, padded=False)) == content
    assert len(codec.encode({"a": "x" * length})) % 4 == 0


def test_no_two_tokens_are_alike() -> None:
    """Every token has a nonce of its own."""
    tokens = {codec.encode(CONTENT) for _ in range(1000)}
    assert len({base64.urlsafe_b64decode(token)[:12] for token in tokens}) == 1000


def test_key_of_another_kind() -> None:
    """A token under another key is forged, and nothing else."""
    other = AesGcmTokenCodec("f0" * 32)
    assert reason_of(codec.encode(CONTENT), other) == "forged"


def test_every_flipped_bit_is_refused() -> None:
    """No bit of a token's bytes can be changed: nonce, content and tag alike."""
    data = base64.urlsafe_b64decode(codec.encode(CONTENT))
    for position in range(len(data) * 8):
        changed = bytearray(data)
        changed[position // 8] ^= 1 << position % 8
        assert reason_of(base64.urlsafe_b64encode(changed).decode()) == "forged"


def test_every_changed_character_is_refused() -> None:
    """No character of the text can be changed, the spare bits of the last one included."""
    for content in (b"x" * 30, b"x" * 31, b"x" * 32):
        token = older_service(content)
        for position in range(len(token)):
            for character in "Ab0_-=+/. \n\0é":
                if token[position] != character:
                    reason_of(token[:position] + character + token[position + 1 :])


def test_every_truncation_is_refused() -> None:
    """No part of a token is a token; only its padding may be missing."""
    token = older_service(b"x" * 30)
    assert token.endswith("==")
    for end in range(len(token) - 2):
        reason_of(token[:end])
    for start in range(1, len(token)):
        reason_of(token[start:])


@pytest.mark.parametrize(
    "token",
    [
        "",
        "=",
        "====",
        "A",
        "A" * 37,
        "A" * 4097,
        "A" * 10_000_000,
        " " + "A" * 40,
        "A" * 40 + "\n",
        "A" * 20 + " " + "A" * 20,
        "A" * 40 + "=",
        "A" * 40 + "====",
        "=" + "A" * 40,
        "+/" * 20,
        "Ä" * 40,
        "\ud800" * 40,
        "\0" * 40,
        "Bearer " + "A" * 40,
        "eyJhbGciOiJub25lIn0.eyJhIjoxfQ.",
    ],
)
def test_malformed_text(token: str) -> None:
    """What cannot be a token is refused before anything is decrypted, however long it is."""
    assert reason_of(token) == "malformed"


@pytest.mark.parametrize("size", [0, 1, 12, 27])
def test_too_short_to_hold_nonce_and_tag(size: int) -> None:
    """Fewer bytes than nonce and tag are malformed, not a crash."""
    assert reason_of(base64.urlsafe_b64encode(b"x" * size).decode()) == "malformed"


def test_padding_must_be_the_right_one() -> None:
    """Half a padding, or padding where none belongs, is malformed."""
    two = older_service(b"x" * 30)
    assert reason_of(two[:-1]) == "malformed"
    none = older_service(b"x" * 32)
    assert not none.endswith("=")
    assert reason_of(none + "=") == "malformed"


def test_longest_token() -> None:
    """A token of the largest size is read, a character more is not."""
    room = MOST_CHARACTERS * 3 // 4 - 28
    assert codec.decode(older_service(b"x" * room)) == b"x" * room
    assert reason_of(older_service(b"x" * (room + 1))) == "malformed"


@settings(deadline=None, max_examples=300)
@given(
    st.text(max_size=100)
    | st.binary(max_size=100).map(lambda b: base64.urlsafe_b64encode(b).decode())
)
def test_nothing_made_up_is_accepted(token: str) -> None:
    """Whatever the text, it is refused as one of the two, with the one message."""
    assert reason_of(token) in ("malformed", "forged")
