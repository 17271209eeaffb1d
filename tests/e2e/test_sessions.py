"""One session per identity, cluster-wide, whoever races for it."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from tests.cluster import HOST, Host, ports_needed
from tests.e2e.tabs import Gateway, NotUpgraded, Tab, gateway, until

RENEWAL_SECONDS = 1.0
TTL_SECONDS = 10.0
ROUNDS = 100
DISPLACED = 4402

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

_names = itertools.count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def two_hosts(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """Two hosts of two workers each, which refuse second sessions of admins."""
    environment = {
        "DAISI_WS_APP_TTL_REFRESH_INTERVAL_SECONDS": str(RENEWAL_SECONDS),
        "DAISI_WS_APP_SESSION_TTL_SECONDS": str(TTL_SECONDS),
    }
    folder = tmp_path_factory.mktemp("sessions")
    async with gateway(folder, hosts=2, environment=environment) as running:
        yield running


@pytest.fixture
def user() -> str:
    """The name of a user whom no other test has."""
    return f"user-{next(_names)}"


async def holder(redis: Redis, key: str) -> str | None:
    """Return a lock's value."""
    value = await redis.get(key)
    assert value is None or isinstance(value, str)
    return value


async def pod_of(redis: Redis, user: str) -> dict[str, object]:
    """Return the record of the pod that has a user's session."""
    value = await holder(redis, f"session:acme:bot:{user}")
    assert value is not None
    record = await redis.get("pod:" + value.partition("#")[0])
    assert record is not None
    return msgspec.json.decode(record, type=dict[str, object])


class Attempt:
    """A client's attempt at a session, and what was in the stream when it was told `ready`."""

    def __init__(self, tab: Tab | None, published: int, problem: NotUpgraded | None) -> None:
        self.tab = tab
        self.published = published
        self.problem = problem


@pytest.mark.parametrize("clients", [2, 10])
async def test_of_racing_clients_one_is_left(two_hosts: Gateway, user: str, clients: int) -> None:
    """100 rounds over 2 hosts x 2 workers: one is left, the others got 4402, and no event that was
    published after a newer session's `ready` reached an older one."""
    stats = {"409": 0, "4402": 0, "late": 0, "seq": 0, "over": 0.0}
    async with (
        two_hosts.feed() as feed,
        feed.steady(["websocket.acme.bot.chats"], rate=400),
    ):

        async def attempt(number: int) -> Attempt:
            try:
                tab = await two_hosts.user(user=user, host=number % 2)
            except NotUpgraded as problem:
                return Attempt(None, 0, problem)
            return Attempt(tab, feed.last_seq, None)
        before: list[Attempt] = []
        for _ in range(ROUNDS):
            t0=time.monotonic()
            attempts = await asyncio.gather(*(attempt(number) for number in range(clients)))
            t1=time.monotonic()
            stats["connect"] = max(stats.get("connect",0), t1-t0)
            tabs = [a.tab for a in attempts if a.tab] + [a.tab for a in before if a.tab]
            stats["409"] += clients - len([a for a in attempts if a.tab])
            async def one_left() -> bool:
                return sum(t.code is None for t in tabs) <= 1
            await until(one_left)
            left = [t for t in tabs if t.code is None]
            assert len(left) == 1
            winner = left[0]
            await winner.next()
            for t in tabs:
                if t is winner: continue
                assert t.code == 4402, (t.code, t.reason)
                stats["4402"] += 1
                last = t.events[-1] if t.events else None
                if last:
                    if last.seq > winner.ready.seq: stats["seq"] += 1
                    if last.at > winner.ready.at: stats["late"] += 1; stats["over"] = max(stats["over"], last.at-winner.ready.at)
            for a in before:
                await a.tab.abort()
            for a in attempts:
                if a.tab and a.tab is not winner: await a.tab.abort()
            before = [a for a in attempts if a.tab is winner]
        await before[0].tab.close()
    print(stats)
