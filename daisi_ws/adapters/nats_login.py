"""Logging in to NATS with an NKey or a credentials file, with no library of its own.

An NKey is an Ed25519 key in base32: a prefix that says whose, the key, and a CRC-16 (XMODEM);
https://docs.nats.io/using-nats/nats-tools/nk, https://github.com/nats-io/nkeys. A credentials file
has a JWT and such a seed between lines of dashes.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SEED: Final = 18 << 3
USER: Final = 20 << 3
_BLOCK: Final = re.compile(r"-+BEGIN [^-]+-+\s+([A-Za-z0-9_.=-]+?)\s+-+END [^-]+-+")


class BadLogin(ValueError):
    """A file holds no user seed, or is no credentials file. What it holds is not in the message."""


@dataclass(frozen=True, slots=True)
class NatsLogin:
    """How to answer the server's nonce; the file is read for each login.

    :ivar public_key: of the user; empty where the JWT names it.
    :ivar sign: returns the signature of a nonce, in base64.
    :ivar jwt: returns the JWT; None without one.
    """

    public_key: str
    sign: Callable[[str], bytes]
    jwt: Callable[[], bytes] | None = None


def nkey_login(seed_file: str) -> NatsLogin:
    """Return how to log in with the seed in a file.

    :raises OSError: it cannot be read.
    :raises BadLogin: it holds no seed of a user.
    """

    def key() -> Ed25519PrivateKey:
        return _user_key(Path(seed_file).read_text().strip(), seed_file)

    raw = key().public_key().public_bytes_raw()
    return NatsLogin(encoded(bytes((USER,)) + raw), lambda nonce: _signed(key(), nonce))


def credentials_login(file: str) -> NatsLogin:
    """Return how to log in with a credentials file (JWT and seed).

    :raises OSError: it cannot be read.
    :raises BadLogin: it has not both.
    """

    def parts() -> tuple[str, Ed25519PrivateKey]:
        found = _BLOCK.findall(Path(file).read_text())
        if len(found) != 2:
            raise BadLogin(f"{file} is no credentials file: it needs a user JWT and a user seed")
        return found[0], _user_key(found[1], file)

    def jwt() -> bytes:
        return parts()[0].encode()

    parts()
    return NatsLogin("", lambda nonce: _signed(parts()[1], nonce), jwt)


def _user_key(seed: str, file: str) -> Ed25519PrivateKey:
    try:
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    except (binascii.Error, ValueError):
        raw = b""
    prefix = (raw[0] & 0b111) << 5 | raw[1] >> 3 if len(raw) == 36 else 0
    whole = len(raw) == 36 and binascii.crc_hqx(raw[:-2], 0) == int.from_bytes(raw[-2:], "little")
    if not whole or raw[0] & 0b11111000 != SEED or prefix != USER:
        raise BadLogin(f"{file} holds no seed of a user NKey (SU…)")
    return Ed25519PrivateKey.from_private_bytes(raw[2:-2])


def _signed(key: Ed25519PrivateKey, nonce: str) -> bytes:
    return base64.b64encode(key.sign(nonce.encode()))


def encoded(raw: bytes) -> str:
    """Return bytes as NKeys write them: with a checksum, in base32."""
    checked = raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")
    return base64.b32encode(checked).decode().rstrip("=")
