"""Connections of short-lived commands to NATS and Redis: made at once, or an error that helps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from daisi_ws import log
from daisi_ws.adapters.nats_connection import NatsConnection, NatsSettings
from daisi_ws.adapters.redis_cluster import ClusterLink
from daisi_ws.adapters.redis_cluster import redis_link as made_for
from daisi_ws.adapters.redis_connect import RedisOpener
from daisi_ws.adapters.redis_link import RedisLink
from daisi_ws.cli.options import Failure
from daisi_ws.config import Config, Redis
from daisi_ws.config.keys import without_userinfo
from daisi_ws.domain.errors import Unavailable

CONNECT_SECONDS = 2.0


def quiet_logs() -> None:
    """Keep the connections' own log lines from a command's output; it says itself what happens."""
    log.setup("error", "text")


@asynccontextmanager
async def nats_connection(config: Config, name: str) -> AsyncIterator[NatsConnection]:
    """Connect to NATS for the time of the block.

    :raises Failure: it is not there.
    """
    connection = NatsConnection(NatsSettings.from_config(config.nats), name)
    try:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await connection.connect_once()
        except (Unavailable, TimeoutError):
            raise nats_away(config, connection.problem) from None
        yield connection
    finally:
        await connection.aclose()


@asynccontextmanager
async def redis_link(config: Config) -> AsyncIterator[RedisLink | ClusterLink]:
    """Connect to Redis for the time of the block.

    :raises Failure: it is not there.
    """
    link = made_for(RedisOpener(config.redis))
    link.start()
    try:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await link.wait_up()
        except TimeoutError:
            raise redis_away(config.redis, link.problem) from None
        yield link
    finally:
        await link.aclose()


def nats_away(config: Config, problem: str) -> Failure:
    """Return the error of a NATS that cannot be reached."""
    return Failure(
        f"NATS is not there at {without_userinfo(config.nats.url)}: {problem}",
        "Start it, or say where it is: nats.url, DAISI_WS_NATS_URL. "
        "`daisi-ws dev` brings one along.",
    )


def redis_away(redis: Redis, problem: str) -> Failure:
    """Return the error of a Redis that cannot be reached."""
    return Failure(
        f"Redis is not there at {without_userinfo(redis.address)}: {problem}",
        "Start it, or say where it is: redis.address, DAISI_WS_REDIS_ADDRESS. "
        "`daisi-ws dev` brings one along.",
    )


def stream_missing(config: Config) -> Failure:
    """Return the error of a stream that nobody has made."""
    name = config.nats.stream_name
    return Failure(
        f"NATS has no stream {name}",
        f"Make it: nats stream add {name} --subjects 'websocket.>' --allow-direct, or run "
        "`daisi-ws serve` with nats.create_stream: true. nats.stream_name names another.",
    )
