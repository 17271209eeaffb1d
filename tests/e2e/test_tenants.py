"""Nobody sees another tenant's events, whatever they try."""

from __future__ import annotations

import asyncio
import itertools
from urllib.parse import quote

import msgspec
import pytest

from tests.e2e.tabs import (
    Gateway,
    NotUpgraded,
    Tab,
    admin_headers,
    answer,
    refusal,
    scrape,
    until,
    user_headers,
)

COMPANIES = ("acme", "umbrella")
AGENTS = ("bot", "other")
HOSTILE = [
    "",
    "*",
    ">",
    "**",
    "acme.bot",
    "acme.*",
    ".",
    "..",
    "../umbrella",
    "acme:bot",
    "acme/bot",
    "acme\\bot",
    "{acme}",
    "acme bot",
    " acme",
    "acme\n",
    "acme\r\nPUB x 0",
    "acme\x00",
    "\x7f",
    "аcme",  # noqa: RUF001 - a Cyrillic letter
    "ａcme",  # noqa: RUF001 - a full-width letter
    "acmé",
    "acme\u200b",
    "\u202eacme",
    "%61cme",
    "acme%00",
    "a" * 129,
    "🙂",
]
"""What is no identifier; of each kind of mischief one."""

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]


async def settle(running: Gateway, tabs: list[Tab]) -> None:
    """Return when everything published before has reached these users, were it theirs."""
    async with running.feed() as feed:
        marks = {
            place: await feed.put(f"websocket.{place[0]}.{place[1]}.chats")
            for place in itertools.product(COMPANIES, AGENTS)
        }
        for tab in tabs:
            await tab.came(lambda tab=tab: any(mark in tab.ids for mark in marks.values()))  # type: ignore[misc]


async def test_users_get_what_is_theirs(running: Gateway, name: str) -> None:
    """Users of one name in two companies and two agents, all looking at a chat of one name, get
    the events of their company and agent, and none of the others'."""
    places = list(itertools.product(COMPANIES, AGENTS))
    tabs = {place: await running.user(*place, name) for place in places}
    expected: dict[tuple[str, str], list[str]] = {place: [] for place in places}
    for tab in tabs.values():
        await tab.select_chat("chat-1")
    async with running.feed() as feed:
        for company, agent in places:
            mine = expected[company, agent]
            mine.append(await feed.put(f"websocket.{company}.{agent}.chats"))
            mine.append(await feed.put(f"websocket.{company}.{agent}.messages.chat-1"))
            await feed.put(f"websocket.{company}.{agent}.messages.chat-2")
            await feed.put(f"websocket.{company}.{agent}.agents")
    await settle(running, list(tabs.values()))
    assert {place: tab.ids[:-1] for place, tab in tabs.items()} == expected


SUBSCRIBED_COMPANIES = (None, "", "*", "acme", "umbrella")
SUBSCRIBED_AGENTS = (None, "*", "bot", "other")
RESTRICTIONS = (None, "", "*", "acme", "umbrella")


def admitted(wanted: str | None, value: str) -> bool:
    """Tell whether a subscription or a restriction admits a value."""
    return wanted in (None, "", "*", value)


async def test_admins_get_what_subscription_and_restriction_admit(
    running: Gateway, name: str
) -> None:
    """Every combination; where the two contradict nothing comes, and the connection stays."""
    scopes = list(itertools.product(SUBSCRIBED_COMPANIES, SUBSCRIBED_AGENTS, RESTRICTIONS))
    names = ("subscribed_company_id", "subscribed_agent_id", "company_id_restriction")

    async def connect(number: int, scope: tuple[str | None, ...]) -> Tab:
        given = {n: v for n, v in zip(names, scope, strict=True) if v is not None}
        return await running.admin(f"{name}-{number}", **given)

    tabs = await asyncio.gather(*(connect(*numbered) for numbered in enumerate(scopes)))
    sent: dict[str, tuple[str, str]] = {}
    async with running.feed() as feed:
        for company, agent in itertools.product(COMPANIES, AGENTS):
            await feed.put(f"websocket.{company}.{agent}.chats")
            await feed.put(f"websocket.{company}.{agent}.messages.chat-1")
            sent[await feed.put(f"websocket.{company}.{agent}.agents")] = company, agent
    last = next(reversed(sent))
    for scope, tab in zip(scopes, tabs, strict=True):
        if set(scope) <= {None, "", "*"}:
            await tab.got(last)
    silent = 0
    for scope, tab in zip(scopes, tabs, strict=True):
        await tab.echo()
        subscribed_company, subscribed_agent, restriction = scope
        expected = [
            event
            for event, (company, agent) in sent.items()
            if admitted(subscribed_company, company)
            and admitted(subscribed_agent, agent)
            and admitted(restriction, company)
        ]
        silent += not expected
        assert tab.ids == expected, scope
        assert tab.code is None
    assert silent == 2 * len(SUBSCRIBED_AGENTS)


