"""Pushing to peers, and asking them, over real gRPC on loopback."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from daisi_ws.adapters.peer_context import PeerSettings
from daisi_ws.adapters.peer_link import slot_of
from daisi_ws.adapters.peers_grpc import PeersGrpc
from daisi_ws.app.ports import Position
from daisi_ws.config import testing_config
from daisi_ws.domain.errors import Unavailable
from daisi_ws.metrics import Metrics
from tests.adapters.forwarding import (
    EPOCH,
    QUICK,
    STREAM,
    Addresses,
    PodProcess,
    Recorder,
    item,
    peers_of,
    serving,
    until,
    value,
)

B = "b-0-1"
C = "c-0-1"


@pytest.fixture
def inbound() -> Recorder:
    """The receiver of pod B."""
    return Recorder()


@pytest.fixture
async def port(inbound: Recorder) -> AsyncIterator[int]:
    """The gRPC port of pod B."""
    async with serving(inbound) as (_, bound):
        yield bound


@pytest.fixture
def metrics() -> Metrics:
    """The metrics of the pushing side."""
    return Metrics()


@pytest.fixture
async def peers(port: int, metrics: Metrics) -> AsyncIterator[PeersGrpc]:
    """The pushing side, which finds pod B."""
    async with peers_of(Addresses(b_0_1=port), metrics=metrics) as made:
        yield made


@pytest.fixture
async def pod(tmp_path: Path) -> AsyncIterator[PodProcess]:
    """Pod B in a process of its own, which appends what it accepts to `tmp_path/accepted`."""
    process = await PodProcess.start(tmp_path / "accepted")
    yield process
    await process.kill()


def push_all(peers: PeersGrpc, first: int, last: int, pod_id: str = B) -> None:
    """Push events `first` to `last`."""
    for seq in range(first, last + 1):
        peers.push(pod_id, item(seq))


def empty(peers: PeersGrpc) -> bool:
    """Tell whether everything pushed was accepted."""
    return peers.floor() is None


async def refused_port() -> int:
    """Return a port that nobody listens on."""
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    bound: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return bound


class TestPushing:
    """Order, completeness, batches."""

    async def test_everything_arrives_once_and_in_order(
        self, peers: PeersGrpc, inbound: Recorder, metrics: Metrics
    ) -> None:
        """20,000 events pushed in bursts of random size arrive whole, once, and in order."""
        dice = random.Random(5)
        seq = 0
        while seq < 20_000:
            burst = min(dice.choice((1, 3, 50, 700)), 20_000 - seq)
            for seq in range(seq + 1, seq + burst + 1):
                peers.push(B, item(seq, bytes(dice.randrange(2000))))
            await asyncio.sleep(0)
        await until(lambda: empty(peers))
        assert inbound.arrived == list(range(1, 20_001))
        assert value(metrics, "grpc_messages_sent_total", target_pod="b-0") == 20_000
        assert value(metrics, "grpc_forward_retry_attempts_total") == 0

    async def test_an_event_arrives_as_it_was_pushed(
        self, peers: PeersGrpc, inbound: Recorder
    ) -> None:
        """All fields survive, and the batch names source, epoch and stream."""
        pushed = item(3, '{"type":"event","seq":3,"payload":{"ü":1}}'.encode())
        peers.push(B, pushed)
        await until(lambda: empty(peers))
        assert inbound.items == [pushed]
        assert inbound.batches == [("a-0-1", EPOCH, STREAM, 3, 1)]

    async def test_what_is_pushed_in_one_turn_travels_together(
        self, peers: PeersGrpc, inbound: Recorder
    ) -> None:
        """300 events of one loop turn are two batches, not 300."""
        push_all(peers, 1, 300)
        await until(lambda: empty(peers))
        assert [count for *_, count in inbound.batches] == [256, 44]

    async def test_the_floor_is_the_lowest_over_all_peers(self) -> None:
        """The slowest peer decides what may be acknowledged."""
        quick, slow = Recorder(), Recorder()
        slow.gate.clear()
        async with (
            serving(quick) as (_, b_port),
            serving(slow) as (_, c_port),
            peers_of(Addresses(b_0_1=b_port, c_0_1=c_port)) as peers,
        ):
            push_all(peers, 4, 6, C)
            push_all(peers, 1, 3, B)
            assert peers.floor() == 1
            await until(lambda: peers.floor() == 4)
            slow.gate.set()
            await until(lambda: empty(peers))

    async def test_one_label_for_all_generations_of_a_slot(self) -> None:
        """Restarts do not multiply series."""
        assert slot_of("gateway-1-0-17") == slot_of("gateway-1-0-18") == "gateway-1-0"

    async def test_the_settings_come_from_the_configuration(self) -> None:
        """Every key of forwarding has its place."""
        config = testing_config(
            app__grpc_client_forward_timeout_seconds=1.5,
            app__grpc_pool_idle_timeout_seconds=20,
            app__grpc_pool_health_check_interval_seconds=3,
            app__grpc_circuitbreaker_fail_threshold=4,
            app__grpc_circuitbreaker_open_duration_seconds=5,
            nats__forward_queue_events=600,
        )
        assert PeerSettings.from_config(config) == PeerSettings(1.5, 20, 3, 4, 5, 600, None)


class TestProgress:
    """How far the reader is, for peers that get nothing."""

    async def test_progress_travels_with_a_batch(self, peers: PeersGrpc, inbound: Recorder) -> None:
        """What was read without events for the peer is said with the next event."""
        peers.push(B, item(3))
        peers.progress(10)
        await until(lambda: inbound.mark == 10)
        assert len(inbound.batches) == 1

    async def test_progress_is_told_alone(self, peers: PeersGrpc, inbound: Recorder) -> None:
        """A connected peer that gets no event learns how far has been read, once."""
        peers.push(B, item(3))
        await until(lambda: empty(peers))
        peers.progress(50)
        await until(lambda: inbound.mark == 50)
        ticks = len(inbound.batches)
        peers.progress(60)
        await until(lambda: inbound.mark == 60)
        assert [count for *_, count in inbound.batches] == [1, 0, 0]
        assert ticks == 2

    async def test_progress_never_overtakes_the_queue(
        self, peers: PeersGrpc, inbound: Recorder
    ) -> None:
        """A batch that leaves events waiting tells no more than it carries."""
        push_all(peers, 1, 5000)
        peers.progress(9000)
        await until(lambda: empty(peers))
        assert inbound.arrived == list(range(1, 5001))
        assert inbound.accepted == inbound.arrived
        assert inbound.mark == 9000


class TestAcceptance:
    """Withheld events, slow acceptance, full queues."""

    async def test_withheld_events_are_accepted_later(self, inbound: Recorder) -> None:
        """A blocked client at the peer delays acceptance without breaking the stream."""
        changes: list[int | None] = []
        async with serving(inbound) as (server, port), peers_of(Addresses(b_0_1=port)) as peers:
            peers.on_change(lambda: changes.append(peers.floor()))
            inbound.hold_from = 3
            push_all(peers, 1, 5)
            await until(lambda: peers.floor() == 3)
            inbound.hold_from = 5
            server.accepted_changed()
            await until(lambda: peers.floor() == 5)
            inbound.hold_from = None
            server.accepted_changed()
            await until(lambda: empty(peers))
        assert changes == [3, 5, None]
        assert inbound.arrived == [1, 2, 3, 4, 5]

    async def test_a_peer_that_takes_its_time_is_not_lost(
        self, peers: PeersGrpc, inbound: Recorder, metrics: Metrics
    ) -> None:
        """A pod that catches up first accepts nothing for longer than the deadline, but lives."""
        inbound.gate.clear()
        push_all(peers, 1, 3)
        with pytest.raises(AssertionError):
            await until(lambda: empty(peers), 2.5 * QUICK.forward_timeout)
        assert value(metrics, "grpc_pool_connections_created_total") == 1
        inbound.gate.set()
        await until(lambda: empty(peers))
        assert inbound.arrived == [1, 2, 3]

    async def test_a_full_queue_stops_the_reader(self, inbound: Recorder, port: int) -> None:
        """No room from the limit on, nothing is dropped beyond it, and room is told."""
        inbound.gate.clear()
        settings = replace(QUICK, queue_events=100)
        async with peers_of(Addresses(b_0_1=port), settings) as peers:
            room = asyncio.Event()
            peers.on_change(lambda: room.set() if peers.has_room() else None)
            push_all(peers, 1, 99)
            assert peers.has_room()
            push_all(peers, 100, 120)
            assert not peers.has_room()
            inbound.gate.set()
            async with asyncio.timeout(10):
                await room.wait()
            await until(lambda: empty(peers))
        assert inbound.arrived == list(range(1, 121))


class TestFaults:
    """Peers that die, freeze, refuse, or were never there."""

    @pytest.mark.parametrize("moves", [False, True], ids=["same address", "new address"])
    async def test_a_peer_killed_and_restarted(
        self, pod: PodProcess, tmp_path: Path, moves: bool, metrics: Metrics
    ) -> None:
        """What the dead one had not accepted comes again, in order; nothing is missing."""
        addresses = Addresses(b_0_1=pod.port)
        accepted = tmp_path / "accepted"
        async with peers_of(addresses, metrics=metrics) as peers:
            push_all(peers, 1, 3000)
            await until(lambda: accepted.stat().st_size > 0)
            await pod.kill()
            before = accepted.read_text().split()
            push_all(peers, 3001, 4000)
            successor = await PodProcess.start(accepted, 0 if moves else pod.port)
            addresses.ports[B] = successor.port
            try:
                push_all(peers, 4001, 5000)
                await until(lambda: empty(peers))
            finally:
                await successor.kill()
        first = [int(seq) for seq in before]
        second = [int(seq) for seq in accepted.read_text().split()[len(first) :]]
        assert first == list(range(1, len(first) + 1))
        assert second == list(range(second[0], 5001))
        assert second[0] <= len(first) + 1
        attempts = value(metrics, "grpc_forward_retry_attempts_total")
        assert attempts == value(metrics, "grpc_forward_retry_success_total") > 0

    async def test_a_frozen_peer_is_noticed_and_others_go_on(
        self, pod: PodProcess, tmp_path: Path, inbound: Recorder, port: int, metrics: Metrics
    ) -> None:
        """A stopped process is lost at the deadline, holds nobody up, and gets all when it wakes."""
        addresses = Addresses(b_0_1=pod.port, c_0_1=port)
        async with peers_of(addresses, metrics=metrics) as peers:
            push_all(peers, 1, 10)
            await until(lambda: empty(peers))
            pod.signal(signal.SIGSTOP)
            try:
                push_all(peers, 11, 500)
                push_all(peers, 11, 500, C)
                await until(lambda: len(inbound.accepted) == 490, 0.8)
                await until(
                    lambda: value(metrics, "grpc_pool_connections_closed_total", reason="failed")
                    == 1,
                    QUICK.forward_timeout + 1,
                )
                assert peers.floor() == 11
            finally:
                pod.signal(signal.SIGCONT)
            await until(lambda: empty(peers))
        assert (tmp_path / "accepted").read_text().split() == [str(n) for n in range(1, 501)]

    async def test_the_breaker_opens_and_a_probe_closes_it(
        self, inbound: Recorder, metrics: Metrics
    ) -> None:
        """Failures in a row open it, it is left alone, and a probe finds the peer back."""
        port = await refused_port()
        addresses = Addresses(b_0_1=port)
        with capture_logs() as logs:
            async with peers_of(addresses, metrics=metrics) as peers:
                push_all(peers, 1, 5)
                await until(lambda: value(metrics, "grpc_circuitbreaker_open") == 1)
                assert value(metrics, "grpc_pool_size") == 0
                assert value(metrics, "grpc_pool_connections_created_total") == 5
                async with serving(inbound, port):
                    await until(lambda: empty(peers))
                assert value(metrics, "grpc_circuitbreaker_open") == 0
        assert inbound.arrived == [1, 2, 3, 4, 5]
        assert value(metrics, "grpc_circuitbreaker_tripped_total") == 1
        assert [line["event"] for line in logs] == [
            "peer lost",
            "peer's breaker opened",
            "peer back",
        ]

    async def test_revive_ends_the_wait_of_an_open_breaker(
        self, inbound: Recorder, metrics: Metrics
    ) -> None:
        """A peer known to be alive need not wait for the probe."""
        port = await refused_port()
        settings = replace(QUICK, open_duration=3600, fail_threshold=1)
        async with peers_of(Addresses(b_0_1=port), settings, metrics) as peers:
            peers.push(B, item(1))
            await until(lambda: value(metrics, "grpc_circuitbreaker_open") == 1)
            async with serving(inbound, port):
                peers.revive(B)
                await until(lambda: empty(peers), 3)
            assert value(metrics, "grpc_circuitbreaker_open") == 0

    async def test_a_new_address_closes_the_breaker(self, port: int, metrics: Metrics) -> None:
        """A peer that came back elsewhere is found although the breaker is open."""
        addresses = Addresses(b_0_1=await refused_port())
        settings = replace(QUICK, open_duration=3600, fail_threshold=1)
        async with peers_of(addresses, settings, metrics) as peers:
            peers.push(B, item(1))
            await until(lambda: value(metrics, "grpc_circuitbreaker_open") == 1)
            addresses.ports[B] = port
            await until(lambda: empty(peers), 5)

    async def test_the_last_address_serves_while_the_registry_is_away(
        self, inbound: Recorder, metrics: Metrics
    ) -> None:
        """Without Redis a peer is found again where it was."""
        addresses = Addresses()
        async with serving(inbound) as (_, port), peers_of(addresses, metrics=metrics) as peers:
            addresses.ports[B] = port
            peers.push(B, item(1))
            await until(lambda: empty(peers))
        async with serving(inbound) as (server, port):
            broken = _Broken(port)
            made = PeersGrpc("a-0-1", broken.lookup, QUICK, metrics)
            made.reading(EPOCH, STREAM)
            made.push(B, item(2))
            await until(lambda: empty(made))
            broken.away = True
            await server.stop(0)
            async with serving(inbound, port):
                made.push(B, item(3))
                await until(lambda: empty(made))
            await made.aclose()
        assert inbound.accepted == [1, 2, 3]

    async def test_without_a_lease_the_owner_is_told_and_decides(self, metrics: Metrics) -> None:
        """What waits is kept until the peer is dropped; then it is counted and gone."""
        gone: list[str] = []
        peers = PeersGrpc("a-0-1", Addresses().lookup, QUICK, metrics, lease_gone=gone.append)
        changed = asyncio.Event()
        peers.on_change(changed.set)
        push_all(peers, 1, 4)
        await until(lambda: len(gone) >= 2)
        assert gone[0] == B
        assert peers.floor() == 1
        peers.drop(B)
        assert changed.is_set()
        assert empty(peers)
        assert value(metrics, "grpc_forward_retry_failure_total") == 4
        await peers.aclose()

    async def test_the_owner_may_drop_the_peer_while_it_is_told(self) -> None:
        """Dropping from inside the callback ends the link."""
        peers = PeersGrpc(
            "a-0-1", Addresses().lookup, QUICK, Metrics(), lease_gone=lambda pod: peers.drop(pod)
        )
        peers.push(B, item(1))
        await until(lambda: empty(peers))
        await peers.aclose()

    async def test_dropping_a_frozen_peer_frees_the_reader(
        self, pod: PodProcess, metrics: Metrics
    ) -> None:
        """Queue, questions, channel and breaker are gone at once, whatever the peer does."""
        settings = replace(QUICK, queue_events=100, fail_threshold=1, open_duration=3600)
        async with peers_of(Addresses(b_0_1=pod.port), settings, metrics) as peers:
            push_all(peers, 1, 10)
            await until(lambda: empty(peers))
            pod.signal(signal.SIGSTOP)
            push_all(peers, 11, 200)
            asked = asyncio.create_task(peers.displace(B, "session:a:b:c", "x#1", 30))
            await until(lambda: value(metrics, "grpc_circuitbreaker_open") == 1)
            peers.drop(B)
            assert peers.has_room()
            assert empty(peers)
            with pytest.raises(Unavailable):
                await asked
            await until(lambda: value(metrics, "grpc_pool_size") == 0)
            assert value(metrics, "grpc_circuitbreaker_open") == 0

    async def test_a_peer_that_shuts_down_in_good_order_is_no_failure(
        self, inbound: Recorder, metrics: Metrics
    ) -> None:
        """A stream ended by the peer while nothing was on its way is not even worth a line."""
        with capture_logs() as logs:
            async with serving(inbound) as (server, port), peers_of(Addresses(b_0_1=port)) as peers:
                peers.push(B, item(1))
                await until(lambda: empty(peers))
                await server.stop(5)
        assert logs == []

    async def test_closing_ends_everything(self, port: int, metrics: Metrics) -> None:
        """No channel is left open, and pushing afterwards starts nothing."""
        async with peers_of(Addresses(b_0_1=port, c_0_1=None), metrics=metrics) as peers:
            push_all(peers, 1, 10)
            push_all(peers, 1, 10, C)
            await until(lambda: value(metrics, "grpc_pool_size") == 1)
        assert value(metrics, "grpc_pool_size") == 0
        assert value(metrics, "grpc_pool_connections_closed_total", reason="shutdown") == 1
        peers.push(B, item(11))
        with pytest.raises(Unavailable):
            await peers.barrier(B, ["websocket.a.b.chats"], 1)


class _Broken:
    """A registry that goes away."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.away = False

    async def lookup(self, _: str) -> str | None:
        if self.away:
            raise Unavailable("Redis is away")
        return f"127.0.0.1:{self._port}"


