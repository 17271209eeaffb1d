"""Compression on a real gateway, between real client libraries and a real stream."""

from __future__ import annotations

import json

import aiohttp
import pytest

from tests.e2e.tabs import Gateway, until, user_headers

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENVIRONMENT = {"DAISI_WS_APP_WEBSOCKET_COMPRESSION_MODE": "no_context_takeover"}
TEXT = "what was said, and said again; " * 100


async def test_who_offers_it_gets_less_and_everybody_the_same(running: Gateway, name: str) -> None:
    """On whichever worker they are: half of the clients take compressed events."""
    headers = {
        user: user_headers(running.keys, running.keys.user_token("acme", name, user))
        for user in ("a", "b", "c", "d")
    }
    url = running.host.user_url("acme", name)
    async with aiohttp.ClientSession() as session, running.feed() as feed:
        tabs = [await running.user("acme", name, f"plain-{number}") for number in range(4)]
        sockets = [
            await session.ws_connect(url, headers=wanted, compress=15)
            for wanted in headers.values()
        ]
        for socket in sockets:
            assert socket.compress == 15
            assert (await socket.receive_json(timeout=10))["type"] == "ready"
        ids = [await feed.put(f"websocket.acme.{name}.chats", text=TEXT) for _ in range(5)]
        for tab in tabs:
            assert [(await tab.next()).payload["event_id"] for _ in ids] == ids
        for socket in sockets:
            got = [await socket.receive_json(timeout=10) for _ in ids]
            assert [event["payload"]["event_id"] for event in got] == ids
            assert {event["payload"]["text"] for event in got} == {TEXT}
            await socket.close()

    def sent() -> list[int]:
        lines = [
            line for line in running.host.log_text().splitlines() if "connection ended" in line
        ]
        ends = [json.loads(line) for line in lines]
        return [end["bytes_sent"] for end in ends if end["agent_id"] == name]

    async def ended() -> bool:
        return len(sent()) == len(sockets)

    await until(ended, what="the ends of the connections")
    assert all(size < len(TEXT) for size in sent())
