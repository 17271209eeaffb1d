"""Sessions, leases, routes and the reader's takeover, under any history of events and faults.

The use cases are the real ones, so are the Redis adapters, their Lua and the links between pods;
Redis, NATS, the network and time are simulated. What must hold is checked with every byte that
reaches a client (`world.py`), and once more when everything has come to rest: one owner for each
fencing number, no older session delivers after `ready`, whoever looks at something is in its
route and holds its lock, every event after `ready` comes once, in order.

A failing history is printed as a program. To search longer, and anew each time::

    HYPOTHESIS_PROFILE=models-long python -m pytest tests/models -p no:cacheprovider
"""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from daisi_ws.app.ingest import Reading
from tests.models.sim_pod import SimPod, Tab
from tests.models.world import IDENTITIES, ROOT, THREADS, World, world

_SLOW = list(HealthCheck)
_SHORT = settings(
    max_examples=25,
    stateful_step_count=30,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=_SLOW,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    print_blob=False,
)
_LONG = settings(_SHORT, max_examples=20_000, stateful_step_count=60, derandomize=False)

MOMENTS = st.sampled_from([0.0, 0.0005, 0.002, 0.004, 0.01, 0.05, 0.3, 0.9])
EVERYBODY = [*IDENTITIES, ROOT]
MOST_PODS = 3
MOST_TABS = 6


