"""Histories of reading, handing on, and routes."""

from __future__ import annotations

from collections.abc import Sequence

from daisi_ws.app.ingest import Reading
from tests.models.histories import (
    ANN,
    BOB,
    drip,
    history,
    looking,
    roles,
    taking_over,
)
from tests.models.sim_pod import SimPod, Tab
from tests.models.world import AGENTS, CHATS, IDENTITIES, ROOT, THREADS, World

# -- the reader goes, or stands still -------------------------------------------------------------


@history
def the_reader_dies_with_events_on_their_way(on: World) -> None:
    """What no other pod has accepted is not acknowledged: the next reader reads it again."""
    reader, other = roles(on)
    looking(on, other, BOB)
    on.universe.slow[f"grpc {reader.pod_id}>{other.pod_id}"] = 1.0
    drip(on, CHATS, 10, 0.02)
    on.kill(reader)
    on.universe.slow.clear()
    on.settle()


@history
def the_reader_dies_after_redis_clock_was_set_back(on: World) -> None:
    """The next reader's number is higher all the same, or nobody would accept what it hands on."""
    reader, other = roles(on)
    looking(on, other, BOB)
    on.redis.server.skew = -3600.0
    on.kill(reader)
    drip(on, CHATS, 10, 0.5)
    on.settle()


def _succeeded(
    on: World, handed_on: Sequence[str] = (), left: Sequence[str] = ()
) -> tuple[SimPod, SimPod]:
    """Have the reader stand still, another take over, and a thread be chosen in between; what the
    new reader hands on then is long on its way.

    :param handed_on: subjects of events that the old reader has handed on; they are on their way.
    :param left: of events that it has not looked at.
    :return: the reader that was, and the new one.
    """
    was, *others = roles(on, 2)
    tabs: dict[SimPod, Tab] = {}
    for pod, who in zip(others, IDENTITIES, strict=True):
        tabs[pod] = looking(on, pod, who)
    drip(on, THREADS[0], 1, 0.5)  # the reader knows that nobody has this route
    for pod in others:
        on.universe.slow[f"grpc {was.pod_id}>{pod.pod_id}"] = 4.0
    for subject in handed_on:
        drip(on, subject, 1, 0.01)
    on.pause(was)
    for subject in left:
        on.publish(subject)
    for pod in others:
        on.universe.slow[f"nats>{pod.pod_id}"] = 0.3
    new = taking_over(on, others)
    chooser = next(pod for pod in others if pod is not new)
    on.universe.run(0.32)  # it has been told that it is pinned, and has claimed the reading
    on.universe.slow[f"grpc {new.pod_id}>{chooser.pod_id}"] = 3.0
    on.choose(tabs[chooser], 0)
    on.universe.run(0.7)
    assert new.reading is Reading.READER
    assert THREADS[0] in tabs[chooser].since
    return was, new


@history
def what_a_reader_that_was_has_pushed_comes_late(on: World) -> None:
    """It is without the thread that was chosen since: who believed it would take what the new
    reader hands on for known."""
    _succeeded(on, handed_on=[CHATS, THREADS[0], CHATS])
    on.universe.run(2.0)
    on.settle()


@history
def a_reader_that_was_hands_on_by_old_routes(on: World) -> None:
    """What waited at its door, when it goes on."""
    was, _ = _succeeded(on, left=[CHATS, THREADS[0], CHATS])
    on.universe.slow.clear()
    on.wake(was)
    on.settle()


@history
def a_reader_that_was_acknowledges_by_old_routes(on: World) -> None:
    """It knows of nobody who wants what waited at its door, and the new reader, which has promised
    it, dies before it has handed it on."""
    was, new = _succeeded(on, left=[THREADS[0]])
    on.wake(was)
    on.universe.run(0.05)
    on.kill(new)
    on.universe.slow.clear()
    on.settle()


# -- a pod stands still, or is given up -----------------------------------------------------------


@history
def a_pod_that_was_given_up_is_pushed_to_before_it_knows(on: World) -> None:
    """Its renewed routes have the reader push to it again before it knows that its lease had
    ended; what it missed meanwhile comes first."""
    pods = [on.start_pod(), on.start_pod()]
    on.universe.run(0.5)
    tab = on.connect(pods[0], ANN)
    on.connect(pods[1], BOB)
    on.connect(pods[0], ROOT)
    on.flow(0.5, 4)
    pods.sort(key=lambda p: p.reading is not Reading.READER)
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


