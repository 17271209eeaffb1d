"""Pods of the older service push to ours: `PushEvent`, health and reflection over gRPC."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from redis.asyncio import Redis

from daisi_ws.adapters.pb.dws_message_fwd_pb2 import (
    EnrichedEventPayloadMessage,
    PushEventRequest,
    PushEventResponse,
)
from tests.cluster import Host
from tests.e2e.tabs import Gateway, Tab, stored, until

PUSH_EVENT = "/dws_message_fwd.MessageForwardingService/PushEvent"
SERVICE = "dws_message_fwd.MessageForwardingService"
SECONDS = 5

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]


@contextmanager
def channel(address: str) -> Iterator[grpc.Channel]:
    """Connect to a pod as the older service does: a client of the standard library."""
    with grpc.insecure_channel(address) as connected:
        yield connected


async def addresses(running: Gateway) -> dict[str, str]:
    """Return the gRPC address of every pod."""
    async with running.redis() as redis:
        keys = await redis.keys("pod:*")
        records = [json.loads(await stored(redis, str(key))) for key in keys]
    return {record["pod_id"]: record["address"] for record in records}


async def pod_of(redis: Redis, tab_user: str, company: str = "acme", agent: str = "bot") -> str:
    """Return the pod that has a user's session."""
    return (await stored(redis, f"session:{company}:{agent}:{tab_user}")).partition("#")[0]


def event(event_id: str, **fields: str) -> EnrichedEventPayloadMessage:
    """Return an event of acme's bot."""
    message = EnrichedEventPayloadMessage(event_id=event_id, company_id="acme", agent_id="bot")
    for field, value in fields.items():
        setattr(message, field, value)
    message.row_data.update({"text": "hi", "n": 7, "x": 1.5, "deep": {"list": [None, True]}})
    return message


def request(payload: EnrichedEventPayloadMessage | None, **target: str) -> PushEventRequest:
    """Return a push to acme's bot."""
    targets = {"target_company_id": "acme", "target_agent_id": "bot", **target}
    return PushEventRequest(payload=payload, source_pod_id="older-pod", **targets)


async def push(address: str, message: PushEventRequest | bytes) -> PushEventResponse:
    """Call `PushEvent`."""
    data = message if isinstance(message, bytes) else message.SerializeToString()

    def call() -> PushEventResponse:
        with channel(address) as connected:
            rpc: grpc.UnaryUnaryMultiCallable[bytes, PushEventResponse] = connected.unary_unary(
                PUSH_EVENT, bytes, PushEventResponse.FromString
            )
            return rpc(data, timeout=SECONDS, metadata=(("x-request-id", "from-older-pod"),))

    return await asyncio.to_thread(call)


async def where_is(running: Gateway, user: str) -> str:
    """Return the gRPC address of the pod that has a user's session."""
    async with running.redis() as redis:
        return (await addresses(running))[await pod_of(redis, user)]


async def test_a_pushed_event_reaches_the_user(running: Gateway, name: str) -> None:
    """Chats and the selected thread, with the contract's payload, and no `seq`."""
    tab = await running.user(user=name)
    await tab.select_chat("c-1")
    address = await where_is(running, name)
    answer = await push(address, request(event(f"{name}-chat", event_type="chat")))
    assert answer.success
    thread = event(f"{name}-message", event_type="message", chat_id="c-1", message_id="m-1")
    assert (await push(address, request(thread, target_chat_id="c-1"))).success
    other = event(f"{name}-other", event_type="message", chat_id="c-2")
    assert (await push(address, request(other, target_chat_id="c-2"))).success
    await tab.got(f"{name}-message")
    await tab.echo()
    row = {"text": "hi", "n": 7, "x": 1.5, "deep": {"list": [None, True]}}
    ids = {"company_id": "acme", "agent_id": "bot"}
    assert [e.message for e in tab.events] == [
        {
            "type": "event",
            "payload": {
                "event_id": f"{name}-chat",
                **ids,
                "row_data": row,
                "event_type": "chat",
            },
        },
        {
            "type": "event",
            "payload": {
                "event_id": f"{name}-message",
                **ids,
                "message_id": "m-1",
                "chat_id": "c-1",
                "row_data": row,
                "event_type": "message",
            },
        },
    ]


