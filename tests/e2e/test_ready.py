"""Each part of the way from the stream to a socket is broken and mended: `/ready` says so."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import nats as nats_py
import pytest
from nats.js.api import StreamConfig

from daisi_ws.embedded import NatsServer, RedisServer
from tests.chaos.proxy import FaultProxy
from tests.cluster import Host
from tests.e2e.scene import Scene, all_ready, scene, until

TOLD_SECONDS, MENDED_SECONDS = 3.0, 5.0
SLACK_SECONDS = 4.0
"""The machine that this runs on may have other things to do."""

STOPPED_SECONDS = 2.5
RATE = 60
ADVERTISED = "127.0.0.2"
ENVIRONMENT = {
    "DAISI_WS_SERVER_ADVERTISE_HOST": ADVERTISED,
    "DAISI_WS_NATS_CREATE_STREAM": "false",
}
PARTS = ["loop", "redis", "membership", "stream", "consumer", "reader", "grpc"]

Act = Callable[[], Awaitable[object]]


async def say(host: Host, seconds: float = 0.5) -> dict[str, Any]:
    """Return what a host of one worker answers; nothing if it does not in time."""
    limit = aiohttp.ClientTimeout(total=seconds)
    connector = aiohttp.TCPConnector(force_close=True)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=limit) as session,
            session.get(f"{host.base_url}/ready") as reply,
        ):
            body: dict[str, Any] = await reply.json()
            assert (reply.status == 200) == (body["status"] == "READY")
            return body
    except (aiohttp.ClientError, TimeoutError):
        return {}


async def tells(hosts: list[Host], part: str) -> bool:
    """Tell whether all of these hosts say that they are not ready for this reason."""
    return all([part in (await say(host)).get("problems", {}) for host in hosts])


async def create_stream(on: Scene | NatsServer) -> None:
    """Make the stream, as an operator would."""
    config = StreamConfig("wa_stream", subjects=["websocket.>"], allow_direct=True)
    if isinstance(on, Scene):
        await on.nats.jetstream().add_stream(config)
        return
    client = await nats_py.connect(on.url)
    await client.jetstream().add_stream(config)
    await client.close()


async def parties(on: Scene) -> tuple[Host, Host]:
    """Return the host of the reader, and the other one."""
    name = (await on.reader())["pod_id"].rsplit("-", 2)[0]
    reader, other = sorted(on.hosts, key=lambda host: host.name != name)
    return reader, other


async def delivers(on: Scene) -> None:
    """Demand that everybody gets what is published now; of a stream made anew they are told."""
    async with on.flowing(RATE):
        await on.publisher.more(1)
    on.check(on.watching.watchers, gaps={"other_stream"} if on.publisher.generation else ())


async def shown(
    on: Scene, what: str, part: str, acts: tuple[Act, Act], telling: list[Host]
) -> None:
    """Break something, demand that it is told, mend it, and demand readiness and delivery.

    :param acts: what breaks and what mends it.
    :param telling: who has to tell.
    """
    break_it, mend_it = acts
    began = time.monotonic()
    await break_it()
    await until(lambda: tells(telling, part), TOLD_SECONDS + SLACK_SECONDS, f"{what}: not told")
    told = time.monotonic() - began
    reasons = {h.name: (await say(h)).get("problems") for h in telling}
    began = time.monotonic()
    await mend_it()
    await until(
        lambda: all_ready(on.hosts), MENDED_SECONDS + SLACK_SECONDS, f"{what}: not ready again"
    )
    print(f"{what}: told {told:.2f} s, mended {time.monotonic() - began:.2f} s; {reasons}")
    await delivers(on)


@asynccontextmanager
async def proxies(on: Scene) -> AsyncIterator[dict[str, list[FaultProxy]]]:
    """Put a proxy before each pod: that is where the others reach it. By name of its host."""
    made = {
        host.name: [
            FaultProxy((ADVERTISED, port), ("127.0.0.1", port))
            for port in (host.grpc_port, host.grpc_port + 1)
        ]
        for host in on.hosts
    }
    flat = [proxy for group in made.values() for proxy in group]
    try:
        for proxy in flat:
            await proxy.start()
        yield made
    finally:
        await asyncio.gather(*(proxy.close() for proxy in flat))


@asynccontextmanager
async def small_scene(
    folder: Path, redis: RedisServer, nats: NatsServer
) -> AsyncIterator[tuple[Scene, dict[str, list[FaultProxy]]]]:
    """Set a scene of two hosts with a worker each, and a proxy before each of them."""
    await create_stream(nats)
    async with (
        scene(folder, redis, nats, ENVIRONMENT, workers=1, users=8, admins=2) as on,
        proxies(on) as between,
    ):
        yield on, between


@pytest.mark.timeout(120)
async def test_servers(tmp_path: Path, fresh_redis: RedisServer, fresh_nats: NatsServer) -> None:
    """Redis and NATS frozen, the consumer deleted, the stream deleted and made again."""
    async with small_scene(tmp_path, fresh_redis, fresh_nats) as (on, _):
        for host in on.hosts:
            body = await say(host)
            assert [*body["parts"]] == PARTS
            assert {part["status"] for part in body["parts"].values()} == {"READY"}
        acts = act(fresh_redis.pause), act(fresh_redis.resume)
        await shown(on, "redis frozen", "redis", acts, on.hosts)
        acts = act(fresh_nats.pause), act(fresh_nats.resume)
        await shown(on, "nats frozen", "consumer", acts, on.hosts)
        await consumer_deleted(on)
        on.publisher.generation = 1
        jetstream = on.nats.jetstream()
        acts = (lambda: jetstream.delete_stream("wa_stream")), (lambda: create_stream(on))
        await shown(on, "stream deleted", "stream", acts, on.hosts)


async def consumer_deleted(on: Scene) -> None:
    """It is made again before that costs readiness, or it is told: in both cases all goes on."""
    began = time.monotonic()
    async with on.flowing(RATE):
        await on.nats.jetstream().delete_consumer("wa_stream", "ws_fanout")
        await on.publisher.more(RATE)
        hinted = [(await say(host))["parts"]["consumer"] for host in on.hosts]
    on.check(on.watching.watchers)
    await until(lambda: all_ready(on.hosts), MENDED_SECONDS + SLACK_SECONDS, "not ready")
    print(f"consumer deleted: all went on within {time.monotonic() - began:.2f} s; {hinted}")


@pytest.mark.timeout(120)
async def test_pods(tmp_path: Path, fresh_redis: RedisServer, fresh_nats: NatsServer) -> None:
    """A pod stood still; the reader did; the ways between two pods, each alone, lead nowhere."""
    async with small_scene(tmp_path, fresh_redis, fresh_nats) as (on, between):
        await stood_still(on)
        await delivers(on)
        reader, other = await parties(on)
        (pid,) = reader.worker_pids()
        stop, go_on = signal.SIGSTOP, signal.SIGCONT
        acts = act(lambda: os.kill(pid, stop)), act(lambda: os.kill(pid, go_on))
        await shown(on, "reader stopped", "reader", acts, [other])
        reader, other = await parties(on)
        for how, to, host in (("cut", "to", reader), ("freeze", "from", other)):
            acts = all_of(between[host.name], how), all_of(between[host.name], "heal")
            await shown(on, f"{how} way {to} the reader", "reader", acts, [other])


async def stood_still(on: Scene) -> None:
    """While nobody reads and nothing is to be read, a stopped pod is its own affair.

    It blames nobody else for it, and is ready again at once.
    """
    host, other = on.hosts
    (pid,) = host.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        while time.monotonic() - began < STOPPED_SECONDS:
            assert (await say(other))["status"] == "READY"
            assert not await say(host)
        first = asyncio.create_task(say(host, MENDED_SECONDS))
        await asyncio.sleep(0)
    finally:
        os.kill(pid, signal.SIGCONT)
    began, said = time.monotonic(), [(await first).get("problems")]
    while (body := await say(host)).get("status") != "READY":
        said.append(body.get("problems"))
        assert time.monotonic() - began < MENDED_SECONDS + SLACK_SECONDS
    print(f"stood still: ready after {time.monotonic() - began:.2f} s; said {said}")
    assert {part for problems in said for part in problems or ()} <= {"loop", "membership"}


def act(do: Callable[[], object]) -> Act:
    """Return something plain as something to be awaited."""

    async def done() -> None:
        do()

    return done


def all_of(ways: list[FaultProxy], what: str) -> Act:
    """Return what does the same to all ways."""
    return act(lambda: [getattr(way, what)() for way in ways])
