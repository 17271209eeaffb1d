"""What tests of forwarding share: a receiver that records, a pod in a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from daisi_ws import log
from daisi_ws.adapters.grpc_server import GrpcServer, ServerSettings
from daisi_ws.adapters.peer_context import PeerSettings
from daisi_ws.adapters.peers_grpc import PeersGrpc
from daisi_ws.app.ports import Peers, Position
from daisi_ws.domain.errors import Refusal, Unavailable
from daisi_ws.domain.packets import Item
from daisi_ws.metrics import Metrics

SUBJECT = "websocket.acme.support.chats"
STREAM = "wa_stream@1"
EPOCH = 7
B = "b-0-1"
C = "c-0-1"

QUICK = PeerSettings(
    forward_timeout=1.0,
    idle_timeout=60.0,
    health_interval=60.0,
    fail_threshold=5,
    open_duration=0.5,
    queue_events=50_000,
    tick=0.05,
)


def item(seq: int, text: bytes = b"{}") -> Item:
    """Return an event with this sequence."""
    return Item(seq, seq * 1000, SUBJECT, text, f"r{seq}")


def push_all(peers: Peers, first: int, last: int, pod_id: str = B) -> None:
    """Push events `first` to `last`."""
    for seq in range(first, last + 1):
        peers.push(pod_id, item(seq))


def empty(peers: Peers) -> bool:
    """Tell whether everything pushed was accepted."""
    return peers.floor() is None


async def until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    """Return when a condition holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        await asyncio.sleep(0.005)


class Recorder:
    """An `Inbound` that accepts in order, removes duplicates by a mark, and notes everything.

    :ivar hold_from: sequences from here on are accepted later, as for a client without room.
    :ivar gate: while it is clear, nothing is accepted and no question answered.
    :ivar waiting: how many calls came to a clear gate.
    """

    def __init__(self) -> None:
        self.arrived: list[int] = []
        self.accepted: list[int] = []
        self.items: list[Item] = []
        self.batches: list[tuple[str, int, str, int, int]] = []
        self.barriers: list[tuple[str, list[str]]] = []
        self.displaced: list[tuple[str, str]] = []
        self.sessions: set[tuple[str, str]] = set()
        self.events: list[tuple[str, str, bytes, str]] = []
        self.epoch = 0
        self.mark = 0
        self.hold_from: int | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0
        self.position: Position | None = Position(EPOCH, STREAM, 41)
        self.unavailable = ""
        self.refusal: Refusal | None = None

    async def accept(
        self, source: str, epoch: int, stream: str, upto: int, items: list[Item]
    ) -> int:
        await self._pass()
        if epoch < self.epoch:
            return -1
        self.epoch = epoch
        self.batches.append((source, epoch, stream, upto, len(items)))
        self.arrived += [one.seq for one in items]
        for one in items:
            if one.seq > self.mark:
                self.mark = one.seq
                self.accepted.append(one.seq)
                self.items.append(one)
        self.mark = max(self.mark, upto)
        return self.accepted_upto()

    async def _pass(self) -> None:
        if not self.gate.is_set():
            self.waiting += 1
            await self.gate.wait()

    def accepted_upto(self) -> int:
        return self.mark if self.hold_from is None else min(self.mark, self.hold_from - 1)

    def known_epoch(self) -> int:
        return self.epoch

    async def barrier(self, source: str, interests: Sequence[str]) -> Position | None:
        await self._pass()
        if self.unavailable:
            raise Unavailable(self.unavailable)
        self.barriers.append((source, list(interests)))
        return self.position

    async def displace(self, session_key: str, holder: str) -> None:
        await self._pass()
        if self.unavailable:
            raise Unavailable(self.unavailable)
        self.displaced.append((session_key, holder))

    def has_session(self, session_key: str, holder: str) -> bool:
        return (session_key, holder) in self.sessions

    def push_event(self, subject: str, event_id: str, payload: bytes, source: str) -> str:
        if self.refusal is not None:
            raise self.refusal
        self.events.append((subject, event_id, payload, source))
        return "delivered to 1 connection"


class Addresses:
    """The registry of pods, as far as forwarding sees it."""

    def __init__(self, **pods: int | None) -> None:
        self.ports: dict[str, int | None] = {
            name.replace("_", "-"): port for name, port in pods.items()
        }

    async def lookup(self, pod_id: str) -> str | None:
        port = self.ports.get(pod_id)
        return None if port is None else f"127.0.0.1:{port}"


@asynccontextmanager
async def serving(
    inbound: Recorder, port: int = 0, settings: ServerSettings | None = None
) -> AsyncIterator[tuple[GrpcServer, int]]:
    """Serve a receiver on loopback."""
    server = GrpcServer(inbound, settings or ServerSettings(forward_timeout=1.0), Metrics())
    bound = await server.start("127.0.0.1", port)
    try:
        yield server, bound
    finally:
        await server.stop(0)


@asynccontextmanager
async def peers_of(
    addresses: Addresses, settings: PeerSettings = QUICK, metrics: Metrics | None = None
) -> AsyncIterator[PeersGrpc]:
    """Make the pushing side of pod `a-0-1`, as a reader."""
    peers = PeersGrpc("a-0-1", addresses.lookup, settings, metrics or Metrics())
    port: Peers = peers
    port.reading(EPOCH, STREAM)
    try:
        yield peers
    finally:
        await peers.aclose()


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """Return the value of a metric, 0 if there is none yet."""
    return metrics.registry.get_sample_value(f"dws_{name}", labels) or 0.0


class PodProcess:
    """A receiver in a process of its own, which can be stopped, continued and killed.

    What it accepts it appends to a file first, so that the file tells the truth after a kill.
    """

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process = process
        self.port = port

    @classmethod
    async def start(cls, accepted: Path, port: int = 0) -> PodProcess:
        process = _spawn(str(accepted), str(port))
        assert process.stdout is not None
        try:
            async with asyncio.timeout(20):
                line = await asyncio.to_thread(process.stdout.readline)
        except TimeoutError:
            process.kill()
            raise
        return cls(process, int(line))

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def kill(self) -> None:
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.kill()
        await asyncio.to_thread(self._process.wait)


def _spawn(*arguments: str) -> subprocess.Popen[str]:
    # Not by the loop: uvloop forks, and a child of a process that uses gRPC dies or hangs before
    # it gets anywhere; this one uses vfork.
    command = [sys.executable, "-m", "tests.adapters.forwarding", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )


class _FileRecorder(Recorder):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def accept(
        self, source: str, epoch: int, stream: str, upto: int, items: list[Item]
    ) -> int:
        before = len(self.accepted)
        result = await super().accept(source, epoch, stream, upto, items)
        new = self.accepted[before:]
        os.write(self._file, "".join(f"{seq}\n" for seq in new).encode())
        return result


async def _serve(path: str, port: int) -> None:
    server = GrpcServer(_FileRecorder(path), ServerSettings(forward_timeout=1.0), Metrics())
    print(await server.start("127.0.0.1", port), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    log.setup("info", "text")  # to standard error: nobody reads this process's output on
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))
