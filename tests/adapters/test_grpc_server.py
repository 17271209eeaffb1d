"""The gRPC server of a pod, spoken to by a raw client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import msgspec
import pytest
from google.protobuf.struct_pb2 import Struct
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from daisi_ws.adapters.grpc_options import FORWARD, PUSH_EVENT, SERVICE, unwrap, wrap
from daisi_ws.adapters.grpc_server import CannotListen, GrpcServer, ServerSettings
from daisi_ws.adapters.pb.dws_message_fwd_pb2 import (
    EnrichedEventPayloadMessage,
    PushEventRequest,
    PushEventResponse,
)
from daisi_ws.config import testing_config
from daisi_ws.domain import packets
from daisi_ws.domain.errors import BadRequest
from daisi_ws.domain.packets import (
    Accepted,
    Barrier,
    BarrierReply,
    Batch,
    Displace,
    Displaced,
    Failed,
    Hello,
    Reply,
    Request,
    Stale,
)
from daisi_ws.metrics import Metrics
from tests.adapters.forwarding import STREAM, Recorder, item, serving, until

SECONDS = 10.0
HELLO = Hello("a-0-1")


@pytest.fixture
async def channel(inbound: Recorder) -> AsyncIterator[grpc.aio.Channel]:
    """A plain channel to a server."""
    async with (
        serving(inbound) as (_, port),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as made,
    ):
        yield made


class Stream:
    """A Forward stream of a client that says whatever it likes."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(
            FORWARD, request_serializer=wrap, response_deserializer=unwrap
        )()

    async def send(self, *requests: Request) -> None:
        for request in requests:
            await self.call.write(packets.encode(request))

    async def reply(self) -> Reply:
        async with asyncio.timeout(SECONDS):
            body = await self.call.read()
        assert isinstance(body, bytes), "the server ended the stream"
        return packets.decode_reply(body)


@asynccontextmanager
async def stream_to(channel: grpc.aio.Channel) -> AsyncIterator[Stream]:
    """Open a stream with its Hello."""
    stream = Stream(channel)
    await stream.send(HELLO)
    try:
        yield stream
    finally:
        stream.call.cancel()


def batch(number: int, *seqs: int, upto: int = 0, epoch: int = 1) -> Batch:
    """Return a batch of events with these sequences."""
    items = [item(seq) for seq in seqs]
    return Batch(epoch, STREAM, max((*seqs, upto)), items, number)


