"""Publishing with acknowledgements, on a real NATS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from nats.aio.client import Client as NatsClient

from daisi_ws.adapters.nats_connection import NatsConnection, NatsSettings
from daisi_ws.client.publisher import NotStored, Publisher
from daisi_ws.embedded import NatsServer

SUBJECT = "websocket.acme.sales.chats"


@asynccontextmanager
async def publisher_to(url: str, timeout: float = 5.0) -> AsyncIterator[Publisher]:
    connection = NatsConnection(NatsSettings(url), "test")
    await connection.connect_once()
    publisher = Publisher(connection, timeout=timeout)
    try:
        await publisher.start()
        yield publisher
        await publisher.close()
    finally:
        await connection.aclose()


async def make_stream(nats: NatsClient) -> None:
    await nats.jetstream().add_stream(name="wa_stream", subjects=["websocket.>"])


async def test_everything_is_stored_once_in_order(nats: NatsClient, nats_url: str) -> None:
    """More events than may be on their way at once are stored in the order of publishing."""
    await make_stream(nats)
    async with publisher_to(nats_url) as publisher:
        for number in range(5000):
            await publisher.publish(SUBJECT, b"%d" % number)
        await publisher.finish()
        assert (publisher.sent, publisher.stored, publisher.pending) == (5000, 5000, 0)
        assert (publisher.first_seq, publisher.last_seq) == (1, 5000)
    for seq in (1, 2, 2500, 5000):
        message = await nats.jetstream().get_msg("wa_stream", seq)
        assert message.data == b"%d" % (seq - 1)


async def test_one_event_can_be_waited_for(nats: NatsClient, nats_url: str) -> None:
    """`publish_and_wait` returns the event's own sequence, whatever else is on its way."""
    await make_stream(nats)
    async with publisher_to(nats_url) as publisher:
        await publisher.publish(SUBJECT, b"1")
        seqs = await asyncio.gather(*(publisher.publish_and_wait(SUBJECT, b"x") for _ in range(3)))
        await publisher.publish(SUBJECT, b"5")
        await publisher.finish()
    assert seqs == [2, 3, 4]


async def test_the_request_id_travels(nats: NatsClient, nats_url: str) -> None:
    """`X-Request-ID` is a header of the message."""
    await make_stream(nats)
    async with publisher_to(nats_url) as publisher:
        await publisher.publish_and_wait(SUBJECT, b"{}", "request-1")
    message = await nats.jetstream().get_msg("wa_stream", 1)
    assert message.headers is not None
    assert message.headers["X-Request-ID"] == "request-1"


async def test_a_subject_that_no_stream_takes_is_told(nats_url: str) -> None:
    """`NotStored` says that there is no stream, at once."""
    async with publisher_to(nats_url) as publisher:
        with pytest.raises(NotStored) as problem:
            await publisher.publish_and_wait(SUBJECT, b"{}")
        assert problem.value.no_stream
        with pytest.raises(NotStored):
            await publisher.finish()


async def test_a_refusal_is_told_with_its_reason(nats: NatsClient, nats_url: str) -> None:
    """An event that the stream refuses raises `NotStored` with NATS' words."""
    await nats.jetstream().add_stream(name="wa_stream", subjects=["websocket.>"], max_msg_size=8)
    async with publisher_to(nats_url) as publisher:
        await publisher.publish(SUBJECT, b"far too large")
        with pytest.raises(NotStored, match="message size exceeds"):
            await publisher.finish()


async def test_a_frozen_server_is_given_up(fresh_nats: NatsServer) -> None:
    """Without any acknowledgement for the timeout, what is certain and what is not is told."""
    async with publisher_to(fresh_nats.url, timeout=0.3) as publisher:
        fresh_nats.pause()
        try:
            await publisher.publish(SUBJECT, b"{}")
            with pytest.raises(NotStored, match="0 of 1 events are stored for certain"):
                await publisher.finish()
        finally:
            fresh_nats.resume()
