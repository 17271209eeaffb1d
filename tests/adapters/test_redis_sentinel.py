"""A primary that Sentinels name: found, lost, and found again where they say."""

from __future__ import annotations

import asyncio

from daisi_ws.adapters.pods_redis import PodsRedis
from daisi_ws.adapters.redis_connect import RedisOpener
from daisi_ws.adapters.redis_link import RedisLink
from daisi_ws.config import Redis
from daisi_ws.embedded import RedisServer
from tests.adapters.redis_support import linked, until
from tests.redis_clusters import SERVICE, sentinels

FAILOVER_SECONDS = 30.0


async def test_the_replica_takes_over() -> None:
    """A Sentinel that is away is passed over; after a failover the data counts as another's."""
    with sentinels() as servers:
        servers.sentinels[0].kill()
        async with linked(servers.url) as link:
            pods = PodsRedis(link, "wa_stream", lambda: 6.0)
            before = await pods.incarnation()
            servers.primary.kill()
            await until(lambda: not link.up, "the loss is noticed")
            await asyncio.wait_for(link.wait_up(), FAILOVER_SECONDS)
            assert b"role:master" in await link.call("INFO", "replication")
            assert await pods.incarnation() != before


async def test_a_replica_is_not_taken_for_the_primary(fresh_redis: RedisServer) -> None:
    """What the Sentinels say may be old: the server is asked, and the problem said."""
    with RedisServer(arguments=("--replicaof", f"127.0.0.1 {fresh_redis.port}")) as replica:
        redis = Redis(address=f"redis+sentinel://127.0.0.1:{replica.port}/{SERVICE}")
        link = RedisLink(RedisOpener(redis).primary, 0.5)
        link.start()
        try:
            await until(lambda: "no Sentinel knows the server" in link.problem, "a problem")
            assert not link.up
        finally:
            await link.aclose()
