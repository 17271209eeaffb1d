"""Starting without Redis, NATS, stream or a fitting consumer; reading in shared mode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import nats as nats_py
import pytest
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig

from daisi_ws.embedded import NatsServer, RedisServer, free_ports
from tests.cluster import Host, Keys
from tests.e2e.scene import RATE, ready, scene, until

NO_RETRY = {"DAISI_WS_NATS_RETRY_ON_FAILED_CONNECT": "false"}
SHARED = {"DAISI_WS_NATS_CONSUMER_MODE": "shared"}


@asynccontextmanager
async def host(
    folder: Path, redis: str, nats: str, environment: dict[str, str] | None = None
) -> AsyncIterator[Host]:
    """Start a host of one worker, which need not become ready."""
    made = Host(folder, redis, nats, keys=Keys(), workers=1, environment=environment)
    made.start()
    try:
        yield made
    finally:
        await made.close()


async def says(made: Host, status: int, **problems: bool) -> bool:
    """Tell whether `/ready` answers with this status, and names these dependencies as away."""
    try:
        answers = await ready(made)
    except aiohttp.ClientError:
        return False
    _, body = answers[0]
    away = {part for part, state in body["dependencies"].items() if state != "connected"}
    return answers[0][0] == status and away == {
        part for part, is_away in problems.items() if is_away
    }


async def test_waits_for_redis_and_nats(tmp_path: Path) -> None:
    """Says so in the log and in `/ready`, and is READY by itself once they are there."""
    port = free_ports(3)
    redis, nats = RedisServer(port=port), NatsServer(port=port + 1)
    async with host(tmp_path, f"redis://127.0.0.1:{port}", f"nats://127.0.0.1:{port + 1}") as made:
        try:
            await until(lambda: says(made, 503, nats=True, redis=True), 10, "no word")
            redis.start()
            await until(lambda: says(made, 503, nats=True), 5, "no word of redis")
            nats.start()
            await until(lambda: says(made, 200), 5, "not ready")
        finally:
            redis.stop()
            nats.stop()
        log = made.log_text()
        assert '"waiting for nats"' in log
        assert '"redis away"' in log
        assert "Traceback" not in log


@pytest.mark.parametrize("missing", ["nats", "redis"])
async def test_ends_where_waiting_is_not_wanted(
    tmp_path: Path, redis_server: RedisServer, nats_server: NatsServer, missing: str
) -> None:
    """Exit code 3, with the reason and the way out."""
    nowhere = f"127.0.0.1:{free_ports(1)}"
    redis = f"redis://{nowhere}" if missing == "redis" else redis_server.url
    nats = f"nats://{nowhere}" if missing == "nats" else nats_server.url
    async with host(tmp_path, redis, nats, NO_RETRY) as made:
        assert await made.wait(15) == 3
        assert f"{missing} is away" in made.log_text().lower()
        assert "retry_on_failed_connect" in made.log_text()
        assert "Traceback" not in made.log_text()


async def test_stream_is_missing(tmp_path: Path, redis_url: str, nats_url: str) -> None:
    """NOT_READY, with the command that makes it; READY by itself once somebody has."""
    no_create = {"DAISI_WS_NATS_CREATE_STREAM": "false"}
    async with host(tmp_path, redis_url, nats_url, no_create) as made:
        await until(lambda: says(made, 503, nats=True), 10, "no word")
        assert "nats stream add wa_stream" in made.log_text()
        assert "nats.create_stream: true" in made.log_text()
        client = await nats_py.connect(nats_url)
        await client.jetstream().add_stream(StreamConfig("wa_stream", subjects=["websocket.>"]))
        await client.close()
        await until(lambda: says(made, 200), 5, "not ready")


@pytest.mark.parametrize(
    "config",
    [
        ConsumerConfig(
            durable_name="ws_fanout", deliver_subject="to.us", ack_policy=AckPolicy.EXPLICIT
        ),
        ConsumerConfig(durable_name="ws_fanout", ack_policy=AckPolicy.EXPLICIT),
    ],
    ids=["push", "pull"],
)
async def test_durable_of_another_shape(
    tmp_path: Path, redis_url: str, nats_url: str, config: ConsumerConfig
) -> None:
    """Exit code 3; the error names both shapes and the way out."""
    client = await nats_py.connect(nats_url)
    jetstream = client.jetstream()
    await jetstream.add_stream(StreamConfig("wa_stream", subjects=["websocket.>"]))
    await jetstream.add_consumer("wa_stream", config)
    await client.close()
    async with host(tmp_path, redis_url, nats_url) as made:
        assert await made.wait(15) == 3
        log = made.log_text()
    for part in ("explicit", "pinned_client", "consumer_mode", "nats consumer rm", "consumer_name"):
        assert part in log, log
    assert "Traceback" not in log


@pytest.mark.parametrize("push", [False, True], ids=["pull", "push group"])
async def test_shared_mode(
    tmp_path: Path, fresh_redis: RedisServer, fresh_nats: NatsServer, *, push: bool
) -> None:
    """Everybody gets each event once; a push consumer with a deliver group is joined as it is."""
    if push:
        client = await nats_py.connect(fresh_nats.url)
        jetstream = client.jetstream()
        await jetstream.add_stream(StreamConfig("wa_stream", subjects=["websocket.>"]))
        config = ConsumerConfig(
            durable_name="ws_fanout",
            deliver_subject="to.us",
            deliver_group="fanout",
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=30,
        )
        await jetstream.add_consumer("wa_stream", config)
        await client.close()
    async with scene(tmp_path, fresh_redis, fresh_nats, SHARED) as on:
        async with on.flowing():
            await on.publisher.more(3 * RATE)
        verdict = on.watching.verdict(on.publisher.published)
        assert (verdict.lost, verdict.doubled, verdict.foreign) == (0, 0, 0)
        assert all(w.stayed for w in on.watching.watchers)
        info = await on.nats.jetstream().consumer_info("wa_stream", "ws_fanout")
        assert info.config.deliver_group == ("fanout" if push else None)
        await asyncio.wait_for(acknowledged(on.nats), 5)


async def acknowledged(client: nats_py.NATS) -> None:
    """Return once everything is acknowledged."""
    while True:
        info = await client.jetstream().consumer_info("wa_stream", "ws_fanout")
        if not (info.num_ack_pending or info.num_pending):
            return
        await asyncio.sleep(0.02)
