"""Everything encrypted and with logins, and the certificates replaced while events flow."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509

from daisi_ws.embedded import NatsServer, RedisServer
from daisi_ws.embedded.authority import Authority, Pair
from tests.adapters.redis_support import Proxy
from tests.cluster import HOST, Host
from tests.documents import OPERATIONS, blocks
from tests.e2e.audit import metric
from tests.e2e.scene import RATE, scene, until
from tests.nkeys import new_user

PASSWORD = "a-password-nobody-may-see"
ACL = ("on", f">{PASSWORD}", "~*", *blocks(OPERATIONS, "text")[0].split())
"""What the documents say is enough."""

pytestmark = pytest.mark.timeout(120)


def trusting(authority: Authority, shown: Pair | None = None) -> ssl.SSLContext:
    """Return what a client trusts, and shows."""
    context = ssl.create_default_context(cafile=str(authority.pair.cert_file))
    if shown is not None:
        context.load_cert_chain(shown.cert_file, shown.key_file)
    return context


def asking(authority: Authority, own: Pair) -> ssl.SSLContext:
    """Return what a server shows that asks its clients for certificates."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(own.cert_file, own.key_file)
    context.load_verify_locations(authority.pair.cert_file)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@contextmanager
def nats_with_tls(authority: Authority, own: Pair, user: str) -> Iterator[NatsServer]:
    """A NATS that lets in one NKey, and a publisher by password, over mutual TLS only."""
    files = {
        "cert_file": str(own.cert_file),
        "key_file": str(own.key_file),
        "ca_file": str(authority.pair.cert_file),
        "verify": True,
    }
    users = [{"nkey": user}, {"user": "publisher", "password": PASSWORD}]
    config = f"tls: {json.dumps(files)}\nauthorization: {json.dumps({'users': users})}"
    with NatsServer(config=config) as server:
        yield server


def environment(authority: Authority, server: Pair, client: Pair, seed: Path) -> dict[str, str]:
    """Return variables that encrypt everything."""
    ca = str(authority.pair.cert_file)
    values = {"NATS_NKEY_SEED_FILE": str(seed), "REDIS_USERNAME": "gateway"}
    values["REDIS_PASSWORD"] = PASSWORD
    for section, pair in (
        ("SERVER_HTTP_TLS", server),
        ("SERVER_GRPC_TLS", server),
        ("NATS_TLS", client),
        ("REDIS_TLS", client),
    ):
        values |= {
            f"{section}_ENABLED": "true",
            f"{section}_CERT_FILE": str(pair.cert_file),
            f"{section}_KEY_FILE": str(pair.key_file),
        }
        if section != "SERVER_HTTP_TLS":
            values[f"{section}_CA_FILE"] = ca
    return {f"DAISI_WS_{name}": value for name, value in values.items()}


async def shown(port: int, tls: ssl.SSLContext) -> int:
    """Return the number of the certificate that a server shows to a new connection."""
    _, writer = await asyncio.open_connection(HOST, port, ssl=tls)
    try:
        raw = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
    return x509.load_der_x509_certificate(raw).serial_number


async def all_show(hosts: list[Host], tls: ssl.SSLContext, number: int) -> bool:
    """Tell whether all workers of these hosts show this certificate, to clients and to pods."""
    for host in hosts:
        # Each connection to the HTTP port reaches any one worker.
        ports = [host.http_port] * 8 * host.workers
        ports += [host.grpc_port + 2 * slot for slot in range(host.workers)]
        for port in ports:
            if await shown(port, tls) != number:
                return False
    return True


async def test_everything_encrypted_and_certificates_replaced(tmp_path: Path) -> None:
    """WSS, mTLS between pods, Redis by TLS and ACL, NATS by mTLS and NKey: every event arrives,
    and new certificates are used by new connections without a lost event or connection.
    """
    authority = Authority(tmp_path / "certificates")
    server, client = authority.issue("server"), authority.issue("client")
    seed, user = new_user()
    seed_file = tmp_path / "seed.nk"
    seed_file.write_text(seed + "\n")
    tls = trusting(authority, client)
    with (
        RedisServer(arguments=("--user", "gateway", *ACL)) as redis,
        nats_with_tls(authority, server, user) as nats,
    ):
        async with Proxy(redis.port, asking(authority, server)) as proxy:
            settings = environment(authority, server, client, seed_file)
            settings["DAISI_WS_REDIS_ADDRESS"] = f"rediss://{HOST}:{proxy.port}"
            login = {"tls": tls, "user": "publisher", "password": PASSWORD}
            async with scene(
                tmp_path,
                redis,
                nats,
                settings,
                workers=1,
                users=20,
                admins=3,
                tls=tls,
                nats_login=login,
            ) as on:
                async with on.flowing():
                    before = await metric(on.hosts[0], "dws_certificate_expiry_seconds")
                    authority.issue("client")
                    renewed = authority.issue("server")
                    pem = renewed.cert_file.read_bytes()
                    number = x509.load_pem_x509_certificate(pem).serial_number
                    await until(lambda: all_show(on.hosts, tls, number), 30, "the old one is shown")
                    await on.watching.user(on.hosts[0], "company-1", "agent-1", "after")
                    await on.publisher.more(RATE)
                on.check(on.watching.watchers)
                assert before > 0
            logs = "".join(host.log_text() for host in on.hosts)
    assert PASSWORD not in logs
    assert seed not in logs
