"""One grep follows a connection, or an event, through everything that it meets."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import nats as nats_py

from daisi_ws.embedded import NatsServer, RedisServer
from tests.cluster import Host, Keys
from tests.e2e.scene import until

SECONDS = 30
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = f"00-{TRACE}-00f067aa0ba902b7-01"
OTHER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def grep(host: Host, text: str) -> list[dict[str, Any]]:
    """Return the lines of the log that hold a text."""
    return [json.loads(line) for line in host.log_text().splitlines() if text in line]


async def test_a_request_is_followed_by_one_grep(
    tmp_path: Path, fresh_redis: RedisServer, fresh_nats: NatsServer
) -> None:
    """An event from stream to clients over the hop, by its ID or trace; a connection from
    handshake to end, by its own."""
    keys = Keys()
    host = Host(
        tmp_path,
        fresh_redis.url,
        fresh_nats.url,
        keys=keys,
        environment={"DAISI_WS_LOG_LEVEL": "debug"},
    )
    nats = await nats_py.connect(fresh_nats.url)
    try:
        host.start()
        await host.wait_ready()
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True)
        ) as session:
            clients = await on_both_workers(session, host, keys)
            event = {"event_id": "e1", "company_id": "acme", "agent_id": "bot", "row_data": {}}
            await nats.jetstream().publish(
                "websocket.acme.bot.chats",
                json.dumps(event).encode(),
                headers={"X-Request-ID": "publisher-1", "traceparent": SPAN},
                timeout=SECONDS,
            )
            for client in clients.values():
                message = await client.receive_json(timeout=SECONDS)
                assert message["payload"]["event_id"] == "e1"
            pods = set(clients)
            for client in clients.values():
                await client.close()
        for text in ("publisher-1", TRACE):
            await follow_event(host, text, pods)
        await follow_connection(host)
    finally:
        await nats.close()
        await host.close()


async def on_both_workers(
    session: aiohttp.ClientSession, host: Host, keys: Keys
) -> dict[str, aiohttp.ClientWebSocketResponse]:
    """Connect until each worker has a client; return them by pod, the first with a trace."""
    clients: dict[str, aiohttp.ClientWebSocketResponse] = {}
    async with asyncio.timeout(SECONDS):
        for number in range(200):
            token = keys.user_token("acme", "bot", f"user-{number}")
            client = await session.ws_connect(
                f"{host.user_url('acme', 'bot')}?token={token}",
                headers={
                    "X-API-Key": keys.secret_token,
                    "X-Request-ID": f"tab-{number}.",
                    **({"traceparent": OTHER} if number == 0 else {}),
                },
            )
            pod = client._response.headers["X-Daisi-Pod"]
            await client.receive_json(timeout=SECONDS)
            if pod in clients:
                await client.close()
            clients.setdefault(pod, client)
            if len(clients) == 2:
                return clients
    raise AssertionError("the kernel gave everybody to one worker")


async def follow_event(host: Host, text: str, pods: set[str]) -> None:
    """Demand that the event's way is told: read, taken over the hop, delivered on both pods."""

    async def all_told() -> bool:
        return len(grep(host, text)) >= 4

    await until(all_told, SECONDS, host.report(f"does not tell the way of {text}"))
    told = grep(host, text)
    (reader,) = {line["pod_id"] for line in told if line["event"] == "event read"}
    (other,) = pods - {reader}
    (taken,) = [line for line in told if line["event"] == "event taken"]
    assert (taken["pod_id"], taken["peer"]) == (other, reader)
    delivered = [line for line in told if line["event"] == "event delivered"]
    assert {line["pod_id"]: line["connections"] for line in delivered} == dict.fromkeys(pods, 1)
    assert {line["request_id"] for line in told} == {"publisher-1"}
    assert {line["traceparent"] for line in told} == {SPAN}


async def follow_connection(host: Host) -> None:
    """Demand that the first connection's way is told, by request ID and by trace."""

    async def ended() -> bool:
        return any(line["event"] == "connection ended" for line in grep(host, "tab-0."))

    await until(ended, SECONDS, host.report("does not tell the end of the connection"))
    told = grep(host, "tab-0.")
    assert [line["event"] for line in told] == [
        "session and routes are ours",
        "ready told",
        "connection ended",
    ]
    assert {line["traceparent"] for line in told} == {OTHER}
    assert len({line["pod_id"] for line in told}) == 1
    assert grep(host, OTHER) == told
