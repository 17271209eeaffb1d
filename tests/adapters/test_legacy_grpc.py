"""Handing events to pods of the older service: from an event's frame to its `PushEvent`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import msgspec
import pytest
from structlog.testing import capture_logs

from daisi_ws.adapters.grpc_options import SERVICE
from daisi_ws.adapters.grpc_tls import TlsFiles
from daisi_ws.adapters.legacy_grpc import QUEUE, LegacyForwarder
from daisi_ws.adapters.pb.dws_message_fwd_pb2 import PushEventRequest, PushEventResponse
from daisi_ws.adapters.push_event import request_of
from daisi_ws.domain import subjects
from daisi_ws.domain.event import event_text
from daisi_ws.domain.subjects import Address
from daisi_ws.metrics import Metrics
from tests.adapters.forwarding import QUICK, Recorder, serving, until, value

OLD = "127.0.0.1"
CHATS = "websocket.acme.support.chats"


def frame(subject: str, number: int = 1, **fields: object) -> bytes:
    """Return an event's frame text as the gateway makes it."""
    address = subjects.parse(subject)
    assert isinstance(address, Address)
    payload = {"event_id": f"e{number}", "company_id": "acme", "row_data": {"n": number}} | fields
    return event_text(address, msgspec.json.encode(payload), number)


class OldPod:
    """A pod of the older service: answers `PushEvent`, and notes what came."""

    def __init__(self) -> None:
        self.requests: list[PushEventRequest] = []
        self.metadata: list[str] = []
        self.answer = PushEventResponse(success=True)
        self.fail_with: list[grpc.StatusCode] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._server: grpc.aio.Server | None = None

    async def start(self, port: int = 0) -> int:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handler = grpc.unary_unary_rpc_method_handler(
            self._push,
            request_deserializer=PushEventRequest.FromString,
            response_serializer=PushEventResponse.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"PushEvent": handler}),)
        )
        bound = self._server.add_insecure_port(f"{OLD}:{port}")
        await self._server.start()
        return bound

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)

    async def _push(
        self,
        request: PushEventRequest,
        context: grpc.aio.ServicerContext[PushEventRequest, PushEventResponse],
    ) -> PushEventResponse:
        await self.gate.wait()
        if self.fail_with:
            await context.abort(self.fail_with.pop(0), "as the test wants it")
        self.requests.append(request)
        self.metadata += [
            str(text)
            for name, text in context.invocation_metadata() or ()
            if name == "x-request-id"
        ]
        return self.answer

    @property
    def event_ids(self) -> list[str]:
        return [request.payload.event_id for request in self.requests]


@pytest.fixture
async def old() -> AsyncIterator[OldPod]:
    """A pod of the older service, not started."""
    pod = OldPod()
    yield pod
    await pod.stop()


@pytest.fixture
async def forwarder(old: OldPod, metrics: Metrics) -> AsyncIterator[LegacyForwarder]:
    """The pushing side, with the older pod's port as `server.grpc_port`."""
    made = LegacyForwarder("a-0-1", await old.start(), QUICK, metrics)
    yield made
    await made.aclose()


async def test_an_event_becomes_a_push(forwarder: LegacyForwarder, old: OldPod) -> None:
    """Payload, targets, source, and the request's ID in the metadata."""
    subject = "websocket.acme.support.messages.c1"
    text = frame(
        subject, agent_id="support", chat_id="c1", event_time="t", row_data={"a": [1, None, {}]}
    )
    forwarder.push(OLD, subject, text, "req-7")
    await until(lambda: bool(old.requests))
    (request,) = old.requests
    assert (request.target_company_id, request.target_agent_id) == ("acme", "support")
    assert (request.target_chat_id, request.source_pod_id) == ("c1", "a-0-1")
    payload = request.payload
    assert (payload.event_id, payload.company_id, payload.agent_id) == ("e1", "acme", "support")
    assert (payload.message_id, payload.event_time, payload.event_type) == ("", "t", "message")
    assert list(payload.row_data["a"]) == [1.0, None, payload.row_data["a"][2]]
    assert old.metadata == ["req-7"]


