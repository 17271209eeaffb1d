"""Mutated handshakes and frames against real workers, over real sockets.

A canary gets its events throughout; afterwards nothing is left: no connection, no open file, no
session, no traceback. `DAISI_FUZZ_CONNECTIONS` says how many there are.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.adapters.http_support import BINARY, CLOSE, PING, PONG, TEXT, Wire, close_payload, frame
from tests.e2e.tabs import UPGRADE, Gateway, close_tabs, gateway, scrape, until, user_headers
from tests.fuzz.mutate import Mutator

CONNECTIONS = int(os.environ.get("DAISI_FUZZ_CONNECTIONS", "300"))
AT_ONCE = 20
MESSAGES = [
    b'{"type":"select_chat","payload":{"chat_id":"c1","last_seq":1},"id":5}',
    b'{"type":"resume","payload":{"last_seq":0},"id":"x"}',
    b'{"type":"token","payload":{"token":"t"}}',
]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Gateway]:
    """One host of two workers that is quick to lose patience."""
    environment = {"DAISI_WS_SERVER_HANDSHAKE_TIMEOUT_SECONDS": "1"}
    async with gateway(tmp_path, environment=environment) as running:
        yield running
    log = running.host.log_text()
    assert "Traceback" not in log, log[-5000:]
    assert '"error"' not in log, log[-5000:]


def seeds(running: Gateway) -> list[bytes]:
    """Right handshakes, of users who may, and whole conversations."""
    heads = []
    for number in range(5):
        token = running.keys.user_token("acme", "bot", f"user-{number}")
        lines = {**UPGRADE, **user_headers(running.keys, token)}
        text = "".join(f"{k}: {v}\r\n" for k, v in lines.items())
        heads.append(f"GET /ws/acme/bot?last_seq={number} HTTP/1.1\r\n{text}\r\n".encode())
    talk = b"".join(frame(TEXT, message) for message in MESSAGES)
    talk += frame(PING, b"p") + frame(PONG) + frame(BINARY, b"b") + frame(TEXT, b"{", fin=False)
    talk += frame(0, b"}") + frame(CLOSE, close_payload(1000))
    body = b'{"company_id":"acme","agent_id":"bot","user_id":"x","expires_in_seconds":60}'
    request = (
        b"POST /generate-token HTTP/1.1\r\nHost: h\r\nX-API-Key: %b\r\nContent-Length: %d\r\n\r\n"
        % (running.keys.secret_token.encode(), len(body))
    )
    return [*heads, *(head + talk for head in heads), request + body]


async def conversation(running: Gateway, data: bytes, chance: random.Random) -> None:
    """Send an input in pieces, read what comes for a moment, and go."""
    async with await Wire.connect(running.host.http_port) as wire:
        step = chance.choice((1 << 20, 1 << 20, 100, 7))
        with suppress(TimeoutError, OSError, RuntimeError):  # the server was quicker to end it
            for at in range(0, len(data), step):
                wire.send(data[at : at + step])
                if step < 1000:
                    await asyncio.sleep(0)
            if chance.random() < 0.5:
                wire.writer.write_eof()
            await wire.ended(chance.choice((0.0, 0.01, 0.3)))


def open_files(running: Gateway) -> int:
    """Count the open files of all workers."""
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in running.host.worker_pids())


async def left(running: Gateway) -> float:
    """Return how many connections the host says there are."""
    series = await scrape(running.host)
    return sum(v for n, v in series.items() if n.startswith("dws_active_connections"))


@pytest.mark.timeout(60 + CONNECTIONS)
async def test_mutated_conversations_harm_nobody(running: Gateway) -> None:
    """See the module."""
    workers = running.host.worker_pids()
    canary = await running.user("canary", "bot", "canary")
    chance, free = random.Random(1), asyncio.Semaphore(AT_ONCE)

    async def one(data: bytes) -> None:
        async with free:
            await conversation(running, data, chance)

    async def alone() -> bool:
        return await left(running) == 1

    subject = "websocket.canary.bot.chats"
    async with running.feed() as feed:
        async with feed.steady([subject], rate=100):
            # What every worker opens once, such as its stream to the other, is open after these.
            first = Mutator(seeds(running), MESSAGES, "first").inputs(60)
            await asyncio.gather(*(one(data) for data in first))
            await until(alone, 20, what="only the canary is left")
            files = open_files(running)
            inputs = Mutator(seeds(running), MESSAGES, "wire").inputs(CONNECTIONS)
            await asyncio.gather(*(one(data) for data in inputs))
        assert await canary.got(await feed.put(subject), timeout=10)
        assert len(canary.ids) == feed.sent
    assert canary.code is None
    assert running.host.worker_pids() == workers

    async def freed() -> bool:
        return await alone() and open_files(running) <= files + 3

    await until(freed, 20, what="only the canary is left")
    async with running.redis() as redis:

        async def forgotten() -> bool:
            return not [key async for key in redis.scan_iter("session:acme:*")]

        await until(forgotten, 20, what="no session is left")
    await close_tabs()