class Cluster(RuleBasedStateMachine):
    """Anything that may happen to a cluster, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self.world: World

    @initialize(seed=st.integers(0, 2**16), pods=st.integers(2, MOST_PODS))
    def begin(self, seed: int, pods: int) -> None:
        """Start some pods; two users and an admin connect, and one pod reads."""
        self.world = self._stack.enter_context(world(seed))
        started = [self.world.start_pod() for _ in range(pods)]
        self.world.universe.run(0.5)
        for number, who in enumerate(EVERYBODY):
            self.world.connect(started[number % pods], who)
        self.world.flow(0.5, 4)

    # -- who is there -----------------------------------------------------------------------------

    @property
    def pods(self) -> list[SimPod]:
        """All pods that live and have joined, paused ones too."""
        return [pod for pod in self.world.pods if pod.joined]

    @property
    def tabs(self) -> list[Tab]:
        """The clients that are ready and not closed."""
        return [tab for tab in self.world.tabs if tab.is_open]

    # -- clients ----------------------------------------------------------------------------------

    @precondition(lambda self: self.pods)
    @rule(data=st.data(), who=st.sampled_from(EVERYBODY), resume=st.booleans())
    def connect(self, data: st.DataObject, who: object, resume: bool) -> None:
        """A client connects, perhaps with the position of its last connection."""
        pod = data.draw(st.sampled_from(self.pods))
        self._trim()
        last = [t.newest for t in self.world.tabs if t.who is who and t.ready_at]
        assert who in EVERYBODY
        chosen = next(p for p in EVERYBODY if p is who)
        self.world.connect(pod, chosen, last[-1] if resume and last else None)

    @precondition(lambda self: self.tabs)
    @rule(data=st.data())
    def disconnect(self, data: st.DataObject) -> None:
        """A client leaves."""
        tab = data.draw(st.sampled_from(self.tabs))
        tab.pod.disconnect(tab)

    @precondition(lambda self: any(t.who.kind == "user" for t in self.tabs))
    @rule(data=st.data(), chat=st.integers(0, len(THREADS) - 1))
    def choose(self, data: st.DataObject, chat: int) -> None:
        """A user selects a chat."""
        tab = data.draw(st.sampled_from([t for t in self.tabs if t.who.kind == "user"]))
        self.world.choose(tab, chat)

    # -- events and time --------------------------------------------------------------------------

    @rule(seconds=MOMENTS, events=st.integers(0, 6))
    def flow(self, seconds: float, events: int) -> None:
        """Hardly any time passes, and events are published."""
        self.world.flow(seconds, events)

    @rule(seconds=st.sampled_from([1.2, 2.5, 7.0, 12.0, 35.0]), events=st.integers(0, 6))
    def expire(self, seconds: float, events: int) -> None:
        """Time passes: pins, leases and locks end that nobody renews."""
        self.world.flow(seconds, events)

    # -- faults, in the middle of events ----------------------------------------------------------

    @precondition(lambda self: len(self.world.pods) < MOST_PODS)
    @rule()
    def start(self) -> None:
        """A pod is started."""
        self.world.start_pod()
        self.world.universe.run(0.2)

    @precondition(lambda self: len(self.world.pods) > 1)
    @rule(data=st.data(), seconds=MOMENTS, reader=st.booleans())
    def kill(self, data: st.DataObject, seconds: float, reader: bool) -> None:
        """A pod is killed, running or paused."""
        self.world.flow(seconds, 3)
        self.world.kill(self._victim(data, self.world.pods, reader))

    @precondition(lambda self: any(not p.process.paused for p in self.pods))
    @rule(data=st.data(), seconds=MOMENTS, reader=st.booleans())
    def pause(self, data: st.DataObject, seconds: float, reader: bool) -> None:
        """A pod's process is stopped."""
        self.world.flow(seconds, 3)
        running = [p for p in self.pods if not p.process.paused]
        self.world.pause(self._victim(data, running, reader))
        self.world.flow(seconds, 3)

    @precondition(lambda self: any(p.process.paused for p in self.pods))
    @rule(data=st.data(), seconds=MOMENTS)
    def wake(self, data: st.DataObject, seconds: float) -> None:
        """It goes on."""
        paused = [p for p in self.pods if p.process.paused]
        self.world.wake(data.draw(st.sampled_from(paused)))
        self.world.flow(seconds, 3)

    @precondition(lambda self: self.pods)
    @rule(data=st.data(), seconds=MOMENTS, fault=st.sampled_from(["reset", "restart", "empty"]))
    def redis(self, data: st.DataObject, seconds: float, fault: str) -> None:
        """A connection to Redis is reset, or Redis is away for a while, or it loses everything,
        restarting or not."""
        self.world.flow(seconds, 3)
        away = data.draw(st.sampled_from([0.0, 0.05, 1.0, 8.0]))
        if fault == "reset":
            self.world.redis.reset(data.draw(st.sampled_from(self.pods)).process)
        elif away:
            self.world.redis.up = False
            self.world.redis.reset()
            self.world.flow(away, 3)
        if fault == "empty":
            self.world.flush()
        self.world.redis.up = True
        self.world.flow(seconds, 3)

    # -- the ways between them --------------------------------------------------------------------

    @precondition(lambda self: self.pods)
    @rule(data=st.data(), seconds=st.sampled_from([0.05, 0.3]))
    def slow(self, data: st.DataObject, seconds: float) -> None:
        """What is sent on one way takes longer, until it is another way's turn."""
        way = data.draw(st.sampled_from(self._ways()))
        self.world.universe.slow = {way: seconds}

    @precondition(lambda self: len(self.pods) > 1)
    @rule(data=st.data(), seconds=st.sampled_from([0.3, 1.2, 3.0]))
    def cut(self, data: st.DataObject, seconds: float) -> None:
        """Nothing gets through between two pods, or between a pod and Redis, for a while."""
        pods = self.pods
        one = data.draw(st.sampled_from(pods))
        ways = self.world.between(one, data.draw(st.sampled_from([None, *pods])))
        self.world.universe.cut(*ways)
        self.world.flow(seconds, 4)
        self.world.universe.mend(*ways)

    def _ways(self) -> list[str]:
        ways: list[str] = []
        for one in self.pods:
            ways += [f"nats>{one.pod_id}", f"{one.pod_id}>nats"]
            for other in (None, *self.pods):
                ways += self.world.between(one, other)
        return ways

    # -- what must hold ---------------------------------------------------------------------------

    @invariant()
    def nothing_went_wrong(self) -> None:
        """See :class:`World`."""
        assert not self.world.wrong, self.world.wrong

    def teardown(self) -> None:
        """Come to rest, and end."""
        with self._stack:
            if hasattr(self, "world") and not self.world.wrong:
                self.world.settle()
                assert not self.world.wrong, self.world.wrong

    def _victim(self, data: st.DataObject, pods: list[SimPod], reader: bool) -> SimPod:
        reading = [p for p in pods if p.joined and p.reading is Reading.READER]
        return data.draw(st.sampled_from(reading if reader and reading else pods))

    def _trim(self) -> None:
        """Let the oldest client go before there are too many."""
        if len(self.tabs) >= MOST_TABS:
            self.tabs[0].pod.disconnect(self.tabs[0])


# It waits for nothing, it computes: some seconds of CPU, which a busy machine may not have at once.
@pytest.mark.timeout(0 if os.environ.get("HYPOTHESIS_PROFILE") == "models-long" else 300)
def test_any_history_keeps_the_promises() -> None:
    """See the module."""
    long = os.environ.get("HYPOTHESIS_PROFILE") == "models-long"
    run_state_machine_as_test(Cluster, settings=_LONG if long else _SHORT)