async def test_one_after_the_other_in_order(
    forwarder: LegacyForwarder, old: OldPod, metrics: Metrics
) -> None:
    """A pod gets its events as they were pushed."""
    for number in range(1, 201):
        forwarder.push(OLD, CHATS, frame(CHATS, number))
    await until(lambda: len(old.requests) == 200)
    assert old.event_ids == [f"e{number}" for number in range(1, 201)]
    await until(lambda: value(metrics, "grpc_messages_sent_total", target_pod="legacy") == 200)


@pytest.mark.parametrize("kind", ["chats", "agents", "messages.c1"])
async def test_there_and_back_it_is_the_same_event(kind: str, metrics: Metrics) -> None:
    """What this project pushes, this project understands as the same subject and payload."""
    inbound = Recorder()
    subject = f"websocket.acme.support.{kind}"
    row = {"n": 3, "f": 0.5, "s": "ü\u2028", "l": [True, None, [], {"x": "y"}], "o": {}}
    text = frame(subject, 9, row_data=row, message_id="m9")
    async with serving(inbound) as (_, port):
        forwarder = LegacyForwarder("a-0-1", port, QUICK, metrics)
        forwarder.push(OLD, subject, text)
        await until(lambda: bool(inbound.events))
        await forwarder.aclose()
    ((got, event_id, payload, source),) = inbound.events
    assert (got, event_id, source) == (subject, "e9", "a-0-1")
    assert msgspec.json.decode(payload) == {
        "event_id": "e9",
        "company_id": "acme",
        "message_id": "m9",
        "row_data": row,
    }


async def test_a_transient_failure_is_retried_once(
    forwarder: LegacyForwarder, old: OldPod, metrics: Metrics
) -> None:
    """The event is not lost, and the next ones wait behind it."""
    old.fail_with = [grpc.StatusCode.UNAVAILABLE]
    forwarder.push(OLD, CHATS, frame(CHATS, 1))
    forwarder.push(OLD, CHATS, frame(CHATS, 2))
    await until(lambda: old.event_ids == ["e1", "e2"])
    assert value(metrics, "grpc_forward_retry_attempts_total") == 1
    assert value(metrics, "grpc_forward_retry_success_total") == 1
    assert value(metrics, "grpc_forward_retry_failure_total") == 0


async def test_what_is_refused_is_lost_counted_and_said_once(
    forwarder: LegacyForwarder, old: OldPod, metrics: Metrics
) -> None:
    """Refusals are not retried; one line when it begins, one when it is over."""
    old.answer = PushEventResponse(success=False, message="no such session")
    with capture_logs() as logs:
        for number in (1, 2, 3):
            forwarder.push(OLD, CHATS, frame(CHATS, number))
        await until(lambda: value(metrics, "grpc_forward_retry_failure_total") == 3)
        old.answer = PushEventResponse(success=True)
        forwarder.push(OLD, CHATS, frame(CHATS, 4))
        await until(lambda: len(logs) == 2)
    assert [line["event"] for line in logs] == [
        "events for an older pod are lost",
        "older pod back",
    ]
    assert logs[0]["reason"] == "refused: no such session"
    assert old.event_ids == ["e1", "e2", "e3", "e4"]


