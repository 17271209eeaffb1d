"""Histories that once went wrong, or that chance alone seldom finds."""

from __future__ import annotations

import pytest

from daisi_ws.app.ingest import Reading
from tests.models.sim_pod import SimPod
from tests.models.world import AGENTS, CHATS, IDENTITIES, ROOT, World, world

ANN, BOB = IDENTITIES


def roles(on: World) -> tuple[SimPod, SimPod]:
    """Start two pods and have an event published; return the one that reads, and the other."""
    on.start_pod()
    on.start_pod()
    on.universe.run(0.5)
    on.publish("websocket.nobody.here.chats")
    on.universe.run(0.5)
    reader, other = sorted(on.pods, key=lambda p: p.ingest.state is not Reading.READER)
    assert reader.ingest.state is Reading.READER
    return reader, other


@pytest.mark.parametrize("claims", [False, True])
def test_what_was_pushed_before_the_barriers_answer_comes_once(claims: bool) -> None:
    """The reader's answer overtakes an event on its way: `ready` counts it as had, or it is
    replayed; either way it does not come after that."""
    with world(1) as on:
        reader, other = roles(on)
        on.connect(other, BOB)
        on.universe.run(0.5)
        on.publish(CHATS)  # so that there is a stream from pod to pod
        on.universe.run(0.5)
        on.universe.slow[f"grpc {reader.pod_id}>{other.pod_id}"] = 0.2  # the events
        on.universe.slow[f"grpc {other.pod_id}>{reader.pod_id}"] = 0.05  # the question
        tab = on.connect(other, ROOT, len(on.nats.messages) if claims else None)
        for _ in range(100):
            on.publish(AGENTS)
            on.universe.run(0.001)
        on.universe.slow.clear()
        on.settle()
        assert tab.is_open
        assert on.wrong == []


def test_a_pod_that_was_given_up_accepts_nothing_before_it_has_caught_up() -> None:
    """Its renewed routes have the reader push to it again before it knows that its lease had
    ended; what it missed meanwhile comes first."""
    with world(0) as on:
        pods = [on.start_pod(), on.start_pod()]
        on.universe.run(0.5)
        tab = on.connect(pods[0], ANN)
        on.connect(pods[1], BOB)
        on.connect(pods[0], ROOT)
        on.flow(0.5, 4)
        pods.sort(key=lambda p: p.ingest.state is not Reading.READER)
        pods.append(on.pods[0])
        for number in range(3):
            on.flow(0.0, 3)
            if number == 1:
                pods[2] = on.start_pod()
                on.universe.run(0.2)
            on.pause(pods[number])
            on.flow(0.0, 3)
            if number == 1:
                on.choose(tab, 0)
        on.flow(12.0, 0)
        tab.pod.disconnect(tab)
        for pod, seconds in zip(pods, (1.2, 0.0, 0.05), strict=True):
            on.wake(pod)
            on.flow(0.0, 3)
            on.universe.run(seconds)
        on.settle()
        assert on.wrong == []


def test_a_pod_that_stood_still_while_redis_was_emptied_catches_up() -> None:
    """It finds other data, and no lease of its own in them: it may have been given up, too."""
    with world(0) as on:
        _, other = roles(on)
        tab = on.connect(other, BOB)
        on.universe.run(0.5)
        on.pause(other)
        on.flush()
        for _ in range(40):
            on.publish(CHATS)
            on.universe.run(0.7)
        on.wake(other)
        on.settle()
        assert tab.is_open
        assert on.wrong == []


def test_a_displaced_session_is_silent_before_the_newer_one_is_ready() -> None:
    """Whatever is on its way to the older one."""
    with world(0) as on:
        reader, other = roles(on)
        older = on.connect(other, ANN)
        on.universe.run(0.5)
        newer = on.connect(reader, ANN)
        for _ in range(40):
            on.publish(CHATS)
            on.universe.run(0.001)
        on.settle()
        assert older.closed
        assert newer.is_open
        assert on.wrong == []


def test_a_session_that_was_taken_while_its_pod_stood_still_stays_silent() -> None:
    """What waited in the pod's sockets, and what it is pushed when it goes on, is not written
    before it has asked whose the session is."""
    with world(3) as on:
        _, other = roles(on)
        older = on.connect(other, ANN)
        on.universe.run(0.5)
        on.publish(CHATS)
        on.universe.run(0.0005)
        on.pause(other)
        on.flow(0.002, 6)
        on.universe.run(3.0)
        third = on.start_pod()
        on.universe.run(0.5)
        newer = on.connect(third, ANN)
        on.flow(2.0, 6)
        on.flow(9.0, 6)
        on.wake(other)
        on.flow(0.01, 6)
        on.settle()
        assert older.closed
        assert newer.is_open
        assert on.wrong == []
