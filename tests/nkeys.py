"""Users of a NATS server that know one another by keys (NKeys)."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from daisi_ws.adapters.nats_login import SEED, USER, encoded


def new_user() -> tuple[str, str]:
    """Return the seed and the public key of a new user."""
    key = Ed25519PrivateKey.generate()
    head = bytes((SEED | USER >> 5, (USER & 0b11111) << 3))
    public = bytes((USER,)) + key.public_key().public_bytes_raw()
    return encoded(head + key.private_bytes_raw()), encoded(public)
