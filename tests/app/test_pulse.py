"""A process that stood still writes nothing until it has made sure of its sessions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import nats as nats_py
from nats.aio.client import Client as NatsClient
from redis.asyncio import Redis

from daisi_ws.app.delivery import PAUSE_SECONDS
from daisi_ws.domain.close import CloseReason
from tests.app.pods import pod, publish, until


def stand_still(seconds: float = PAUSE_SECONDS + 0.3) -> None:
    """Block the loop as a stopped process would."""
    time.sleep(seconds)


def stand_still_while(something: Callable[[], None]) -> None:
    """Block the loop while something happens in a thread, and longer."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(something).result(20)
    stand_still()


def publish_elsewhere(nats_url: str) -> None:
    """Publish an event on a loop of its own."""

    async def publish_one() -> None:
        client = await nats_py.connect(nats_url)
        await client.jetstream().publish("websocket.acme.bot.chats", EVENT, timeout=15)
        await client.close()

    asyncio.run(publish_one())


async def test_sessions_that_were_taken_meanwhile_write_nothing(
    redis_url: str, nats_url: str, nats: NatsClient, redis: Redis
) -> None:
    """After a pause, who lost the session is closed before anything reaches the socket."""
    async with pod(redis_url, nats_url) as only:
        tab, kept = await only.user("ann"), await only.user("bob")
        before = await publish(nats)
        await until(lambda: tab.seqs() == [before])
        await redis.set("session:acme:bot:ann", "other-0-1#newer")
        stand_still_while(partial(publish_elsewhere, nats_url))
        await until(lambda: tab.sink.closed == [CloseReason.SESSION_LOST])
        assert tab.seqs() == [before]
        await until(lambda: kept.seqs() == [before, before + 1])


async def test_the_loops_lag_is_measured(redis_url: str, nats_url: str) -> None:
    """A blocked loop shows in the pulse's lag."""
    async with pod(redis_url, nats_url) as only:
        await asyncio.sleep(0)
        stand_still(0.3)
        await until(lambda: only.parts.pulse.lag > 0.1)


async def test_the_loops_tasks_are_counted(redis_url: str, nats_url: str) -> None:
    """The gauge follows the tasks that there are, also when there are so many that it is slower."""

    def tasks() -> float:
        return only.parts.metrics.registry.get_sample_value("dws_tasks") or 0.0

    async with pod(redis_url, nats_url) as only:
        await until(lambda: 0 < tasks() < 1500, 30)
        end = asyncio.Event()
        many = [asyncio.create_task(end.wait()) for _ in range(1500)]
        await until(lambda: tasks() > 1500, 30)
        end.set()
        await asyncio.wait(many)
        await until(lambda: 0 < tasks() < 1500, 30)


EVENT = b'{"event_id":"e","company_id":"acme","agent_id":"bot","row_data":{}}'
