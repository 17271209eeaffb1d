"""The durable consumer on a real server: reading, takeover, recovery, other shapes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, suppress
from typing import Self

import pytest
from nats.aio.client import Client as NatsClient
from nats.aio.transport import Transport
from nats.js.api import AckPolicy, ConsumerConfig

from daisi_ws.adapters.nats_binding import ConsumerMismatch
from daisi_ws.adapters.nats_connection import NatsConnection, NatsSettings
from daisi_ws.adapters.nats_consumer import NatsConsumer
from daisi_ws.adapters.nats_stream import JetStream
from daisi_ws.app.ports import Received
from daisi_ws.domain.consumer import ConsumerSettings, Mode
from daisi_ws.domain.streams import Point, identity
from daisi_ws.embedded import NatsServer

SUBJECT = "websocket.c.a.chats"


class Handler:
    """Remembers what came; acknowledges everything if told to."""

    def __init__(self) -> None:
        self.pinned = 0
        self.unpinned = 0
        self.untaken = 0
        self.seqs: list[int] = []
        self.messages: list[Received] = []
        self.acknowledge = True
        self.consumer: NatsConsumer | None = None

    def on_pinned(self, stream: str) -> None:
        assert stream
        self.pinned += 1

    def on_received(self, message: Received) -> None:
        self.seqs.append(message.seq)
        self.messages.append(message)
        self.untaken += 1
        if self.acknowledge and self.consumer is not None:
            self.consumer.ack([message.reply])

    def on_taken(self) -> None:
        self.untaken = 0

    def on_unpinned(self) -> None:
        self.unpinned += 1

    async def until(self, done: Callable[[], bool], timeout: float = 15.0) -> None:
        """Return once `done` is true."""
        async with asyncio.timeout(timeout):
            while not done():  # it may be about another handler, too
                await asyncio.sleep(0.005)


Start = Callable[..., Awaitable[Handler]]


BOTH_WAYS = pytest.mark.parametrize(
    "direct", [True, False], indirect=True, ids=["direct", "library"]
)


@pytest.fixture
def direct(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Tell whether messages are taken at once; else nats-py's inside is not as expected."""
    taken_at_once = bool(getattr(request, "param", True))
    if not taken_at_once:
        asked = frozenset({*Transport.__abstractmethods__, "more_than_we_know"})
        monkeypatch.setattr(Transport, "__abstractmethods__", asked)
    return taken_at_once


@pytest.fixture
async def start(nats_url: str, direct: bool) -> AsyncIterator[Start]:
    """Starts pods that stand by; each has a connection of its own."""
    async with AsyncExitStack() as stack:

        async def pod(
            mode: Mode = "ordered",
            url: str = nats_url,
            *,
            position: int = 0,
            timeout: float = 1.0,
            ping: float = 0.5,
            ack_wait: float = 5.0,
            known: Collection[Point] = (),
        ) -> Handler:
            connection = NatsConnection(NatsSettings(url, ping_interval_seconds=ping), "test")
            await connection.connect_once()
            stack.push_async_callback(connection.aclose)
            stream = JetStream(connection, "wa_stream", True, "dead_letter.websocket")
            settings = ConsumerSettings("ws_fanout", mode, ack_wait, 100, timeout)
            consumer = NatsConsumer(connection, stream, settings, 20, lambda: position)
            assert (connection._transport is not None) == direct
            handler = Handler()
            handler.consumer = consumer
            await consumer.prepare(known)
            await consumer.start(handler)
            stack.push_async_callback(consumer.resign)
            return handler

        yield pod


async def publish(nats: NatsClient, count: int = 1) -> list[int]:
    """Publish events and return their sequences."""
    jetstream = nats.jetstream()
    return [(await jetstream.publish(SUBJECT, b"%d" % n, timeout=5)).seq for n in range(count)]


@BOTH_WAYS
async def test_one_pod_reads_everything_in_order(start: Start, nats: NatsClient) -> None:
    """Of two pods that stand by one is pinned, with more events than may be outstanding."""
    pods = [await start(), await start()]
    published = await publish(nats, 150)
    reader, other = pods if pods[0].pinned else pods[::-1]
    await reader.until(lambda: len(reader.seqs) == 150)
    assert reader.seqs == published
    assert reader.consumer is not None
    assert other.consumer is not None
    assert await reader.consumer.pinned()
    assert not await other.consumer.pinned()
    assert sum(pod.pinned for pod in pods) == 1
    assert reader.messages[0].subject == SUBJECT
    assert reader.messages[0].data == b"0"
    assert not reader.messages[0].redelivered


