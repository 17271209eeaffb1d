"""nginx and HAProxy, the real ones with the shipped configurations, before two hosts."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.adapters.http_support import Wire, handshake, serving
from tests.balancers.programs import (
    NAMES,
    TIMEOUT_SECONDS,
    Balancer,
    balancer,
    changed,
)
from tests.e2e.scene import until
from tests.e2e.tabs import Gateway, NotUpgraded, Tab, gateway, user_headers
from tests.tools import tool

CLIENT = "127.0.0.5"
"""An address of this machine that no proxy has."""

DEADLINE = 30.0
ENVIRONMENT = {
    "DAISI_WS_APP_PING_INTERVAL_SECONDS": "0.5",
    "DAISI_WS_SERVER_TRUSTED_PROXIES": "127.0.0.1",
}
DELAY = {"nginx": "0", "haproxy": "60"}
"""Seconds of `server.shutdown_delay_seconds`: nginx asks nobody about readiness."""


@dataclass
class Crowd:
    """Clients that come through a balancer one after another, each a user of its own."""

    front: Balancer
    cluster: Gateway
    pods: list[str] = field(default_factory=list)

    async def connect(self) -> Tab:
        """Connect one more."""
        token = self.cluster.keys.user_token("acme", "bot", f"user-{len(self.pods)}")
        self.pods.append("")
        number = len(self.pods) - 1
        headers = user_headers(self.cluster.keys, token)
        tab = await Tab.dial(self.front.port, "/ws/acme/bot", headers)
        self.pods[number] = tab.response.headers["x-daisi-pod"]
        return tab

    async def come_and_go(self, enough: asyncio.Event) -> None:
        """Connect and leave, again and again; a refusal ends it."""
        while not enough.is_set():
            await (await self.connect()).abort()
            await asyncio.sleep(0.03)

    def hosts(self, newest: int) -> set[str]:
        """Return the hosts that the newest clients came to."""
        return {pod.rsplit("-", 2)[0] for pod in self.pods[-newest:] if pod}


@asynccontextmanager
async def coming(crowd: Crowd) -> AsyncIterator[None]:
    """Have clients come and go meanwhile; none of them may be refused."""
    enough = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(crowd.come_and_go(enough))
        try:
            yield
        finally:
            enough.set()


@pytest.mark.parametrize("name", NAMES)
async def test_a_cluster_behind_a_balancer(name: str, tmp_path: Path) -> None:
    """Upgrade, idle clients, deadlines, addresses, any host for anybody, and a drain."""
    tool(name)
    environment = ENVIRONMENT | {"DAISI_WS_SERVER_SHUTDOWN_DELAY_SECONDS": DELAY[name]}
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(
            gateway(tmp_path, hosts=2, environment=environment)
        )
        ports = [host.http_port for host in cluster.hosts]
        front = await stack.enter_async_context(balancer(name, tmp_path, ports))
        crowd = Crowd(front, cluster)
        await until(lambda: _both_hosts(crowd), DEADLINE, "not both hosts have clients")
        tabs = [await stack.enter_async_context(await crowd.connect()) for _ in range(8)]
        for tab in tabs:
            await tab.next("ready")
        await asyncio.gather(_idle(cluster, tabs), _slow_header(front))
        await _inside_only(front)
        await _address(cluster, front)
        await _drain(cluster, crowd, tabs)
        # Nobody is left to drain for, and it would wait for a health check to notice.
        await cluster.hosts[1].kill()


async def _both_hosts(crowd: Crowd) -> bool:
    """Connect; tell whether both hosts have had clients: a balancer has to find them first."""
    try:
        await (await crowd.connect()).abort()
    except NotUpgraded:
        return False
    return len(crowd.hosts(100)) == 2


async def _idle(cluster: Gateway, tabs: list[Tab]) -> None:
    """Who sends nothing, and gets nothing but pings, outlives the balancer's time-outs."""
    async with cluster.feed() as feed:
        await feed.put("websocket.acme.bot.chats")
        for tab in tabs:
            await tab.next()
        await asyncio.sleep(TIMEOUT_SECONDS * 1.25)
        assert [tab.code for tab in tabs] == [None] * len(tabs)
        await feed.put("websocket.acme.bot.chats")
        for tab in tabs:
            await tab.next()


