"""NATS goes away or loses what we need: connections stay, everything is caught up with."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from nats.js.api import StreamConfig

from daisi_ws.embedded import NatsServer, RedisServer
from tests.e2e.scene import RATE, Scene, all_ready, not_ready, scene, until


async def newcomer(on: Scene, name: str) -> str:
    """Have a user come who gets all that follows; return the stream that it was told."""
    watcher = await on.watching.user(on.hosts[0], "company-1", "agent-1", name)
    assert watcher.client.ready is not None
    return watcher.client.ready.stream


async def test_nats_killed_and_restarted_on_the_same_data(
    tmp_path: Path, fresh_redis: RedisServer, fresh_nats: NatsServer
) -> None:
    """Not ready meanwhile, ready by itself, and nobody misses anything."""
    async with scene(tmp_path, fresh_redis, fresh_nats) as on:
        async with on.flowing():
            fresh_nats.kill()
            noticed = await until(lambda: not_ready(on, "nats"), 3, "still ready")
            await asyncio.sleep(5 - noticed)
            fresh_nats.start()
            began = time.monotonic()
            await until(lambda: all_ready(on.hosts), 5, "not ready")
            await on.publisher.more(RATE)
            await newcomer(on, "after")
            await on.publisher.more(RATE)
        on.check(on.watching.watchers)
        assert on.slowest(began) < 3


async def test_nats_frozen(
    tmp_path: Path, fresh_redis: RedisServer, fresh_nats: NatsServer
) -> None:
    """A server that says nothing is noticed; what it took before is delivered after."""
    async with scene(tmp_path, fresh_redis, fresh_nats) as on:
        async with on.flowing():
            fresh_nats.pause()
            noticed = await until(lambda: not_ready(on, "nats"), 8, "still ready")
            await asyncio.sleep(8 - noticed)
            fresh_nats.resume()
            began = time.monotonic()
            await until(lambda: all_ready(on.hosts), 5, "not ready")
            await on.publisher.more(RATE)
        on.check(on.watching.watchers)
        assert on.slowest(began) < 3


async def test_consumer_deleted(
    tmp_path: Path, fresh_redis: RedisServer, fresh_nats: NatsServer
) -> None:
    """It is made again where the last one stood."""
    async with scene(tmp_path, fresh_redis, fresh_nats) as on:
        async with on.flowing():
            for _ in range(2):
                began = time.monotonic()
                await on.nats.jetstream().delete_consumer("wa_stream", "ws_fanout")
                await on.publisher.more(2 * RATE)
                await until(lambda: all_ready(on.hosts), 5, "not ready")
        on.check(on.watching.watchers)
        assert on.slowest(began) < 3


async def test_stream_deleted_and_made_again(
    tmp_path: Path, fresh_redis: RedisServer, fresh_nats: NatsServer
) -> None:
    """Sequences restart: delivery goes on with the new stream; newcomers and who follows its
    position on an open connection are told its name.
    """
    async with scene(tmp_path, fresh_redis, fresh_nats) as on:
        jetstream = on.nats.jetstream()
        async with on.flowing():
            await on.publisher.more(2 * RATE)
        on.check(on.watching.watchers)
        await jetstream.delete_stream("wa_stream")
        await jetstream.add_stream(StreamConfig("wa_stream", subjects=["websocket.>"]))
        on.publisher.generation = 1
        began = time.monotonic()
        async with on.flowing():
            await on.publisher.more(RATE)
            told = await newcomer(on, "first")
            await on.publisher.more(RATE)
        on.check(on.watching.watchers, gaps={"other_stream"})
        assert on.watching.gaps() == {"other_stream"}
        assert on.slowest(began) < 4
        assert list(on.watching.streams).index(told) == 1
