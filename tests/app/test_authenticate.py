"""API keys, tokens and their issue, over the real codec and a real Redis."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import product

import pytest
import redis.asyncio as redis_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from daisi_ws.adapters.redis_link import RedisLink
from daisi_ws.adapters.token_cache_redis import RedisTokenCache
from daisi_ws.adapters.token_codec_aesgcm import AesGcmTokenCodec
from daisi_ws.app.authenticate import Authenticator
from daisi_ws.app.token_ports import TokenCache, TokenKey
from daisi_ws.config import Config, testing_config
from daisi_ws.domain import principal, rfc3339, token
from daisi_ws.domain.errors import BadRequest, InvalidAPIKey, InvalidToken
from daisi_ws.domain.ids import is_id
from daisi_ws.domain.principal import Kind
from daisi_ws.embedded import RedisServer
from daisi_ws.metrics import Metrics
from tests.adapters.redis_support import linked, until

NOW = 1_785_414_896.0
PATH = ("acme", "bot")
KINDS: tuple[Kind, Kind] = ("user", "admin")


@dataclass
class NoCache:
    """A cache that remembers what it was given."""

    put_in: list[tuple[bytes, float]] = field(default_factory=list)

    def put(self, digest: bytes, content: bytes, ttl_seconds: float) -> None:
        """Remember that it was put."""
        assert json.loads(content)
        self.put_in.append((digest, ttl_seconds))


class Desk:
    """An authenticator with a clock that the test sets, and its metrics."""

    def __init__(
        self, user_cache: TokenCache, admin_cache: TokenCache, config: Config | None = None
    ) -> None:
        self.config = config or testing_config()
        self.now = NOW
        self.metrics = Metrics()
        auth = self.config.auth
        self.codecs: dict[Kind, AesGcmTokenCodec] = {
            "user": AesGcmTokenCodec(auth.token_aes_key),
            "admin": AesGcmTokenCodec(auth.admin_token_aes_key),
        }
        self.auth = Authenticator(
            config=lambda: self.config,
            keys={
                "user": [TokenKey(self.codecs["user"], user_cache)],
                "admin": [TokenKey(self.codecs["admin"], admin_cache)],
            },
            metrics=self.metrics,
            clock=lambda: self.now,
        )

    def user(self, *, life: float = 3600, **ids: str) -> str:
        """A user's token."""
        names = {"company_id": "acme", "agent_id": "bot", "user_id": "ann", **ids}
        return self.codecs["user"].encode(
            {**names, "expires_at": rfc3339.format_utc(self.now + life)}
        )

    def admin(self, *, life: float = 3600, **scopes: str) -> str:
        """An admin's token."""
        content = {"admin_id": "root", "expires_at": rfc3339.format_utc(self.now + life)}
        return self.codecs["admin"].encode({**content, **scopes})

    async def refused(
        self, kind: Kind, text: str | None, path: tuple[str, str] | None = PATH
    ) -> InvalidToken:
        """Have a token refused."""
        with pytest.raises(InvalidToken) as refusal:
            await self.auth.principal(kind, text, path)
        return refusal.value

    def count(self, name: str, **labels: str) -> float:
        """The value of a metric."""
        return self.metrics.registry.get_sample_value(f"dws_{name}_total", labels) or 0.0

    def lookups(self, cache: str) -> dict[str, float]:
        """How often a cache was a hit, a miss; zeros left out."""
        found = {o: self.count("cache_lookups", cache=cache, outcome=o) for o in OUTCOMES}
        return {outcome: count for outcome, count in found.items() if count}


OUTCOMES = ("hit", "miss")


@pytest.fixture
def desk() -> Desk:
    """Without a shared cache."""
    return Desk(NoCache(), NoCache())


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    """A link to the emptied Redis."""
    async with linked(redis_url) as link:
        yield link


def shared_desk(link: RedisLink, config: Config | None = None) -> Desk:
    """A worker's authenticator with the shared cache in Redis."""
    auth = (config or testing_config()).auth
    return Desk(
        RedisTokenCache(link, "user", auth.token_aes_key),
        RedisTokenCache(link, "admin", auth.admin_token_aes_key),
        config,
    )


# API keys