async def test_a_reader_that_ends_with_all_that_may_be_unacknowledged_is_replaced(
    start: Start, nats: NatsClient
) -> None:
    """Long before NATS delivers again by itself: who looks after the consumer asks for it."""
    pods = [await start(ack_wait=120.0), await start(ack_wait=120.0)]
    for pod in pods:
        pod.acknowledge = False
    published = await publish(nats, 200)
    await pods[0].until(lambda: any(len(pod.seqs) == 100 for pod in pods))
    dead, alive = sorted(pods, key=lambda pod: -len(pod.seqs))
    assert dead.consumer is not None
    assert alive.consumer is not None
    await dead.consumer._connection.aclose()
    alive.acknowledge = True
    async with asyncio.timeout(15):
        while not alive.pinned:
            await alive.consumer.look(2.0)
            await asyncio.sleep(0.1)
    await alive.until(lambda: alive.seqs[-100:] == published[100:])


async def test_the_pin_is_kept_while_idle(start: Start, nats: NatsClient) -> None:
    """Without events for longer than the priority timeout the reader stays the reader."""
    reader = await start(timeout=0.5)
    await publish(nats)
    await reader.until(lambda: reader.pinned == 1)
    other = await start(timeout=0.5)
    for _ in range(4):
        before = len(reader.seqs)
        await asyncio.sleep(0.4)  # idle time is what is tested here
        await publish(nats)
        await reader.until(lambda before=before: len(reader.seqs) > before)  # type: ignore[misc]
    assert other.pinned == 0
    assert reader.pinned == 1


@BOTH_WAYS
async def test_a_reader_that_resigns_hands_over_at_once(start: Start, nats: NatsClient) -> None:
    """The other pod gets the next event without waiting for the priority timeout."""
    first, second = await start(timeout=30.0), await start(timeout=30.0)
    await publish(nats)
    await first.until(lambda: bool(first.pinned or second.pinned), 5)
    reader, other = (first, second) if first.pinned else (second, first)
    assert reader.consumer is not None
    await reader.consumer.resign()
    (seq,) = await publish(nats)
    await other.until(lambda: seq in other.seqs, 5)


async def test_a_dead_readers_place_is_taken(start: Start, nats: NatsClient) -> None:
    """When the reader's connection is gone another pod is pinned after the priority timeout."""
    reader = await start()
    await publish(nats)
    await reader.until(lambda: reader.pinned == 1)
    other = await start()
    assert reader.consumer is not None
    assert other.consumer is not None
    await reader.consumer._connection.aclose()
    async with asyncio.timeout(15):
        while not other.pinned:
            # What the server still sends to the dead one is for whoever takes over to read.
            await publish(nats)
            await asyncio.sleep(0.02)
    published = await publish(nats, 10)
    await other.until(lambda: other.seqs[-10:] == published)
    async with asyncio.timeout(15):
        while await other.consumer.ack_floor() < published[-1]:
            await asyncio.sleep(0.01)


@BOTH_WAYS
async def test_a_deleted_consumer_is_made_again(start: Start, nats: NatsClient) -> None:
    """Delivery goes on with what was published after what is known to be handled."""
    pod = await start()
    await publish(nats)
    await pod.until(lambda: len(pod.seqs) == 1)
    await nats.jetstream().delete_consumer("wa_stream", "ws_fanout")
    await pod.until(lambda: pod.unpinned == 1)
    async with asyncio.timeout(10):
        while not pod.consumer.bound:  # type: ignore[union-attr]
            await asyncio.sleep(0.01)
    (seq,) = await publish(nats)
    await pod.until(lambda: seq in pod.seqs)


async def test_what_comes_while_there_is_no_consumer_is_delivered(
    start: Start, nats: NatsClient
) -> None:
    """It is made again from before, never from "now"."""
    pod = await start()
    await publish(nats)
    await pod.until(lambda: len(pod.seqs) == 1)
    await nats.jetstream().delete_consumer("wa_stream", "ws_fanout")
    published = await publish(nats, 5)
    await pod.until(lambda: pod.seqs[-5:] == published)