class TestEpochs:
    """A reader that was, and a new one."""

    async def test_a_stale_reader_is_told_and_sends_nothing_more(
        self, peers: PeersGrpc, inbound: Recorder
    ) -> None:
        """It learns the newer number once; what was not accepted keeps its floor."""
        newer: list[int] = []
        peers.on_stale(newer.append)
        inbound.epoch = EPOCH + 2
        push_all(peers, 1, 600)
        await until(lambda: newer == [EPOCH + 2])
        peers.push(B, item(601))
        assert peers.floor() == 1
        with pytest.raises(AssertionError):
            await until(lambda: bool(inbound.arrived), 0.3)

    async def test_reading_again_forgets_what_was_before(
        self, peers: PeersGrpc, inbound: Recorder
    ) -> None:
        """The new epoch starts with an empty queue, at whatever sequence, and is accepted."""
        newer: list[int] = []
        peers.on_stale(newer.append)
        inbound.epoch = EPOCH + 2
        push_all(peers, 100, 200)
        await until(lambda: bool(newer))
        peers.reading(EPOCH + 3, STREAM)
        assert empty(peers)
        push_all(peers, 50, 60)
        await until(lambda: empty(peers))
        assert inbound.arrived == list(range(50, 61))
        assert {epoch for _, epoch, *_ in inbound.batches} == {EPOCH + 3}

    async def test_a_new_epoch_while_batches_are_on_their_way(
        self, peers: PeersGrpc, inbound: Recorder
    ) -> None:
        """Answers to batches of the old epoch accept nothing of the new one."""
        inbound.gate.clear()
        push_all(peers, 1, 300)
        await until(lambda: inbound.waiting == 1)
        peers.reading(EPOCH + 1, STREAM)
        push_all(peers, 250, 400)
        inbound.gate.set()
        await until(lambda: empty(peers))
        assert inbound.accepted[-1] == 400
        assert (EPOCH + 1) in {epoch for _, epoch, *_ in inbound.batches}

    async def test_the_same_epoch_goes_on(self, peers: PeersGrpc, inbound: Recorder) -> None:
        """Being told again that it reads changes nothing."""
        push_all(peers, 1, 3)
        peers.reading(EPOCH, STREAM)
        assert peers.floor() == 1
        await until(lambda: empty(peers))
        assert inbound.arrived == [1, 2, 3]

    async def test_a_reader_that_resigned_has_nothing_left(
        self, peers: PeersGrpc, inbound: Recorder
    ) -> None:
        """Forgetting leaves no floor, no full queue, and tells no progress."""
        inbound.gate.clear()
        push_all(peers, 1, 3)
        peers.progress(99)
        peers.forget()
        assert empty(peers)
        inbound.gate.set()
        peers.push(B, item(7))
        await until(lambda: empty(peers))
        assert inbound.mark == 7