async def _slow_header(front: Balancer) -> None:
    """Half of a request is not waited for."""
    async with await Wire.connect(front.port) as wire:
        wire.send(b"GET /ws/acme/bot HTTP/1.1\r\nHost: h\r\nX-Slow: ")
        assert b" 101 " not in await wire.ended(DEADLINE)


async def _inside_only(front: Balancer) -> None:
    """Health, metrics and tokens are not for the outside."""
    for path in ("/metrics", "/ready", "/generate-token", "/"):
        async with await Wire.connect(front.port) as wire:
            assert (await wire.request("GET", path)).status == 404


async def _address(cluster: Gateway, front: Balancer) -> None:
    """The gateway knows the client's address, whatever the client says of it."""
    assert await _refused(front, X_Forwarded_For="8.8.8.8", X_API_Key="wrong") == 401
    await until(lambda: _told(cluster), DEADLINE, f"no refusal of {CLIENT} is told")


async def _told(cluster: Gateway) -> bool:
    lines = [line for host in cluster.hosts for line in host.log_text().splitlines()]
    refused = [line for line in lines if "request refused" in line and "InvalidAPIKey" in line]
    return len(refused) == 1 and f'"remote":"{CLIENT}"' in refused[0]


async def _refused(front: Balancer, **headers: str) -> int:
    """Make a handshake from an address that is no proxy's; return the status."""
    streams = await asyncio.open_connection("127.0.0.1", front.port, local_addr=(CLIENT, 0))
    async with Wire(*streams) as wire:
        wire.send(handshake(**headers))
        return (await wire.response()).status


async def _drain(cluster: Gateway, crowd: Crowd, tabs: list[Tab]) -> None:
    """A host that goes away gets no more clients, nobody is refused, and all find the other."""
    leaving, staying = cluster.hosts
    async with coming(crowd):
        leaving.signal(signal.SIGTERM)
        if DELAY["haproxy"] in leaving.environment.values():
            await until(lambda: _only(crowd, staying.name), DELAY_DEADLINE, "it is not noticed")
            # It still takes clients: it was the health check that kept them away.
            await (await cluster.user(user="straight")).close()
            leaving.signal(signal.SIGTERM)
        assert await leaving.wait(DEADLINE) in (0, 4)
        await until(lambda: _only(crowd, staying.name), DEADLINE, "clients do not come any more")
    for tab in tabs:
        if tab.response.headers["x-daisi-pod"].startswith(leaving.name):
            assert await tab.end(DEADLINE) == 1001
            async with await crowd.connect() as again:
                assert again.response.headers["x-daisi-pod"].startswith(staying.name)
        else:
            assert tab.code is None


DELAY_DEADLINE = 45.0


async def _only(crowd: Crowd, host: str) -> bool:
    """Tell whether of the next clients all come to one host."""
    seen = len(crowd.pods)
    await until(lambda: _more(crowd, seen + 12), DEADLINE, "nobody comes")
    return crowd.hosts(10) == {host}


async def _more(crowd: Crowd, count: int) -> bool:
    return len(crowd.pods) >= count


@pytest.mark.parametrize(
    ("name", "version"),
    [("haproxy", "send-proxy"), ("haproxy", "send-proxy-v2"), ("nginx-stream", "")],
)
async def test_the_proxy_protocol(name: str, version: str, tmp_path: Path) -> None:
    """The client's address is told by HAProxy in either version, and by nginx passing TCP through;
    health checks are served, too.
    """

    def change(text: str) -> str:
        return changed(text, r"(server gateway-\d \S+)", rf"\1 {version}") if version else text

    proxied = {"server__trusted_proxies": ("127.0.0.1",), "server__proxy_protocol": True}
    async with serving(**proxied) as running:
        with capture_logs() as lines:
            ports = [running.port, running.port]
            async with balancer(name, tmp_path, ports, change) as front:
                status = 0
                async with asyncio.timeout(DEADLINE):
                    while status != 401:
                        status = await _refused(front, X_API_Key="wrong")
    remotes = {line["remote"] for line in lines if line["event"] == "request refused"}
    assert remotes == {CLIENT}
    assert not [line for line in lines if line["event"] == "PROXY header refused"]