@history
def a_pod_stands_still_while_redis_is_emptied(on: World) -> None:
    """It finds other data, and no lease of its own in them: it may have been given up, too."""
    _, other = roles(on)
    tab = on.connect(other, BOB)
    on.universe.run(0.5)
    on.pause(other)
    on.flush()
    drip(on, CHATS, 40, 0.7)
    on.wake(other)
    on.settle()
    assert tab.is_open


@history
def more_comes_to_a_pod_that_is_not_sure_than_an_outbox_takes(on: World) -> None:
    """It waits in the reader's queue: a client that reads all the time loses nothing."""
    _, other = roles(on)
    looking(on, other, BOB)
    on.pause(other)
    on.universe.run(2.0)
    on.universe.cut(*on.between(other, None))
    on.wake(other)
    drip(on, CHATS, 1200, 0.001)
    on.settle()


# -- routes ---------------------------------------------------------------------------------------


def _ready_before_events(on: World, *, claims: bool) -> None:
    reader, other = roles(on)
    looking(on, other, BOB)
    on.universe.slow[f"grpc {reader.pod_id}>{other.pod_id}"] = 0.2  # the events
    on.universe.slow[f"grpc {other.pod_id}>{reader.pod_id}"] = 0.05  # the question
    tab = on.connect(other, ROOT, len(on.nats.messages) if claims else None)
    drip(on, AGENTS, 100, 0.001)
    on.universe.slow.clear()
    on.settle()
    assert tab.is_open


@history
def the_barriers_answer_overtakes_events(on: World) -> None:
    """`ready` counts what is on its way as had: it does not come after that."""
    _ready_before_events(on, claims=False)


@history
def the_barriers_answer_overtakes_events_to_be_replayed(on: World) -> None:
    """What is on its way is replayed: it does not come after that."""
    _ready_before_events(on, claims=True)


@history
def a_route_is_added_and_redis_tells_it_late(on: World) -> None:
    """The reader hears of it from the pod that adds it."""
    reader, other = roles(on)
    tab = looking(on, other, BOB)
    drip(on, THREADS[0], 3, 0.1)
    on.universe.slow[f"redis {reader.pod_id} down"] = 0.3
    on.choose(tab, 0)
    drip(on, THREADS[0], 100, 0.001)
    on.universe.slow.clear()
    on.settle()


@history
def a_route_is_added_while_it_is_read(on: World) -> None:
    """What was read arrives after the word that it has changed."""
    reader, other = roles(on)
    tab = looking(on, other, BOB)
    on.universe.slow[f"redis {reader.pod_id} down"] = 0.3
    drip(on, THREADS[0], 1, 0.02)
    on.choose(tab, 0)
    on.universe.run(0.1)
    drip(on, THREADS[0], 10, 0.01)
    on.universe.slow.clear()
    on.settle()


@history
def redis_is_emptied_and_a_pod_hears_of_it_late(on: World) -> None:
    """Until that pod has registered again it is given everything, whatever its routes are; then
    they are read anew, although no pod tells that they have changed."""
    _, other = roles(on)
    looking(on, other, BOB)
    on.universe.slow[f"redis {other.pod_id} down"] = 0.3
    on.flush()
    drip(on, CHATS, 100, 0.001)
    drip(on, CHATS, 20, 0.05)
    on.universe.slow.clear()
    drip(on, CHATS, 10, 0.5)
    on.settle()


@history
def redis_goes_away_before_a_new_pod_is_seen(on: World) -> None:
    """The reader knows it from its question, and gives it everything."""
    reader, _ = roles(on)
    on.universe.slow[f"redis {reader.pod_id} down"] = 0.3
    newest = on.start_pod()
    assert on.universe.run_until(lambda: newest.joined, 5.0)
    tab = on.connect(newest, BOB)
    assert on.universe.run_until(lambda: tab.is_open, 5.0)
    on.redis.up = False
    on.redis.reset()
    drip(on, CHATS, 20, 0.1)
    on.universe.slow.clear()
    on.settle()
