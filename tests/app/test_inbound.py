"""Events that older pods push, while our reader hands on the same stream."""

from __future__ import annotations

import json

import pytest
from nats.aio.client import Client as NatsClient

from daisi_ws.domain.errors import BadRequest
from daisi_ws.domain.packets import Item
from tests.app.pods import InProcessPod, pod, until

SUBJECT = "websocket.acme.bot.chats"


def payload(event_id: str) -> bytes:
    """Return an event."""
    event = {"event_id": event_id, "company_id": "acme", "agent_id": "bot", "row_data": {}}
    return json.dumps(event).encode()


async def push(target: InProcessPod, seq: int, event_id: str) -> None:
    """Push an event as the reader would."""
    text = b'{"type":"event","seq":%d,"payload":%b}' % (seq, payload(event_id))
    delivery = target.parts.delivery
    items = [Item(seq, 0, SUBJECT, text)]
    await target.parts.inbound.accept("reader", delivery.epoch, delivery.stream, seq, items)


async def test_an_event_pushed_both_ways_is_delivered_once(redis_url: str, nats_url: str) -> None:
    """Whichever way it comes first, its ID is known when it comes the other way."""
    async with pod(redis_url, nats_url) as only:
        tab = await only.user("ann")
        assert only.parts.inbound.push_event(SUBJECT, "e1", payload("e1"), "old") == (
            "delivered to 1"
        )
        await push(only, 11, "e1")
        await push(only, 12, "e2")
        assert only.parts.inbound.push_event(SUBJECT, "e2", payload("e2"), "old") == (
            "known already"
        )
        only.parts.delivery.flush()
        events = [m for m in tab.sink.messages() if m["type"] == "event"]
        ids = [message["payload"]["event_id"] for message in events]  # type: ignore[index]
        assert ids == ["e1", "e2"]
        assert "seq" not in events[0]


@pytest.mark.parametrize(
    ("subject", "event"),
    [
        ("websocket.acme.>.chats", payload("e")),
        ("websocket.beta.bot.chats", payload("e")),
        (SUBJECT, b"not json"),
    ],
)
async def test_a_bad_push_is_refused(
    redis_url: str, nats_url: str, subject: str, event: bytes
) -> None:
    """Ids outside the alphabet, contradictory ones and what is no event reach nobody."""
    async with pod(redis_url, nats_url) as only:
        tab = await only.user("ann")
        with pytest.raises(BadRequest):
            only.parts.inbound.push_event(subject, "e", event, "old")
        assert len(tab.sink.messages()) == 1


async def test_a_route_nobody_here_needs_is_given_up(
    redis_url: str, nats_url: str, nats: NatsClient
) -> None:
    """Pushed an event for which it has no client, a pod takes itself out of the route."""
    del nats
    async with pod(redis_url, nats_url) as only:
        link = only.parts.link
        await link.call("SADD", "route:acme:bot:chats", only.pod_id)
        await push(only, 5, "e")
        await until(lambda: not only.parts.interests._removing)
        assert await link.call("SMEMBERS", "route:acme:bot:chats") == []


async def test_what_was_delivered_before_the_first_push_is_known(
    redis_url: str, nats_url: str
) -> None:
    """The very first event that an older pod pushes may have come from the reader already."""
    async with pod(redis_url, nats_url) as only:
        tab = await only.user("ann")
        await push(only, 11, "e1")
        assert only.parts.inbound.push_event(SUBJECT, "e1", payload("e1"), "old") == (
            "known already"
        )
        only.parts.delivery.flush()
        assert tab.seqs() == [11]


async def test_who_comes_between_both_ways_still_gets_the_event(
    redis_url: str, nats_url: str
) -> None:
    """What an older pod pushed before a client was there comes from the reader, after the position
    that its `ready` told; who has it already does not get it twice."""
    async with pod(redis_url, nats_url) as only:
        early = await only.user("ann")
        assert only.parts.inbound.push_event(SUBJECT, "e1", payload("e1"), "old") == (
            "delivered to 1"
        )
        late = await only.user("ben")
        await push(only, 11, "e1")
        await push(only, 12, "e2")
        only.parts.delivery.flush()
        assert len([m for m in early.sink.messages() if m["type"] == "event"]) == 2
        assert late.seqs() == [11, 12]