async def test_what_comes_first_into_a_stream_made_anew_is_delivered(
    start: Start, nats: NatsClient
) -> None:
    """Before any pod has noticed; a pod that has just started knows by what was read last."""
    pod = await start()
    await publish(nats, 3)
    await pod.until(lambda: len(pod.seqs) == 3)
    jetstream = nats.jetstream()
    await jetstream.delete_stream("wa_stream")
    await jetstream.add_stream(name="wa_stream", subjects=["websocket.>"])
    await publish(nats, 2)
    await pod.until(lambda: pod.seqs[3:] == [1, 2])


@BOTH_WAYS
async def test_whoever_leaves_takes_no_pin_along(start: Start, nats: NatsClient) -> None:
    """Two leave together: the third reads at once, whichever of them was pinned last."""
    pods = [await start(timeout=30.0) for _ in range(3)]
    await publish(nats)
    for pod in pods:
        await pod.until(lambda: any(p.pinned for p in pods), 5)
    stays, *leave = sorted(pods, key=lambda p: p.pinned)
    publishing = asyncio.create_task(publish(nats, 200))
    await asyncio.gather(*(p.consumer.resign() for p in leave if p.consumer is not None))
    (*_, last) = await publishing
    await stays.until(lambda: last in stays.seqs, 5)


async def test_whether_somebody_reads_is_known(start: Start, nats: NatsClient) -> None:
    """Not before the first event, nor after the only pod has left."""
    pod = await start()
    assert pod.consumer is not None
    assert await pod.consumer.unread_after() == (0, False)
    await publish(nats)
    await pod.until(lambda: pod.seqs == [1])
    assert (await pod.consumer.unread_after())[1]
    await pod.consumer.resign()
    assert not (await pod.consumer.unread_after())[1]


async def test_a_newcomer_makes_a_lost_consumer_again_from_where_others_are(
    start: Start, nats: NatsClient
) -> None:
    """Not from "now": nobody read what came while there was none."""
    await nats.jetstream().add_stream(name="wa_stream", subjects=["websocket.>"])
    published = await publish(nats, 300)
    info = json.loads((await nats.request("$JS.API.STREAM.INFO.wa_stream", b"")).data)
    name = identity("wa_stream", info["created"])
    pod = await start(known=[Point(name, 250), Point(name, 0), Point("wa_stream@1", 999)])
    await pod.until(lambda: len(pod.seqs) == 150)
    assert pod.seqs == published[150:]


async def test_a_consumer_is_made_again_from_the_known_position(
    start: Start, nats: NatsClient
) -> None:
    """What came after it, less what may be unacknowledged, is delivered again."""
    await nats.jetstream().add_stream(name="wa_stream", subjects=["websocket.>"])
    await publish(nats, 200)
    pod = await start(position=150)
    await pod.until(lambda: len(pod.seqs) == 150)
    assert pod.seqs == list(range(51, 201))


async def test_a_stream_made_anew_is_read(start: Start, nats: NatsClient) -> None:
    """The stream's new identity is known, and its events come."""
    pod = await start()
    await publish(nats, 3)
    await pod.until(lambda: len(pod.seqs) == 3)
    before = pod.consumer._stream.identity  # type: ignore[union-attr]
    await nats.jetstream().delete_stream("wa_stream")
    async with asyncio.timeout(15):
        while pod.consumer._stream.identity == before:  # type: ignore[union-attr]
            await asyncio.sleep(0.01)
    pod.seqs.clear()
    async with asyncio.timeout(10):
        while not pod.consumer.bound:  # type: ignore[union-attr]
            await asyncio.sleep(0.01)
    await publish(nats, 2)
    await pod.until(lambda: pod.seqs == [1, 2])


@BOTH_WAYS
async def test_a_restarted_server_is_read_again(start: Start, fresh_nats: NatsServer) -> None:
    """After a restart on the same data the reader goes on where it was."""
    pod = await start(url=fresh_nats.url)
    client = NatsClient()
    lost = asyncio.Event()

    async def disconnected() -> None:
        lost.set()

    async def on_error(error: Exception) -> None:
        del error  # the library would log it

    await client.connect(
        fresh_nats.url,
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.1,
        disconnected_cb=disconnected,
        error_cb=on_error,
    )
    await publish(client, 3)
    await pod.until(lambda: len(pod.seqs) == 3)
    fresh_nats.kill()
    await lost.wait()
    fresh_nats.start()
    await pod.until(lambda: pod.unpinned == 1)
    async with asyncio.timeout(15):
        while not client.is_connected:
            await asyncio.sleep(0.02)
    (seq,) = await publish(client)
    await pod.until(lambda: seq in pod.seqs)
    await client.close()


