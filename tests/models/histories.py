"""Directed histories: what they are, and what they begin with.

Each makes something happen in a world and has it come to rest; what should not have happened is
in :attr:`World.wrong` then. `test_histories.py` runs them with the gateway as it is, and
`test_mutants.py` with one that lacks what a history is about.
"""

from __future__ import annotations

from collections.abc import Callable

from daisi_ws.app.ingest import Reading
from daisi_ws.domain.principal import Principal
from tests.models.sim_pod import SimPod, Tab
from tests.models.world import AGENTS, CHATS, IDENTITIES, World

ANN, BOB = IDENTITIES
NOBODYS = "websocket.nobody.here.chats"

History = Callable[[World], None]

HISTORIES: list[History] = []


def history(told: History) -> History:
    """Have a history run by the tests."""
    HISTORIES.append(told)
    return told


def roles(on: World, others: int = 1) -> list[SimPod]:
    """Start some pods and have an event published; return the one that reads, then the others."""
    for _ in range(1 + others):
        on.start_pod()
    on.universe.run(0.5)
    on.publish(NOBODYS)
    on.universe.run(0.5)
    pods = sorted(on.pods, key=lambda p: p.reading is not Reading.READER)
    assert pods[0].reading is Reading.READER
    return pods


def looking(on: World, pod: SimPod, who: Principal) -> Tab:
    """Have a client connect and get an event, so that there is a stream to its pod."""
    tab = on.connect(pod, who)
    on.universe.run(0.5)
    on.publish(AGENTS if who.kind == "admin" else CHATS)
    on.universe.run(0.5)
    assert tab.is_open
    return tab


def drip(on: World, subject: str, events: int, seconds: float) -> None:
    """Publish events one after the other, so many seconds apart."""
    for _ in range(events):
        on.publish(subject)
        on.universe.run(seconds)


def taking_over(on: World, pods: list[SimPod]) -> SimPod:
    """Let time pass until one of these pods takes the reading over; return it."""
    for _ in range(50):
        on.publish(NOBODYS)  # nobody is pinned without an event
        for pod in pods:
            if pod.reading is Reading.TAKING_OVER:
                return pod
        on.universe.run(0.1)
    raise AssertionError("nobody takes the reading over")