@pytest.mark.parametrize("kind", KINDS)
def test_right_key(desk: Desk, kind: Kind) -> None:
    """The key of the endpoint opens it."""
    auth = desk.config.auth
    desk.auth.check_api_key(kind, auth.secret_token if kind == "user" else auth.admin_secret_token)
    assert desk.count("auth_failure", type=kind, reason="wrong_key") == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", ["", " ", "x", "cut", "long", "other", "case", "\ud800", "é"])
def test_wrong_key(desk: Desk, kind: Kind, change: str) -> None:
    """Every other text is refused alike, the other endpoint's key included."""
    auth = desk.config.auth
    keys = (auth.secret_token, auth.admin_secret_token)
    right, other = keys if kind == "user" else reversed(keys)
    presented = {
        "cut": right[:-1],
        "long": right + "x",
        "other": other,
        "case": right.swapcase(),
    }.get(change, change)
    with pytest.raises(InvalidAPIKey) as refusal:
        desk.auth.check_api_key(kind, presented)
    assert refusal.value.message == "the API key is not valid"
    reason = "wrong_key" if presented else "missing_key"
    assert desk.count("auth_failure", type=kind, reason=reason) == 1


def test_missing_key(desk: Desk) -> None:
    """No key is refused with the same words, and counted as missing."""
    with pytest.raises(InvalidAPIKey, match="the API key is not valid"):
        desk.auth.check_api_key("user", None)
    assert desk.count("auth_failure", type="user", reason="missing_key") == 1


def test_key_follows_the_configuration(desk: Desk) -> None:
    """A key that was changed by a reload counts at once."""
    desk.config = testing_config(auth__secret_token="a-new-key-for-users")
    desk.auth.check_api_key("user", "a-new-key-for-users")


# Previous keys


def later(seconds: float) -> str:
    """A date so many seconds from now, as it is configured."""
    return rfc3339.format_utc(NOW + seconds)


def rotated(desk: Desk, name: str, old: str, until: float, **more: object) -> None:
    """Have the desk know an old value of a key beside its own, for so many seconds."""
    values = {f"auth__{name}_previous": old, f"auth__{name}_previous_until": later(until)}
    desk.config = testing_config(**values, **more)


@pytest.mark.parametrize(
    ("kind", "name"), [("user", "secret_token"), ("admin", "admin_secret_token")]
)
def test_a_previous_api_key_is_good_until_its_date(desk: Desk, kind: Kind, name: str) -> None:
    """It is counted under its name; from the date on it is as wrong as any other."""
    rotated(desk, name, "the-key-before-this-one", 60)
    current = getattr(desk.config.auth, name)
    desk.auth.check_api_key(kind, current)
    assert desk.count("auth_previous_key", key=name) == 0
    desk.auth.check_api_key(kind, "the-key-before-this-one")
    assert desk.count("auth_previous_key", key=name) == 1
    desk.now += 60
    with pytest.raises(InvalidAPIKey):
        desk.auth.check_api_key(kind, "the-key-before-this-one")
    desk.auth.check_api_key(kind, current)
    assert desk.count("auth_previous_key", key=name) == 1


def test_a_previous_api_key_is_of_its_kind(desk: Desk) -> None:
    """What users came with opens nothing for admins, and no key opens nothing at all."""
    rotated(desk, "secret_token", "the-key-before-this-one", 60)
    for kind, presented in (("admin", "the-key-before-this-one"), ("user", None), ("user", "")):
        with pytest.raises(InvalidAPIKey):
            desk.auth.check_api_key(kind, presented)  # type: ignore[arg-type]


OLD_KEY = "0d" * 32
REQUEST = b'{"company_id":"acme","agent_id":"bot","user_id":"ann","expires_in_seconds":3600}'


def with_old_key(
    desk: Desk, until: float, new: TokenCache | None = None, old: TokenCache | None = None
) -> AesGcmTokenCodec:
    """Have the desk's tokens opened by an old key, too, for so many seconds; return its codec."""
    codec = AesGcmTokenCodec(OLD_KEY)
    keys = [
        TokenKey(desk.codecs["user"], new or NoCache()),
        TokenKey(codec, old or NoCache(), NOW + until),
    ]
    desk.auth.rekey({"user": keys, "admin": [TokenKey(desk.codecs["admin"], NoCache())]})
    return codec