async def test_a_tls_file_that_cannot_be_used_is_said_once(
    old: OldPod, metrics: Metrics, tmp_path: Path
) -> None:
    """However many events are lost by it, each counted; when it is mended they arrive."""
    files = TlsFiles("", "", ca_file=str(tmp_path / "none.pem"), mutual=False)
    forwarder = LegacyForwarder("a-0-1", await old.start(), replace(QUICK, tls=files), metrics)
    with capture_logs() as logs:
        forwarder.push(OLD, CHATS, frame(CHATS, 1))
        await until(lambda: value(metrics, "grpc_forward_retry_failure_total") == 1)
        forwarder.push(OLD, CHATS, frame(CHATS, 2))
        forwarder.push(OLD, CHATS, frame(CHATS, 3))
        await until(lambda: value(metrics, "grpc_forward_retry_failure_total") == 3)
        forwarder.apply(QUICK)
        forwarder.push(OLD, CHATS, frame(CHATS, 4))
        await until(lambda: len(logs) == 2)
    await forwarder.aclose()
    assert [line["event"] for line in logs] == [
        "events for an older pod are lost",
        "older pod back",
    ]
    assert "none.pem" in logs[0]["reason"]
    assert old.event_ids == ["e4"]


async def test_a_pod_that_does_not_answer_has_a_deadline(old: OldPod, metrics: Metrics) -> None:
    """A hanging call is given up after the timeout, and once more."""
    old.gate.clear()
    settings = replace(QUICK, forward_timeout=0.2)
    forwarder = LegacyForwarder("a-0-1", await old.start(), settings, metrics)
    forwarder.push(OLD, CHATS, frame(CHATS))
    await until(lambda: value(metrics, "grpc_forward_retry_failure_total") == 1, 3)
    await forwarder.aclose()


async def test_the_queue_is_bounded(
    forwarder: LegacyForwarder, old: OldPod, metrics: Metrics
) -> None:
    """The oldest give way, and are counted; the newest arrive."""
    old.gate.clear()
    for number in range(1, QUEUE + 101):
        forwarder.push(OLD, CHATS, frame(CHATS, number))
    assert value(metrics, "grpc_forward_retry_failure_total") == 100
    old.gate.set()
    await until(lambda: len(old.requests) == QUEUE)
    assert old.event_ids == [f"e{number}" for number in range(101, QUEUE + 101)]


async def test_an_idle_channel_is_closed_and_made_again(old: OldPod, metrics: Metrics) -> None:
    """After the idle timeout nothing is left of it; the next event opens another."""
    settings = replace(QUICK, idle_timeout=0.05)
    before = asyncio.all_tasks()
    forwarder = LegacyForwarder("a-0-1", await old.start(), settings, metrics)
    forwarder.push(OLD, CHATS, frame(CHATS, 1))
    await until(lambda: old.event_ids == ["e1"])
    running = {task for task in asyncio.all_tasks() - before if "_LegacyPod" in repr(task)}
    await until(lambda: all(task.done() for task in running))
    forwarder.push(OLD, CHATS, frame(CHATS, 2))
    await until(lambda: old.event_ids == ["e1", "e2"])
    await forwarder.aclose()


@pytest.mark.parametrize(
    "value_text",
    [
        b"1" + b"0" * 400,
        b"1" + b"0" * 5000,
        b"1e999",
        b"[" * 60 + b"]" * 60,
        b"[" * 600 + b"]" * 600,
    ],
    ids=["beyond-double", "long", "exponent", "deep", "deeper"],
)
async def test_an_event_that_a_struct_cannot_hold_is_counted(
    forwarder: LegacyForwarder, old: OldPod, metrics: Metrics, value_text: bytes
) -> None:
    """A number beyond doubles, or what is nested too deeply, is lost for that pod, and nothing is
    raised to who hands it on to others as well; the next event arrives."""
    huge = b'{"event_id":"e1","company_id":"acme","row_data":{"n":' + value_text + b"}}"
    address = subjects.parse(CHATS)
    assert address is not None
    forwarder.push(OLD, CHATS, event_text(address, huge, 1))
    forwarder.push(OLD, CHATS, frame(CHATS, 2))
    await until(lambda: old.event_ids == ["e2"])
    assert value(metrics, "grpc_forward_retry_failure_total") == 1


def test_a_subject_that_is_none_is_refused() -> None:
    """Only events are handed on."""
    with pytest.raises(ValueError, match="no event's subject"):
        request_of("elsewhere.x", b"{}", "a-0-1")
