"""Clients that come back: all of what they missed, in order and once, or a reason and nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import nats as nats_py
import pytest
from nats.aio.client import Client as NatsClient
from redis.asyncio import Redis

from daisi_ws.adapters import nats_stream
from daisi_ws.app import replay
from daisi_ws.app.connection import BACKLOG_BYTES, Connection
from daisi_ws.app.ports import Position, ReaderRecord, Received
from daisi_ws.config import Resume
from daisi_ws.domain.errors import SubscriptionFailure
from daisi_ws.domain.frames import SelectChat
from daisi_ws.domain.resume import Claim
from daisi_ws.domain.streams import Point
from daisi_ws.domain.subjects import thread
from daisi_ws.embedded import NatsServer
from tests.app.pods import InProcessPod, Tab, pod, publish, roles, until


@pytest.fixture(params=[True, False], ids=["direct get", "stream API"])
async def at(
    request: pytest.FixtureRequest, redis_url: str, nats_url: str, nats: NatsClient
) -> AsyncIterator[InProcessPod]:
    """A pod on a stream that may be read directly, and on one that may not."""
    direct = bool(request.param)
    await nats.jetstream().add_stream(
        name="wa_stream", subjects=["websocket.>"], allow_direct=direct
    )
    async with pod(redis_url, nats_url) as running:
        yield running


def ready(tab: Tab) -> dict[str, object]:
    """Return the first message of a tab."""
    return tab.sink.messages()[0]


def count(pod: InProcessPod, outcome: str) -> float:
    """Return how many claims ended so."""
    return float(pod.parts.metrics.resumes.labels(outcome)._value.get())


@asynccontextmanager
async def flowing(nats: NatsClient, published: list[int]) -> AsyncIterator[None]:
    """Publish events of ann's agent and of another one until the block is left."""
    done = asyncio.Event()

    async def publish_on() -> None:
        while not done.is_set():
            published.append(await publish(nats))
            await publish(nats, agent="acme.other")

    task = asyncio.create_task(publish_on())
    try:
        yield
    finally:
        done.set()
        await task


async def test_what_was_missed_is_given_before_what_comes(
    at: InProcessPod, nats: NatsClient
) -> None:
    """`ready` says how many; they follow it, then the next ones; nothing of others."""
    first = await at.user("ann")
    seen = [await publish(nats) for _ in range(3)]
    await until(lambda: first.seqs() == seen)
    await first.leave()
    missed = [await publish(nats, agent=agent) for agent in ("acme.bot", "acme.other") * 5][::2]
    await until(lambda: at.parts.ingest.position > missed[-1])
    second = await at.user("ann", claim=Claim(seen[-1]))
    told = ready(second)
    assert (told["recovered"], told["replayed"], told["seq"]) == (True, 5, seen[-1])
    live = await publish(nats)
    await until(lambda: second.seqs() == [*missed, live])
    assert count(at, "recovered") == 1


async def test_who_missed_nothing_is_told_so(at: InProcessPod, nats: NatsClient) -> None:
    """Recovered, with none replayed; an empty claim is answered by nothing at all."""
    seq = await publish(nats)
    tab = await at.user("ann", claim=Claim(seq))
    assert (ready(tab)["recovered"], ready(tab)["replayed"]) == (True, 0)
    asks = await at.user("bob", claim=Claim(None))
    assert "recovered" not in ready(asks)
    assert asks.connection.positions
    assert not (await at.user("carl")).connection.positions


async def test_returning_while_events_flow_joins_without_gap_repeat_or_disorder(
    pods: list[InProcessPod], nats: NatsClient
) -> None:
    """Sixty returns, from pod to pod: what came over all of them is what was published."""
    published: list[int] = []
    tab = await pods[0].user("ann", claim=Claim(None))
    got: list[object] = []
    async with flowing(nats, published):
        for number in range(60):
            await until(lambda tab=tab: len(tab.seqs()) >= 3)  # type: ignore[misc]
            await tab.leave()
            got += tab.seqs()
            tab = await pods[number % 2].user("ann", claim=Claim(int(str(got[-1]))))
            assert ready(tab)["recovered"] is True, ready(tab)
    await until(lambda: got + tab.seqs() == published)