class TestQuestions:
    """Barriers and displacements."""

    async def test_barriers_of_one_turn_travel_as_one(
        self, peers: PeersGrpc, inbound: Recorder
    ) -> None:
        """A hundred connections ask once, about everything they want, and all get the answer."""
        asked = [peers.barrier(B, ["websocket.a.b.chats", f"i{n}"], 5) for n in range(100)]
        answers = await asyncio.gather(*asked)
        assert answers == [Position(EPOCH, STREAM, 41)] * 100
        ((source, interests),) = inbound.barriers
        assert source == "a-0-1"
        assert sorted(interests) == sorted(["websocket.a.b.chats", *(f"i{n}" for n in range(100))])

    async def test_a_barrier_overtakes_queued_events(
        self, peers: PeersGrpc, inbound: Recorder
    ) -> None:
        """It does not wait behind a full window of batches."""
        inbound.hold_from = 1
        push_all(peers, 1, 10_000)
        assert await peers.barrier(B, ["websocket.a.b.chats"], 3) is not None
        assert len(inbound.arrived) < 10_000

    async def test_a_pod_that_does_not_read_says_so(
        self, peers: PeersGrpc, inbound: Recorder
    ) -> None:
        """The answer of a pod that is not the reader is None."""
        inbound.position = None
        assert await peers.barrier(B, ["websocket.a.b.chats"], 5) is None

    async def test_a_displacement_is_done_when_it_returns(
        self, peers: PeersGrpc, inbound: Recorder
    ) -> None:
        """The peer was asked with key and lock value."""
        await peers.displace(B, "session:a:b:c", "b-0-1#9", 5)
        assert inbound.displaced == [("session:a:b:c", "b-0-1#9")]

    async def test_no_answer_in_time_is_unavailable(
        self, peers: PeersGrpc, inbound: Recorder
    ) -> None:
        """The caller waits no longer than it said; the question is withdrawn."""
        inbound.gate.clear()
        with pytest.raises(Unavailable, match=r"0\.2 s"):
            await peers.barrier(B, ["websocket.a.b.chats"], 0.2)
        inbound.gate.set()
        assert await peers.barrier(B, ["websocket.x.y.chats"], 5) is not None

    async def test_a_peer_that_cannot_answer_says_why(
        self, peers: PeersGrpc, inbound: Recorder
    ) -> None:
        """Redis is away there: the caller knows at once, not after its timeout."""
        inbound.unavailable = "Redis is away"
        async with asyncio.timeout(2):
            with pytest.raises(Unavailable, match="Redis is away"):
                await peers.barrier(B, ["websocket.a.b.chats"], 30)
            with pytest.raises(Unavailable, match="Redis is away"):
                await peers.displace(B, "session:a:b:c", "x#1", 30)

    async def test_a_question_survives_a_broken_stream(self, inbound: Recorder) -> None:
        """It is asked again on the next stream while its caller waits."""
        inbound.gate.clear()
        async with serving(inbound) as (server, port), peers_of(Addresses(b_0_1=port)) as peers:
            asked = asyncio.create_task(peers.displace(B, "session:a:b:c", "x#1", 10))
            await until(lambda: inbound.waiting == 1)
            await server.stop(0)
            inbound.gate.set()
            async with serving(inbound, port):
                await asked
        assert inbound.displaced == [("session:a:b:c", "x#1")]

    async def test_an_unreachable_peer_is_unavailable_at_once(self, metrics: Metrics) -> None:
        """While the breaker is open nobody waits for a timeout."""
        settings = replace(QUICK, fail_threshold=2, open_duration=3600)
        async with peers_of(Addresses(b_0_1=await refused_port()), settings, metrics) as peers:
            async with asyncio.timeout(5):
                with pytest.raises(Unavailable, match="unreachable"):
                    await peers.barrier(B, ["websocket.a.b.chats"], 30)
            async with asyncio.timeout(1):
                with pytest.raises(Unavailable, match="unreachable"):
                    await peers.barrier(B, ["websocket.a.b.chats"], 30)

    async def test_questions_alone_probe_after_the_open_time(
        self, inbound: Recorder, metrics: Metrics
    ) -> None:
        """A breaker that opened because of questions is closed by one that is answered."""
        port = await refused_port()
        settings = replace(QUICK, fail_threshold=1, open_duration=0.2)
        async with peers_of(Addresses(b_0_1=port), settings, metrics) as peers:
            with pytest.raises(Unavailable):
                await peers.barrier(B, ["websocket.a.b.chats"], 5)
            async with serving(inbound, port), asyncio.timeout(10):
                while True:
                    try:
                        await peers.barrier(B, ["websocket.a.b.chats"], 5)
                        break
                    except Unavailable:
                        await asyncio.sleep(0.02)
            assert value(metrics, "grpc_circuitbreaker_open") == 0

    async def test_a_peer_without_lease_is_unavailable_at_once(self) -> None:
        """A reader whose record outlived it is nobody to wait for."""
        async with peers_of(Addresses()) as peers, asyncio.timeout(2):
            with pytest.raises(Unavailable, match="no lease"):
                await peers.barrier(B, ["websocket.a.b.chats"], 30)


