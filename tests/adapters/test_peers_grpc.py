"""Pushing to peers over real gRPC on loopback."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from daisi_ws.adapters.peer_context import PeerSettings
from daisi_ws.adapters.peer_link import slot_of
from daisi_ws.adapters.peers_grpc import PeersGrpc
from daisi_ws.config import testing_config
from daisi_ws.domain.forward_queue import WINDOW
from daisi_ws.metrics import Metrics
from tests.adapters.forwarding import (
    EPOCH,
    QUICK,
    STREAM,
    Addresses,
    B,
    C,
    Recorder,
    empty,
    item,
    peers_of,
    push_all,
    serving,
    until,
    value,
)


class TestPushing:
    """Order, completeness, batches."""

    async def test_everything_arrives_once_and_in_order(
        self, peers: PeersGrpc, inbound: Recorder, metrics: Metrics
    ) -> None:
        """20,000 events pushed in bursts of random size arrive whole, once, and in order."""
        dice = random.Random(5)
        pushed = 0
        while pushed < 20_000:
            burst = min(dice.choice((1, 3, 50, 700)), 20_000 - pushed)
            for seq in range(pushed + 1, pushed + burst + 1):
                peers.push(B, item(seq, bytes(dice.randrange(2000))))
            pushed += burst
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
        """A blocked client at the peer delays acceptance, and nothing else."""
        changes: list[int | None] = []
        async with serving(inbound) as (server, port), peers_of(Addresses(b_0_1=port)) as peers:
            peers.on_change(lambda: changes.append(peers.withheld()))
            inbound.hold_from = 3
            push_all(peers, 1, 5)
            await until(lambda: peers.withheld() == 3)
            assert empty(peers)
            inbound.hold_from = 5
            server.accepted_changed()
            await until(lambda: peers.withheld() == 5)
            inbound.hold_from = None
            server.accepted_changed()
            await until(lambda: peers.withheld() is None)
        assert changes == [3, 5, None]
        assert inbound.arrived == [1, 2, 3, 4, 5]

    async def test_a_blocked_client_fills_no_window(self, inbound: Recorder) -> None:
        """Batch after batch goes to a peer that withholds what a client has no room for."""
        async with serving(inbound) as (_, port), peers_of(Addresses(b_0_1=port)) as peers:
            inbound.hold_from = 1
            for seq in range(1, 3 * WINDOW):
                push_all(peers, seq, seq)
                await until(lambda seq=seq: inbound.mark == seq)  # type: ignore[misc]
            await until(lambda: empty(peers))
            assert peers.withheld() == 1
            assert not peers.pending()

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
