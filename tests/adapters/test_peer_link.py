"""Links to peers that die, freeze, move, idle, and are asked questions; over real gRPC."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from daisi_ws.adapters.peers_grpc import PeersGrpc
from daisi_ws.app.ports import Position
from daisi_ws.domain.errors import Unavailable
from daisi_ws.metrics import Metrics
from tests.adapters.forwarding import (
    EPOCH,
    QUICK,
    STREAM,
    Addresses,
    B,
    C,
    PodProcess,
    Recorder,
    empty,
    item,
    peers_of,
    push_all,
    serving,
    until,
    value,
)


@pytest.fixture
async def pod(tmp_path: Path) -> AsyncIterator[PodProcess]:
    """Pod B in a process of its own, which appends what it accepts to `tmp_path/accepted`."""
    process = await PodProcess.start(tmp_path / "accepted")
    yield process
    await process.kill()


async def refused_port() -> int:
    """Return a port that nobody listens on."""
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    bound: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return bound


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
            # Something is on its way when it dies, however quick it was until then.
            pod.signal(signal.SIGSTOP)
            push_all(peers, 3001, 3500)
            queue = peers._links[B].queue
            await until(lambda: queue.held > queue.waiting)
            await pod.kill()
            before = accepted.read_text().split()
            push_all(peers, 3501, 4000)
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
        """A stopped process is lost at the deadline, holds nobody up, gets all when it wakes."""
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
                    lambda: (
                        value(metrics, "grpc_pool_connections_closed_total", reason="failed") == 1
                    ),
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
            async with AsyncExitStack() as later, peers_of(addresses, metrics=metrics) as peers:
                push_all(peers, 1, 5)
                await until(lambda: value(metrics, "grpc_circuitbreaker_open") == 1)
                assert value(metrics, "grpc_pool_size") == 0
                assert value(metrics, "grpc_pool_connections_created_total") == 5
                await later.enter_async_context(serving(inbound, port))
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
        gone: list[str] = []

        def drop(pod_id: str) -> None:
            gone.append(pod_id)
            made.drop(pod_id)

        made = PeersGrpc("a-0-1", Addresses().lookup, QUICK, Metrics(), lease_gone=drop)
        made.push(B, item(1))
        await until(lambda: empty(made))
        assert gone == [B]
        await made.aclose()

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

    async def test_a_session_is_only_asked_about(self, peers: PeersGrpc, inbound: Recorder) -> None:
        """It is there or not, and stays as it is."""
        inbound.sessions.add(("session:a:b:c", "b-0-1#9"))
        assert await peers.has_session(B, "session:a:b:c", "b-0-1#9", 5)
        assert not await peers.has_session(B, "session:a:b:c", "b-0-1#8", 5)
        assert inbound.displaced == []

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


async def test_what_was_pushed_in_vain_keeps_nothing_back(
    peers: PeersGrpc, inbound: Recorder
) -> None:
    """An event pushed by a reader that was refused is forgotten; the next reader's go out."""
    peers.reading(EPOCH, STREAM)
    peers._refused(EPOCH + 1)
    peers.push(B, item(1))
    peers.reading(EPOCH + 2, STREAM)
    peers.push(B, item(2))
    await until(lambda: empty(peers))
    assert inbound.accepted == [2]