PATHS = [
    ("/ws/umbrella/bot", 403),
    ("/ws/acme/other", 403),
    ("/ws/umbrella/other", 403),
    ("/ws/bot/acme", 403),
    ("/ws/ACME/bot", 403),
    ("/ws/acme/Bot", 403),
    ("/ws/acme-/bot", 403),
    ("/ws/admin", 401),
    ("/ws", 404),
    ("/ws/acme", 404),
    ("/ws/acme/", 400),
    ("/ws//bot", 400),
    ("/ws//acme/bot", 404),
    ("/ws/acme/bot/", 404),
    ("/ws/acme/bot/x", 404),
    ("//ws/acme/bot", 404),
    ("/./ws/acme/bot", 404),
    ("/ws/acme/bot/../../umbrella/bot", 404),
    ("/ws/umbrella/../acme/bot", 404),
    ("/ws/acme%2Fbot", 404),
    ("/ws/acme/bot%2f..%2f..%2fumbrella%2fbot", 400),
    ("/ws/%2561cme/bot", 400),
    ("/ws/acme/bot%00", 400),
    ("/ws/acme/bot%0d%0aX-API-Key:%20x", 400),
    ("/ws/acme/bot;x=1", 400),
    ("/ws/%C0%AE%C0%AE/bot", 400),
    ("/ws/acme/%ff", 400),
    ("http://gateway.example/ws/umbrella/bot", 403),
    *((f"/ws/{quote(hostile, safe='')}/bot", 400) for hostile in HOSTILE),
    *((f"/ws/acme/{quote(hostile, safe='')}", 400) for hostile in HOSTILE),
]


async def test_a_token_opens_its_own_path_only(running: Gateway, name: str) -> None:
    """Every other path is refused, and costs nobody there the session."""
    victim = await running.user("umbrella", "bot", name)
    async with running.redis() as redis:
        before = await redis.get(f"session:umbrella:bot:{name}")
        headers = user_headers(running.keys, running.keys.user_token("acme", "bot", name))
        for path, status in PATHS:
            response = await refusal(running.host.http_port, path, headers)
            code = {403: "InvalidToken", 401: "InvalidAPIKey"}.get(status, "BadRequest")
            assert (response.status, response.json()["code"]) == (status, code), path
        assert await redis.get(f"session:umbrella:bot:{name}") == before
        assert await redis.keys(f"session:*{name}*") == [f"session:umbrella:bot:{name}"]
    assert victim.code is None


@pytest.mark.parametrize("path", ["/ws/%61cme/bot", "/ws/acme/b%6Ft?x=1", "/ws/acme/bot#x"])
async def test_a_path_is_decoded_once(running: Gateway, name: str, path: str) -> None:
    """Another spelling of the same path is the same path."""
    headers = user_headers(running.keys, running.keys.user_token("acme", "bot", name))
    tab = await Tab.open(running.host.http_port, path, headers)
    assert tab.code is None


async def test_ids_in_tokens_are_checked(running: Gateway) -> None:
    """A token that was made with the right key and has no identifiers inside is no token."""
    keys, port = running.keys, running.host.http_port
    for hostile in HOSTILE:
        tokens = [
            (f"/ws/{quote(hostile, safe='')}/bot", keys.user_token(hostile, "bot", "ann"), 400),
            ("/ws/acme/bot", keys.user_token(hostile, "bot", "ann"), 403),
            ("/ws/acme/bot", keys.user_token("acme", hostile, "ann"), 403),
            ("/ws/acme/bot", keys.user_token("acme", "bot", hostile), 403),
        ]
        for path, token, status in tokens:
            response = await refusal(port, path, user_headers(keys, token))
            assert response.status == status, (path, hostile)
        scopes: list[dict[str, str]] = [{}]
        if hostile not in ("", "*"):
            names = ("subscribed_company_id", "subscribed_agent_id", "company_id_restriction")
            scopes += [{name: hostile} for name in names]
        for scope in scopes:
            token = keys.admin_token("root" if scope else hostile, **scope)
            response = await refusal(port, "/ws/admin", admin_headers(keys, token))
            assert response.status == 403, (scope, hostile)


