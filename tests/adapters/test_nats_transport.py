"""Messages taken at once through nats-py's client, from a real server; and when that cannot be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import nats.aio.transport
import pytest
from nats.aio.client import Client
from structlog.testing import capture_logs

from daisi_ws.adapters.nats_connection import NatsConnection, NatsSettings
from daisi_ws.adapters.nats_transport import put_under
from daisi_ws.config import ClientTls
from daisi_ws.embedded import NatsServer
from tests.adapters.certificates import Authority


class Taken:
    """Remembers what was taken."""

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.headers: list[Mapping[str, str]] = []
        self.turns = 0

    def take(self, subject: str, reply: str, data: bytes, headers: Mapping[str, str]) -> None:
        assert subject == "there"
        assert reply == "back"
        self.data.append(data)
        self.headers.append(headers)

    def taken(self) -> None:
        self.turns += 1

    async def until(self, done: Callable[[], bool]) -> None:
        """Return once `done` is true."""
        async with asyncio.timeout(20):
            while not done():
                await asyncio.sleep(0.005)


@pytest.fixture
async def connection(nats_url: str) -> AsyncIterator[NatsConnection]:
    """A connection to the run's server."""
    made = NatsConnection(NatsSettings(nats_url), "test")
    await made.connect_once()
    yield made
    await made.aclose()


async def settle(client: Client) -> None:
    """Wait until the server knows what was asked: the library's first ping overtakes that."""
    await client.flush(10)
    await client.flush(10)


async def publish(client: Client, *bodies: bytes) -> None:
    """Publish messages and wait until the server has them."""
    for body in bodies:
        await client.publish("there", body, reply="back", headers={"Number": str(len(body))})
    await settle(client)


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "library"])
async def test_messages_come_the_same_either_way(
    nats: Client, nats_url: str, monkeypatch: pytest.MonkeyPatch, direct: bool
) -> None:
    """All of them, in order, with headers, also huge ones; and the end of each turn is told."""
    if not direct:
        monkeypatch.setattr("daisi_ws.adapters.nats_connection.put_under", lambda *_: None)
    connection, taken = NatsConnection(NatsSettings(nats_url), "test"), Taken()
    await connection.connect_once()
    subscriber = connection.subscriber(taken)
    await subscriber.begin("there")
    assert subscriber.direct == direct
    await settle(connection.client)
    bodies = [b"x" * size for size in (0, 1, 900_000, *range(2, 200))]
    await publish(nats, *bodies)
    await taken.until(lambda: len(taken.data) == len(bodies) and taken.turns > 0)
    assert taken.data == bodies
    assert [int(headers["Number"]) for headers in taken.headers] == [len(body) for body in bodies]
    await connection.aclose()


async def test_what_is_on_its_way_is_taken_before_the_end_of_a_drain(
    connection: NatsConnection, nats: Client
) -> None:
    """And nothing after it."""
    taken = Taken()
    subscriber = connection.subscriber(taken)
    await subscriber.begin("there")
    await settle(connection.client)
    await publish(nats, *[b"%d" % n for n in range(500)])
    await subscriber.drain()
    assert len(taken.data) == 500
    await publish(nats, b"late")
    await settle(connection.client)
    assert len(taken.data) == 500


async def test_nothing_is_taken_after_the_end(connection: NatsConnection, nats: Client) -> None:
    """Even if the server had sent it by then."""
    taken = Taken()
    subscriber = connection.subscriber(taken)
    await subscriber.begin("there")
    await settle(connection.client)
    await subscriber.end()
    await publish(nats, b"1", b"2")
    await settle(connection.client)
    assert taken.data == []


async def test_the_way_is_the_same_after_a_reconnect(fresh_nats: NatsServer) -> None:
    """Half a message of the old connection is no beginning for the new one."""
    connection, taken = NatsConnection(NatsSettings(fresh_nats.url), "test"), Taken()
    lost, again = asyncio.Event(), asyncio.Event()
    await connection.connect_once()
    connection.on_down(lost.set)
    connection.on_up(again.set)
    subscriber = connection.subscriber(taken)
    await subscriber.begin("there")
    transport = connection._transport
    assert transport is not None
    assert transport._protocol is not None
    subscription: Any = subscriber._subscription
    head = f"MSG there {subscription._id} back 100\r\nhalf"
    transport._protocol.data_received(head.encode())
    fresh_nats.kill()
    async with asyncio.timeout(20):
        await lost.wait()
        assert not connection.up
        connection.acknowledge("$JS.ACK.nobody")  # kept by the library, or lost: never an error
        fresh_nats.start()
        await again.wait()
    await publish(connection.client, b"1", b"2")
    await taken.until(lambda: taken.data == [b"1", b"2"])
    assert connection._transport is transport
    await connection.aclose()


