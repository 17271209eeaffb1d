"""How connections to Redis are opened: addresses, credentials, TLS."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs

from daisi_ws.adapters.redis_connect import connection_factory
from daisi_ws.adapters.redis_link import RedisLink
from daisi_ws.config import ClientTls, Redis
from daisi_ws.embedded import RedisServer
from tests.adapters.redis_support import DEADLINE, Proxy, until

PASSWORD = "a-password-nobody-may-see"


@asynccontextmanager
async def started(redis: Redis) -> AsyncIterator[RedisLink]:
    """A link that tries to connect."""
    link = RedisLink(connection_factory(redis), redis.timeout_ms / 1000)
    link.start()
    try:
        yield link
    finally:
        await link.aclose()


async def selected_db(redis: Redis) -> str:
    """Connect and return which database was selected."""
    async with started(redis) as link:
        await asyncio.wait_for(link.wait_up(), DEADLINE)
        info: str = (await link.call("CLIENT", "INFO")).decode()
    return dict(part.split("=", 1) for part in info.split())["db"]


async def refused(redis: Redis) -> str:
    """Connect in vain and return the problem."""
    async with started(redis) as link:
        await until(lambda: link.problem != "not connected yet", "a problem is known")
        assert not link.up
        return link.problem


@pytest.mark.parametrize(
    ("address", "db", "expected"),
    [
        ("127.0.0.1:{}", 3, "3"),
        ("redis://127.0.0.1:{}/2", 3, "2"),
        ("redis://127.0.0.1:{}", 0, "0"),
    ],
)
async def test_addresses(redis_server: RedisServer, address: str, db: int, expected: str) -> None:
    """Both spellings of an address connect; a database in the URL wins."""
    redis = Redis(address=address.format(redis_server.port), db=db)
    assert await selected_db(redis) == expected


async def test_password(fresh_redis: RedisServer) -> None:
    """The password opens the server, from the key or from the URL, which wins."""
    async with started(Redis(address=fresh_redis.address)) as link:
        await asyncio.wait_for(link.wait_up(), DEADLINE)
        await link.call("CONFIG", "SET", "requirepass", PASSWORD)
    await selected_db(Redis(address=fresh_redis.address, password=PASSWORD))
    url = f"redis://default:{PASSWORD}@{fresh_redis.address}"
    await selected_db(Redis(address=url, password="another"))


async def test_wrong_password_is_said_and_not_shown(redis_server: RedisServer) -> None:
    """A refused password is the stated problem; the password is in no line."""
    with capture_logs() as lines:
        problem = await refused(
            Redis(address=redis_server.address, username="nobody", password=PASSWORD)
        )
    assert "invalid username-password pair" in problem
    assert PASSWORD not in f"{problem}{lines}"


@dataclass
class Authority:
    """An authority and a certificate of 127.0.0.1 that it has signed, as files."""

    ca: Path
    certificate: Path
    key: Path


def _authority(folder: Path, name: str) -> Authority:
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    day = dt.timedelta(days=1)

    def builder(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + day)
        )

    ca = (
        builder(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        builder(x509.Name([]), key.public_key())
        .add_extension(x509.SubjectAlternativeName([address]), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    found = Authority(*(folder / f"{name}-{part}.pem" for part in ("ca", "cert", "key")))
    found.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    found.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    found.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return found


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority of this test."""
    return _authority(tmp_path, "ours")


@asynccontextmanager
async def tls_redis(
    server: RedisServer, authority: Authority, demand: Authority | None = None
) -> AsyncIterator[Proxy]:
    """The server behind TLS; with `demand`, clients must show a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.certificate, authority.key)
    if demand is not None:
        context.load_verify_locations(demand.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    async with Proxy(server.port, tls=context) as proxy:
        yield proxy


async def test_tls(redis_server: RedisServer, authority: Authority) -> None:
    """TLS is used by key and by scheme, the server verified with the given authority."""
    tls = ClientTls(ca_file=str(authority.ca))
    async with tls_redis(redis_server, authority) as proxy:
        await selected_db(Redis(address=f"rediss://127.0.0.1:{proxy.port}", tls=tls))
        tls = ClientTls(enabled=True, ca_file=str(authority.ca))
        await selected_db(Redis(address=f"127.0.0.1:{proxy.port}", tls=tls))


async def test_tls_of_a_stranger(
    redis_server: RedisServer, authority: Authority, tmp_path: Path
) -> None:
    """A server that another authority vouches for, or another name, is not talked to."""
    stranger = _authority(tmp_path, "stranger")
    tls = ClientTls(enabled=True, ca_file=str(authority.ca))
    async with tls_redis(redis_server, stranger) as proxy:
        problem = await refused(Redis(address=f"127.0.0.1:{proxy.port}", tls=tls))
        assert "CERTIFICATE_VERIFY_FAILED" in problem
    async with tls_redis(redis_server, authority) as proxy:
        problem = await refused(Redis(address=f"localhost:{proxy.port}", tls=tls))
        assert "CERTIFICATE_VERIFY_FAILED" in problem


async def test_mutual_tls(redis_server: RedisServer, authority: Authority) -> None:
    """Our own certificate is shown to a server that asks for one."""
    files = {"ca_file": str(authority.ca), "cert_file": str(authority.certificate)}
    tls = ClientTls(enabled=True, key_file=str(authority.key), **files)
    async with tls_redis(redis_server, authority, demand=authority) as proxy:
        await selected_db(Redis(address=f"127.0.0.1:{proxy.port}", tls=tls))


def test_unreadable_file_is_an_error_at_once(tmp_path: Path) -> None:
    """A TLS file that is not there is found out before anything connects."""
    tls = ClientTls(enabled=True, ca_file=str(tmp_path / "none.pem"))
    with pytest.raises(OSError, match="No such file"):
        connection_factory(Redis(tls=tls))