async def test_ids_in_token_requests_are_checked(running: Gateway) -> None:
    """No token is made for what is no identifier, and the field is named."""
    keys, port = running.keys, running.host.http_port
    user = {"company_id": "acme", "agent_id": "bot", "user_id": "ann", "expires_in_seconds": 60}
    admin = {"admin_id": "root", "expires_in_seconds": 60}
    cases = [("/generate-token", keys.secret_token, user, field) for field in user]
    cases += [("/admin/generate-token", keys.admin_secret_token, admin, "admin_id")]
    cases += [
        ("/admin/generate-token", keys.admin_secret_token, admin, field)
        for field in ("subscribed_company_id", "subscribed_agent_id", "company_id_restriction")
    ]
    for path, key, body, field in cases:
        for hostile in HOSTILE:
            if hostile in ("", "*") and ("subscribed" in field or "restriction" in field):
                continue
            data = msgspec.json.encode({**body, field: hostile})
            response = await answer(port, "POST", path, {"X-API-Key": key}, data)
            assert response.status == 400, (field, hostile)
            assert response.json()["code"] == "BadRequest"
            assert field in str(response.json()["details"])


async def test_hostile_chats_cannot_be_selected(running: Gateway, name: str) -> None:
    """Each is answered with BadRequest; nothing of it reaches Redis, the selection stays."""
    async with running.redis() as redis, running.feed() as feed:
        tab = await running.user("acme", "bot", name)
        await tab.select_chat("mine")
        before = sorted(await redis.keys("route:*"))
        for hostile in [*HOSTILE, "x.agents", "*.*", "chat-1.>", "messages.chat-1"]:
            tab.send({"type": "select_chat", "payload": {"chat_id": hostile}})
            error = await tab.next("error")
            assert error.payload["code"] == "BadRequest", hostile
        assert sorted(await redis.keys("route:*")) == before
        await tab.got(await feed.put("websocket.acme.bot.messages.mine"))


async def test_no_chat_of_others_is_selected_by_its_name(running: Gateway, name: str) -> None:
    """A chat ID names a chat of one's own company and agent, whoever else has such a chat."""
    tab = await running.user("acme", "bot", name)
    await tab.select_chat("chat-1")
    async with running.feed() as feed:
        await feed.put("websocket.acme.other.messages.chat-1")
        await feed.put("websocket.umbrella.bot.messages.chat-1")
        mine = await feed.put("websocket.acme.bot.messages.chat-1")
        await tab.got(mine)
    assert tab.ids == [mine]


SMUGGLED = [
    ("websocket.acme.bot.chats", {"company_id": "umbrella"}),
    ("websocket.acme.bot.chats", {"agent_id": "other"}),
    ("websocket.acme.bot.messages.chat-1", {"chat_id": "chat-2"}),
    ("websocket.acme.bot.agents", {"company_id": "umbrella"}),
    ("websocket.*.bot.chats", {"company_id": "acme"}),
    ("websocket.acme.*.chats", {}),
    ("websocket.acme.>", {}),
    ("websocket.*.*.agents", {"company_id": "acme", "agent_id": "bot"}),
    ("websocket.acme.bot.messages.*", {"chat_id": "chat-1"}),
    ("websocket.acme.bot.messages.>", {"chat_id": "chat-1"}),
    ("websocket.acme.bot.messages.chat-1.more", {}),
    ("websocket.acme.bot.chats.more", {}),
    ("websocket.acme.bot.messages", {}),
    ("websocket.acme:bot.x.chats", {}),
    ("websocket.{acme}.bot.chats", {}),
    ("websocket.ａcme.bot.chats", {}),  # noqa: RUF001 - a full-width letter
]


async def test_events_cannot_be_smuggled(running: Gateway, name: str) -> None:
    """What is published to no subject of ours, or contradicts its subject, reaches nobody."""
    tabs = [
        await running.user("acme", "bot", name),
        await running.user("umbrella", "bot", name),
        await running.user("acme", "other", name),
    ]
    root = await running.admin(name)
    for tab in tabs:
        await tab.select_chat("chat-1")
    before = dead_letters(await scrape(running.host))
    async with running.feed() as feed:
        for subject, fields in SMUGGLED:
            await feed.put(subject, **fields)
        await settle(running, tabs)
        last = await feed.put("websocket.acme.bot.agents")
        await root.got(last)

    async def all_kept() -> bool:
        return dead_letters(await scrape(running.host)) == before + len(SMUGGLED)

    await until(all_kept, what="all are dead letters")
    assert [len(tab.ids) for tab in tabs] == [1, 1, 1]
    assert root.ids == [last]


