"""Every adapter on a real Redis Cluster, and the loss of one of its primaries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import hiredis

from daisi_ws.adapters.kills_redis import KillsRedis
from daisi_ws.adapters.locks_redis import LocksRedis
from daisi_ws.adapters.pods_redis import PodsRedis
from daisi_ws.adapters.redis_cluster import ClusterLink, redis_link
from daisi_ws.adapters.redis_connect import RedisOpener
from daisi_ws.adapters.routes_redis import RoutesRedis
from daisi_ws.app.ports import Acquired, Held, PodRecord
from daisi_ws.config import Redis, redis_target
from daisi_ws.domain.errors import Unavailable
from daisi_ws.domain.subjects import route_key
from tests.adapters.redis_support import DEADLINE, until
from tests.redis_clusters import redis_cluster

INTERESTS = [f"websocket.acme.agent-{number}.chats" for number in range(30)]
TAKES_OVER_SECONDS = 30.0


def record(pod_id: str) -> PodRecord:
    """A pod's record."""
    return PodRecord(
        pod_id=pod_id,
        host="h",
        slot=0,
        generation=1,
        address="a:1",
        http_port=1,
        started=1.0,
        version="1",
        pid=1,
    )


async def locks(link: ClusterLink) -> None:
    """Locks are taken, told, renewed and released, each in its own slot."""
    ours, pods = LocksRedis(link), PodsRedis(link, "s", lambda: 6.0)
    keys = [f"session:acme:bot:user-{number}" for number in range(30)]
    numbers = [await ours.acquire(key, "pod-1#a", 30) for key in keys]
    assert all(isinstance(number, Acquired) for number in numbers)
    assert await ours.acquire(keys[0], "pod-2#b", 30) == Held("pod-1#a", alive=False, leaving=False)
    assert not await pods.refresh(record("pod-1"))
    await ours.announce([(key, "pod-1#a") for key in keys], 30)
    assert await ours.acquire(keys[0], "pod-2#b", 30) == Held("pod-1#a", alive=True, leaving=True)
    assert isinstance(await ours.take(keys[0], "pod-1#a", "pod-2#b", 30), Acquired)
    assert await ours.renew([(key, "pod-1#a", 30) for key in keys]) == [False] + [True] * 29
    await ours.release([(key, "pod-1#a") for key in keys])
    assert await ours.renew([(key, "pod-1#a", 30) for key in keys]) == [False] * 30


async def pods(link: ClusterLink) -> None:
    """Pods register and are found; one is the reader."""
    ours = PodsRedis(link, "s", lambda: 6.0)
    assert await ours.refresh(record("pod-1"))
    await ours.refresh(record("pod-2"))
    assert [pod.pod_id for pod in await ours.records()] == ["pod-1", "pod-2"]
    assert await ours.leases(["pod-1", "pod-3"]) == [True, False]
    epoch = await ours.claim_reader("pod-1", "s@1", 1.0)
    reader = await ours.reader()
    assert reader is not None
    assert (reader.pod_id, reader.epoch) == ("pod-1", epoch)
    assert await ours.keep_reader(reader)
    assert await ours.claim_reader("pod-2", "s@1", 1.0) > epoch
    assert not await ours.keep_reader(reader)
    await ours.resign_reader("pod-2")
    assert await ours.reader() is None
    await ours.remove("pod-2")


async def routes(link: ClusterLink) -> None:
    """Owners are found, and each change of a route that was read is told."""
    ours = RoutesRedis(link, "pod-1", "s", lambda: 60.0, shared=False)
    told: set[str] = set()

    def on_change(interests: Sequence[str] | None) -> None:
        told.update(interests or INTERESTS)

    ours.on_invalidated(on_change)
    await until(lambda: ours.tracking, "changes are told")
    await ours.add(INTERESTS)
    assert await ours.owners(INTERESTS) == [frozenset({"pod-1"})] * 30
    assert await ours.check()
    await ours.renew([(interest, 60.0) for interest in INTERESTS])
    await asyncio.gather(*(link.send("SADD", route_key(each), "pod-9") for each in INTERESTS))
    await until(lambda: told == set(INTERESTS), "every change is told")
    assert await ours.owners(INTERESTS[:1]) == [frozenset({"pod-1", "pod-9"})]
    for interest in INTERESTS:
        await ours.forget_pod(interest, "pod-1")  # which has a lease
        await ours.forget_pod(interest, "pod-9")
    assert await ours.owners(INTERESTS) == [frozenset({"pod-1"})] * 30