async def test_an_open_connection_resumes(pods: list[InProcessPod], nats: NatsClient) -> None:
    """`resumed`, what came after that position (threads included), then what comes, in order."""
    published: list[int] = []
    tab = await pods[1].user("ann")
    await tab.choose("chat-1")
    published += [await publish(nats), await publish(nats, "messages.chat-1")]
    async with flowing(nats, published):
        for _ in range(20):
            await until(lambda: len(tab.seqs()) >= 10)
            tab.sink.written.clear()
            await tab.resume(Claim(published[0] - 1))
            messages = tab.sink.messages()
            index = next(i for i, m in enumerate(messages) if m["type"] == "resumed")
            assert messages[index]["recovered"] is True
            seqs = [m["seq"] for m in messages[index + 1 :]]
            # An event may come before its publisher knows that it is in the stream.
            assert seqs[: len(published)] == published[: len(seqs)]
            assert len(seqs) >= int(str(messages[index]["replayed"])) > 1


async def test_who_is_ahead_of_its_pod_resumes_all_the_same(
    pods: list[InProcessPod], nats: NatsClient
) -> None:
    """Complete from where the reader was; what its pod was never given before that is read, too."""
    reader, other = await roles(pods, nats)
    other.parts.delivery.shut(True)
    missed = [await publish(nats) for _ in range(5)]
    of_thread = [await publish(nats, "messages.chat-1") for _ in range(3)]
    await until(lambda: reader.parts.ingest.position == of_thread[-1])
    tab = await other.user("ann")
    assert other.parts.delivery.mark < missed[0]
    await tab.resume(Claim(missed[0] - 1))
    await tab.choose("chat-1")
    await tab.choose("chat-1", Claim(missed[0] - 1))
    other.parts.delivery.shut(False)
    await until(lambda: tab.seqs() == [*missed, *of_thread])


async def test_a_thread_overtakes_nothing_that_its_pod_was_not_given(
    pods: list[InProcessPod], nats: NatsClient
) -> None:
    """The reader answers, and does not reach the pod. Who comes back to another one with the
    highest sequence it has seen would miss the rest."""
    reader, other = await roles(pods, nats)
    tab = await other.user("ann")
    known = await publish(nats)
    await until(lambda: tab.seqs() == [known])
    other.parts.delivery.shut(True)
    missed = [await publish(nats, kind) for kind in ("chats", "messages.chat-1") * 3]
    await until(lambda: reader.parts.ingest.position == missed[-1])
    await tab.choose("chat-1", Claim(known))
    assert tab.seqs() == [known, *missed]
    resumed = next(m for m in tab.sink.messages() if m["type"] == "resumed")
    assert (resumed["recovered"], resumed["replayed"]) == (True, 3)
    other.parts.delivery.shut(False)
    live = [await publish(nats, kind) for kind in ("messages.chat-1", "chats")]
    await until(lambda: tab.seqs() == [known, *missed, *live])