@pytest.mark.parametrize(
    "config",
    [
        ConsumerConfig(durable_name="ws_fanout", ack_policy=AckPolicy.EXPLICIT),
        ConsumerConfig(
            durable_name="ws_fanout",
            ack_policy=AckPolicy.EXPLICIT,
            deliver_subject="push.here",
            deliver_group="group",
        ),
    ],
)
async def test_a_durable_of_another_kind_is_refused(
    start: Start, nats: NatsClient, config: ConsumerConfig
) -> None:
    """The error says what was found, what is needed, and the way out."""
    await nats.jetstream().add_stream(name="wa_stream", subjects=["websocket.>"])
    await nats.jetstream().add_consumer("wa_stream", config)
    with pytest.raises(
        ConsumerMismatch, match=r'found \{.*explicit.*needs \{.*"all".*nats.consumer_name'
    ):
        await start()


async def test_a_changed_limit_is_updated_in_place(start: Start, nats: NatsClient) -> None:
    """What does not change the kind of the consumer is brought up to date."""
    await (await start()).consumer.resign()  # type: ignore[union-attr]
    before = await nats.jetstream().consumer_info("wa_stream", "ws_fanout")
    assert before.config.max_ack_pending == 100
    pod = await start(timeout=1.5)
    info = await pod.consumer.info()  # type: ignore[union-attr]
    assert info["config"]["priority_timeout"] == 1_500_000_000


@BOTH_WAYS
async def test_shared_mode_gives_each_pod_a_part(start: Start, nats: NatsClient) -> None:
    """All pods pull; together they get each event once."""
    pods = [await start("shared"), await start("shared")]
    published = await publish(nats, 100)
    for pod in pods:
        await pod.until(lambda: sum(len(p.seqs) for p in pods) == 100)
    assert sorted(pods[0].seqs + pods[1].seqs) == published


@BOTH_WAYS
async def test_shared_mode_joins_a_push_group(start: Start, nats: NatsClient) -> None:
    """An existing push consumer with a deliver group is bound to as it is."""
    await nats.jetstream().add_stream(name="wa_stream", subjects=["websocket.>"])
    await nats.jetstream().add_consumer(
        "wa_stream",
        ConsumerConfig(
            durable_name="ws_fanout",
            ack_policy=AckPolicy.EXPLICIT,
            deliver_subject="push.here",
            deliver_group="group",
        ),
    )
    pods = [await start("shared"), await start("shared")]
    async with asyncio.timeout(10):
        while not all(p.consumer._subscriber for p in pods):  # type: ignore[union-attr]
            await asyncio.sleep(0.01)
    await asyncio.gather(*(p.consumer._connection.client.flush() for p in pods))  # type: ignore[union-attr]
    published = await publish(nats, 40)
    for pod in pods:
        await pod.until(lambda: sum(len(p.seqs) for p in pods) == 40)
    assert sorted(pods[0].seqs + pods[1].seqs) == published


async def test_a_push_consumer_that_is_deleted_is_noticed(start: Start, nats: NatsClient) -> None:
    """Nothing tells of it: the pod asks when nothing has come for a while, and makes another."""
    jetstream = nats.jetstream()
    await (await start("shared")).consumer.resign()  # type: ignore[union-attr]
    await jetstream.delete_consumer("wa_stream", "ws_fanout")
    await jetstream.add_consumer(
        "wa_stream",
        ConsumerConfig(
            durable_name="ws_fanout",
            deliver_subject="push.here",
            deliver_group="gateways",
            ack_policy=AckPolicy.EXPLICIT,
            filter_subject="websocket.>",
        ),
    )
    handler = await start("shared")
    await publish(nats)
    await handler.until(lambda: len(handler.seqs) == 1)
    await asyncio.sleep(1.0)  # a while in which nothing comes is what is tested here
    await jetstream.delete_consumer("wa_stream", "ws_fanout")
    await publish(nats)
    await handler.until(lambda: len(set(handler.seqs)) == 2)


