"""A deploy under load: nobody is refused, and nobody who told its position misses anything."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from nats.aio.client import Client as NatsClient

from daisi_ws.client import admin_url
from tests.cluster import HOST, Cluster, Host, cluster
from tests.e2e.audit import metric
from tests.e2e.deploy import Plan, deploy, table
from tests.e2e.scene import until

PLAN = Plan(moves=30, resumes=10, plain=20, rate=150, restarts=1, pace=25, drain=5)


@pytest.mark.timeout(120)
async def test_rolling_restart_under_load(
    tmp_path: Path, redis_url: str, nats: NatsClient, nats_url: str
) -> None:
    """All workers are replaced while events flow.

    Nobody is refused; nothing is lost, doubled or out of order; who makes before it breaks is
    never without a `ready` socket; no more are sent away in a second than the pace allows.
    """
    outcome = await deploy(PLAN, tmp_path, redis_url, nats, nats_url)
    shown = table(outcome)
    assert {kind: result.faults for kind, result in outcome.results.items()} == {
        "moves": (0, 0, 0, 0, 0),
        "resumes": (0, 0, 0, 0, 0),
        "plain": (0, 0, 0, 0, 0),
    }, shown
    moves, resumes = outcome.results["moves"], outcome.results["resumes"]
    assert moves.reconnects >= PLAN.moves, shown
    assert (moves.not_recovered, resumes.not_recovered) == (0, 0), shown
    assert max(moves.unready) == 0, shown
    # Nobody is told that somebody else took its session: that would be final.
    codes = {code for result in outcome.results.values() for code in result.codes}
    assert 1001 in codes, shown
    assert 4402 not in codes, shown
    # What a slow machine delays comes in bursts, but a drain never ends before its pace allows.
    assert len(outcome.drains) >= 2, shown
    assert outcome.hurried or all(
        seconds >= 0.8 * (count / PLAN.pace - 0.2) for count, seconds in outcome.drains
    ), shown


Raw = aiohttp.ClientWebSocketResponse[Any]


async def until_type(websocket: Raw, kind: str) -> dict[str, Any]:
    """Return the next frame of a type."""
    while True:
        frame: dict[str, Any] = await websocket.receive_json(timeout=20)
        if frame["type"] == kind:
            return frame


async def connected(running: Cluster, number: int, session: aiohttp.ClientSession) -> Raw:
    """Connect the admin `root`, who asks for positions, to one host, until `ready`."""
    keys = running.keys
    headers = {"X-API-Key": keys.admin_secret_token, "X-Request-ID": f"root-{number}"}
    headers["Authorization"] = f"Bearer {keys.admin_token('root')}"
    url = admin_url(running.hosts[number].base_url) + "?last_seq="
    websocket = await session.ws_connect(url, headers=headers)
    await until_type(websocket, "ready")
    return websocket


async def refuses(host: Host) -> bool:
    """Tell whether new connections to a host are refused at once."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(HOST, host.http_port), 0.5)
    except ConnectionRefusedError:
        return True
    except (TimeoutError, OSError):
        return False
    writer.close()
    return False


async def test_an_admin_moves_to_another_host(
    tmp_path: Path, redis_url: str, nats: NatsClient, nats_url: str
) -> None:
    """A host stops: its client is told, served until it has moved, and closed with 1001.

    The newcomer is not refused, although admins are under `reject`; it is no conflict. Others
    are refused at once by the host that goes, so that they try elsewhere.
    """
    environment = {
        "DAISI_WS_APP_SHUTDOWN_TIMEOUT_SECONDS": "20",
        "DAISI_WS_APP_WRITE_TIMEOUT_SECONDS": "20",
    }
    async with (
        cluster(tmp_path, redis_url, nats_url, workers=1, environment=environment) as running,
        aiohttp.ClientSession() as session,
    ):
        going, staying = running.hosts
        old = await connected(running, 0, session)
        with pytest.raises(aiohttp.WSServerHandshakeError, match="409"):
            await connected(running, 1, session)
        conflicts = await metric(staying, "dws_session_conflicts_total")
        began = time.monotonic()
        going.signal(signal.SIGTERM)
        hint = await until_type(old, "reconnect")
        assert 0 <= hint["payload"]["after_ms"] < 1000
        await until(lambda: refuses(going), 10, "it still accepts")
        # It is still served.
        jetstream = nats.jetstream()
        event = b'{"event_id":"1","company_id":"acme","agent_id":"bot","row_data":{}}'
        await jetstream.publish("websocket.acme.bot.agents", event)
        assert (await until_type(old, "event"))["payload"]["event_id"] == "1"
        new = await connected(running, 1, session)
        await jetstream.publish("websocket.acme.bot.agents", event.replace(b'"1"', b'"2"'))
        assert (await until_type(new, "event"))["payload"]["event_id"] == "2"
        got = [json.loads(m.data)["payload"] async for m in old if m.type is aiohttp.WSMsgType.TEXT]
        assert (got, old.close_code) == ([], 1001)
        assert await going.wait(15) == 0
        assert time.monotonic() - began < 18, "it waited for nobody"
        assert await metric(staying, "dws_session_conflicts_total") == conflicts
        with pytest.raises(aiohttp.WSServerHandshakeError, match="409"):
            await connected(running, 1, session)
        await new.close()
