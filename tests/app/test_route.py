"""The cache of routes, on real route sets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from daisi_ws.adapters.redis_connect import RedisOpener
from daisi_ws.adapters.redis_link import RedisLink
from daisi_ws.adapters.routes_redis import RoutesRedis
from daisi_ws.app.route import Router
from daisi_ws.config import testing_config
from daisi_ws.domain.subjects import Address, parse
from daisi_ws.metrics import Tally

CHATS_KEY = "route:acme:bot:chats"


def address(subject: str) -> Address:
    """Return a parsed subject."""
    parsed = parse(subject)
    assert parsed is not None
    return parsed


CHATS = address("websocket.acme.bot.chats")
AGENTS = address("websocket.acme.bot.agents")


class Setting:
    """A router of pod `me` over one Redis connection."""

    def __init__(self, redis_url: str) -> None:
        factory = RedisOpener(testing_config(redis__address=redis_url).redis).primary
        self.link = RedisLink(factory, 1.0)
        self.routes = RoutesRedis(self.link, "me", "wa_stream", lambda: 300.0, shared=False)
        self.tally = Tally()
        self.router = Router(self.routes, "me", self.tally)

    async def owners(self, wanted: Address) -> set[str]:
        """Read until the owners are known, and return them."""
        while (owners := self.router.owners(wanted)) is None:
            await self.router.read([wanted])
        return set(owners)

    async def until(self, wanted: Address, owners: set[str]) -> None:
        """Return once these are the owners."""
        async with asyncio.timeout(5):
            while await self.owners(wanted) != owners:
                await asyncio.sleep(0.005)


@pytest.fixture
async def at(redis_url: str) -> AsyncIterator[Setting]:
    """A router on the emptied Redis."""
    setting = Setting(redis_url)
    setting.link.start()
    await setting.link.wait_up()
    setting.router.settle({"p0", "p1", "p2", "p3", "me"}, set())
    yield setting
    await setting.link.aclose()


async def test_what_was_read_is_known(at: Setting, redis: Redis) -> None:
    """The second event of a route costs no read, and this pod is not among the owners."""
    await redis.sadd(CHATS_KEY, "p1", "me")
    assert at.router.owners(CHATS) is None
    assert await at.owners(CHATS) == {"p1"}
    before = at.tally.route_misses
    assert await at.owners(CHATS) == {"p1"}
    assert at.tally.route_misses == before


async def test_a_change_is_seen(at: Setting, redis: Redis) -> None:
    """Pods that come and go are known without waiting for anything to expire."""
    assert await at.owners(CHATS) == set()
    await redis.sadd(CHATS_KEY, "p1")
    await at.until(CHATS, {"p1"})
    await redis.srem(CHATS_KEY, "p1")
    await at.until(CHATS, set())


async def test_agents_join_four_routes(at: Setting, redis: Redis) -> None:
    """An agents event goes to whoever has an admin whose pattern matches, one way or another."""
    for pod, key in enumerate(("acme:bot", "acme:*", "*:bot", "*:*")):
        await redis.sadd(f"admin_route:{key}", f"p{pod}")
    await redis.sadd("admin_route:beta:*", "p9")
    assert await at.owners(AGENTS) == {"p0", "p1", "p2", "p3"}
    await redis.srem("admin_route:*:*", "p3")
    await at.until(AGENTS, {"p0", "p1", "p2"})


async def test_what_changes_while_it_is_read_is_not_believed(at: Setting, redis: Redis) -> None:
    """A read that a barrier overtook is neither kept nor used."""
    await redis.sadd(CHATS_KEY, "p1")
    reading = asyncio.create_task(at.router.read([CHATS]))
    await asyncio.sleep(0)
    at.router.forget([CHATS.subject])
    assert await reading == {}
    assert at.router.owners(CHATS) is None


async def test_unsettled_pods_own_everything(at: Setting, redis: Redis) -> None:
    """Pods that have not registered yet in the present data are given every event."""
    await redis.sadd(CHATS_KEY, "p1")
    at.router.settle({"p1", "p2", "me"}, {"p2"})
    assert await at.owners(CHATS) == {"p1", "p2"}
    at.router.settle({"p1", "p2", "me"}, set())
    assert await at.owners(CHATS) == {"p1"}


async def test_a_pod_not_known_yet_is_given_everything(at: Setting, redis: Redis) -> None:
    """Met in a route before it was seen alive, it counts as unsettled until it is known."""
    new = "new-0-1000000000000"
    await redis.sadd(CHATS_KEY, new)
    await at.until(CHATS, {new})
    assert await at.owners(AGENTS) == {new}
    at.router.settle({new, "me"}, set())
    await at.until(AGENTS, set())


async def test_a_forgotten_pod_owns_nothing(at: Setting, redis: Redis) -> None:
    """The interests of a pod that is gone are named, to be cleaned up."""
    await redis.sadd(CHATS_KEY, "p1", "p2")
    await at.owners(CHATS)
    assert at.router.forget_pod("p1") == [CHATS.subject]
    assert at.router.forget_pod("p1") == []


async def test_while_redis_is_away_every_pod_owns(redis_url: str) -> None:
    """Not knowing, the reader gives every pod every event."""
    setting = Setting(redis_url)
    setting.router.settle({"p1", "p2", "me"}, set())
    assert await setting.owners(CHATS) == {"p1", "p2"}