async def test_a_thread_is_not_given_where_it_would_overtake_too_much(
    pods: list[InProcessPod], nats: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its pod was not given is more than is given again: the client may ask again later."""
    reader, other = await roles(pods, nats)
    monkeypatch.setattr(other.parts.replays, "_settings", lambda: Resume(max_events=3))
    tab = await other.user("ann")
    other.parts.delivery.shut(True)
    first = await publish(nats, "messages.chat-1")
    others = [await publish(nats) for _ in range(4)]
    await until(lambda: reader.parts.ingest.position == others[-1])
    await tab.choose("chat-1", Claim(first - 1))
    resumed = next(m for m in tab.sink.messages() if m["type"] == "resumed")
    assert (resumed["recovered"], resumed["reason"], tab.seqs()) == (False, "busy", [])
    other.parts.delivery.shut(False)
    await until(lambda: tab.seqs() == others)


@pytest.mark.parametrize("claimed", [True, False])
async def test_a_thread_chosen_ahead_of_the_pod_is_complete_from_its_word(
    pods: list[InProcessPod], nats: NatsClient, *, claimed: bool
) -> None:
    """Who comes from a faster pod is not given what it claims to have: nor is it promised."""
    reader, slow = await roles(pods, nats)
    bob = await slow.user("bob")
    await bob.choose("chat-1")
    slow.parts.delivery.shut(True)
    of_thread = [await publish(nats, "messages.chat-1") for _ in range(4)]
    await until(lambda: reader.parts.ingest.position == of_thread[-1])
    ann = await slow.user("ann", claim=Claim(of_thread[2]))
    claim = Claim(of_thread[0]) if claimed else None
    message = SelectChat("chat-1", id=1, claim=claim)
    await slow.parts.admission.select_chat(ann.connection, message)
    slow.parts.delivery.shut(False)
    live = await publish(nats, "messages.chat-1")
    await until(lambda: ann.seqs()[-1:] == [live])
    done = next(m for m in ann.sink.messages() if m["type"] == "done")
    assert isinstance(done["payload"], dict)
    complete_after = done["payload"]["seq"]
    assert ann.seqs() == [seq for seq in (*of_thread, live) if seq > complete_after]
    assert complete_after == (of_thread[0] if claimed else of_thread[2])


async def test_a_thread_is_resumed_from_a_position_of_its_own(
    pods: list[InProcessPod], nats: NatsClient
) -> None:
    """Only that thread's events are given again."""
    await publish(nats, "messages.chat-1")
    old = [await publish(nats, f"messages.chat-{1 + n % 2}") for n in range(6)][::2]
    other = await publish(nats)
    await until(lambda: any(pod.parts.ingest.position >= other for pod in pods))
    tab = await pods[0].user("ann")
    await tab.choose("chat-1", Claim(old[0] - 1))
    resumed = next(m for m in tab.sink.messages() if m["type"] == "resumed")
    assert (resumed["chat_id"], resumed["recovered"], resumed["replayed"]) == ("chat-1", True, 3)
    live = await publish(nats, "messages.chat-1")
    await until(lambda: [seq for seq in tab.seqs() if seq != other] == [*old, live])


@pytest.fixture
async def pushed(
    pods: list[InProcessPod], nats: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> Pushed:
    """A pod that is pushed an event of the thread between the reader's word and its own taking it
    in; the word is taken for none while `fails`."""
    _, other = await roles(pods, nats)
    made = Pushed(other)
    ask = other.parts.interests._ask

    async def asked(reader: ReaderRecord, interests: list[str]) -> Position | None:
        where = await ask(reader, interests)
        if any(interest.endswith(".chat-1") for interest in interests):
            made.seqs.append(await publish(nats, "messages.chat-1"))
            await until(lambda: other.parts.delivery.mark >= made.seqs[-1])
            if made.fails:
                raise SubscriptionFailure("not subscribed")
        return where

    monkeypatch.setattr(other.parts.interests, "_ask", asked)
    return made


@dataclass
class Pushed:
    """See the fixture."""

    pod: InProcessPod
    fails: bool = False
    seqs: list[int] = field(default_factory=list)


async def test_a_thread_that_could_not_be_selected_gave_nothing(
    pushed: Pushed, nats: NatsClient
) -> None:
    """So that all of it comes in order when it is asked for again."""
    missed = [await publish(nats, "messages.chat-1") for _ in range(2)]
    tab = await pushed.pod.user("ann")
    pushed.fails = True
    with pytest.raises(SubscriptionFailure):
        await tab.choose("chat-1", Claim(missed[0] - 1))
    own = await publish(nats)
    await until(lambda: tab.seqs() == [own])
    pushed.fails = False
    await tab.choose("chat-1", Claim(missed[0] - 1))
    await until(lambda: tab.seqs() == [own, *missed, *pushed.seqs])
    assert len(pushed.seqs) == 2


@pytest.mark.parametrize("recovered", [True, False])
async def test_a_thread_is_complete_from_where_it_is_said_to_be(
    pushed: Pushed, nats: NatsClient, *, recovered: bool
) -> None:
    """What came while it was being subscribed is given again, or not promised."""
    missed = await publish(nats, "messages.chat-1")
    tab = await pushed.pod.user("ann")
    claim = Claim(missed - 1, "" if recovered else "wa_stream@2001-01-01T00:00:00Z")
    await tab.choose("chat-1", claim)
    live = await publish(nats, "messages.chat-1")
    await until(lambda: tab.seqs()[-1:] == [live])
    resumed = next(m for m in tab.sink.messages() if m["type"] == "resumed")
    assert resumed["recovered"] is recovered
    if recovered:
        assert tab.seqs() == [missed, *pushed.seqs, live]
    else:
        assert tab.seqs() == [live]
        assert resumed["seq"] == pushed.seqs[-1]


async def test_who_catches_up_while_a_thread_is_selected_is_given_nothing_out_of_order(
    pushed: Pushed, nats: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came meanwhile was not held: what was missed before it would come after it."""
    missed = await publish(nats, "messages.chat-1")
    tab = await pushed.pod.user("ann")
    tab.sink.waiting = BACKLOG_BYTES + 1
    own = await publish(nats)
    await until(lambda: tab.connection.behind_since is not None)
    want = pushed.pod.parts.interests.want

    async def wanted(connection: Connection, interest: str, *, silent: bool = False) -> Point:
        position = await want(connection, interest, silent=silent)
        tab.sink.waiting = 0
        pushed.pod.parts.delivery.writable(connection)
        return position

    read = pushed.pod.parts.stream.read
    live: list[int] = []

    async def slow(*args: object) -> object:
        live.append(await publish(nats, "messages.chat-1"))
        await until(lambda: live[0] in tab.seqs())
        return await read(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(pushed.pod.parts.interests, "want", wanted)
    monkeypatch.setattr(pushed.pod.parts.stream, "read", slow)
    await tab.choose("chat-1", Claim(missed - 1))
    live.append(await publish(nats, "messages.chat-1"))
    await until(lambda: tab.seqs()[-1:] == [live[-1]])
    resumed = next(m for m in tab.sink.messages() if m["type"] == "resumed")
    assert (resumed["recovered"], resumed.get("reason")) == (False, "busy")
    assert tab.seqs() == [own, *live]


async def test_who_gives_up_waiting_for_a_thread_leaves_nothing(
    pushed: Pushed, nats: NatsClient, redis: Redis
) -> None:
    """Gone before its subscription was complete: the pod leaves the route again."""
    tab = await pushed.pod.user("ann")
    choosing = asyncio.create_task(tab.choose("chat-1", Claim(0)))
    await until(lambda: bool(pushed.pod.parts.interests._adding))
    choosing.cancel()
    await asyncio.gather(choosing, return_exceptions=True)
    await tab.leave()
    await until(lambda: bool(pushed.seqs))
    await until(lambda: not pushed.pod.parts.interests._adding)
    assert not pushed.pod.parts.hub.wanted(thread("acme", "bot", "chat-1"))
    async with asyncio.timeout(10):
        while await redis.exists("route:acme:bot:messages:chat-1"):
            await asyncio.sleep(0.01)


async def test_an_admin_is_given_what_its_scope_admits(
    pods: list[InProcessPod], nats: NatsClient
) -> None:
    """By a pattern, as when live; what it may not see now it does not get from the past."""
    everything = [await publish(nats, "agents", f"company-{n % 2}.bot") for n in range(6)]
    before = Claim(everything[0] - 1)
    everywhere = await pods[0].admin("root", claim=before)
    one = await pods[0].admin("one", company="company-1", claim=before)
    none = await pods[0].admin("none", company="company-2", claim=before)
    await until(lambda: everywhere.seqs() == everything and one.seqs() == everything[1::2])
    assert [ready(tab)["recovered"] for tab in (everywhere, one, none)] == [True] * 3
    assert none.seqs() == []


REFUSED: dict[str, tuple[Claim, dict[str, object]]] = {
    "future": (Claim(10_000), {}),
    "other_stream": (Claim(6, "wa_stream@2020-01-01T00:00:00Z"), {}),
    "purged": (Claim(1), {}),
    "too_many": (Claim(6), {"resume__max_events": 3}),
    "too_large": (Claim(6), {"resume__max_bytes": 4096}),
    "too_old": (Claim(6), {"resume__max_age_seconds": 1}),
    "unordered": (Claim(6), {"nats__consumer_mode": "shared"}),
}


@pytest.mark.parametrize("reason", REFUSED)
async def test_what_cannot_be_recovered_is_told_with_its_reason(
    redis_url: str, nats_url: str, nats: NatsClient, reason: str
) -> None:
    """Nothing partial is given; the client is live from where `ready` says."""
    claim, settings = REFUSED[reason]
    jetstream = nats.jetstream()
    await jetstream.add_stream(name="wa_stream", subjects=["websocket.>"], allow_direct=True)
    large = "bot" if reason != "too_large" else "b" * 100
    missed = [await publish(nats, agent=f"acme.{large}") for _ in range(12)]
    await jetstream.purge_stream("wa_stream", keep=8)
    if reason == "too_large":
        missed += [await publish(nats, agent=f"acme.{large}") for _ in range(20)]
    async with pod(redis_url, nats_url, "pod", **settings) as at:
        if reason == "too_old":
            at.parts.replays._wall = lambda: 2e9
        tab = await at.user("ann", agent=large, claim=claim)
        told = ready(tab)
        assert (told["recovered"], told["reason"]) == (False, reason)
        assert int(str(told["seq"])) >= missed[-1] or reason == "unordered"
        live = await publish(nats, agent=f"acme.{large}")
        await until(lambda: tab.seqs() == [live])
        assert count(at, reason) == 1


@pytest.mark.parametrize("far", [True, False])
async def test_what_the_stream_drops_while_it_is_read_is_not_taken_for_all(
    at: InProcessPod, nats: NatsClient, monkeypatch: pytest.MonkeyPatch, *, far: bool
) -> None:
    """It was there when reading began, and nothing partial is given."""
    start = await publish(nats)
    missed = [await publish(nats) for _ in range(6)]
    for _ in range(200 * far):
        await publish(nats, agent="acme.other")
    await until(lambda: at.parts.ingest.position >= missed[-1])
    read = at.parts.stream.read

    async def read_late(*args: Any) -> list[Received]:
        await nats.jetstream().purge_stream("wa_stream", seq=missed[3])
        return await read(*args)

    monkeypatch.setattr(at.parts.stream, "read", read_late)
    tab = await at.user("ann", claim=Claim(start))
    assert (ready(tab)["recovered"], ready(tab)["reason"]) == (False, "purged")
    live = await publish(nats)
    await until(lambda: tab.seqs() == [live])
    assert at.parts.metrics.resume_scans._value.get() == (0 if far else 1)


@pytest.mark.parametrize("most", [20_000, 1])
async def test_what_was_deleted_out_of_the_midst_of_the_stream_is_missing(
    at: InProcessPod, nats: NatsClient, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """By hand, or by a purge of one subject: who may have missed it is told; others recover.

    Where there are too many such holes to be looked at, only who has missed nothing recovers.
    """
    monkeypatch.setattr(nats_stream, "_MOST_DELETED", most)
    jetstream = nats.jetstream()
    seqs = [await publish(nats, agent=f"acme.{'other' if n == 3 else 'bot'}") for n in range(8)]
    await jetstream.delete_msg("wa_stream", seqs[1])
    await jetstream.purge_stream("wa_stream", subject="websocket.acme.other.chats")
    await until(lambda: at.parts.ingest.position == seqs[-1])
    for number in (0, 2):
        told = ready(await at.user("ann", claim=Claim(seqs[number])))
        assert (told["recovered"], told.get("reason")) == (False, "purged")
    told = ready(await at.user("ann", claim=Claim(seqs[3])))
    assert told["recovered"] is (most > 1)
    whole = await at.user("ann", claim=Claim(seqs[-1]))
    assert (ready(whole)["recovered"], ready(whole)["replayed"]) == (True, 0)


async def test_a_position_in_a_stream_that_is_gone_is_refused(
    pods: list[InProcessPod], nats: NatsClient
) -> None:
    """A stream made anew counts from one again: the identity tells."""
    last = [await publish(nats) for _ in range(5)][-1]
    tab = await pods[0].user("ann", claim=Claim(None))
    stream = str(ready(tab)["stream"])
    await tab.leave()
    jetstream = nats.jetstream()
    await jetstream.delete_stream("wa_stream")
    await jetstream.add_stream(name="wa_stream", subjects=["websocket.>"], allow_direct=True)
    for _ in range(2 * last):
        await publish(nats)
    await until(lambda: pods[0].parts.delivery.stream != stream)
    again = await pods[0].user("ann", claim=Claim(last, stream))
    assert (ready(again)["recovered"], ready(again)["reason"]) == (False, "other_stream")


async def test_many_who_come_back_share_their_scans(
    pods: list[InProcessPod], nats: NatsClient
) -> None:
    """Three hundred at once, each with events of its own: a handful of reads of the stream."""
    agents = [f"bot{number}" for number in range(100)]
    start = await publish(nats)
    missed: dict[str, list[int]] = {agent: [] for agent in agents}
    for _ in range(5):
        for agent in agents:
            missed[agent].append(await publish(nats, agent=f"acme.{agent}"))
    at = pods[0]
    tabs = await asyncio.gather(
        *(
            at.user(f"user-{number}", agent=agent, claim=Claim(start))
            for agent in agents
            for number in range(3)
        )
    )
    for number, tab in enumerate(tabs):
        expected = missed[agents[number // 3]]
        await until(lambda tab=tab, expected=expected: tab.seqs() == expected)  # type: ignore[misc]
    assert count(at, "recovered") == 300
    assert 1 <= at.parts.metrics.resume_scans._value.get() < 10


async def test_what_was_read_is_not_forgotten_while_it_is_extended(
    pods: list[InProcessPod], nats: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is up just then: the scan that is under way is still shared."""
    monkeypatch.setattr(replay, "KEEP_SECONDS", 0.05)
    at = pods[0]
    start = await publish(nats)
    missed = [await publish(nats) for _ in range(3)]
    await at.user("ann", claim=Claim(start))
    forget = at.parts.replays._forget
    assert forget is not None
    subjects: list[str] = []
    read = at.parts.stream.read

    async def read_late(after: int, upto: int, *args: Any) -> list[Received]:
        subjects.extend(args[:1])
        await until(lambda: asyncio.get_running_loop().time() > forget.when())
        await asyncio.sleep(0)
        return await read(after, upto, *args)

    monkeypatch.setattr(at.parts.stream, "read", read_late)
    missed.append(await publish(nats))
    await until(lambda: at.parts.delivery.mark == missed[-1])
    tab = await at.user("bob", claim=Claim(start))
    await until(lambda: tab.seqs() == missed)
    assert subjects == []


async def test_one_who_was_far_away_costs_no_scan(
    pods: list[InProcessPod], nats: NatsClient
) -> None:
    """Its own events alone are read."""
    start = await publish(nats)
    for _ in range(200):
        await publish(nats, agent="acme.other")
    missed = await publish(nats)
    tab = await pods[0].user("ann", claim=Claim(start))
    await until(lambda: tab.seqs() == [missed])
    assert pods[0].parts.metrics.resume_scans._value.get() == 0


async def test_more_comes_than_a_held_connection_may_keep(
    redis_url: str, nats_url: str, nats: NatsClient
) -> None:
    """What its outbox could not hold while it joined is read, too."""
    async with pod(redis_url, nats_url, app__websocket_message_buffer_size=1) as at:
        start = await publish(nats)
        read = at.parts.stream.read
        published: list[int] = []

        async def slow(*args: object) -> object:
            if not published:
                published.extend([await publish(nats) for _ in range(5)])
                await until(lambda: at.parts.delivery.mark == published[-1])
            return await read(*args)  # type: ignore[arg-type]

        missed = [await publish(nats) for _ in range(3)]
        await until(lambda: at.parts.ingest.position == missed[-1])
        at.parts.stream.read = slow  # type: ignore[method-assign,assignment]
        at.parts.resumption.hold = lambda connection: connection.hold(2, 10_000)  # type: ignore[method-assign]
        tab = await at.user("ann", claim=Claim(start))
        assert ready(tab)["replayed"] == 8 - 2
        live = await publish(nats)
        await until(lambda: tab.seqs() == [*missed, *published, live])


async def test_without_nats_clients_are_admitted_unrecovered(
    redis_url: str, fresh_nats: NatsServer
) -> None:
    """There is nobody to ask: the client is told, and live when events come again."""
    async with pod(redis_url, fresh_nats.url, resume__timeout_seconds=0.5) as at:
        client = await nats_py.connect(fresh_nats.url)
        try:
            start = await publish(client)
            await until(lambda: at.parts.ingest.position == start)
            fresh_nats.pause()
            tab = await at.user("ann", claim=Claim(start))
            assert ready(tab)["reason"] in ("busy", "unavailable")
            fresh_nats.resume()
            seq = await publish(client)
            await until(lambda: tab.seqs() == [seq])
        finally:
            await client.close()