async def test_an_admins_event_can_be_pushed(running: Gateway, name: str) -> None:
    """An agents event reaches the admins of that pod whose scope admits it."""
    mine = await running.admin(name, company_id_restriction="acme")
    async with running.redis() as redis:
        pod = (await stored(redis, f"session:admin:{name}")).partition("#")[0]
    address = (await addresses(running))[pod]
    foreign = event(f"{name}-b", event_type="agent", company_id="umbrella")
    assert (await push(address, request(foreign, target_company_id="umbrella"))).success
    assert (await push(address, request(event(f"{name}-a", event_type="agent")))).success
    await mine.got(f"{name}-a")
    assert mine.ids == [f"{name}-a"]


async def test_pushed_and_published_is_delivered_once(running: Gateway, name: str) -> None:
    """Whichever comes first, on the pod that reads the stream and on the other: users get each
    event once."""
    tabs: dict[int, Tab] = {}
    where: dict[int, str] = {}
    # The kernel says who gets which worker: by chance all the same one.
    while len(tabs) < 4 or len(set(where.values())) < 2:
        number = len(tabs)
        tabs[number] = await running.user(user=f"{name}-{number}")
        where[number] = await where_is(running, f"{name}-{number}")
    async with running.feed() as feed:
        for address in set(where.values()):  # from now on older pods are known to push
            await push(address, request(event(f"{name}-first", event_type="chat")))
        for number in range(20):
            both = f"{name}-both-{number}"
            pushes = [
                push(address, request(event(both, event_type="chat")))
                for address in set(where.values())
            ]
            if number % 2:
                await asyncio.gather(*pushes)
                await feed.put("websocket.acme.bot.chats", both)
            else:
                await feed.put("websocket.acme.bot.chats", both)
                await asyncio.gather(*pushes)
        last = await feed.put("websocket.acme.bot.chats")
    for tab in tabs.values():
        await tab.got(last)
        expected = [f"{name}-first", *(f"{name}-both-{n}" for n in range(20)), last]
        assert sorted(map(str, tab.ids)) == sorted(expected)


async def test_a_foreign_tenants_user_gets_nothing(running: Gateway, name: str) -> None:
    """Targets and ids of the payload must be one tenant's; nothing is delivered to another."""
    tab = await running.user("umbrella", "bot", name)
    async with running.redis() as redis:
        address = (await addresses(running))[await pod_of(redis, name, "umbrella")]
    contradicting = request(event(f"{name}-1", event_type="chat"), target_company_id="umbrella")
    assert not (await push(address, contradicting)).success
    other_agent = event(f"{name}-2", company_id="umbrella", agent_id="other", event_type="chat")
    message = request(other_agent, target_company_id="umbrella")
    assert not (await push(address, message)).success
    assert (await push(address, request(event(f"{name}-3", event_type="chat")))).success
    mine = event(f"{name}-4", company_id="umbrella", event_type="chat")
    assert (await push(address, request(mine, target_company_id="umbrella"))).success
    await tab.got(f"{name}-4")
    assert tab.ids == [f"{name}-4"]


