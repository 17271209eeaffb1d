"""Redis that speaks TLS itself, and asks who we are: one server, Sentinels, a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from daisi_ws.adapters.redis_cluster import ClusterLink, redis_link
from daisi_ws.adapters.redis_connect import RedisOpener
from daisi_ws.adapters.redis_link import RedisLink
from daisi_ws.config import ClientTls, Redis
from daisi_ws.embedded.authority import Authority
from tests.adapters.redis_support import until
from tests.redis_access import AT_SENTINELS, GATEWAY, AccessedServer, Secured
from tests.redis_clusters import redis_cluster, sentinels
from tests.tools import tool

SECONDS = 30.0


@pytest.fixture(autouse=True)
def _redis_with_tls() -> None:
    """Skip where there is none."""
    tool("redis-server-tls")


@asynccontextmanager
async def linked(redis: Redis) -> AsyncIterator[RedisLink | ClusterLink]:
    """What a pod has, before it is connected."""
    link = redis_link(RedisOpener(redis))
    link.start()
    try:
        yield link
    finally:
        await link.aclose()


async def connects(redis: Redis) -> None:
    """Demand that it comes up and is served."""
    async with linked(redis) as link:
        async with asyncio.timeout(SECONDS):
            await link.wait_up()
            assert await link.call("SET", "session:acme:bot:ana", "pod-1#a", "PX", 1000) == b"OK"


async def refused(redis: Redis, *problems: str) -> None:
    """Demand that it does not come up, and that it is said why, without a password."""
    async with linked(redis) as link:
        await until(lambda: all(what in link.problem for what in problems), f"{problems}")
        assert not link.up
        assert GATEWAY not in link.problem
        assert AT_SENTINELS not in link.problem


def of_a_stranger(folder: Path) -> ClientTls:
    """Trust nobody but another authority."""
    return ClientTls(ca_file=str(Authority(folder / "stranger").pair.cert_file))


async def test_one_server(tmp_path: Path) -> None:
    """TLS, our certificate and an ACL user let us in; of each it is said when it lacks."""
    access = Secured(tmp_path, mutual=True)
    with AccessedServer(access) as server:
        address = f"rediss://{server.address}"
        await connects(access.settings(address))
        stranger = of_a_stranger(tmp_path)
        await refused(access.settings(address, tls=stranger), "not in redis.tls.ca_file")
        nobody = ClientTls(ca_file=str(access.authority.pair.cert_file))
        await refused(
            access.settings(address, tls=nobody),
            "asks for a certificate: name ours in redis.tls.cert_file",
        )
        wrong = access.settings(address, password="guessed")
        await refused(wrong, "invalid username-password pair")


@pytest.mark.parametrize(
    ("names", "age", "problem"),
    [
        (["127.0.0.1"], timedelta(days=2), "its certificate has expired"),
        (["127.0.0.1"], timedelta(days=-1), "its certificate is not valid yet"),
        (["localhost"], timedelta(0), "does not name the address that we connect to"),
    ],
)
async def test_a_certificate_that_is_not_good(
    tmp_path: Path, names: list[str], age: timedelta, problem: str
) -> None:
    """A server whose certificate is not good now, or here, is not talked to."""
    access = Secured(tmp_path, names=names, age=age)
    with AccessedServer(access) as server:
        await refused(access.settings(f"rediss://127.0.0.1:{server.port}"), problem)


async def test_sentinels(tmp_path: Path) -> None:
    """Sentinels and servers each by TLS and a login of their own; the names of both are checked."""
    access = Secured(tmp_path, mutual=True)
    with sentinels(access) as servers:
        await connects(access.settings(servers.url))
        said = "no Sentinel knows the server"
        stranger = of_a_stranger(tmp_path)
        await refused(access.settings(servers.url, tls=stranger), said, "not in redis.tls.ca_file")
        wrong = access.settings(servers.url, sentinel_password="guessed")
        await refused(wrong, said, "invalid username-password pair")
        wrong = access.settings(servers.url, password="guessed")
        await refused(wrong, "invalid username-password pair")


async def test_a_cluster(tmp_path: Path) -> None:
    """Every node by TLS, by the name that the cluster gives it; also the one that takes over."""
    access = Secured(tmp_path, mutual=True, names=["localhost"])
    with redis_cluster(access) as servers:
        stranger = of_a_stranger(tmp_path)
        said = "no node tells of the whole cluster"
        await refused(access.settings(servers.url, tls=stranger), said, "not in redis.tls.ca_file")
        async with linked(access.settings(servers.url)) as link:
            async with asyncio.timeout(SECONDS):
                await link.wait_up()
            await used(link)
            lost: list[str] = []
            link.on_down(lambda: lost.append("down"))
            servers.primaries[0].kill()
            await until(lambda: bool(lost), "the loss is told")
            async with asyncio.timeout(SECONDS):
                await link.wait_up()
            await used(link)


async def used(link: RedisLink | ClusterLink) -> None:
    """Write to every primary."""
    assert len(link.nodes) == 3
    keys = [f"session:acme:bot:user-{number}" for number in range(60)]
    done = await asyncio.gather(*(link.send("SET", key, "pod-1#a", "PX", 1000) for key in keys))
    assert done == [b"OK"] * 60
    assert len({id(link.node_of(key)) for key in keys}) == 3
