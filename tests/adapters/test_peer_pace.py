"""The pace of batches to a peer: alone, in company, and what never waits; over real gRPC."""

from __future__ import annotations

import asyncio

import pytest

from daisi_ws.adapters import forward_stream, peer_pace
from daisi_ws.adapters.peer_pace import COMPANY, LONGEST_SECONDS, SPACING_SECONDS, Pace
from daisi_ws.adapters.peer_session import Session
from daisi_ws.app.ports import Position
from daisi_ws.domain.forward_queue import WINDOW
from tests.adapters.forwarding import (
    EPOCH,
    STREAM,
    Addresses,
    B,
    Recorder,
    empty,
    item,
    peers_of,
    serving,
    until,
)

EVER = 3600.0


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class TestPace:
    """The rule alone."""

    async def test_the_first_leaves_at_once(self) -> None:
        """Nothing left before it."""
        assert Pace(Clock(), asyncio.Event()).due(1)

    async def test_after_a_pause_at_once(self) -> None:
        """An event that comes long after the last batch does not wait."""
        clock = Clock()
        pace = Pace(clock, asyncio.Event())
        pace.left()
        assert not pace.due(1)
        clock.now += SPACING_SECONDS
        assert pace.due(1)

    async def test_enough_do_not_wait(self) -> None:
        """A batch of some size gains nothing by another event."""
        pace = Pace(Clock(), asyncio.Event())
        pace.left()
        assert not pace.due(COMPANY - 1)
        assert pace.due(COMPANY)

    async def test_what_waits_leaves_without_another_event(self) -> None:
        """Whoever writes is woken up, and told to go, whatever the clock says."""
        wake = asyncio.Event()
        pace = Pace(Clock(), wake)
        pace.left()
        assert not pace.due(1)
        async with asyncio.timeout(15):
            await wake.wait()
        assert pace.due(1)

    async def test_a_batch_that_left_wakes_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The timer of one batch does not send the next one off before its time."""
        monkeypatch.setattr(peer_pace, "LONGEST_SECONDS", 0.01)
        gone, wake = asyncio.Event(), asyncio.Event()
        pace = Pace(Clock(), gone)
        pace.left()
        assert not pace.due(1)
        pace.left()
        later = Pace(Clock(), wake)
        later.left()
        assert not later.due(1)
        async with asyncio.timeout(15):
            await wake.wait()
        assert not gone.is_set()

    async def test_the_times_fit(self) -> None:
        """The timer is the later of the two; answers come before the window is full."""
        assert SPACING_SECONDS <= LONGEST_SECONDS < forward_stream.ANSWER_SECONDS
        assert forward_stream.ANSWER_BATCHES * 2 <= WINDOW


class TestOnTheStream:
    """What the peer sees of it."""

    async def test_events_that_follow_closely_travel_together(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first leaves alone, those of the next turns in one batch, in order."""
        _slow(monkeypatch, EVER, EVER)
        inbound = Recorder()
        async with serving(inbound) as (_, port), peers_of(Addresses(b_0_1=port)) as peers:
            peers.push(B, item(1))
            await until(lambda: empty(peers))
            for seq in range(2, COMPANY + 2):
                assert len(inbound.batches) == 1
                peers.push(B, item(seq))
                await asyncio.sleep(0)
            await until(lambda: empty(peers))
        assert [count for *_, count in inbound.batches] == [1, COMPANY]
        assert inbound.accepted == list(range(1, COMPANY + 2))

    async def test_one_that_stays_alone_leaves_in_the_end(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Company is waited for, but not for ever; nothing is accepted before it has left."""
        _slow(monkeypatch, EVER, 0.05)
        inbound = Recorder()
        async with serving(inbound) as (_, port), peers_of(Addresses(b_0_1=port)) as peers:
            for seq in (1, 2, 3):
                peers.push(B, item(seq))
                assert peers.floor() == seq
                await until(lambda: empty(peers))
        assert inbound.accepted == [1, 2, 3]

    async def test_questions_do_not_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A barrier and a displacement are asked at once, although events gather."""
        _slow(monkeypatch, EVER, EVER)
        inbound = Recorder()
        async with serving(inbound) as (_, port), peers_of(Addresses(b_0_1=port)) as peers:
            peers.push(B, item(1))
            await until(lambda: empty(peers))
            peers.push(B, item(2))
            assert await peers.barrier(B, ["x"], 15) == Position(EPOCH, STREAM, 41)
            await peers.displace(B, "session:a", "pod#1", 15)
            assert peers.floor() == 2
        assert inbound.accepted == [1]

    async def test_what_gathers_when_the_stream_breaks_is_sent_on_the_next(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A new stream begins with what waits, at once."""
        _slow(monkeypatch, EVER, EVER)
        inbound = Recorder()
        async with peers_of(Addresses(b_0_1=1)) as peers:
            addresses = Addresses()
            monkeypatch.setattr(peers._context, "lookup", addresses.lookup)
            async with serving(inbound) as (_, port):
                addresses.ports[B] = port
                peers.push(B, item(1))
                await until(lambda: empty(peers))
                peers.push(B, item(2))
            async with serving(inbound) as (_, port):
                addresses.ports[B] = port
                await until(lambda: empty(peers))
        assert inbound.accepted == [1, 2]

    async def test_progress_is_not_told_while_events_gather(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An event that comes between the decision to tell how far was read and the telling is
        not passed over: the peer would take it for one it has."""
        _slow(monkeypatch, EVER, 0.02)
        pushed = [1]
        tick = Session.tick

        def tick_then_push(self: Session, now: float) -> None:
            tick(self, now)
            if len(pushed) < 6 and empty(peers):
                pushed.append(pushed[-1] + 1)
                peers.push(B, item(pushed[-1]))
                peers.progress(pushed[-1])

        monkeypatch.setattr(Session, "tick", tick_then_push)
        inbound = Recorder()
        async with serving(inbound) as (_, port), peers_of(Addresses(b_0_1=port)) as peers:
            peers.push(B, item(1))
            peers.progress(1)
            await until(lambda: len(pushed) == 6 and empty(peers))
        assert inbound.accepted == pushed


def _slow(patch: pytest.MonkeyPatch, spacing: float, longest: float) -> None:
    patch.setattr(peer_pace, "SPACING_SECONDS", spacing)
    patch.setattr(peer_pace, "LONGEST_SECONDS", longest)
