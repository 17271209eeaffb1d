"""Redis goes away, comes back empty, or is emptied: events go on, everything returns by itself."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from daisi_ws.client import ReferenceClient, Rejected, Unreachable, user_url
from daisi_ws.embedded import NatsServer, RedisServer
from tests.e2e.scene import RATE, Scene, all_ready, not_ready, scene, until

SETS = ("route:", "admin_route:", "pods")
CHANGING = ("pod:", "host:", "incarnation")
PASSING = ("token_cache:", "fence:")


async def lasting(on: Scene) -> set[tuple[object, object]]:
    """Return what must be in Redis while everybody is connected: keys with values or members."""
    found: set[tuple[object, object]] = set()
    async for key in on.redis.scan_iter(count=1000):
        name = key.decode()
        if name.startswith(SETS):
            found |= {(key, member) for member in await on.redis.smembers(key)}
        elif name.startswith(CHANGING):
            found.add((key, b""))
        elif not name.startswith(PASSING):
            found.add((key, await on.redis.get(key)))
    return found


async def returned(on: Scene, before: set[tuple[object, object]]) -> bool:
    """Tell whether everything is there again."""
    return before <= await lasting(on)


async def newcomers(on: Scene, name: str) -> None:
    """Have a user come to each host who gets all that follows."""
    for number, host in enumerate(on.hosts):
        await on.watching.user(host, "company-1", "agent-1", f"{name}-{number}")


async def refused_quickly(on: Scene) -> float:
    """Try to connect a newcomer and demand a refusal; return how long it took, in seconds."""
    keys, began = on.cluster.keys, time.monotonic()
    url = user_url(on.hosts[0].base_url, "company-0", "agent-0")
    client = ReferenceClient(
        url, keys.secret_token, keys.user_token("company-0", "agent-0", "newcomer")
    )
    with pytest.raises(Unreachable):
        await client.connect()
    await client.close()
    return time.monotonic() - began


async def test_redis_frozen(
    tmp_path: Path, fresh_redis: RedisServer, fresh_nats: NatsServer
) -> None:
    """Connections stay and get every event; newcomers are refused quickly and welcome after."""
    async with scene(tmp_path, fresh_redis, fresh_nats) as on:
        async with on.flowing():
            watcher = next(w for w in on.watching.watchers if w.choices)
            began = time.monotonic()
            fresh_redis.pause()
            await until(lambda: not_ready(on, "redis"), 3, "still ready")
            took = [await refused_quickly(on) for _ in range(3)]
            with pytest.raises(Rejected):
                await watcher.choose("chat-none")
            await asyncio.sleep(max(0.0, began + 3 - time.monotonic()))
            fresh_redis.resume()
            await until(lambda: all_ready(on.hosts), 5, "not ready")
            await watcher.choose("chat-0")
            await newcomers(on, "after")
            await on.publisher.more(RATE)
        on.check(on.watching.watchers)
        assert max(took) < 1.0
        assert on.slowest(began) < 3


async def test_redis_killed_and_started_empty_then_emptied(
    tmp_path: Path, fresh_redis: RedisServer, fresh_nats: NatsServer
) -> None:
    """Events go on meanwhile; all keys are there again by themselves."""
    async with scene(tmp_path, fresh_redis, fresh_nats) as on:
        async with on.flowing():
            before = await lasting(on)
            began = time.monotonic()
            fresh_redis.kill()
            await until(lambda: not_ready(on, "redis"), 3, "still ready")
            assert await refused_quickly(on) < 1.0
            await on.publisher.more(RATE)
            fresh_redis.start()
            await until(lambda: returned(on, before), 5, "not everything is back")
            await until(lambda: all_ready(on.hosts), 5, "not ready")
            await newcomers(on, "after-restart")
            await on.publisher.more(RATE)
            await on.redis.flushall()
            await until(lambda: returned(on, before), 5, "not everything is back")
            await newcomers(on, "after-flush")
            await on.publisher.more(RATE)
        on.check(on.watching.watchers)
        assert on.slowest(began) < 3
