"""The interfaces of tokens: their encryption, and the cache that pods share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Protocol


class TokenCodec(Protocol):
    """Encryption of one kind of token; the other kind has another key."""

    def encode(self, content: Mapping[str, object]) -> str:
        """Return a token with this content."""

    def decode(self, token: str) -> bytes:
        """Return the content of a token, as JSON text.

        :raises InvalidToken: malformed or forged; the message is the same for all of them.
        """


class TokenCache(Protocol):
    """Contents of valid tokens of one kind, by the SHA-256 of the token: older pods read them."""

    def put(self, digest: bytes, content: bytes, ttl_seconds: float) -> None:
        """Remember a content; returns before that has happened, and nobody learns if it fails.

        :param digest: SHA-256 of the token as it came.
        :param ttl_seconds: for so long.
        """


@dataclass(frozen=True, slots=True)
class TokenKey:
    """One key that opens tokens of a kind.

    :param cache: of the tokens that this key opens.
    :param until: Unix time in seconds from which on it opens none.
    """

    codec: TokenCodec
    cache: TokenCache
    until: float = inf
