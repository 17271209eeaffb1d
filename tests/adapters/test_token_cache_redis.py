"""The shared token cache in a real Redis."""

from __future__ import annotations

import hmac
import json
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import pytest
import redis.asyncio as redis_asyncio

from daisi_ws.adapters.redis_link import RedisLink
from daisi_ws.adapters.token_cache_redis import RedisTokenCache
from daisi_ws.embedded import RedisServer
from tests.adapters.redis_support import linked, until

KEY, ADMIN_KEY = "01" * 32, "02" * 32
DIGEST = sha256(b"a token").digest()
NAME = f"token_cache:{DIGEST.hex()}"
FIELDS: dict[str, Any] = {
    "company_id": "acme",
    "agent_id": "bot",
    "user_id": "ann",
    "expires_at": "2026-07-30T12:34:56Z",
}
CONTENT = json.dumps(FIELDS).encode()


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    """A link to the emptied Redis."""
    async with linked(redis_url) as link:
        yield link


@pytest.fixture
def cache(link: RedisLink) -> RedisTokenCache:
    """The users' cache."""
    return RedisTokenCache(link, "user", KEY)


async def stored(redis: redis_asyncio.Redis, name: str = NAME) -> dict[str, Any]:
    """An entry as it lies in Redis."""
    entry = await redis.get(name)
    assert entry is not None
    fields: dict[str, Any] = json.loads(entry)
    return fields


async def test_entry_is_the_contracts(
    cache: RedisTokenCache, link: RedisLink, redis: redis_asyncio.Redis
) -> None:
    """Key, content, mac and TTL are as written down; the mac can be made without our code."""
    cache.put(DIGEST, CONTENT, 30)
    await link.call("PING")
    bound = f"user:{DIGEST.hex()}:".encode() + CONTENT
    mac = hmac.new(bytes.fromhex(KEY), bound, sha256).hexdigest()
    assert await stored(redis) == {**FIELDS, "mac": mac}
    assert 25_000 < await redis.pttl(NAME) <= 30_000


async def test_admins_have_keys_of_their_own(link: RedisLink, redis: redis_asyncio.Redis) -> None:
    """The two kinds never share an entry."""
    admins = RedisTokenCache(link, "admin", ADMIN_KEY)
    admins.put(DIGEST, CONTENT, 30)
    await link.call("PING")
    assert await redis.keys() == [f"token_cache:admin_{DIGEST.hex()}".encode()]


@pytest.mark.parametrize("ttl", [0.0, -1.0, 0.0001])
async def test_nothing_is_kept_beyond_its_time(
    cache: RedisTokenCache, link: RedisLink, redis: redis_asyncio.Redis, ttl: float
) -> None:
    """An entry without time left is not written, least of all without a TTL."""
    cache.put(DIGEST, CONTENT, ttl)
    await link.call("PING")
    assert await redis.keys() == []


@pytest.mark.parametrize("content", [CONTENT + b" \n", b'{"mac":"of others",' + CONTENT[1:]])
async def test_the_mac_is_the_last_field(
    cache: RedisTokenCache, link: RedisLink, redis: redis_asyncio.Redis, content: bytes
) -> None:
    """Whatever else is in a token: of two fields with one name the last counts, and what it is over
    can be read in the entry."""
    cache.put(DIGEST, content, 30)
    await link.call("PING")
    entry = await redis.get(NAME)
    assert isinstance(entry, bytes)
    text, _, told = entry.rpartition(b',"mac":')
    bound = f"user:{DIGEST.hex()}:".encode() + text + b"}"
    assert json.loads(told[:-1]) == hmac.new(bytes.fromhex(KEY), bound, sha256).hexdigest()
    assert (await stored(redis)).items() >= FIELDS.items()


async def test_without_redis(fresh_redis: RedisServer) -> None:
    """Writing says nothing, whatever comes of it."""
    async with linked(fresh_redis.url) as link:
        cache = RedisTokenCache(link, "user", KEY)
        fresh_redis.kill()
        await until(lambda: not link.up, "the loss is noticed")
        cache.put(DIGEST, CONTENT, 30)