def dead_letters(series: dict[str, float]) -> float:
    """Add up the dead letters of all reasons."""
    return sum(v for n, v in series.items() if n.startswith("dws_dead_letters_total"))


async def test_keys_and_tokens_of_the_other_kind(running: Gateway, name: str) -> None:
    """Users' and admins' keys and tokens are never accepted for one another, in no place."""
    keys = running.keys
    user = keys.user_token("acme", "bot", name)
    admin = keys.admin_token(name)
    swapped = keys._encode(  # an admin's content under the users' key, and the other way
        keys.token_aes_key, {"admin_id": name}, 3600
    )
    swapped_user = keys._encode(
        keys.admin_token_aes_key, {"company_id": "acme", "agent_id": "bot", "user_id": name}, 3600
    )
    cases = [
        ("/ws/acme/bot", keys.secret_token, admin, 403),
        ("/ws/acme/bot", keys.secret_token, swapped, 403),
        ("/ws/acme/bot", keys.secret_token, swapped_user, 403),
        ("/ws/acme/bot", keys.admin_secret_token, user, 401),
        ("/ws/acme/bot", keys.admin_secret_token, admin, 401),
        ("/ws/admin", keys.admin_secret_token, user, 403),
        ("/ws/admin", keys.admin_secret_token, swapped, 403),
        ("/ws/admin", keys.admin_secret_token, swapped_user, 403),
        ("/ws/admin", keys.secret_token, admin, 401),
        ("/ws/admin", keys.secret_token, user, 401),
    ]
    for _ in range(2):  # the second time from whatever was remembered the first time
        for path, key, token, status in cases:
            for headers, query in places(key, token):
                target = path + query
                response = await refusal(running.host.http_port, target, headers)
                code = "InvalidToken" if status == 403 else "InvalidAPIKey"
                assert (response.status, response.json()["code"]) == (status, code), target
        await (await running.user("acme", "bot", name)).close()
        await (await running.admin(name)).close()


def places(key: str, token: str) -> list[tuple[dict[str, str], str]]:
    """Return all ways to present a key and a token: headers and query."""
    return [
        ({"X-API-Key": key, "Authorization": f"Bearer {token}"}, ""),
        ({"Authorization": f"bearer {token}"}, f"?x-api-key={key}"),
        ({"x-api-key": key}, f"?token={quote(token)}"),
        ({}, f"?x-api-key={key}&token={quote(token)}"),
    ]


async def test_token_endpoints_take_the_key_of_their_kind(running: Gateway) -> None:
    """The other kind's key, a wrong one, and none are a 403 InvalidAPIKey, before the body is
    looked at."""
    keys, port = running.keys, running.host.http_port
    cases = [
        ("/generate-token", {"X-API-Key": keys.admin_secret_token}, ""),
        ("/generate-token", {}, f"?x-api-key={keys.admin_secret_token}"),
        ("/generate-token", {}, ""),
        ("/generate-token", {"X-API-Key": keys.secret_token + "x"}, ""),
        ("/generate-token", {"X-API-Key": keys.secret_token[:-1]}, ""),
        ("/generate-token", {"Authorization": f"Bearer {keys.secret_token}"}, ""),
        ("/admin/generate-token", {"X-API-Key": keys.secret_token}, ""),
        ("/admin/generate-token", {}, f"?x-api-key={keys.secret_token}"),
        ("/admin/generate-token", {}, ""),
    ]
    for path, headers, query in cases:
        response = await answer(port, "POST", path + query, headers, b"not json")
        assert (response.status, response.json()["code"]) == (403, "InvalidAPIKey"), (path, query)