class Cut:
    """A TCP proxy before NATS; a connection that is cut is still open for the server.

    What a client asks after it has subscribed again is held until `go` is set, and so is the
    answer to the ping that follows.
    """

    def __init__(self, url: str) -> None:
        self._host, _, self._port = url.removeprefix("nats://").rpartition(":")
        self._clients: list[asyncio.StreamWriter] = []
        self._servers: list[asyncio.StreamWriter] = []
        self._losing: list[asyncio.Event] = []
        self._ups: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.url = ""
        self.subscribed = asyncio.Event()
        self.go = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in (*self._clients, *self._servers):
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def lose(self) -> None:
        """Lose what the server says to those who are connected now."""
        for losing in self._losing:
            losing.set()

    def cut(self) -> None:
        """End the clients' halves of all connections."""
        for client in self._clients:
            client.transport.abort()
        self._clients.clear()

    @property
    def connections(self) -> int:
        """Return how many there have been."""
        return len(self._losing)

    @property
    def open_clients(self) -> int:
        """Return how many clients have not ended their half."""
        return sum(not task.done() for task in self._ups)

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        from_server, server = await asyncio.open_connection(self._host, self._port)
        losing, holding = asyncio.Event(), asyncio.Event()
        again = bool(self._losing)
        self._clients.append(client)
        self._servers.append(server)
        self._losing.append(losing)
        up = asyncio.create_task(self._up(reader, server, holding if again else None))
        down = asyncio.create_task(self._down(from_server, client, losing, holding))
        self._ups.append(up)
        self._tasks |= {up, down}

    async def _up(
        self,
        reader: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        holding: asyncio.Event | None,
    ) -> None:
        subscribed = False  # the library may need more than one connection to get that far
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                subscribed = subscribed or (holding is not None and b"SUB " in data)
                if holding is None or not subscribed or b"PING\r\n" not in data:
                    server.write(data)
                    continue
                before, ping, after = data.rpartition(b"PING\r\n")
                holding.set()
                server.write(before + ping)
                await self.go.wait()
                server.write(after)

    async def _down(
        self,
        server: asyncio.StreamReader,
        client: asyncio.StreamWriter,
        losing: asyncio.Event,
        holding: asyncio.Event,
    ) -> None:
        with suppress(ConnectionError):
            while data := await server.read(65536):
                if holding.is_set() and not self.go.is_set() and b"PONG\r\n" in data:
                    # The server has done what came before the ping.
                    data = data.replace(b"PONG\r\n", b"")
                    self.subscribed.set()
                if not losing.is_set():
                    client.write(data)


@BOTH_WAYS
async def test_what_a_broken_connection_lost_is_not_passed_over(
    start: Start, nats: NatsClient, nats_url: str
) -> None:
    """What was asked for is still sent after reconnecting: the reader begins anew before that."""
    async with Cut(nats_url) as proxy:
        # The proxy holds pings, too, after the reconnect: they must not end the connection.
        # Nor may a request expire, or what was lost come again, before the test is done.
        handler = await start(url=proxy.url, timeout=300.0, ping=30.0, ack_wait=300.0)
        await publish(nats)
        await handler.until(lambda: handler.seqs == [1])
        proxy.lose()
        await publish(nats, 5)
        proxy.cut()
        async with asyncio.timeout(20):
            await proxy.subscribed.wait()
        await publish(nats)
        await handler.until(lambda: len(handler.seqs) == 2)
        assert handler.seqs == [1, 7]
        assert handler.unpinned == 1
        proxy.go.set()


@BOTH_WAYS
async def test_reconnects_that_are_not_answered_leave_nothing_behind(
    start: Start, nats: NatsClient, nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether one reads or two on what comes: the library ends none of them by itself."""
    flush = NatsClient.flush
    monkeypatch.setattr(NatsClient, "flush", lambda client: flush(client, timeout=0.2))
    async with Cut(nats_url) as proxy:
        handler = await start(url=proxy.url)
        proxy.cut()
        await handler.until(lambda: proxy.connections >= 4)
        proxy.go.set()
        await publish(nats)
        await handler.until(lambda: handler.seqs == [1])
        coroutines = [task.get_coro() for task in asyncio.all_tasks()]
        running = [getattr(coroutine, "__qualname__", "") for coroutine in coroutines]
        # One for the gateway's client and one for the test's own.
        assert running.count("Client._read_loop") == 2
        assert running.count("Client._flusher") == 2
        await handler.until(lambda: proxy.open_clients == 1)
