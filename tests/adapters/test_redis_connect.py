"""How connections to Redis are opened: addresses, credentials, TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from daisi_ws.adapters.redis_connect import RedisOpener
from daisi_ws.adapters.redis_link import RedisLink
from daisi_ws.config import ClientTls, Redis
from daisi_ws.embedded import RedisServer
from tests.adapters.certificates import Authority
from tests.adapters.redis_support import DEADLINE, Proxy, until

PASSWORD = "a-password-nobody-may-see"


@asynccontextmanager
async def started(redis: Redis) -> AsyncIterator[RedisLink]:
    """A link that tries to connect."""
    link = RedisLink(RedisOpener(redis).primary, redis.timeout_ms / 1000)
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


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority of this test."""
    return Authority(tmp_path)


@asynccontextmanager
async def tls_redis(
    server: RedisServer, authority: Authority, *, mutual: bool = False
) -> AsyncIterator[Proxy]:
    """The server behind TLS; `mutual`: clients must show a certificate."""
    files = authority.pod("redis")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert_file, files.key_file)
    if mutual:
        context.load_verify_locations(files.ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    async with Proxy(server.port, tls=context) as proxy:
        yield proxy


async def test_tls(redis_server: RedisServer, authority: Authority) -> None:
    """TLS is used by key and by scheme, the server verified with the given authority."""
    async with tls_redis(redis_server, authority) as proxy:
        tls = ClientTls(ca_file=authority.ca_file)
        await selected_db(Redis(address=f"rediss://127.0.0.1:{proxy.port}", tls=tls))
        tls = ClientTls(enabled=True, ca_file=authority.ca_file)
        await selected_db(Redis(address=f"127.0.0.1:{proxy.port}", tls=tls))


async def test_tls_of_a_stranger(
    redis_server: RedisServer, authority: Authority, tmp_path: Path
) -> None:
    """A server that another authority vouches for, or another name, is not talked to."""
    stranger = Authority(tmp_path, "stranger")
    tls = ClientTls(enabled=True, ca_file=authority.ca_file)
    async with tls_redis(redis_server, stranger) as proxy:
        problem = await refused(Redis(address=f"127.0.0.1:{proxy.port}", tls=tls))
        assert "CERTIFICATE_VERIFY_FAILED" in problem
    async with tls_redis(redis_server, authority) as proxy:
        problem = await refused(Redis(address=f"localhost:{proxy.port}", tls=tls))
        assert "CERTIFICATE_VERIFY_FAILED" in problem


async def test_mutual_tls(redis_server: RedisServer, authority: Authority) -> None:
    """Our own certificate is shown to a server that asks for one."""
    ours = authority.pod("ours")
    tls = ClientTls(
        enabled=True, ca_file=ours.ca_file, cert_file=ours.cert_file, key_file=ours.key_file
    )
    async with tls_redis(redis_server, authority, mutual=True) as proxy:
        await selected_db(Redis(address=f"127.0.0.1:{proxy.port}", tls=tls))


def test_unreadable_file_is_an_error_at_once(tmp_path: Path) -> None:
    """A TLS file that is not there is found out before anything connects."""
    tls = ClientTls(enabled=True, ca_file=str(tmp_path / "none.pem"))
    with pytest.raises(OSError, match="No such file"):
        RedisOpener(Redis(tls=tls))