class TestForward:
    """Batches and their answers."""

    async def test_a_batch_is_accepted(self, channel: grpc.aio.Channel, inbound: Recorder) -> None:
        """The receiver gets source, epoch, stream, reach and events; the answer names the batch."""
        async with stream_to(channel) as stream:
            await stream.send(batch(4, 1, 2, upto=5))
            assert await stream.reply() == Accepted(1, 5, 4)
        assert inbound.batches == [("a-0-1", 1, STREAM, 5, 2)]
        assert inbound.items == [item(1), item(2)]

    async def test_one_answer_for_batches_that_waited(
        self, channel: grpc.aio.Channel, inbound: Recorder
    ) -> None:
        """Batches that come together are answered together, the newest named."""
        async with stream_to(channel) as stream:
            await stream.send(batch(1, 1), batch(2, 2), batch(3, 3))
            replies = [await stream.reply()]
            while replies[-1] != Accepted(1, 3, 3):
                replies.append(await stream.reply())
        assert len(replies) < 3
        assert inbound.accepted == [1, 2, 3]

    async def test_events_of_the_hop_are_counted(self, inbound: Recorder) -> None:
        """The tally has every pushed event."""
        metrics = Metrics()
        server = GrpcServer(inbound, ServerSettings(), metrics)
        port = await server.start("127.0.0.1", 0)
        async with (
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
            stream_to(channel) as stream,
        ):
            await stream.send(batch(1, 1, 2, 3))
            await stream.reply()
        await server.stop(0)
        assert metrics.tally.pushed_in == 3

    async def test_a_stale_reader_is_refused(
        self, channel: grpc.aio.Channel, inbound: Recorder
    ) -> None:
        """It learns the newest number known; the stream goes on for a reader with that number."""
        inbound.epoch = 5
        async with stream_to(channel) as stream:
            await stream.send(batch(1, 1, epoch=4))
            assert await stream.reply() == Stale(5, 1)
            await stream.send(batch(2, 1, epoch=5))
            assert await stream.reply() == Accepted(5, 1, 2)

    async def test_withheld_events_are_told_when_they_are_accepted(self, inbound: Recorder) -> None:
        """A changed acceptance is said once, only to who waits for it, and only if it is more."""
        inbound.hold_from = 2
        async with (
            serving(inbound) as (server, port),
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
            stream_to(channel) as stream,
        ):
            await stream.send(batch(1, 1, 2, 3))
            assert await stream.reply() == Accepted(1, 1, 1)
            server.accepted_changed()
            inbound.hold_from = 3
            server.accepted_changed()
            assert await stream.reply() == Accepted(1, 2, 1)
            inbound.hold_from = None
            server.accepted_changed()
            assert await stream.reply() == Accepted(1, 3, 1)
            server.accepted_changed()
            await stream.send(batch(2, 4))
            assert await stream.reply() == Accepted(1, 4, 2)

    async def test_less_accepted_than_before_is_said_apart(
        self, channel: grpc.aio.Channel, inbound: Recorder
    ) -> None:
        """Where sequences do not grow (shared mode), an older withheld event stays withheld."""
        async with stream_to(channel) as stream:
            await stream.send(batch(1, 10))
            await until(lambda: len(inbound.batches) == 1)
            inbound.hold_from = 5
            await stream.send(batch(2, 5))
            assert await stream.reply() == Accepted(1, 10, 1)
            assert await stream.reply() == Accepted(1, 4, 2)

    async def test_a_slow_acceptance_is_announced(
        self, channel: grpc.aio.Channel, inbound: Recorder
    ) -> None:
        """While a batch is not accepted the peer hears that this pod is alive."""
        inbound.gate.clear()
        async with stream_to(channel) as stream:
            await stream.send(batch(1, 1))
            for _ in range(2):
                alive = await stream.reply()
                assert isinstance(alive, Accepted)
                assert alive.number == 0
            inbound.gate.set()
            while (reply := await stream.reply()) != Accepted(1, 1, 1):
                assert reply == alive

    async def test_two_peers_do_not_mix(self, channel: grpc.aio.Channel, inbound: Recorder) -> None:
        """Every stream has its own source and answers."""
        async with stream_to(channel) as one:
            two = Stream(channel)
            await two.send(Hello("b-0-1"), batch(7, 2))
            assert await two.reply() == Accepted(1, 2, 7)
            await one.send(batch(1, 3))
            assert await one.reply() == Accepted(1, 3, 1)
            two.call.cancel()
        assert [source for source, *_ in inbound.batches] == ["b-0-1", "a-0-1"]


class TestQuestions:
    """Barriers and displacements."""

    async def test_a_barrier_is_answered_with_the_position(
        self, channel: grpc.aio.Channel, inbound: Recorder
    ) -> None:
        """The answer carries the question's ID and the reader's position."""
        async with stream_to(channel) as stream:
            await stream.send(Barrier(3, ["websocket.a.b.chats"]))
            assert await stream.reply() == BarrierReply(3, True, 7, STREAM, 41)
        assert inbound.barriers == [("a-0-1", ["websocket.a.b.chats"])]

    async def test_events_do_not_wait_for_a_question(
        self, channel: grpc.aio.Channel, inbound: Recorder
    ) -> None:
        """A displacement that takes long holds no batch up."""
        inbound.gate.clear()
        async with stream_to(channel) as stream:
            await stream.send(Displace(1, "session:a:b:c", "x#1"))
            await until(lambda: inbound.waiting == 1)
            asked, inbound.gate = inbound.gate, asyncio.Event()
            inbound.gate.set()
            await stream.send(batch(1, 1))
            assert await stream.reply() == Accepted(1, 1, 1)
            asked.set()
            assert await stream.reply() == Displaced(1)

    async def test_more_questions_than_are_answered_at_a_time(
        self, channel: grpc.aio.Channel, inbound: Recorder
    ) -> None:
        """They wait for one another, and all are answered."""
        inbound.gate.clear()
        async with stream_to(channel) as stream:
            await stream.send(*(Displace(n, f"session:a:b:{n}", "x#1") for n in range(200)))
            await until(lambda: inbound.waiting >= 10)
            inbound.gate.set()
            answered = {(await stream.reply()).id for _ in range(200)}  # type: ignore[union-attr]
        assert answered == set(range(200))

    async def test_what_cannot_be_done_is_said(
        self, channel: grpc.aio.Channel, inbound: Recorder
    ) -> None:
        """Redis is away: the asking pod hears the reason."""
        inbound.unavailable = "Redis is away"
        async with stream_to(channel) as stream:
            await stream.send(Barrier(3, []), Displace(4, "session:a:b:c", "x#1"))
            assert {await stream.reply(), await stream.reply()} == {
                Failed(3, "Redis is away"),
                Failed(4, "Redis is away"),
            }