BAD: list[Callable[[str], PushEventRequest]] = [
    lambda name: request(event("", event_type="chat")),
    lambda name: request(event(name), target_company_id="*"),
    lambda name: request(event(name), target_agent_id="a.b"),
    lambda name: request(event(name), target_agent_id=">"),
    lambda name: request(event(name), target_chat_id="a b"),
    lambda name: request(event(name, event_type="message")),
    lambda name: request(event(name, agent_id="other")),
    lambda name: request(event(name, company_id="ac:me"), target_company_id="ac:me"),
    lambda name: PushEventRequest(payload=EnrichedEventPayloadMessage(event_id=name)),
    lambda name: request(event(name), target_company_id="a" * 129),
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
async def test_bad_pushes_are_refused(
    running: Gateway, name: str, bad: Callable[[str], PushEventRequest]
) -> None:
    """With `success` false and a message that says why."""
    for address in (await addresses(running)).values():
        answer = await push(address, bad(name))
        assert not answer.success
        assert answer.message


@pytest.mark.parametrize("data", [b"", b"\xff\xff\xff\xff", b"\x0a\xff"])
async def test_no_push_at_all_is_an_error(running: Gateway, data: bytes) -> None:
    """A request without payload, and one that is no protobuf, are INVALID_ARGUMENT, without a
    traceback."""
    for address in (await addresses(running)).values():
        with pytest.raises(grpc.RpcError) as failed:
            await push(address, data)
        assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "Traceback" not in running.host.log_text()


async def test_row_data_is_told_as_json(running: Gateway, name: str) -> None:
    """What protobuf can say and JSON cannot becomes null; empty row_data is an empty object."""
    tab = await running.user(user=name)
    address = await where_is(running, name)
    empty = EnrichedEventPayloadMessage(event_id=f"{name}-1", company_id="acme", event_type="chat")
    strange = EnrichedEventPayloadMessage(event_id=f"{name}-2", company_id="acme")
    values = Struct()
    values.update({"nan": float("nan"), "inf": float("inf"), "big": 2.0**60, "é": "\x00🙂"})
    strange.row_data.CopyFrom(values)
    for message in (empty, strange):
        assert (await push(address, request(message))).success
    first, second = await tab.got(f"{name}-1"), await tab.got(f"{name}-2")
    assert first.payload["row_data"] == {}
    row = second.payload["row_data"]
    assert row == {"nan": None, "inf": None, "big": 2.0**60, "é": "\x00🙂"}


async def test_the_standard_health_service_is_served(running: Gateway) -> None:
    """Every pod says SERVING, for itself and for the service; others are unknown."""

    def check(address: str, service: str) -> int:
        with channel(address) as connected:
            stub = health_pb2_grpc.HealthStub(connected)
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS)
            return int(answer.status)

    for address in (await addresses(running)).values():

        async def serving(address: str = address) -> bool:
            states = [await asyncio.to_thread(check, address, s) for s in ("", SERVICE)]
            return set(states) == {health_pb2.HealthCheckResponse.SERVING}

        await until(serving, what="SERVING")
        with pytest.raises(grpc.RpcError) as failed:
            await asyncio.to_thread(check, address, "unknown")
        assert failed.value.code() is grpc.StatusCode.NOT_FOUND


def services(address: str) -> list[str]:
    """Return what reflection tells."""
    with channel(address) as connected:
        stub = reflection_pb2_grpc.ServerReflectionStub(connected)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = stub.ServerReflectionInfo(iter([asked]), timeout=SECONDS)
        return [service.name for service in answer.list_services_response.service]


async def test_reflection_is_off_unless_it_is_asked_for(running: Gateway) -> None:
    """By default UNIMPLEMENTED; with `server.enable_reflection` it tells the services."""
    for address in (await addresses(running)).values():
        with pytest.raises(grpc.RpcError) as failed:
            await asyncio.to_thread(services, address)
        assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
    telling = Host(
        running.folder,
        running.redis_url,
        running.nats_url,
        keys=running.keys,
        name="telling",
        workers=1,
        environment={"DAISI_WS_SERVER_ENABLE_REFLECTION": "true"},
    )
    try:
        telling.start()
        await telling.wait_ready()
        told = await asyncio.to_thread(services, f"127.0.0.1:{telling.grpc_port}")
        assert SERVICE in told
    finally:
        await telling.close()
