"""Resume on the wire: what a client with its own socket sends, and what it is answered."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress

import pytest

from tests.e2e.tabs import Gateway, Tab, refusal, scrape, stored, user_headers

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

STORM = 150


async def open_tab(running: Gateway, agent: str, query: str, user: str = "ann") -> Tab:
    """Connect a user with a query."""
    headers = user_headers(running.keys, running.keys.user_token("acme", agent, user))
    return await Tab.open(running.host.http_port, f"/ws/acme/{agent}{query}", headers)


def events_after(tab: Tab, kind: str) -> list[int | None]:
    """Return the sequences of the events that came after the last message of a kind."""
    kinds = [frame.kind for frame in tab.frames]
    last = len(kinds) - kinds[::-1].index(kind)
    return [frame.seq for frame in tab.frames[last:] if frame.kind == "event"]


async def test_a_plain_client_sees_the_plain_contract(running: Gateway, name: str) -> None:
    """No word of recovery, whatever was published before."""
    tab = await open_tab(running, name, "")
    assert not tab.ready.message.keys() & {"recovered", "replayed", "reason"}


async def test_a_client_comes_back_with_its_position(running: Gateway, name: str) -> None:
    """`ready` answers; what was missed follows, then what comes."""
    subject = f"websocket.acme.{name}.chats"
    tab = await open_tab(running, name, "?last_seq=")
    assert "recovered" not in tab.ready.message
    async with running.feed() as feed:
        first = await tab.got(await feed.put(subject))
        await tab.close()
        missed = [await feed.put(subject) for _ in range(3)]
        stream = tab.ready.message["stream"]
        again = await open_tab(running, name, f"?last_seq={first.seq}&stream={stream}")
        ready = again.ready.message
        assert (ready["recovered"], ready["replayed"], ready["seq"]) == (True, 3, first.seq)
        assert ready["stream"] == stream
        live = await feed.put(subject)
        await again.got(live)
        assert again.ids == [*missed, live]


@pytest.mark.parametrize(
    "value", ["x", "-1", "1.5", "%31e3", "9223372036854775808", "+1", "%D9%A3"]
)
async def test_what_is_no_sequence_is_refused(running: Gateway, name: str, value: str) -> None:
    """Before the upgrade, with words that say what would be right."""
    headers = user_headers(running.keys, running.keys.user_token("acme", name, "ann"))
    target = f"/ws/acme/{name}?last_seq={value}"
    response = await refusal(running.host.http_port, target, headers)
    assert response.status == 400
    assert response.json()["code"] == "BadRequest"
    assert "whole number" in str(response.json()["details"])


async def test_an_open_connection_resumes(running: Gateway, name: str) -> None:
    """`resumed` repeats the message's `id`; then everything after that position, threads too."""
    tab = await open_tab(running, name, "")
    await tab.select_chat("chat-1")
    async with running.feed() as feed:
        first = await tab.got(await feed.put(f"websocket.acme.{name}.chats"))
        for kind in ("chats", "messages.chat-1", "messages.chat-2"):
            await feed.put(f"websocket.acme.{name}.{kind}")
        await tab.came(lambda: len(tab.events) == 3)
        tab.send({"type": "resume", "id": 7, "payload": {"last_seq": first.seq}})
        resumed = (await tab.next("resumed")).message
        assert (resumed["id"], resumed["recovered"], resumed["replayed"]) == (7, True, 2)
        await tab.came(lambda: len(events_after(tab, "resumed")) == 2)
        assert events_after(tab, "resumed") == [frame.seq for frame in tab.events[1:3]]