async def kills(link: ClusterLink) -> None:
    """A kill is heard, whichever node it was published at."""
    ours, heard = KillsRedis(link), set[str]()
    ours.listen(lambda channel, new_pod_id, holder: heard.add(channel))
    channels = {f"session_kill:acme:bot:user-{number}" for number in range(10)}

    async def all_heard() -> None:
        while heard != channels:  # a subscription may still be on its way between nodes
            for channel in channels - heard:
                await ours.publish(channel, "pod-2", "pod-1#a")
            await asyncio.sleep(0.02)

    await asyncio.wait_for(all_heard(), 10)


async def test_every_adapter_and_a_failover() -> None:
    """What several keys were one step for works on several primaries; one may be lost."""
    with redis_cluster() as servers:
        link = redis_link(RedisOpener(Redis(address=servers.url)))
        assert isinstance(link, ClusterLink)
        link.start()
        try:
            await asyncio.wait_for(link.wait_up(), TAKES_OVER_SECONDS)
            await locks(link)
            await pods(link)
            await routes(link)
            await kills(link)
            registry = PodsRedis(link, "s", lambda: 6.0)
            before, lost = await registry.incarnation(), []
            link.on_down(lambda: lost.append("down"))
            servers.primary_of("pods").kill()
            await until(lambda: bool(lost), "the loss is told")
            await asyncio.wait_for(link.wait_up(), TAKES_OVER_SECONDS)
            assert await registry.incarnation() != before
            await routes(link)
        finally:
            await link.aclose()


def port_of(url: str) -> int:
    """The port of a Redis."""
    return redis_target(Redis(address=url)).port


@asynccontextmanager
async def node(primary: int = 0) -> AsyncIterator[int]:
    """What passes for a node, at the yielded port: it names one primary of all slots, by its port,
    or itself; of commands it does none."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = hiredis.Reader()
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                commands.feed(data)
                while (command := commands.gets()) is not False:
                    writer.write(answers.get(command[0], b"+OK\r\n"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    slots = b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % (primary or port)
    answers = {
        b"HELLO": b"%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n",
        b"CLIENT": b"+id=1 addr=127.0.0.1:1\r\n",
        b"CLUSTER": slots,
        b"GET": b"-CLUSTERDOWN The cluster is down\r\n",
    }
    async with server:
        yield port


@asynccontextmanager
async def started(*ports: int) -> AsyncIterator[ClusterLink]:
    """A link that asks these nodes."""
    nodes = ",".join(f"127.0.0.1:{port}" for port in ports)
    link = ClusterLink(RedisOpener(Redis(address=f"redis+cluster://{nodes}", timeout_ms=500)))
    link.start()
    try:
        yield link
    finally:
        await link.aclose()


async def test_a_node_that_names_a_lost_primary_is_not_the_only_one_asked(redis_url: str) -> None:
    """It may be cut off from those that know better."""
    async with (
        node(primary=1) as stale,
        node(port_of(redis_url)) as knowing,
        started(stale, knowing) as link,
    ):
        await asyncio.wait_for(link.wait_up(), DEADLINE)


async def test_a_primary_that_refuses_is_asked_no_more(redis_url: str) -> None:
    """It may be cut off from those that have its slots by now; nor is its address remembered."""
    async with (
        node() as former,
        node(primary=former) as stale,
        node(port_of(redis_url)) as knowing,
        started(stale, knowing) as link,
    ):
        await asyncio.wait_for(link.wait_up(), DEADLINE)

        async def answered() -> None:
            while True:
                with suppress(Unavailable):
                    await link.call("GET", "key")
                    return
                await asyncio.sleep(0.02)

        await asyncio.wait_for(answered(), DEADLINE)
        assert [port_of(redis_url)] == [port for _, port in link._links]
        link._look.set()
        await until(lambda: former not in [port for _, port in link._seeds], "it is forgotten")
