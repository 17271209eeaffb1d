"""Tokens: AES-256-GCM, `base64url(nonce[12] + ciphertext + tag[16])` (RFC 5116, RFC 4648)."""

from __future__ import annotations

import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from daisi_ws.domain.errors import InvalidToken
from daisi_ws.domain.token import refused

MOST_CHARACTERS: Final = 4096
_NONCE: Final = 12
_TAG: Final = 16
_TEXT: Final = re.compile(r"([A-Za-z0-9_-]+)(={0,2})")

_json = msgspec.json.Encoder().encode


class AesGcmTokenCodec:
    """:class:`daisi_ws.app.token_ports.TokenCodec` under one key.

    Nonces are random: a key is good for 2**32 tokens (NIST SP 800-38D, section 8.3).

    :param key_hex: 64 hex characters.
    """

    def __init__(self, key_hex: str) -> None:
        self._cipher = AESGCM(bytes.fromhex(key_hex))

    def encode(self, content: Mapping[str, object]) -> str:
        """See :meth:`TokenCodec.encode`."""
        nonce = os.urandom(_NONCE)
        sealed = self._cipher.encrypt(nonce, _json(content), None)
        return urlsafe_b64encode(nonce + sealed).decode()

    def decode(self, token: str) -> bytes:
        """See :meth:`TokenCodec.decode`."""
        data = _binary(token)
        try:
            return self._cipher.decrypt(data[:_NONCE], data[_NONCE:], None)
        except InvalidTag:
            raise refused("forged") from None


def _binary(token: str) -> bytes:
    """Return what the text stands for; of several spellings only the canonical one is taken."""
    match = _TEXT.fullmatch(token) if len(token) <= MOST_CHARACTERS else None
    if match is None:
        raise _malformed()
    text, padding = match.groups()
    missing = -len(text) % 4
    if missing == 3 or len(padding) not in (0, missing):
        raise _malformed()
    data = urlsafe_b64decode(text + "=" * missing)
    if len(data) < _NONCE + _TAG or urlsafe_b64encode(data).rstrip(b"=") != text.encode():
        raise _malformed()
    return data


def _malformed() -> InvalidToken:
    return refused("malformed")