class TestMalformed:
    """What is no packet ends the stream, and only the stream."""

    @pytest.mark.parametrize(
        ("bodies", "problem"),
        [
            ([b"\xc1"], "malformed"),
            ([packets.encode(batch(1, 1))], "first packet must be Hello"),
            ([packets.encode(Hello("a b"))], "first packet must be Hello"),
            ([packets.encode(HELLO), packets.encode(HELLO)], "Hello must come once"),
            ([packets.encode(HELLO), b""], "truncated"),
            ([packets.encode(HELLO), msgspec.msgpack.encode([99])], "Invalid value 99"),
            ([packets.encode(HELLO), packets.encode(Accepted(1, 1, 1))], "Invalid value 11"),
            (
                [packets.encode(HELLO), msgspec.msgpack.encode([1, 1, "s", 1, [["x"]], 1])],
                "at least length 4",
            ),
        ],
    )
    async def test_the_stream_ends_with_the_reason(
        self, channel: grpc.aio.Channel, bodies: list[bytes], problem: str
    ) -> None:
        """INVALID_ARGUMENT names what was wrong."""
        stream = Stream(channel)
        for body in bodies:
            await stream.call.write(body)
        with pytest.raises(grpc.aio.AioRpcError, match=problem) as caught:
            await stream.call.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    async def test_a_message_that_is_no_protobuf(self, channel: grpc.aio.Channel) -> None:
        """Bytes that are no `Packet` at all are malformed too, not an internal error."""
        call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(FORWARD)()
        await call.write(b"\xff\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    async def test_other_streams_go_on_and_the_log_is_not_flooded(
        self, channel: grpc.aio.Channel
    ) -> None:
        """Twenty bad streams are one line, and a good one does not notice."""
        with capture_logs() as logs:
            async with stream_to(channel) as good:
                for _ in range(20):
                    bad = Stream(channel)
                    await bad.call.write(b"\xc1")
                    with pytest.raises(grpc.aio.AioRpcError):
                        await bad.call.read()
                await good.send(batch(1, 1))
                assert await good.reply() == Accepted(1, 1, 1)
        assert [line["event"] for line in logs] == ["malformed packet"]


def _push(channel: grpc.aio.Channel, request: PushEventRequest) -> object:
    call: grpc.aio.UnaryUnaryMultiCallable[PushEventRequest, PushEventResponse] = (
        channel.unary_unary(
            PUSH_EVENT,
            request_serializer=PushEventRequest.SerializeToString,
            response_deserializer=PushEventResponse.FromString,
        )
    )
    return call(request, timeout=SECONDS)


def _event(event_type: str = "", **targets: str) -> PushEventRequest:
    row = Struct()
    row.update(
        {"n": 3, "x": 1.5, "big": 2**60, "deep": {"list": [1, None, True, "ü", {"a": -0.5}]}}
    )
    payload = EnrichedEventPayloadMessage(
        event_id="1632321:messages:msg-789",
        company_id="acme",
        agent_id="support",
        message_id="msg-789",
        row_data=row,
        event_type=event_type,
    )
    wanted = {"target_company_id": "acme", "target_agent_id": "support", **targets}
    return PushEventRequest(payload=payload, source_pod_id="old-pod-7", **wanted)


