"""Clients that ask for what they missed while the stream, or who is given what, changes."""

from __future__ import annotations

import json

import pytest
from nats.aio.client import Client as NatsClient

from daisi_ws.app.connection import Connection
from daisi_ws.domain.resume import Claim
from tests.app.pods import InProcessPod, Tab, publish, roles, until


async def made_anew(nats: NatsClient, pod: InProcessPod) -> list[int]:
    """Have a pod follow a stream made anew; return its events of ann's list."""
    stream, jetstream = pod.parts.delivery.stream, nats.jetstream()
    await jetstream.delete_stream("wa_stream")
    await jetstream.add_stream(name="wa_stream", subjects=["websocket.>"], allow_direct=True)
    published = [await publish(nats) for _ in range(3)]
    delivery = pod.parts.delivery
    await until(lambda: delivery.stream != stream and delivery.mark >= published[-1])
    return published


async def known(pod: InProcessPod, nats: NatsClient) -> tuple[Tab, list[object]]:
    """Return a tab that follows its position, and the ten events it has."""
    tab = await pod.user("ann", claim=Claim(None))
    for _ in range(10):
        await publish(nats)
    await until(lambda: len(tab.seqs()) == 10)
    return tab, tab.seqs()


async def test_who_comes_back_while_the_stream_is_made_anew_is_told_so(
    pods: list[InProcessPod], nats: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read, and what came, of the old stream is not passed off as the new one's."""
    at = pods[0]
    tab, seqs = await known(at, nats)
    claim = Claim(int(str(seqs[4])), at.parts.delivery.stream)
    await tab.leave()
    sessions, new = at.parts.admission._sessions, list[int]()
    acquire = sessions.acquire

    async def slow(connection: Connection) -> None:
        await acquire(connection)
        new.extend(await made_anew(nats, at))

    monkeypatch.setattr(sessions, "acquire", slow)
    back = await at.user("ann", claim=claim)
    told = back.sink.messages()[0]
    assert (told["recovered"], told["reason"]) == (False, "other_stream")
    assert told["stream"] == at.parts.delivery.stream
    new.append(await publish(nats))
    await until(lambda: back.seqs() == new)


async def test_a_stream_made_anew_while_a_thread_is_read_begins_after_it_was_told(
    pods: list[InProcessPod], nats: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the old one nothing comes among the new one's events: it would be taken for one."""
    at = pods[0]
    tab, seqs = await known(at, nats)
    read, new = at.parts.stream.read, list[int]()

    async def slow(*args: object) -> object:
        if not new:
            of_old = await publish(nats)
            await until(lambda: at.parts.delivery.mark >= of_old)
            new.extend(await made_anew(nats, at))
        return await read(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(at.parts.stream, "read", slow)
    await tab.choose("chat-1", Claim(int(str(seqs[0]))))
    assert "other_stream" in {m.get("reason") for m in tab.sink.messages()}
    await until(lambda: tab.seqs() == [*seqs, *new])


async def test_a_thread_waits_for_what_an_older_pod_may_have_pushed(
    pods: list[InProcessPod], nats: NatsClient
) -> None:
    """Without a sequence it cannot be told from what the thread would overtake: once is enough."""
    reader, other = await roles(pods, nats)
    tab = await other.user("ann", claim=Claim(None))
    before = await publish(nats)
    await until(lambda: tab.seqs() == [before])
    other.parts.delivery.shut(True)
    event = {"event_id": "pushed", "company_id": "acme", "agent_id": "bot", "row_data": {}}
    payload, subject = json.dumps(event).encode(), "websocket.acme.bot.chats"
    pushed = await nats.jetstream().publish(subject, payload)
    other.parts.inbound.push_event(subject, "pushed", payload, "older")
    missed = await publish(nats, "messages.chat-1")
    await until(lambda: reader.parts.ingest.position == missed)
    await tab.choose("chat-1", Claim(before))
    assert tab.sink.messages()[-1]["reason"] == "busy"
    other.parts.delivery.shut(False)
    await until(lambda: other.parts.delivery.mark >= missed > pushed.seq)
    await tab.choose("chat-1", Claim(before))
    assert [m.get("seq") for m in tab.sink.messages() if m["type"] == "event"][-1] == missed
    ids = [m["payload"]["event_id"] for m in tab.sink.messages() if m["type"] == "event"]  # type: ignore[index]
    assert ids.count("pushed") == 1


async def test_who_has_left_is_not_remembered_for_what_it_had(
    pods: list[InProcessPod], nats: NatsClient
) -> None:
    """A reader's own pod lags where the newest message was none for anybody."""
    reader, _ = await roles(pods, nats)
    valid = await publish(nats)
    await until(lambda: reader.parts.delivery.mark >= valid)
    ack = await nats.jetstream().publish("websocket.acme.bot.chats", b"no json")
    await until(lambda: reader.parts.ingest.position == ack.seq)
    tab = await reader.user("ann")
    assert reader.parts.delivery.had(tab.connection) == ack.seq
    await tab.leave()
    assert reader.parts.delivery.had(tab.connection) < ack.seq