async def test_where_keys_and_tokens_are_looked_for_first(running: Gateway, name: str) -> None:
    """A key in the header wins over the query's; a token in the query over the header's."""
    keys, port = running.keys, running.host.http_port
    token = keys.user_token("acme", "bot", name)
    foreign = keys.user_token("umbrella", "bot", name)
    query = f"/ws/acme/bot?x-api-key={keys.secret_token}&token={quote(token)}"
    right = {"X-API-Key": keys.secret_token, "Authorization": f"Bearer {token}"}
    wrong = {"X-API-Key": "wrong", "Authorization": f"Bearer {foreign}"}
    await (await Tab.open(port, query, {})).close()
    await (await Tab.open(port, query, {"Authorization": wrong["Authorization"]})).close()
    assert (await refusal(port, query, {"X-API-Key": "wrong"})).status == 401
    bad_query = f"/ws/acme/bot?x-api-key=wrong&token={quote(foreign)}"
    response = await refusal(port, bad_query, right)
    assert response.json()["code"] == "InvalidToken"
    await (await Tab.open(port, "/ws/acme/bot?x-api-key=wrong", right)).close()
    await (await Tab.open(port, "/ws/acme/bot?x-api-key=&token=", right)).close()


async def test_a_fresh_token_changes_no_identity(running: Gateway, name: str) -> None:
    """On the open connection a token of anybody else, or of the other kind, is refused; what the
    connection gets stays as it was."""
    keys = running.keys
    tab = await running.user("acme", "bot", name)
    root = await running.admin(name, company_id_restriction="acme")
    tokens = [
        (tab, keys.user_token("umbrella", "bot", name)),
        (tab, keys.user_token("acme", "other", name)),
        (tab, keys.user_token("acme", "bot", f"{name}-b")),
        (tab, keys.user_token("acme", "bot", name, -1)),
        (tab, keys.admin_token(name)),
        (tab, "x"),
        (tab, ""),
        (root, keys.admin_token(name)),
        (root, keys.admin_token(name, company_id_restriction="umbrella")),
        (root, keys.admin_token(f"{name}-b", company_id_restriction="acme")),
        (root, keys.user_token("acme", "bot", name)),
    ]
    for who, token in tokens:
        who.send({"type": "token", "payload": {"token": token}})
        error = await who.next("error")
        assert error.payload["code"] == "InvalidToken"
    async with running.feed() as feed:
        for company, agent in itertools.product(COMPANIES[::-1], AGENTS[::-1]):
            await feed.put(f"websocket.{company}.{agent}.agents")
            last = await feed.put(f"websocket.{company}.{agent}.chats")
        await tab.got(last)
        assert tab.ids == [last]
        await root.came(lambda: len(root.ids) == 2)
        assert {event.payload["company_id"] for event in root.events} == {"acme"}


async def test_admins_select_no_chats(running: Gateway, name: str) -> None:
    """Threads are for users: an admin gets none of them, of no company."""
    root = await running.admin(name)
    root.send({"type": "select_chat", "payload": {"chat_id": "chat-1"}})
    assert (await root.next("error")).payload["code"] == "BadRequest"
    async with running.feed() as feed:
        await feed.put("websocket.acme.bot.messages.chat-1")
        mine = await feed.put("websocket.acme.bot.agents")
        await root.got(mine)
    assert root.ids == [mine]


async def test_an_identity_is_its_companys(running: Gateway) -> None:
    """Names that run together to one text are several identities: none displaces another."""
    tabs = [
        await running.user("a", "b", "c-d"),
        await running.user("a", "b-c", "d"),
        await running.user("a-b", "c", "d"),
        await running.user("admin", "x", "y"),
        await running.admin("x"),
        await running.admin("x=y"),
    ]
    for tab in tabs:
        await tab.echo()
        assert tab.code is None


async def test_a_stolen_key_alone_opens_nothing(running: Gateway) -> None:
    """Without a token there is no connection, whatever stands in its place."""
    keys, port = running.keys, running.host.http_port
    for token in ("", " ", "null", "undefined", keys.secret_token, keys.token_aes_key, "A" * 5000):
        for headers in (
            {"X-API-Key": keys.secret_token, "Authorization": f"Bearer {token}"},
            {"X-API-Key": keys.secret_token, "Authorization": token},
            {"X-API-Key": keys.secret_token, "Authorization": f"Basic {token}"},
            {"X-API-Key": keys.secret_token, "Sec-WebSocket-Protocol": f"json.v1, {token or 'x'}"},
            {"X-API-Key": keys.secret_token, "Cookie": f"token={token}"},
        ):
            response = await refusal(port, "/ws/acme/bot", headers)
            assert response.json()["code"] == "InvalidToken"
    with pytest.raises(NotUpgraded):
        await running.user_by(keys.admin_token("root"))