def made_with(codec: AesGcmTokenCodec, life: float = 3600) -> str:
    """A user's token made with another key."""
    ids = {"company_id": "acme", "agent_id": "bot", "user_id": "ann"}
    return codec.encode({**ids, "expires_at": later(life)})


async def test_tokens_are_made_with_the_new_key_and_opened_with_both(desk: Desk) -> None:
    """Until the date; each that the old key opens is counted, also one that is remembered."""
    codec = with_old_key(desk, 60)
    old, new = made_with(codec), desk.auth.issue_user(REQUEST)
    assert desk.codecs["user"].decode(new)
    for _ in range(2):
        await desk.auth.principal("user", old, PATH)
        await desk.auth.principal("user", new, PATH)
    assert desk.count("auth_previous_key", key="token_aes_key") == 2
    desk.now += 60
    assert (await desk.refused("user", old)).reason == "forged"
    await desk.auth.principal("user", new, PATH)


async def test_no_cache_outlives_the_date(desk: Desk) -> None:
    """Neither memory nor the shared cache is told to keep such a token longer."""
    of_new, of_old = NoCache(), NoCache()
    codec = with_old_key(desk, 7, of_new, of_old)
    await desk.auth.principal("user", made_with(codec), PATH)
    assert [ttl for _, ttl in of_old.put_in] == pytest.approx([7], abs=1e-3)
    assert of_new.put_in == []


async def test_a_key_that_is_taken_away_takes_what_is_remembered_along(desk: Desk) -> None:
    """Before its date, by a reload."""
    codec = with_old_key(desk, 60)
    old = made_with(codec)
    await desk.auth.principal("user", old, PATH)
    desk.auth.rekey(
        {
            "user": [TokenKey(desk.codecs["user"], NoCache())],
            "admin": [TokenKey(desk.codecs["admin"], NoCache())],
        }
    )
    assert (await desk.refused("user", old)).reason == "forged"


async def test_an_old_key_of_users_opens_nothing_for_admins(desk: Desk) -> None:
    """And a token that no key opens says what it always says."""
    codec = with_old_key(desk, 60)
    assert (await desk.refused("admin", made_with(codec), None)).reason == "forged"
    other = made_with(AesGcmTokenCodec("0e" * 32))
    assert (await desk.refused("user", other)).reason == "forged"
    assert (await desk.refused("user", "no token")).reason == "malformed"


# Tokens


async def test_user_token(desk: Desk) -> None:
    """A user's token names the user, and the admission is counted."""
    found = await desk.auth.principal("user", desk.user(), PATH)
    assert found == principal.user("acme", "bot", "ann", NOW + 3600)
    assert desk.count("auth_success", type="user") == 1


async def test_admin_token(desk: Desk) -> None:
    """An admin's token names the admin and the scope."""
    found = await desk.auth.principal("admin", desk.admin(subscribed_agent_id="bot"), None)
    assert found == principal.admin("root", NOW + 3600, subscribed_agent="bot")
    assert desk.count("auth_success", type="admin") == 1


@pytest.mark.parametrize("missing", [None, ""])
async def test_missing_token(desk: Desk, missing: str | None) -> None:
    """No token is said to be missing."""
    assert (await desk.refused("user", missing)).reason == "missing"
    assert desk.count("auth_failure", type="user", reason="missing") == 1


async def test_tampered_tokens_say_one_thing(desk: Desk) -> None:
    """Flipped, cut, made up or of bad content: one message, no details, counted by reason."""
    good = desk.user()
    bad = [
        good[:-8],
        good[4:],
        good[:20] + ("A" if good[20] != "A" else "B") + good[21:],
        "A" * 120,
        "not a token",
        "\ud800",
        desk.user(company_id="a.b"),
        desk.codecs["user"].encode({"user_id": "ann"}),
    ]
    refusals = [await desk.refused("user", text) for text in bad]
    assert {refusal.message for refusal in refusals} == {token.REFUSED}
    assert {refusal.details for refusal in refusals} == {None}
    counted = sum(
        desk.count("auth_failure", type="user", reason=reason)
        for reason in ("malformed", "forged", "bad_content")
    )
    assert counted == len(bad)