class TestIdle:
    """Connections that nobody uses."""

    async def test_an_unused_connection_is_closed_and_made_again(
        self, port: int, inbound: Recorder, metrics: Metrics
    ) -> None:
        """Idle for long it is closed; the next event opens another."""
        settings = replace(QUICK, idle_timeout=0.2)
        async with peers_of(Addresses(b_0_1=port), settings, metrics) as peers:
            peers.push(B, item(1))
            await until(
                lambda: value(metrics, "grpc_pool_connections_closed_total", reason="idle") == 1
            )
            assert value(metrics, "grpc_pool_size") == 0
            peers.push(B, item(2))
            await until(lambda: inbound.arrived == [1, 2])

    async def test_progress_alone_does_not_keep_a_connection(
        self, port: int, metrics: Metrics
    ) -> None:
        """Telling how far has been read is no use of the connection."""
        settings = replace(QUICK, idle_timeout=0.4)
        async with peers_of(Addresses(b_0_1=port), settings, metrics) as peers:
            peers.push(B, item(1))
            seen = 1

            def closed_while_reading() -> bool:
                nonlocal seen
                seen += 1
                peers.progress(seen)
                return value(metrics, "grpc_pool_connections_closed_total", reason="idle") == 1

            await until(closed_while_reading, 5)

    async def test_a_pod_that_is_not_serving_loses_its_idle_connections(
        self, inbound: Recorder, metrics: Metrics
    ) -> None:
        """The standard health check of a silent connection decides; unhealthy is closed."""
        settings = replace(QUICK, health_interval=0.1)
        async with (
            serving(inbound) as (server, port),
            peers_of(Addresses(b_0_1=port), settings, metrics) as peers,
        ):
            server.set_serving(True)
            peers.push(B, item(1))
            await until(lambda: empty(peers))
            with pytest.raises(AssertionError):
                await until(lambda: value(metrics, "grpc_pool_size") == 0, 0.5)
            server.set_serving(False)
            await until(
                lambda: (
                    value(metrics, "grpc_pool_connections_closed_total", reason="unhealthy") == 1
                )
            )
            peers.push(B, item(2))
            await until(lambda: inbound.arrived == [1, 2])

    async def test_changed_settings_reach_open_links(self, port: int, metrics: Metrics) -> None:
        """A reload applies to connections that exist."""
        async with peers_of(Addresses(b_0_1=port), metrics=metrics) as peers:
            peers.push(B, item(1))
            await until(lambda: empty(peers))
            peers.apply(replace(QUICK, idle_timeout=0.1))
            await until(
                lambda: value(metrics, "grpc_pool_connections_closed_total", reason="idle") == 1
            )