async def test_a_thread_is_selected_with_a_position(running: Gateway, name: str) -> None:
    """`resumed` names the chat; what was missed comes before `done`."""
    async with running.feed() as feed:
        missed = [await feed.put(f"websocket.acme.{name}.messages.chat-1") for _ in range(3)]
        tab = await open_tab(running, name, "")
        payload = {"chat_id": "chat-1", "last_seq": tab.ready.message["seq"] - 3}  # type: ignore[operator]
        tab.send({"type": "select_chat", "id": "s", "payload": payload})
        done = await tab.next("done")
        assert [frame.kind for frame in tab.frames[1:]] == ["resumed", *["event"] * 3, "done"]
        resumed = tab.frames[1].message
        assert (resumed["chat_id"], resumed["recovered"], resumed["replayed"]) == (
            "chat-1",
            True,
            3,
        )
        assert done.payload["seq"] == payload["last_seq"]
        live = await feed.put(f"websocket.acme.{name}.messages.chat-1")
        await tab.got(live)
        assert tab.ids == [*missed, live]


@pytest.mark.parametrize("payload", [{}, {"last_seq": -1}, {"last_seq": "5"}, {"last_seq": 2**63}])
async def test_a_malformed_resume_is_an_error(
    running: Gateway, name: str, payload: dict[str, object]
) -> None:
    """The connection stays, and what comes still reaches it."""
    tab = await open_tab(running, name, "")
    tab.send({"type": "resume", "payload": payload})
    assert (await tab.next("error")).payload["code"] == "BadRequest"
    async with running.feed() as feed:
        await tab.got(await feed.put(f"websocket.acme.{name}.chats"))


async def test_a_position_from_the_future_is_told(running: Gateway, name: str) -> None:
    """By both ways; the client is live all the same."""
    tab = await open_tab(running, name, "?last_seq=99999999")
    assert (tab.ready.message["recovered"], tab.ready.message["reason"]) == (False, "future")
    tab.send({"type": "resume", "payload": {"last_seq": 99999999}})
    resumed = (await tab.next("resumed")).message
    assert (resumed["recovered"], resumed["reason"]) == (False, "future")
    async with running.feed() as feed:
        await tab.got(await feed.put(f"websocket.acme.{name}.chats"))


async def test_all_come_back_at_once_after_a_worker_s_death(running: Gateway, name: str) -> None:
    """Everybody is recovered, each event once and in order, by few scans of the stream."""
    subject = f"websocket.acme.{name}.chats"
    users = [f"user-{number}" for number in range(STORM)]
    tabs = await asyncio.gather(*(open_tab(running, name, "?last_seq=", u) for u in users))
    async with running.feed() as feed:
        published = [await feed.put(subject) for _ in range(20)]
        await asyncio.gather(*(tab.got(published[-1]) for tab in tabs))
        before = await scrape(running.host)
        pod = tabs[0].response.headers["x-daisi-pod"]
        async with running.redis() as redis:
            victim = json.loads(await stored(redis, f"pod:{pod}"))["pid"]
        async with feed.steady([subject], 200):
            os.kill(victim, signal.SIGKILL)
            dead = [tab for tab in tabs if tab.response.headers["x-daisi-pod"] == pod]
            await asyncio.gather(*(tab.end() for tab in dead))

            async def back(tab: Tab) -> Tab:
                user = users[tabs.index(tab)]
                last = tab.events[-1].seq
                while True:
                    # The worker's successor may not answer yet.
                    with suppress(TimeoutError):
                        return await open_tab(running, name, f"?last_seq={last}", user)

            returned = await asyncio.gather(*(back(tab) for tab in dead))
        last = await feed.put(subject)
        await asyncio.gather(*(tab.got(last) for tab in returned))
    assert len(dead) > STORM / 10
    for old, new in zip(dead, returned, strict=True):
        assert new.ready.message["recovered"] is True
        assert len({*old.ids, *new.ids}) == len(old.ids) + len(new.ids) == feed.sent
        seqs = [frame.seq for frame in (*old.events, *new.events)]
        assert seqs == sorted(seqs, key=lambda seq: seq or 0)
    after = await scrape(running.host)
    assert scans(after) - scans(before) < len(dead) / 2


def scans(metrics: dict[str, float]) -> float:
    """Return how often the stream was scanned."""
    return sum(v for name, v in metrics.items() if name.startswith("dws_resume_scans_total"))