async def test_an_empty_message_is_published_at_once(
    connection: NatsConnection, nats: Client
) -> None:
    """Before the loop has turned it is with the kernel."""
    subscription = await nats.subscribe("acknowledged")
    await settle(nats)
    connection.acknowledge("acknowledged")
    message = await subscription.next_msg(10)
    assert message.data == b""


async def test_over_tls(tmp_path: Path) -> None:
    """What TLS has opened is taken just so, and written."""
    files = Authority(tmp_path).pod("nats")
    config = f'tls {{ cert_file: "{files.cert_file}", key_file: "{files.key_file}" }}'
    with NatsServer(config=config) as server:
        tls = ClientTls(enabled=True, ca_file=files.ca_file)
        settings = NatsSettings(server.url.replace("nats:", "tls:"), tls=tls)
        connection, taken = NatsConnection(settings, "test"), Taken()
        await connection.connect_once()
        subscriber = connection.subscriber(taken)
        await subscriber.begin("there")
        assert subscriber.direct
        await publish(connection.client, b"1", b"x" * 300_000, b"3")
        await taken.until(lambda: len(taken.data) == 3)
        assert [len(data) for data in taken.data] == [1, 300_000, 1]
        acknowledged = await connection.client.subscribe("acknowledged")
        await settle(connection.client)
        connection.acknowledge("acknowledged")
        assert (await acknowledged.next_msg(10)).data == b""
        await connection.aclose()


def other_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that makes its transport at once."""
    made = Client.__init__

    def init(client: Client) -> None:
        made(client)
        client._transport = nats.aio.transport.TcpTransport()

    monkeypatch.setattr(Client, "__init__", init)


def other_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transports that are asked for more."""
    asked = frozenset({*nats.aio.transport.Transport.__abstractmethods__, "more"})
    monkeypatch.setattr(nats.aio.transport.Transport, "__abstractmethods__", asked)


def no_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    """No class of that name."""
    monkeypatch.delattr(nats.aio.transport, "Transport")


@pytest.mark.parametrize("inside", [other_client, other_transport, no_transport])
async def test_a_library_that_is_made_otherwise_is_used_as_it_is(
    nats_url: str, monkeypatch: pytest.MonkeyPatch, inside: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """One line in the log, and messages come all the same."""
    inside(monkeypatch)
    connection, taken = NatsConnection(NatsSettings(nats_url), "test"), Taken()
    with capture_logs() as lines:
        await connection.connect_once()
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == [
        "messages come by way of the library"
    ]
    subscriber = connection.subscriber(taken)
    await subscriber.begin("there")
    assert not subscriber.direct
    await publish(connection.client, b"1", b"2")
    await taken.until(lambda: taken.data == [b"1", b"2"])
    await connection.aclose()


def test_websockets_are_the_librarys() -> None:
    """The transport is for TCP."""
    assert put_under(Client(), ["nats://a:4222", "wss://b"]) is None


async def test_a_subscription_without_an_id_is_the_librarys(
    connection: NatsConnection, nats: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its messages cannot be told from others."""
    taken, subscribe = Taken(), connection.client.subscribe

    class Nameless:
        def __init__(self, real: object) -> None:
            self.real = real

        async def unsubscribe(self) -> None:
            await self.real.unsubscribe()  # type: ignore[attr-defined]

    async def nameless(*args: object, **kwargs: object) -> Nameless:
        return Nameless(await subscribe(*args, **kwargs))

    monkeypatch.setattr(connection.client, "subscribe", nameless)
    subscriber = connection.subscriber(taken)
    await subscriber.begin("there")
    await settle(connection.client)
    assert not subscriber.direct
    await publish(nats, b"1")
    await taken.until(lambda: taken.data == [b"1"])
    await subscriber.end()
