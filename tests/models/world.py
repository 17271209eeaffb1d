"""Pods, their clients, Redis and NATS in one simulated world, and what must hold in it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from structlog.testing import capture_logs

from daisi_ws.adapters import peer_link
from daisi_ws.domain import principal, subjects
from daisi_ws.domain.principal import Principal
from tests.models.sim_grpc import Network
from tests.models.sim_link import RedisHost
from tests.models.sim_pod import CONFIG, SimPod, Tab
from tests.models.sim_stream import StreamServer
from tests.models.virtual_time import Universe

COMPANY, AGENT = "acme", "bot"
CHATS = subjects.chats(COMPANY, AGENT)
IDENTITIES = [principal.user(COMPANY, AGENT, name, 1e12) for name in ("ann", "bob")]
ROOT = principal.admin("root", 1e12, COMPANY)
THREADS = [subjects.thread(COMPANY, AGENT, chat) for chat in ("c1", "c2")]
AGENTS = f"websocket.{COMPANY}.{AGENT}.agents"
SUBJECTS = [CHATS, *THREADS, AGENTS]

HEAL_SECONDS = CONFIG.app.pod_lease_refresh_seconds + 1.0
"""Within this time after Redis was emptied every pod that turns has set its locks again."""

SETTLE_SECONDS = 90.0


class World:
    """Everything there is; :attr:`wrong` is what should not have happened."""

    def __init__(self, seed: int) -> None:
        self.universe = Universe(seed)
        self.redis = RedisHost(self.universe)
        self.network = Network(self.universe)
        self.nats = StreamServer(self.universe)
        self.pods: list[SimPod] = []
        self.tabs: list[Tab] = []
        self.wrong: list[str] = []
        self._numbers: dict[bytes, tuple[int, str]] = {}
        self._moment = 0
        self._made = 0
        self._flushed_at = -1e9
        self._woken_at: dict[str, float] = {}
        self.redis.server.on_set = self._stored

    # -- the ways between them --------------------------------------------------------------------

    def between(self, one: SimPod, other: SimPod | None) -> list[str]:
        """Return the ways between two pods, or between a pod and Redis."""
        if other is None:
            return [f"redis {one.pod_id} up", f"redis {one.pod_id} down"]
        ends = f"{one.pod_id}>{other.pod_id}", f"{other.pod_id}>{one.pod_id}"
        return [f"{kind} {way}" for kind in ("grpc", "answers") for way in ends]

    # -- what happens -----------------------------------------------------------------------------

    def start_pod(self) -> SimPod:
        """Start one more pod."""
        self._made += 1
        pod = SimPod(self, f"host-{self._made}-{1_000_000_000_000 + self._made}")
        self.pods.append(pod)
        return pod

    def kill(self, pod: SimPod) -> None:
        """Kill a pod: its sockets are reset, nothing else of it is seen."""
        pod.process.kill()
        self.network.reset(pod.process)
        self.redis.reset(pod.process)
        self.pods.remove(pod)
        for tab in self.tabs:
            tab.closed = tab.closed or tab.pod is pod

    def pause(self, pod: SimPod) -> None:
        """Stop a pod's process."""
        pod.process.paused = True

    def wake(self, pod: SimPod) -> None:
        """Let it go on."""
        pod.process.paused = False
        self._woken_at[pod.pod_id] = self.universe.now

    def connect(self, pod: SimPod, who: Principal, last_seq: int | None = None) -> Tab:
        """Have a client connect."""
        tab = pod.connect(who, last_seq)
        self.tabs.append(tab)
        return tab

    def choose(self, tab: Tab, chat: int) -> None:
        """Have a client look at another thread; what it saw before is promised no more."""
        number = len(tab.asked) + 1
        tab.asked[number] = THREADS[chat]
        for thread in THREADS:
            tab.since.pop(thread, None)
        tab.pod.choose(tab, number, f"c{chat + 1}")

    def publish(self, subject: str) -> int:
        """Publish an event."""
        number = len(self.nats.messages) + 1
        payload = {"event_id": str(number), "company_id": COMPANY, "row_data": {}}
        return self.nats.publish(subject, json.dumps(payload).encode())

    def flow(self, seconds: float, events: int) -> None:
        """Let time pass, with events spread over it, and one at its very end."""
        for number in range(events):
            self.publish(SUBJECTS[(len(self.nats.messages) + number) % len(SUBJECTS)])
            if number % 2:
                self.universe.run(seconds / events)
        self.universe.run(seconds / max(events, 1))
        if events:
            self.publish(SUBJECTS[0])

    def flush(self) -> None:
        """Empty Redis."""
        self._flushed_at = self.universe.now
        self.redis.server.flush()

    # -- what is seen -----------------------------------------------------------------------------

    def _stored(self, key: bytes, value: bytes) -> None:
        """Something was written to Redis: each new owner of a lock has a higher number."""
        if not key.startswith(b"fence:"):
            return
        text, _, owner = value.decode().partition(" ")
        number, (newest, last) = int(text), self._numbers.get(key, (0, ""))
        if number < newest or (number == newest and owner not in ("", last)):
            self.wrong.append(f"{key!r} is {value!r} after {last!r} had {newest}")
        self._numbers[key] = (number, owner or last)

    def arrived(self, tab: Tab, message: dict[str, Any]) -> None:
        """Something was written to a client's socket."""
        self._moment += 1
        match message["type"]:
            case "ready":
                tab.ready_at = self._moment
                tab.newest = message["seq"]
                tab.since[tab.who.subject] = message["seq"]
                if message.get("recovered") is False:
                    self._not_recovered(tab, message["reason"])
            case "done":
                if message["id"] == max(tab.asked):
                    subject = tab.asked[message["id"]]
                    tab.since.setdefault(subject, message["payload"]["seq"])
            case "event":
                self._event(tab, message["seq"])
            case other:
                self.wrong.append(f"{tab.who.identity} was told {other}: {message}")

    def _event(self, tab: Tab, seq: int) -> None:
        name = f"{tab.who.identity} on {tab.pod.pod_id}"
        subject = self.nats.messages[seq - 1][0]
        if seq <= tab.newest:
            self.wrong.append(f"{name} got {seq} after {tab.newest}")
        tab.newest = max(tab.newest, seq)
        if not self._wants(tab, subject):
            self.wrong.append(f"{name} got {seq} of {subject}, which is not for it")
        interest = self._interest(tab, subject)
        if interest in tab.since:
            missed = [s for s in self._promised(tab, interest) if s < seq]
            if missed:
                self.wrong.append(f"{name} got {seq} before {missed}")
        tab.last[interest] = seq  # also what comes between the barrier's answer and `done`
        self._check_newest_session(tab, name, seq)

    def _check_newest_session(self, tab: Tab, name: str, seq: int) -> None:
        for other in self.tabs:
            same = other.who.identity == tab.who.identity
            if same and other.ready_at > tab.ready_at and not self._excused(tab):
                self.wrong.append(f"{name} got {seq} after {other.pod.pod_id} said ready")

    def _excused(self, tab: Tab) -> bool:
        """Redis was emptied, and with it who owns what: its pods need a moment to say so again."""
        since = max(self._flushed_at, 0.0)
        if tab.pod.pod_id in self._woken_at and self._flushed_at > 0:
            since = max(since, self._woken_at[tab.pod.pod_id])
        return self._flushed_at > 0 and self.universe.now - since < HEAL_SECONDS

    def _not_recovered(self, tab: Tab, reason: str) -> None:
        """The stream has everything: only age, and what is away for a moment, are reasons."""
        if reason not in ("too_old", "busy", "unavailable"):
            self.wrong.append(f"{tab.who.identity} is not recovered: {reason}")

    def _wants(self, tab: Tab, subject: str) -> bool:
        if tab.who.kind == "admin":
            return subject == AGENTS
        return subject == CHATS or subject in tab.asked.values()

    def _interest(self, tab: Tab, subject: str) -> str:
        return tab.who.subject if tab.who.kind == "admin" else subject

    def _promised(self, tab: Tab, interest: str) -> list[int]:
        """Return the sequences that a client is to get next."""
        after = max(tab.since[interest], tab.last.get(interest, 0))
        subject = AGENTS if tab.who.kind == "admin" else interest
        stored = enumerate(self.nats.messages[after:], after + 1)
        return [seq for seq, message in stored if message[0] == subject]

    # -- when all is well again -------------------------------------------------------------------

    def settle(self) -> None:
        """Let every pod go on, and everything come to rest; then nothing may be missing."""
        for pod in self.pods:
            if pod.process.paused:
                self.wake(pod)
        self.redis.up = True
        self.universe.slow.clear()
        self.universe.mend()
        end = self.universe.now + SETTLE_SECONDS
        while not self.wrong and self._unrest():
            if self.universe.now > end:
                self.wrong.append(f"not settled: {self._unrest()}")
            self.universe.run(0.5)

    def _unrest(self) -> list[str]:
        found = [f"{pod.pod_id} has not joined" for pod in self.pods if not pod.joined]
        for tab in self.tabs:
            if not tab.is_open:
                if not tab.closed and tab.pod.process.alive:
                    found.append(f"{tab.who.identity} is neither ready nor refused")
                continue
            for interest in tab.since:
                if missing := self._promised(tab, interest):
                    found.append(f"{tab.who.identity} on {tab.pod.pod_id} misses {missing}")
                if tab.pod.pod_id not in self.owners(interest):
                    found.append(f"{tab.pod.pod_id} is not in the route of {interest}")
            found += self._unowned(tab)
        return found

    def owners(self, interest: str) -> set[str]:
        """Return the pods in a route."""
        found = self.redis.server.value(subjects.route_key(interest))
        return {pod.decode() for pod in found} if isinstance(found, set) else set()

    def _unowned(self, tab: Tab) -> list[str]:
        held = self.redis.server.value(tab.who.session_key)
        assert tab.connection is not None
        own = tab.connection.lock_value.encode()
        return [] if held == own else [f"{tab.who.identity} is open and the lock is {held!r}"]

    def failures(self) -> list[object]:
        """Return what pods did not handle."""
        return [f for process in self.universe.processes for f in process.loop.failures]


@contextmanager
def world(seed: int) -> Iterator[World]:
    """Make a world; at the end nothing may have gone wrong in it."""
    made = World(seed)
    random.seed(seed)  # of jitter
    with patch.object(peer_link, "open_channel", made.network.open_channel), capture_logs() as log:
        try:
            yield made
        finally:
            failures = made.failures()
            made.universe.close()
    tracebacks = [line for line in log if line.get("exc_info")]
    assert not tracebacks, tracebacks
    assert not failures, failures