async def test_nothing_of_a_refused_token_is_remembered() -> None:
    """Refused tokens fill no cache."""
    cache = NoCache()
    desk = Desk(cache, NoCache())
    await desk.refused("user", "A" * 120)
    await desk.refused("user", desk.user(life=-1))
    assert cache.put_in == []
    assert not any(len(o.memory) for openers in desk.auth._openers.values() for o in openers)


async def test_kinds_are_never_accepted_for_one_another(desk: Desk) -> None:
    """A user's token is nothing on the admin side, and the other way round, cached or not."""
    user, admin = desk.user(), desk.admin()
    for _ in range(2):
        assert (await desk.refused("admin", user, None)).reason == "forged"
        assert (await desk.refused("user", admin)).reason == "forged"
        await desk.auth.principal("user", user, PATH)
        await desk.auth.principal("admin", admin, None)


async def test_content_of_the_other_kind_under_the_right_key(desk: Desk) -> None:
    """Even under the right key an admin's content is no user's, and the other way round."""
    later = rfc3339.format_utc(NOW + 60)
    ids = {"company_id": "acme", "agent_id": "bot", "user_id": "ann"}
    as_user = desk.codecs["user"].encode({"admin_id": "root", "expires_at": later})
    as_admin = desk.codecs["admin"].encode({**ids, "expires_at": later})
    assert (await desk.refused("user", as_user)).reason == "bad_content"
    assert (await desk.refused("admin", as_admin, None)).reason == "bad_content"


async def test_every_foreign_path_is_refused(desk: Desk) -> None:
    """A token opens its own company's and agent's path and no other, first time and cached."""
    names = ("acme", "bot", "Acme", "acme2", "*", "", "acme:bot")
    text = desk.user()
    for path in product(names, names):
        for _ in range(2):
            if path == PATH:
                await desk.auth.principal("user", text, path)
            else:
                assert (await desk.refused("user", text, path)).reason == "wrong_path"
    assert (await desk.refused("user", text, None)).reason == "wrong_path"


async def test_expired_token(desk: Desk) -> None:
    """The moment of expiry ends a token, to the fraction of a second."""
    text = desk.user(life=60)
    desk.now += 59.9
    await desk.auth.principal("user", text, PATH)
    desk.now += 0.1
    refusal = await desk.refused("user", text)
    assert (refusal.reason, refusal.message) == ("expired", "the token has expired")


async def test_memory_is_asked_first() -> None:
    """A token seen before is not decrypted and written again, until its time is up."""
    cache = NoCache()
    desk = Desk(cache, NoCache())
    text = desk.user()
    for _ in range(3):
        await desk.auth.principal("user", text, PATH)
    assert cache.put_in == [(sha256(text.encode()).digest(), 30)]
    assert desk.lookups("token_memory") == {"hit": 2, "miss": 1}
    desk.now += desk.config.auth.token_cache_ttl_seconds
    await desk.auth.principal("user", text, PATH)
    assert len(cache.put_in) == 2


async def test_cache_time_is_the_shorter_of_two() -> None:
    """An entry lasts as configured for its kind, never beyond the token; reloads count at once."""
    users, admins = NoCache(), NoCache()
    desk = Desk(users, admins)
    await desk.auth.principal("user", desk.user(), PATH)
    await desk.auth.principal("user", desk.user(life=10), PATH)
    await desk.auth.principal("admin", desk.admin(), None)
    desk.config = testing_config(auth__token_cache_ttl_seconds=5)
    await desk.auth.principal("user", desk.user(), PATH)
    assert [ttl for _, ttl in users.put_in] == pytest.approx([30, 10, 5], abs=1e-3)
    assert [ttl for _, ttl in admins.put_in] == pytest.approx([60])


async def test_older_pods_find_what_was_decrypted(
    link: RedisLink, redis: redis_asyncio.Redis
) -> None:
    """A token's content is in Redis under its digest, by kind; ours are never read there."""
    desk = shared_desk(link)
    for kind, text, path, prefix in (
        ("user", desk.user(), PATH, ""),
        ("admin", desk.admin(), None, "admin_"),
    ):
        await desk.auth.principal(kind, text, path)  # type: ignore[arg-type]
        key = f"token_cache:{prefix}{sha256(text.encode()).hexdigest()}"
        await until_known(redis, key)
        entry = json.loads(await redis.get(key) or "")
        assert entry.pop("mac")
        assert entry == json.loads(desk.codecs[kind].decode(text))  # type: ignore[index]


