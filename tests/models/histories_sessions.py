"""Histories of who has a session."""

from __future__ import annotations

from tests.models.histories import ANN, drip, history, looking, roles
from tests.models.sim_pod import SimPod, Tab
from tests.models.world import CHATS, World


@history
def a_session_is_displaced_with_events_on_their_way(on: World) -> None:
    """The older one is silent before the newer one is ready."""
    reader, other = roles(on)
    older = on.connect(other, ANN)
    on.universe.run(0.5)
    newer = on.connect(reader, ANN)
    drip(on, CHATS, 40, 0.001)
    on.settle()
    assert older.closed
    assert newer.is_open


@history
def a_session_is_taken_while_its_pod_stands_still(on: World) -> None:
    """What waited in the pod's sockets, and what it is pushed when it goes on, is not written
    before it has asked whose the session is."""
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


def _taken_unheard(on: World) -> tuple[SimPod, SimPod, Tab]:
    """Have a session be taken while its pod stands still, so that nothing tells it.

    :return: the pod of the older session, that of the newer one, and the newer one.
    """
    _, older_pod = roles(on)
    newer_pod = on.start_pod()
    on.universe.run(0.5)
    looking(on, older_pod, ANN)
    on.pause(older_pod)
    on.universe.cut(*on.between(newer_pod, older_pod))
    on.redis.reset(older_pod.process)
    newer = on.connect(newer_pod, ANN)
    on.universe.run(3.0)
    assert newer.is_open
    return older_pod, newer_pod, newer


@history
def events_come_to_a_pod_that_cannot_ask_whose_its_sessions_are(on: World) -> None:
    """It has gone on, and Redis does not answer it."""
    older_pod, *_ = _taken_unheard(on)
    on.universe.cut(*on.between(older_pod, None))
    on.wake(older_pod)
    drip(on, CHATS, 20, 0.05)
    on.settle()


@history
def events_wait_for_a_pod_that_does_not_know_of_a_takeover(on: World) -> None:
    """They are the first that it finds when it goes on."""
    older_pod, *_ = _taken_unheard(on)
    drip(on, CHATS, 5, 0.01)
    on.wake(older_pod)
    on.universe.run(1.0)
    on.settle()


@history
def a_newer_session_comes_and_goes_unheard(on: World) -> None:
    """The lock is free again, and it is not the older session's."""
    older_pod, newer_pod, newer = _taken_unheard(on)
    newer_pod.disconnect(newer)
    on.universe.run(0.1)
    on.wake(older_pod)
    drip(on, CHATS, 20, 0.1)
    on.settle()


@history
def redis_clock_is_set_back_between_two_sessions(on: World) -> None:
    """The newer one's number is higher all the same."""
    reader, other = roles(on)
    looking(on, other, ANN)
    on.redis.server.skew = -3600.0
    on.connect(reader, ANN)
    on.settle()