class TestPushEvent:
    """The older service's call."""

    @pytest.mark.parametrize(
        ("request_", "subject"),
        [
            (_event(), "websocket.acme.support.chats"),
            (_event("chat"), "websocket.acme.support.chats"),
            (_event("agent"), "websocket.acme.support.agents"),
            (_event("message", target_chat_id="c1"), "websocket.acme.support.messages.c1"),
            (_event("", target_chat_id="c1"), "websocket.acme.support.messages.c1"),
            (_event("chat", target_company_id=""), "websocket.acme.support.chats"),
        ],
        ids=["none", "chat", "agent", "message", "target chat alone", "target from the payload"],
    )
    async def test_the_kind_decides_the_subject(
        self,
        channel: grpc.aio.Channel,
        inbound: Recorder,
        request_: PushEventRequest,
        subject: str,
    ) -> None:
        """A target chat makes it a message, the type an agent event, else it is a chat event."""
        response = await _push(channel, request_)  # type: ignore[misc]
        assert response == PushEventResponse(success=True, message="delivered to 1 connection")
        ((got, event_id, _, source),) = inbound.events
        assert (got, event_id, source) == (subject, "1632321:messages:msg-789", "old-pod-7")

    async def test_the_payload_becomes_json(
        self, channel: grpc.aio.Channel, inbound: Recorder
    ) -> None:
        """Whole numbers are integers again, nesting survives, empty fields are absent."""
        await _push(channel, _event("chat"))  # type: ignore[misc]
        payload = inbound.events[0][2]
        assert msgspec.json.decode(payload) == {
            "event_id": "1632321:messages:msg-789",
            "company_id": "acme",
            "agent_id": "support",
            "message_id": "msg-789",
            "row_data": {
                "big": float(2**60),
                "deep": {"list": [1, None, True, "ü", {"a": -0.5}]},
                "n": 3,
                "x": 1.5,
            },
        }
        assert b'"n":3,' in payload

    async def test_what_json_cannot_say_is_null(
        self, channel: grpc.aio.Channel, inbound: Recorder
    ) -> None:
        """Infinities and NaN become null instead of broken JSON."""
        event = _event()
        event.payload.row_data.Clear()
        event.payload.row_data.update({"a": float("inf"), "b": float("nan")})
        await _push(channel, event)  # type: ignore[misc]
        assert inbound.events[0][2].endswith(b'"row_data":{"a":null,"b":null}}')

    @pytest.mark.parametrize(
        "request_",
        [
            _event(target_company_id="a.b"),
            _event(target_agent_id="*"),
            _event("message"),
            _event(target_chat_id="c 1"),
            _event(target_chat_id="x" * 129),
        ],
        ids=["separator", "wildcard", "message without chat", "blank", "too long"],
    )
    async def test_bad_ids_are_refused(
        self, channel: grpc.aio.Channel, inbound: Recorder, request_: PushEventRequest
    ) -> None:
        """The call succeeds, its answer says that nothing was done and why."""
        response = await _push(channel, request_)  # type: ignore[misc]
        assert not response.success
        assert "_id is not an identifier" in response.message
        assert inbound.events == []

    async def test_a_refusal_is_an_answer(
        self, channel: grpc.aio.Channel, inbound: Recorder
    ) -> None:
        """What delivery refuses is told with message and details."""
        inbound.refusal = BadRequest("ids contradict", details="company_id is other")
        response = await _push(channel, _event())  # type: ignore[misc]
        assert response == PushEventResponse(
            success=False, message="ids contradict: company_id is other"
        )

    async def test_an_event_without_id_is_refused(
        self, channel: grpc.aio.Channel, inbound: Recorder
    ) -> None:
        """`event_id` is required."""
        event = _event()
        event.payload.event_id = ""
        response = await _push(channel, event)  # type: ignore[misc]
        assert response.message == "event_id must not be empty"
        assert inbound.events == []

    async def test_an_empty_request_is_an_invalid_argument(self, channel: grpc.aio.Channel) -> None:
        """Without payload it is no call at all."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _push(channel, PushEventRequest())  # type: ignore[misc]
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


class TestServer:
    """Health, reflection, ports, the end."""

    async def test_health_follows_set_serving(self, inbound: Recorder) -> None:
        """NOT_SERVING at first, for the whole and for the service; a watcher hears changes."""
        states = health_pb2.HealthCheckResponse
        async with (
            serving(inbound) as (server, port),
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            health = health_pb2_grpc.HealthStub(channel)
            for service in ("", SERVICE):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
                assert answer.status == states.NOT_SERVING
            watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            seen = [(await watch.read()).status]
            for serving_now in (True, False):
                server.set_serving(serving_now)
                seen.append((await watch.read()).status)
            watch.cancel()
        assert seen == [states.NOT_SERVING, states.SERVING, states.NOT_SERVING]

    @pytest.mark.parametrize("enabled", [True, False])
    async def test_reflection_by_configuration(self, inbound: Recorder, enabled: bool) -> None:
        """Off by default; switched on it lists the service."""
        config = testing_config(server__enable_reflection=enabled)
        settings = ServerSettings.from_config(config)
        async with (
            serving(inbound, settings=settings) as (_, port),
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            ask = reflection_pb2.ServerReflectionRequest(list_services="")
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            call = stub.ServerReflectionInfo()
            if not enabled:
                # Nothing is written: a write to a call that has ended is an error of its own.
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call.read()
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
                return
            await call.write(ask)
            listed = (await call.read()).list_services_response.service
            assert SERVICE in [service.name for service in listed]
            call.cancel()

    async def test_a_taken_port_is_named(self, inbound: Recorder) -> None:
        """The error says which address, and that it is in use."""
        async with serving(inbound) as (_, port):
            second = GrpcServer(inbound, ServerSettings(), Metrics())
            with pytest.raises(CannotListen, match=rf"127\.0\.0\.1:{port}: Address already in use"):
                await second.start("127.0.0.1", port)

    async def test_a_foreign_address_is_named(self, inbound: Recorder) -> None:
        """An address that is not this host's cannot be listened on."""
        server = GrpcServer(inbound, ServerSettings(), Metrics())
        with pytest.raises(CannotListen, match=r"192\.0\.2\.1:0: Cannot assign"):
            await server.start("192.0.2.1", 0)

    async def test_stopping_ends_streams_at_once_and_in_good_order(self, inbound: Recorder) -> None:
        """Streams last for ever by themselves: a stop does not wait its grace for them."""
        async with (
            serving(inbound) as (server, port),
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
            stream_to(channel) as stream,
        ):
            await stream.send(batch(1, 1))
            await stream.reply()
            async with asyncio.timeout(3):
                await server.stop(30)
                assert await stream.call.read() is grpc.aio.EOF
            assert await stream.call.code() is grpc.StatusCode.OK

    async def test_a_client_that_vanishes_leaves_nothing(self, inbound: Recorder) -> None:
        """A stream whose client is gone ends, with whatever was being answered."""
        inbound.gate.clear()
        async with serving(inbound) as (server, port):
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stream = Stream(channel)
                await stream.send(HELLO, Displace(1, "session:a:b:c", "x#1"), batch(1, 1))
                await until(lambda: inbound.waiting == 2)
                assert server.streams == 1
            await until(lambda: server.streams == 0)
        assert inbound.displaced == []

    async def test_a_quiet_connection_is_not_ended_because_of_its_pings(
        self, inbound: Recorder
    ) -> None:
        """Keepalive pings without traffic never count as a flood (the default allows a few)."""
        pinging = [("grpc.keepalive_time_ms", 1000), ("grpc.http2.max_pings_without_data", 0)]
        async with (
            serving(inbound) as (_, port),
            grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=pinging) as channel,
            stream_to(channel) as stream,
        ):
            await stream.send(batch(1, 1))
            await stream.reply()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(6):
                    await stream.call.read()
