"""One session per identity, cluster-wide, whoever races for it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from tests.cluster import Host
from tests.e2e.tabs import (
    Feed,
    Frame,
    Gateway,
    NotUpgraded,
    Tab,
    admin_headers,
    close_tabs,
    gateway,
    stored,
    until,
    user_headers,
)

RENEWAL_SECONDS = 1.0
TTL_SECONDS = 10.0
TAKEOVER_SECONDS = 1.5
LOCK_SECONDS = 30.0
"""The default of `app.session_ttl_seconds`."""
ROUNDS = 100
DISPLACED = 4402
READING_SECONDS = 0.001
"""What two sockets' bytes can be apart in the order in which one process reads them."""

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

_numbers = itertools.count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def two_hosts(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """Two hosts of two workers each, which refuse second sessions of admins."""
    environment = {
        "DAISI_WS_APP_TTL_REFRESH_INTERVAL_SECONDS": str(RENEWAL_SECONDS),
        "DAISI_WS_APP_SESSION_TTL_SECONDS": str(TTL_SECONDS),
        "DAISI_WS_APP_SESSION_TAKEOVER_SECONDS": str(TAKEOVER_SECONDS),
    }
    folder = tmp_path_factory.mktemp("sessions")
    async with gateway(folder, hosts=2, environment=environment) as running:
        yield running


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def _no_tabs_left() -> AsyncIterator[None]:
    yield
    await close_tabs()


@pytest.fixture
def name() -> str:
    """The name of a user or an admin whom no other test has."""
    return f"name-{next(_numbers)}"


@dataclass
class Racer:
    """A client in a race for an identity, and what became of it.

    :ivar sent: how many events had been published when it was told `ready`.
    """

    tab: Tab | None = None
    refused: int = 0
    sent: int = 0

    async def run(self, where: Gateway, feed: Feed, user: str, host: int) -> None:
        """Connect, and wait for `ready` or the end."""
        headers = user_headers(where.keys, where.keys.user_token("acme", "bot", user))
        try:
            tab = await Tab.dial(where.hosts[host].http_port, "/ws/acme/bot", headers)
        except NotUpgraded as problem:
            self.refused = problem.response.status
            return
        self.tab = tab
        await tab.came(lambda: bool(tab.frames) or tab.code is not None)
        self.sent = feed.sent

    @property
    def live(self) -> bool:
        """Whether it has the session, as far as it knows."""
        return self.tab is not None and self.tab.code is None

    def was_told(self) -> bool:
        """Tell whether it knows that somebody else has the session."""
        return self.refused == 409 if self.tab is None else self.tab.code == DISPLACED

    def overlaps(self, winner: Racer) -> bool:
        """Tell whether it got an event after the winner's `ready`."""
        if self.tab is None or winner.tab is None:
            return False
        late = winner.tab.ready.at + READING_SECONDS
        return any(event.at > late or number(event) > winner.sent for event in self.tab.events)


def number(event: Frame) -> int:
    """Return which of a feed's events this is."""
    return int(str(event.payload["event_id"]).rpartition(":")[2])


@pytest.mark.parametrize("clients", [2, 10])
async def test_of_racing_clients_one_is_left(two_hosts: Gateway, name: str, clients: int) -> None:
    """100 rounds over 2 hosts x 2 workers: one is left, the others are told, and no event reaches
    one of them after the `ready` of the one that is left."""
    winner: Racer | None = None
    chats = ["websocket.acme.bot.chats"]
    async with two_hosts.feed() as feed, feed.steady(chats, rate=600):
        for _ in range(ROUNDS):
            racers = [Racer() for _ in range(clients)]
            runs = (r.run(two_hosts, feed, name, n % 2) for n, r in enumerate(racers))
            await asyncio.gather(*runs)
            winner = await judge([*racers, winner] if winner else racers)
        assert winner is not None


async def judge(racers: list[Racer]) -> Racer:
    """Return the one that is left, which gets its events, and end the others."""

    async def one_left() -> bool:
        return sum(racer.live for racer in racers) == 1

    await until(one_left, what="one session is left")
    winner = next(racer for racer in racers if racer.live)
    assert winner.tab
    await winner.tab.next()
    losers = [racer for racer in racers if racer is not winner]
    assert all(loser.was_told() for loser in losers), losers
    assert not any(loser.overlaps(winner) for loser in losers)
    for loser in losers:
        if loser.tab is not None:
            await loser.tab.abort()
    return winner


async def test_the_lock_names_its_owner_and_goes_with_it(two_hosts: Gateway, name: str) -> None:
    """`session:{company}:{agent}:{user}` is `{pod}#{connection}` with a TTL, until the end."""
    key = f"session:acme:bot:{name}"
    async with two_hosts.redis() as redis:
        tab = await two_hosts.user(user=name)
        pod, _, connection = str(await redis.get(key)).partition("#")
        assert connection == tab.connection
        assert await redis.exists(f"pod:{pod}")
        assert 0 < await redis.ttl(key) <= TTL_SECONDS
        await tab.close()
        await until(lambda: gone(redis, key), what="the lock is gone")


async def test_the_lock_is_renewed(two_hosts: Gateway, name: str) -> None:
    """A session lasts longer than the TTL of its lock: the TTL grows again."""
    key = f"session:admin:{name}"
    async with two_hosts.redis() as redis, await two_hosts.admin(name):
        await redis.pexpire(key, 2000)

        async def renewed() -> bool:
            return int(await redis.pttl(key)) > 2000

        await until(renewed, RENEWAL_SECONDS + 1, "the lock is renewed")


@pytest.mark.parametrize("kind", ["user", "admin"])
async def test_who_leaves_comes_back_at_once(two_hosts: Gateway, name: str, kind: str) -> None:
    """50 times: after a clean close the next connection, on the other host, is no conflict."""
    for turn in range(50):
        tab = await connect(two_hosts, kind, name, host=turn % 2)
        await tab.close()


async def test_a_second_admin_is_refused(two_hosts: Gateway, name: str) -> None:
    """Policy `reject`: 409 SessionConflict on every worker, and the first goes on."""
    async with two_hosts.feed() as feed, await two_hosts.admin(name) as first:
        for host in (0, 1) * 4:
            with pytest.raises(NotUpgraded) as refused:
                await two_hosts.admin(name, host)
            response = refused.value.response
            assert response.status == 409
            assert response.json()["code"] == "SessionConflict"
        await first.got(await feed.put("websocket.acme.bot.agents"))
        assert first.code is None


async def test_an_admin_may_replace_the_older_connection(two_hosts: Gateway, name: str) -> None:
    """Policy `replace`: the older gets 4402, whichever pod it is on."""
    replacing = Host(
        two_hosts.folder,
        two_hosts.redis_url,
        two_hosts.nats_url,
        keys=two_hosts.keys,
        name="replacing",
        environment={"DAISI_WS_APP_ADMIN_SESSION_POLICY": "replace"},
    )
    token = two_hosts.keys.admin_token(name)
    try:
        replacing.start()
        await replacing.wait_ready()
        older = await two_hosts.admin(name)
        for _ in range(6):
            newer = await Tab.open(
                replacing.http_port, "/ws/admin", admin_headers(two_hosts.keys, token)
            )
            assert await older.end() == DISPLACED
            await older.abort()
            older = newer
        await older.close()
    finally:
        await replacing.close()


async def connect(where: Gateway, kind: str, name: str, host: int = 0) -> Tab:
    """Connect a user or an admin."""
    if kind == "admin":
        return await where.admin(name, host)
    return await where.user(user=name, host=host)


async def gone(redis: Redis, key: str) -> bool:
    """Tell whether there is no such key."""
    return not await redis.exists(key)


@pytest.mark.parametrize("back_on", [0, 1])
@pytest.mark.parametrize("kind", ["user", "admin"])
async def test_who_lost_a_killed_worker_comes_back_at_once(
    two_hosts: Gateway, name: str, kind: str, back_on: int
) -> None:
    """The first try after SIGKILL succeeds, on this host and on the other, long before the lock
    would end by itself; an admin is not told of a conflict with the dead."""
    key = f"session:acme:bot:{name}" if kind == "user" else f"session:admin:{name}"
    tab = await connect(two_hosts, kind, name)
    async with two_hosts.redis() as redis:
        os.kill(await pid_of_holder(redis, key), signal.SIGKILL)
    killed = time.monotonic()
    assert await tab.end() == 1006
    back = await connect(two_hosts, kind, name, back_on)
    took = time.monotonic() - killed
    await back.close()
    await tab.abort()
    await two_hosts.host.wait_ready()
    assert took < LOCK_SECONDS / 2


async def pid_of_holder(redis: Redis, key: str) -> int:
    """Return the process that has a session."""
    pod = (await stored(redis, key)).partition("#")[0]
    return int(json.loads(await stored(redis, f"pod:{pod}"))["pid"])


@pytest.mark.parametrize("kind", ["user", "admin"])
async def test_an_older_pod_may_take_a_session(two_hosts: Gateway, name: str, kind: str) -> None:
    """Its kill-switch message, which names no connection, closes the session with 4402."""
    identity = f"acme:bot:{name}" if kind == "user" else f"admin:{name}"
    async with two_hosts.redis() as redis, await connect(two_hosts, kind, name) as tab:
        await redis.publish(f"session_kill:{identity}", json.dumps({"new_pod_id": "older-pod"}))
        assert await tab.end(1.0) == DISPLACED
        await until(lambda: gone(redis, f"session:{identity}"), what="the lock is given up")


KILLS_THAT_DO_NOTHING = [
    ("session_kill:acme:bot:{name}", b""),
    ("session_kill:acme:bot:{name}", b"null"),
    ("session_kill:acme:bot:{name}", b"[]"),
    ("session_kill:acme:bot:{name}", b"{}"),
    ("session_kill:acme:bot:{name}", b'{"new_pod_id":7}'),
    ("session_kill:acme:bot:{name}", b'{"new_pod_id":"x"'),
    ("session_kill:acme:bot:{name}", b"\xff\xfe"),
    ("session_kill:acme:bot:{name}", b"[" * 100_000),
    ("session_kill:acme:bot:{name}", b'{"new_pod_id":"x","holder":"x#y"}'),
    ("session_kill:acme:bot:{name}", b'{"new_pod_id":"%s"}' % (b"x" * 100_000)),
    ("session_kill:", b'{"new_pod_id":"x"}'),
    ("session_kill:*", b'{"new_pod_id":"x"}'),
    ("session_kill:acme:bot:*", b'{"new_pod_id":"x"}'),
    ("session_kill:acme:bot", b'{"new_pod_id":"x"}'),
    ("session_kill:acme:bot:{name}:", b'{"new_pod_id":"x"}'),
    ("session_kill:acme:bot:{name}\0", b'{"new_pod_id":"x"}'),
    ("session_kill:ACME:bot:{name}", b'{"new_pod_id":"x"}'),
    ("session_kill:admin:{name}", b'{"new_pod_id":"x"}'),
    ("session_kill:umbrella:bot:{name}", b'{"new_pod_id":"x"}'),
    ("session_kill:\ufffd", b'{"new_pod_id":"x"}'),
]


async def test_kills_of_others_and_malformed_ones_do_nothing(two_hosts: Gateway, name: str) -> None:
    """A session ends only by a kill of its own identity that is one; the listener survives."""
    async with two_hosts.redis() as redis, await two_hosts.user(user=name) as tab:
        for channel, data in KILLS_THAT_DO_NOTHING:
            heard = await redis.publish(channel.format(name=name), data)
            assert heard == 4, "all workers listen"
        witness = await two_hosts.user(user=f"{name}-witness")
        await redis.publish(f"session_kill:acme:bot:{name}-witness", b'{"new_pod_id":"x"}')
        assert await witness.end() == DISPLACED
        assert tab.code is None
        assert await redis.exists(f"session:acme:bot:{name}")
        await witness.abort()


async def test_a_kill_ends_one_tenants_session_only(two_hosts: Gateway, name: str) -> None:
    """Of users of one name in several companies and agents, and an admin, the one named goes."""
    others = [
        await two_hosts.user("acme", "other", name),
        await two_hosts.user("umbrella", "bot", name),
        await two_hosts.admin(name),
    ]
    victim = await two_hosts.user("acme", "bot", name)
    async with two_hosts.redis() as redis, two_hosts.feed() as feed:
        await redis.publish(f"session_kill:acme:bot:{name}", b'{"new_pod_id":"x"}')
        assert await victim.end() == DISPLACED
        await others[0].got(await feed.put("websocket.acme.other.chats"))
        await others[1].got(await feed.put("websocket.umbrella.bot.chats"))
        await others[2].got(await feed.put("websocket.acme.bot.agents"))


async def test_a_lost_lock_ends_the_session(two_hosts: Gateway, name: str) -> None:
    """Without any kill, whose lock is another's is closed within the renewal interval; the lock
    stays the other's."""
    key = f"session:acme:bot:{name}"
    async with two_hosts.redis() as redis, await two_hosts.user(user=name) as tab:
        await redis.set(key, "older-pod", ex=30)
        assert await tab.end(RENEWAL_SECONDS + 1) == DISPLACED
        assert await redis.get(key) == "older-pod"
        await redis.delete(key)


async def test_an_emptied_redis_costs_no_session(two_hosts: Gateway, name: str) -> None:
    """Locks that vanish are set again, and the newer of two sessions still wins."""
    key = f"session:acme:bot:{name}"
    async with two_hosts.redis() as redis, await two_hosts.user(user=name) as tab:
        await redis.flushall()

        async def set_again() -> bool:
            return str(await redis.get(key)).endswith("#" + tab.connection)

        await until(set_again, what="the lock is set again")
        async with await two_hosts.user(user=name, host=1):
            assert await tab.end() == DISPLACED
