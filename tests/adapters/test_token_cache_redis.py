"""The shared token cache in a real Redis, and what somebody else may have written there."""

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
from daisi_ws.app.token_ports import UntrustedEntry
from daisi_ws.domain.errors import Unavailable
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


async def test_unknown_token(cache: RedisTokenCache) -> None:
    """What nobody put is not there."""
    assert await cache.get(DIGEST) is None


async def test_what_is_put_is_got(cache: RedisTokenCache) -> None:
    """A content comes back with all its fields."""
    cache.put(DIGEST, CONTENT, 30)
    got = await cache.get(DIGEST)
    assert got is not None
    assert json.loads(got) == FIELDS


async def test_entry_is_the_contracts(cache: RedisTokenCache, redis: redis_asyncio.Redis) -> None:
    """Key, content, mac and TTL are as written down; the mac can be made without our code."""
    cache.put(DIGEST, CONTENT, 30)
    await cache.get(DIGEST)
    canonical = json.dumps(FIELDS, sort_keys=True, separators=(",", ":"))
    bound = f"user:{DIGEST.hex()}:{canonical}".encode()
    mac = hmac.new(bytes.fromhex(KEY), bound, sha256).hexdigest()
    assert await stored(redis) == {**FIELDS, "mac": mac}
    assert 25_000 < await redis.pttl(NAME) <= 30_000


async def test_admins_have_keys_of_their_own(link: RedisLink, redis: redis_asyncio.Redis) -> None:
    """The two kinds never share an entry."""
    admins = RedisTokenCache(link, "admin", ADMIN_KEY)
    admins.put(DIGEST, CONTENT, 30)
    assert await admins.get(DIGEST) is not None
    assert await redis.keys() == [f"token_cache:admin_{DIGEST.hex()}".encode()]


@pytest.mark.parametrize("ttl", [0.0, -1.0, 0.0001])
async def test_nothing_is_kept_beyond_its_time(
    cache: RedisTokenCache, redis: redis_asyncio.Redis, ttl: float
) -> None:
    """An entry without time left is not written, least of all without a TTL."""
    cache.put(DIGEST, CONTENT, ttl)
    await cache.get(DIGEST)
    assert await redis.keys() == []


async def _poison(redis: redis_asyncio.Redis, entry: object) -> None:
    await redis.set(NAME, entry if isinstance(entry, bytes) else json.dumps(entry))


@pytest.mark.parametrize(
    "entry",
    [
        FIELDS,
        {**FIELDS, "mac": ""},
        {**FIELDS, "mac": None},
        {**FIELDS, "mac": 7},
        {**FIELDS, "mac": "0" * 64},
        {**FIELDS, "mac": "é" * 64},
        {**FIELDS, "mac": "\ud800"},
        {"mac": ""},
        {},
        [],
        "text",
        b"",
        b"not json",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' + b"1" * 5000 + b"}",
    ],
)
async def test_entry_without_a_true_mac(
    cache: RedisTokenCache, redis: redis_asyncio.Redis, entry: object
) -> None:
    """Who can write Redis but has no token key can write nothing that counts."""
    await _poison(redis, entry)
    with pytest.raises(UntrustedEntry):
        await cache.get(DIGEST)


@pytest.mark.parametrize("field", [*FIELDS, "more"])
async def test_changed_content(
    cache: RedisTokenCache, redis: redis_asyncio.Redis, field: str
) -> None:
    """A true mac does not cover another content: no field can be changed, added or removed."""
    cache.put(DIGEST, CONTENT, 30)
    await cache.get(DIGEST)
    fields = await stored(redis)
    await _poison(redis, {**fields, field: "other"})
    with pytest.raises(UntrustedEntry):
        await cache.get(DIGEST)
    if field in fields:
        await _poison(redis, {k: v for k, v in fields.items() if k != field})
        with pytest.raises(UntrustedEntry):
            await cache.get(DIGEST)


async def test_order_and_spelling_do_not_matter(
    cache: RedisTokenCache, redis: redis_asyncio.Redis
) -> None:
    """The mac is over the meaning: an entry that was only written differently is the same."""
    cache.put(DIGEST, CONTENT, 30)
    await cache.get(DIGEST)
    turned = dict(reversed((await stored(redis)).items()))
    await redis.set(NAME, json.dumps(turned, indent=2))
    assert await cache.get(DIGEST) is not None


async def test_entry_of_another_token(cache: RedisTokenCache, redis: redis_asyncio.Redis) -> None:
    """An entry moved to another token's key is not believed."""
    cache.put(DIGEST, CONTENT, 30)
    await cache.get(DIGEST)
    other = sha256(b"another token").digest()
    await redis.rename(NAME, f"token_cache:{other.hex()}")
    with pytest.raises(UntrustedEntry):
        await cache.get(other)


async def test_entry_of_the_other_kind(link: RedisLink, redis: redis_asyncio.Redis) -> None:
    """A user's entry under an admin's key is not believed, even if both had one token key."""
    users = RedisTokenCache(link, "user", KEY)
    users.put(DIGEST, CONTENT, 30)
    await users.get(DIGEST)
    await redis.rename(NAME, f"token_cache:admin_{DIGEST.hex()}")
    for key in (ADMIN_KEY, KEY):
        with pytest.raises(UntrustedEntry):
            await RedisTokenCache(link, "admin", key).get(DIGEST)


async def test_key_that_holds_something_else(
    cache: RedisTokenCache, redis: redis_asyncio.Redis
) -> None:
    """A value of another Redis type is an error of the cache, not of the token."""
    await redis.sadd(NAME, "x")
    with pytest.raises(Unavailable):
        await cache.get(DIGEST)


async def test_without_redis(fresh_redis: RedisServer) -> None:
    """Reading says that the cache is away; writing says nothing."""
    async with linked(fresh_redis.url) as link:
        cache = RedisTokenCache(link, "user", KEY)
        fresh_redis.kill()
        await until(lambda: not link.up, "the loss is noticed")
        cache.put(DIGEST, CONTENT, 30)
        with pytest.raises(Unavailable):
            await cache.get(DIGEST)
