"""Every way to log in to a real NATS, and TLS that is not given up."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from daisi_ws.adapters.nats_connection import NatsConnection, NatsSettings
from daisi_ws.adapters.nats_login import BadLogin, credentials_login, encoded, nkey_login
from daisi_ws.config import ClientTls, Nats
from daisi_ws.embedded import NatsServer
from daisi_ws.embedded.authority import Authority
from tests.adapters.redis_support import until
from tests.nkeys import new_user

OPERATOR, ACCOUNT = 14 << 3, 0


@asynccontextmanager
async def connected(nats: Nats) -> AsyncIterator[NatsConnection]:
    """A connection as the section says."""
    connection = NatsConnection(NatsSettings.from_config(nats), "test")
    try:
        await connection.connect_once()
        yield connection
    finally:
        await connection.aclose()


async def refused(nats: Nats, why: str) -> None:
    """Connect in vain until this is the problem."""
    connection = NatsConnection(NatsSettings.from_config(nats), "test")
    connection.start()
    try:
        await until(lambda: why in connection.problem, why)
        assert not connection.up
    finally:
        await connection.aclose()


class Signer:
    """An operator or an account: a key that signs JWTs (NATS: ADR-14)."""

    def __init__(self, prefix: int) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.name = encoded(bytes((prefix,)) + self._key.public_key().public_bytes_raw())

    def jwt(self, subject: str, kind: str, **claims: object) -> str:
        """Return what this one says of another."""
        body: dict[str, object] = {
            "iss": self.name,
            "sub": subject,
            "name": kind,
            "iat": 1,
            "nats": {"type": kind, "version": 2, **claims},
        }
        body["jti"] = base64.b32encode(hashlib.sha256(json.dumps(body).encode()).digest()).decode()
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        text = ".".join(_part(json.dumps(part).encode()) for part in (head, body))
        return f"{text}.{_part(self._key.sign(text.encode()))}"


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


async def test_nkey_and_passwords(tmp_path: Path) -> None:
    """A seed file, user and password; another seed and another password are refused."""
    seed, user = new_user()
    file, stranger = tmp_path / "seed", tmp_path / "other"
    file.write_text(f"{seed}\n")
    stranger.write_text(new_user()[0])
    users = [{"nkey": user}, {"user": "ann", "password": "secret"}]
    with NatsServer(config=f"authorization: {json.dumps({'users': users})}") as server:
        async with connected(Nats(url=server.url, nkey_seed_file=str(file))) as connection:
            assert connection.up
        async with connected(Nats(url=server.url, username="ann", password="secret")) as connection:
            assert connection.up
        stranger_nats = Nats(url=server.url, nkey_seed_file=str(stranger))
        await refused(stranger_nats, "Authorization Violation")


async def test_token() -> None:
    """A token lets in."""
    with NatsServer(config='authorization: {token: "let-me-in"}') as server:
        async with connected(Nats(url=server.url, token="let-me-in")) as connection:
            assert connection.up


async def test_credentials_file(tmp_path: Path) -> None:
    """JWT and seed of a user of an account of an operator (what `nsc` makes)."""
    operator, account, system = Signer(OPERATOR), Signer(ACCOUNT), Signer(ACCOUNT)
    seed, user = new_user()
    file = tmp_path / "user.creds"
    file.write_text(
        "-----BEGIN NATS USER JWT-----\n"
        f"{account.jwt(user, 'user', pub={}, sub={}, subs=-1, data=-1, payload=-1)}\n"
        "------END NATS USER JWT------\n\nkeep it secret\n\n"
        "-----BEGIN USER NKEY SEED-----\n"
        f"{seed}\n------END USER NKEY SEED------\n"
    )
    unlimited = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    config = {
        "operator": operator.jwt(operator.name, "operator"),
        "resolver": "MEMORY",
        "system_account": system.name,
        "resolver_preload": {
            each.name: operator.jwt(each.name, "account", limits=unlimited)
            for each in (account, system)
        },
    }
    lines = "\n".join(f"{key}: {json.dumps(value)}" for key, value in config.items())
    with NatsServer(config=lines.replace('"MEMORY"', "MEMORY")) as server:
        async with connected(Nats(url=server.url, credentials_file=str(file))) as connection:
            assert connection.up


def test_wrong_files_are_named_and_not_shown(tmp_path: Path) -> None:
    """A file without a user's seed is said at once; what it holds is in no message."""
    file = tmp_path / "wrong"
    seed = new_user()[0]
    spoiled = seed[:30] + ("A" if seed[30] != "A" else "B") + seed[31:]
    for text in ("", "nonsense", spoiled, seed[:20]):
        file.write_text(text)
        with pytest.raises(BadLogin, match="wrong holds no seed") as caught:
            nkey_login(str(file))
        assert not text or text not in str(caught.value)
        with pytest.raises(BadLogin, match="no credentials file"):
            credentials_login(str(file))


async def test_a_server_without_tls_is_told_nothing() -> None:
    """Where TLS is demanded no password goes out in plain text."""
    tls = ClientTls(enabled=True)
    with NatsServer(config='authorization: {user: "ann", password: "secret"}') as server:
        nats = Nats(url=server.url, username="ann", password="secret", tls=tls)
        await refused(nats, "does not offer TLS")
        by_scheme = Nats(url=server.url.replace("nats:", "tls:"), username="ann", password="secret")
        await refused(by_scheme, "does not offer TLS")


async def test_a_server_that_is_not_trusted_is_explained(tmp_path: Path) -> None:
    """The line says what is wrong with which certificate, and which key is about it."""
    ours, other = Authority(tmp_path / "ours"), Authority(tmp_path / "other")
    pair = other.issue("server", ["127.0.0.1"])
    files = {"cert_file": str(pair.cert_file), "key_file": str(pair.key_file)}
    with NatsServer(config=f"tls: {json.dumps(files)}") as server:
        tls = ClientTls(enabled=True, ca_file=str(ours.pair.cert_file))
        await refused(Nats(url=server.url, tls=tls), "authority is not in nats.tls.ca_file")
        tls = ClientTls(enabled=True, ca_file=str(other.pair.cert_file))
        by_name = Nats(url=f"nats://localhost:{server.port}", tls=tls)
        await refused(by_name, "does not name the host")
        async with asyncio.timeout(10), connected(Nats(url=server.url, tls=tls)) as connection:
            assert connection.up
