"""Redis goes away, comes back empty, or is emptied: events go on, everything returns by itself."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from daisi_ws.client import ReferenceClient, Rejected, Unreachable, user_url
from daisi_ws.embedded import NatsServer, RedisServer
from tests.e2e.scene import RATE, Scene, all_ready, not_ready, scene, until


async def lasting_keys(on: Scene) -> set[str]:
    """Return the keys that must be there while everybody is connected."""
    keys = {key.decode() for key in await on.redis.keys("*")}  # type: ignore[union-attr]  # replies are bytes
    return {key for key in keys if not key.startswith(("token_cache:", "fence:"))}


async def keys_return(on: Scene, keys: set[str]) -> float:
    """Wait until all these keys are there again; return how long that took, in seconds."""
    began, missing = time.monotonic(), keys
    while missing:
        assert time.monotonic() - began < 5, f"not back in 5 s: {sorted(missing)}"
        await asyncio.sleep(0.02)
        with suppress(RedisConnectionError):
            missing = keys - await lasting_keys(on)
    return time.monotonic() - began


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
            back = await until(lambda: all_ready(on.hosts), 5, "not ready")
            ended = time.monotonic()
            await watcher.choose("chat-0")
            await on.publisher.more(RATE)
        on.check(on.watching.watchers)
        slowest = on.slowest(began, ended)
        print(f"refused in {took}, back {back:.2f} s, slowest event {slowest:.3f} s")
        assert max(took) < 1.0
        assert slowest < 1.5


async def test_redis_killed_and_started_empty_then_emptied(
    tmp_path: Path, fresh_redis: RedisServer, fresh_nats: NatsServer
) -> None:
    """Events go on meanwhile; all keys are there again by themselves."""
    async with scene(tmp_path, fresh_redis, fresh_nats) as on:
        async with on.flowing():
            reader = await on.reader()
            before = await lasting_keys(on)
            began = time.monotonic()
            fresh_redis.kill()
            await until(lambda: not_ready(on, "redis"), 3, "still ready")
            assert await refused_quickly(on) < 1.0
            await on.publisher.more(RATE)
            fresh_redis.start()
            restored = await keys_return(on, before)
            assert await on.reader() == reader
            await until(lambda: all_ready(on.hosts), 5, "not ready")
            await newcomers(on, "after-restart")
            await on.publisher.more(RATE)
            await on.redis.flushall()
            refilled = await keys_return(on, before)
            assert await on.reader() == reader
            await newcomers(on, "after-flush")
            await on.publisher.more(RATE)
            ended = time.monotonic()
        on.check(on.watching.watchers)
        slowest = on.slowest(began, ended)
        print(f"keys back {restored:.2f} s, {refilled:.2f} s; slowest event {slowest:.3f} s")
        assert slowest < 1.5