async def test_write_to_redis_delays_nobody(fresh_redis: RedisServer) -> None:
    """An admission does not wait for its cache entry to be written."""
    async with linked(fresh_redis.url, timeout_ms=5000) as link:
        desk = shared_desk(link)
        fresh_redis.pause()
        await desk.auth.principal("user", desk.user(), PATH)  # although nobody answers
        fresh_redis.resume()
        await link.call("PING")
        assert await link.call("DBSIZE") == 1


async def test_expired_token_is_in_no_cache(link: RedisLink, redis: redis_asyncio.Redis) -> None:
    """Neither memory nor Redis makes an expired token good, even where the entry outlived it."""
    desk = shared_desk(link)
    text = desk.user(life=20)
    await desk.auth.principal("user", text, PATH)
    key = f"token_cache:{sha256(text.encode()).hexdigest()}"
    await until_known(redis, key)
    await redis.persist(key)
    fresh = shared_desk(link)
    for other in (desk, fresh):
        other.now += 20
        assert (await other.refused("user", text)).reason == "expired"


async def until_known(redis: redis_asyncio.Redis, key: str) -> None:
    """Wait for an entry that is written in the background."""
    while not await redis.exists(key):
        pass


@pytest.mark.parametrize("mac", [None, "0" * 64])
async def test_poisoned_entry_gives_no_identity(
    link: RedisLink, redis: redis_asyncio.Redis, mac: str | None
) -> None:
    """An entry that somebody wrote for their own made-up token does not make it one."""
    desk = shared_desk(link)
    text = "A" * 120
    content = {
        "company_id": "acme",
        "agent_id": "bot",
        "user_id": "boss",
        "expires_at": rfc3339.format_utc(NOW + 3600),
    }
    entry = content if mac is None else {**content, "mac": mac}
    await redis.set(f"token_cache:{sha256(text.encode()).hexdigest()}", json.dumps(entry))
    assert (await desk.refused("user", text)).reason == "forged"


async def test_poisoned_entry_does_not_change_who_one_is(
    link: RedisLink, redis: redis_asyncio.Redis
) -> None:
    """A wrong entry for a good token is passed over: the token itself says whose it is."""
    desk = shared_desk(link)
    text = desk.user()
    entry = {"company_id": "acme", "agent_id": "bot", "user_id": "boss", "expires_at": "x"}
    await redis.set(f"token_cache:{sha256(text.encode()).hexdigest()}", json.dumps(entry))
    found = await desk.auth.principal("user", text, PATH)
    assert found.principal_id == "ann"


async def test_entry_of_another_token_gives_no_identity(
    link: RedisLink, redis: redis_asyncio.Redis
) -> None:
    """A true entry moved to another token's name gives that token nothing."""
    desk = shared_desk(link)
    good, made_up = desk.user(), "A" * 120
    await desk.auth.principal("user", good, PATH)
    names = [f"token_cache:{sha256(t.encode()).hexdigest()}" for t in (good, made_up)]
    await until_known(redis, names[0])
    await redis.rename(*names)
    assert (await desk.refused("user", made_up)).reason == "forged"


async def test_without_redis_tokens_are_decrypted(fresh_redis: RedisServer) -> None:
    """Redis away costs no admission: tokens are still read, and bad ones still refused."""
    async with linked(fresh_redis.url) as link:
        desk = shared_desk(link)
        fresh_redis.kill()
        await until(lambda: not link.up, "the loss is noticed")
        assert await desk.auth.principal("user", desk.user(), PATH)
        assert (await desk.refused("user", "A" * 120)).reason == "forged"


# Fresh tokens for open connections


async def test_refresh(desk: Desk) -> None:
    """A fresh token of the same identity and scope gives the later expiry."""
    ann = await desk.auth.principal("user", desk.user(), PATH)
    fresh = await desk.auth.refresh(ann, desk.user(life=7200))
    assert fresh.expires_at == NOW + 7200
    assert fresh.identity == ann.identity


