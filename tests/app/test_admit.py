"""Admission: in which order things are asked for, and what that spares."""

from __future__ import annotations

import pytest
from nats.aio.client import Client as NatsClient
from structlog.testing import capture_logs

from daisi_ws.app.connection import Connection, State
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.errors import InternalServerError, Refusal, SubscriptionFailure, Unavailable
from daisi_ws.domain.resume import Claim
from daisi_ws.domain.streams import Point
from tests.app.pods import InProcessPod, publish, until


async def test_who_cannot_be_admitted_with_its_position_displaces_nobody(
    pods: list[InProcessPod], nats: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old connection delivers until all that could fail has succeeded."""
    old = await pods[0].user("ann", claim=Claim(None))
    seq = await publish(nats)
    await until(lambda: old.seqs() == [seq])

    async def fail(connection: Connection, interest: str) -> Point:
        raise Unavailable("the reader does not answer")

    with monkeypatch.context() as broken:
        broken.setattr(pods[1].parts.interests, "want", fail)
        with pytest.raises(Exception, match="not admitted"):
            await pods[1].user("ann", claim=Claim(seq))
    assert old.connection.state is State.OPEN
    again = await publish(nats)
    await until(lambda: old.seqs() == [seq, again])
    new = await pods[1].user("ann", claim=Claim(seq))
    assert old.connection.reason is CloseReason.DISPLACED
    await until(lambda: new.seqs() == [again])


async def test_what_came_while_the_session_was_waited_for_is_read_again(
    pods: list[InProcessPod], nats: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than may be held: nothing is missing all the same."""
    first = await publish(nats)
    pod = pods[1]
    monkeypatch.setattr(pod.parts.resumption, "hold", _hold_little)
    acquire = pod.parts.sessions.acquire
    sent: list[int] = []

    async def slowly(connection: Connection) -> object:
        sent.extend([await publish(nats) for _ in range(300)])
        await until(lambda: connection.outbox.dropped_upto > 0)
        return await acquire(connection)

    monkeypatch.setattr(pod.parts.admission._sessions, "acquire", slowly)
    tab = await pod.user("ann", claim=Claim(first))
    assert tab.sink.messages()[0]["recovered"] is True
    await until(lambda: tab.seqs() == sent)


async def test_clients_are_not_told_where_a_dependency_is(
    pods: list[InProcessPod], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Address and answer of what is away are in the log, and in no refusal."""
    problem = "Redis is away: Error 111 connecting to 10.9.8.7:6379. Connection refused."
    tab = await pods[0].user("ann")

    async def fail(*_: object, **__: object) -> Point:
        raise Unavailable(problem)

    monkeypatch.setattr(pods[0].parts.interests, "want", fail)
    monkeypatch.setattr("daisi_ws.log.limit._LIMITS", {})
    with capture_logs() as lines:
        with pytest.raises(SubscriptionFailure) as chat:
            await tab.choose("chat-1")
        with pytest.raises(InternalServerError) as newcomer:
            await pods[0].user("bob")
    assert [line["problem"] for line in lines if "dependency" in line["event"]] == [problem]
    for refused in (chat, newcomer):
        assert _told(refused.value) == "something that this needs does not answer; try again"


async def test_clients_are_not_told_what_failed_inside(
    pods: list[InProcessPod], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception that nobody expected may say anything."""

    async def fail(*_: object) -> None:
        raise KeyError("10.9.8.7")

    monkeypatch.setattr(pods[0].parts.routes, "add", fail)
    with pytest.raises(SubscriptionFailure) as newcomer:
        await pods[0].user("ann")
    assert _told(newcomer.value) == "something failed here; try again"


def _told(refusal: Refusal) -> object:
    return refusal.body()["details"]


def _hold_little(connection: Connection) -> None:
    connection.positions = True
    connection.hold(5, 4096)
