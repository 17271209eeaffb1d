"""The kill switch over a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis.asyncio as redis_asyncio
from structlog.testing import capture_logs

from daisi_ws.adapters import kills_redis
from daisi_ws.adapters.kills_redis import KillsRedis
from daisi_ws.domain.errors import Unavailable
from daisi_ws.embedded import RedisServer
from tests.adapters.redis_support import DEADLINE, linked, unconnected, until

CHANNEL = "session_kill:acme:bot:ann"

Heard = list[tuple[str, str, str]]


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[Heard]:
    """What a pod hears of kills."""
    heard: Heard = []
    async with unconnected(url) as link:
        KillsRedis(link).listen(lambda *kill: heard.append(kill))
        link.start()
        await asyncio.wait_for(link.wait_up(), DEADLINE)
        yield heard


async def test_all_pods_hear_a_kill(redis_url: str) -> None:
    """What one pod publishes, all hear, itself included, with the holder that is to go."""
    async with listening(redis_url) as one, listening(redis_url) as two:
        async with linked(redis_url) as link:
            await KillsRedis(link).publish(CHANNEL, "pod-a", "pod-b#1")
        await until(lambda: bool(one and two), "both have heard it")
    assert one == two == [(CHANNEL, "pod-a", "pod-b#1")]


async def test_kill_of_an_older_pod(redis_url: str, redis: redis_asyncio.Redis) -> None:
    """An older pod names no holder, a newer one perhaps more than we know."""
    async with listening(redis_url) as heard:
        await redis.publish(CHANNEL, '{"new_pod_id":"old"}')
        await redis.publish(CHANNEL, '{"new_pod_id":"new","holder":"x#1","reason":{"a":[]}}')
        await until(lambda: len(heard) == 2, "both are heard")
    assert heard == [(CHANNEL, "old", ""), (CHANNEL, "new", "x#1")]


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        b"pod-a",
        b"[]",
        b"{}",
        b'{"new_pod_id":7}',
        b'{"new_pod_id":"a","holder":7}',
        b'{"new_pod_id":"\xff"}',
        b"[" * 3000,
        b'{"new_pod_id":"' + b"a" * 5000 + b'"}',
    ],
)
async def test_nonsense_is_ignored(
    redis_url: str,
    redis: redis_asyncio.Redis,
    nonsense: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A malformed message is one log line with the reason; the next kill is heard."""
    lines: list[dict[str, object]] = []
    monkeypatch.setattr(
        kills_redis, "limited", lambda _, event, **context: lines.append({"is": event, **context})
    )
    async with listening(redis_url) as heard:
        await redis.publish(CHANNEL, nonsense)
        await redis.publish(CHANNEL, '{"new_pod_id":"a"}')
        await until(lambda: bool(heard), "the kill is heard")
    assert heard == [(CHANNEL, "a", "")]
    assert [line["is"] for line in lines] == ["kill message ignored"]
    assert lines[0]["problem"]


async def test_flood_of_nonsense_is_few_lines(redis_url: str, redis: redis_asyncio.Redis) -> None:
    """A thousand malformed messages do not become a thousand lines."""
    with capture_logs() as lines:
        async with listening(redis_url) as heard:
            for _ in range(1000):
                await redis.publish(CHANNEL, "?")
            await redis.publish(CHANNEL, '{"new_pod_id":"a"}')
            await until(lambda: bool(heard), "the kill is heard")
    assert sum(line["event"] == "kill message ignored" for line in lines) <= 2


async def test_listening_goes_on_after_a_restart(fresh_redis: RedisServer) -> None:
    """When Redis is back, so is the subscription."""
    heard: Heard = []
    async with linked(fresh_redis.url) as link:
        kills = KillsRedis(link)
        kills.listen(lambda *kill: heard.append(kill))
        fresh_redis.restart()
        await until(lambda: link.down_since is not None, "the loss is noticed")
        await asyncio.wait_for(link.wait_up(), DEADLINE)
        await kills.publish(CHANNEL, "pod-a", "")
        await until(lambda: bool(heard), "the kill is heard")


async def test_publish_without_redis(fresh_redis: RedisServer) -> None:
    """A kill that cannot be said is `Unavailable`."""
    async with linked(fresh_redis.url) as link:
        fresh_redis.kill()
        await until(lambda: not link.up, "the loss is noticed")
        with pytest.raises(Unavailable):
            await KillsRedis(link).publish(CHANNEL, "pod-a", "")