async def test_refresh_with_another_identity_or_scope(desk: Desk) -> None:
    """A connection never becomes somebody else's, nor sees more or less than before."""
    ann = await desk.auth.principal("user", desk.user(), PATH)
    for text in (
        desk.user(user_id="bob"),
        desk.user(company_id="other"),
        desk.user(agent_id="other"),
    ):
        with pytest.raises(InvalidToken) as refusal:
            await desk.auth.refresh(ann, text)
        assert refusal.value.reason == "other_identity"
    root = await desk.auth.principal("admin", desk.admin(subscribed_company_id="acme"), None)
    for text in (
        desk.admin(),
        desk.admin(admin_id="x", subscribed_company_id="acme"),
        desk.admin(company_id_restriction="other"),
    ):
        with pytest.raises(InvalidToken) as refusal:
            await desk.auth.refresh(root, text)
        assert refusal.value.reason == "other_identity"


async def test_refresh_with_a_bad_token(desk: Desk) -> None:
    """An expired, missing or other-kind token refreshes nothing."""
    ann = await desk.auth.principal("user", desk.user(), PATH)
    for text, reason in (
        (desk.user(life=-1), "expired"),
        (None, "missing"),
        (desk.admin(), "forged"),
    ):
        with pytest.raises(InvalidToken) as refusal:
            await desk.auth.refresh(ann, text)
        assert refusal.value.reason == reason


# Issue


async def test_issued_user_token_is_good(desk: Desk) -> None:
    """A token that was issued is accepted, for as long as was asked."""
    body = b'{"company_id":"acme","agent_id":"bot","user_id":"ann","expires_in_seconds":60}'
    found = await desk.auth.principal("user", desk.auth.issue_user(body), PATH)
    assert found.identity == "acme:bot:ann"
    assert found.expires_at == pytest.approx(NOW + 60)


async def test_issued_admin_token_is_good(desk: Desk) -> None:
    """An admin's token keeps the scope that was asked."""
    body = (
        b'{"admin_id":"root","expires_in_seconds":60,"subscribed_company_id":"",'
        b'"subscribed_agent_id":"bot","company_id_restriction":"acme"}'
    )
    found = await desk.auth.principal("admin", desk.auth.issue_admin(body), None)
    assert found.subject == "websocket.acme.bot.agents"


def test_wrong_request_names_the_fields(desk: Desk) -> None:
    """A token is not issued for a request that is wrong, and the answer says where."""
    with pytest.raises(BadRequest) as refusal:
        desk.auth.issue_user(b'{"company_id":"a.b","agent_id":"bot","expires_in_seconds":0}')
    details = refusal.value.details or ""
    assert all(name in details for name in ("company_id", "user_id", "expires_in_seconds"))
    assert "agent_id" not in details
    with pytest.raises(BadRequest):
        desk.auth.issue_admin(b'{"admin_id":"*","expires_in_seconds":60}')


# What never happens


@settings(deadline=None, max_examples=200)
@given(st.tuples(*[st.text(max_size=12)] * 3))
async def test_made_up_ids_reach_no_key(ids: tuple[str, str, str]) -> None:
    """Even in a token under the right key, only ids of the alphabet become part of a key."""
    cache = NoCache()
    desk = Desk(cache, NoCache())
    company, agent, user = ids
    text = desk.user(company_id=company, agent_id=agent, user_id=user)
    if all(map(is_id, ids)):
        found = await desk.auth.principal("user", text, (company, agent))
        assert found.session_key == f"session:{company}:{agent}:{user}"
    else:
        assert (await desk.refused("user", text, (company, agent))).reason == "bad_content"
        assert cache.put_in == []


async def test_secrets_are_in_no_log_line(desk: Desk, link: RedisLink) -> None:
    """Neither keys nor tokens are logged or part of a refusal, whatever happens to them."""
    other = shared_desk(link)
    texts = [desk.user(), desk.user(life=-1), desk.admin(), desk.user(company_id="a b")]
    said: list[object] = []
    with capture_logs() as lines:
        for text, each in product(texts, (desk, other)):
            said.append(vars(await each.refused("user", text, ("x", "y"))))
        with pytest.raises(InvalidAPIKey) as refusal:
            desk.auth.check_api_key("user", "a-key-that-is-wrong")
        said.append(vars(refusal.value))
    everything = f"{lines}{said}{desk.auth!r}{desk.codecs!r}"
    auth = desk.config.auth
    secrets = [*texts, "a-key-that-is-wrong", auth.secret_token, auth.token_aes_key]
    assert not [secret for secret in secrets if secret in everything]
