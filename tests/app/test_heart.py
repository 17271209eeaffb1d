"""The one timer: pings, signs of life, slow clients and ending tokens, by a clock of its own."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from daisi_ws.app.connection import BACKLOG_BYTES, State
from daisi_ws.app.heart import Heart, HeartSettings
from daisi_ws.app.hub import Hub
from daisi_ws.config import testing_config
from daisi_ws.domain import principal
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.wire import ping_frame
from daisi_ws.metrics import Metrics
from tests.app.connections import FOREVER, Made, ann, event, flush

PING = ping_frame()
WALL = 1_700_000_000.0


class Body:
    """A heart with its hub and a clock that the test turns."""

    def __init__(self, slices: int = 1) -> None:
        self.now = 1000.0
        self.wall_step = 0.0
        self.hub = Hub()
        self.metrics = Metrics()
        self.settings = replace(
            HeartSettings.from_config(testing_config()),
            ping_interval=20.0,
            pong_wait=60.0,
            slow_after=5.0,
            slow_close=30.0,
            write_timeout=20.0,
            expiry_warning=30.0,
        )
        self.slices = slices
        self.heart = Heart(
            self.hub,
            lambda: self.settings,
            self.metrics,
            lambda: self.now,
            lambda: WALL + self.now - 1000.0 + self.wall_step,
            slices=slices,
        )

    def add(self, made: Made) -> Made:
        """Open a connection now."""
        self.hub.join(made.connection)
        made.open(now=self.now)
        return made

    def beat(self, seconds: float = 1.0) -> None:
        """Let time pass, with every tick in time."""
        for _ in range(round(seconds * self.slices)):
            self.now += 1.0 / self.slices
            self.heart.tick()

    def behind(self, made: Made, backlog: int = BACKLOG_BYTES + 1) -> None:
        """Have a client fall behind now."""
        made.sink.waiting = backlog
        made.connection.offer(1, event(1))
        flush(made.connection, self.now)
        assert made.connection.behind_since == self.now
        self.hub.behind.add(made.connection)

    def value(self, name: str, **labels: str) -> float | None:
        """Return a metric's value."""
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.mark.parametrize("slices", [1, 10])
def test_each_client_is_pinged_once_an_interval(slices: int) -> None:
    """Every connection, wherever it stands in the round, also while others come and go."""
    body = Body(slices)
    staying = [body.add(Made(f"c{n}", max_count=100)) for n in range(30)]
    for second in range(100):
        guest = body.add(Made(f"guest{second}"))
        body.beat()
        for made in staying:
            made.connection.last_seen = body.now
        if second % 3:
            body.hub.leave(guest.connection)
    for made in staying:
        assert made.sink.written.count(PING) in (4, 5, 6)
        assert not made.sink.closed


@pytest.mark.parametrize("interval", [7.3, 20.0, 1.1, 1.0, 0.3])
def test_no_ping_is_left_out(interval: float) -> None:
    """Whatever the interval: between two pings there is never more than it and a round."""
    body = Body(slices=10)
    body.settings = replace(body.settings, ping_interval=interval)
    all_made = [body.add(Made(f"c{n}")) for n in range(50)]
    last = dict.fromkeys(range(50), body.now)
    for _ in range(1500):
        body.beat(0.1)
        for n, made in enumerate(all_made):
            made.connection.last_seen = body.now
            if made.sink.written:
                last[n] = body.now
                made.sink.written.clear()
            # A round begins up to one after the ping is due, and passes everybody within one.
            assert body.now - last[n] <= interval + 2.1


def test_an_idle_client_is_passed_until_something_is_due() -> None:
    """It is looked at when `look_at` has come, which a look puts at the next ping at the latest."""
    body = Body()
    made = body.add(Made())
    body.beat()
    made.sink.written.clear()
    made.connection.look_at = body.now + 25
    body.beat(24)
    assert not made.sink.written
    for _ in range(100):
        body.beat()
        made.connection.last_seen = body.now
        assert body.now - 1 < made.connection.look_at <= body.now + body.settings.ping_interval
    assert made.sink.written.count(PING) in (4, 5, 6)


def test_silence_is_noticed_between_two_pings() -> None:
    """However rare pings are, the end of the pong wait is not missed."""
    body = Body()
    made = body.add(Made())
    body.settings = replace(body.settings, ping_interval=1000.0)
    body.beat(30)
    made.connection.last_seen = body.now
    body.beat(60)
    assert not made.sink.closed
    body.beat(1)
    assert made.sink.closed == [CloseReason.PONG_TIMEOUT]


def test_pings_are_spread_over_the_interval() -> None:
    """Clients that came together are not pinged together."""
    body = Body()
    all_made = [body.add(Made(f"c{n}")) for n in range(500)]
    most = 0
    for _ in range(20):
        before = sum(len(made.sink.written) for made in all_made)
        body.beat()
        most = max(most, sum(len(made.sink.written) for made in all_made) - before)
    assert 0 < most < 150


def test_a_changed_interval_applies_at_once() -> None:
    """The settings are read in each tick."""
    body = Body()
    made = body.add(Made())
    body.settings = replace(body.settings, ping_interval=1.0)
    body.beat(10)
    assert made.sink.written.count(PING) >= 9


def test_a_client_without_sign_of_life_is_closed() -> None:
    """Dead is who sent no byte for the pong wait; any byte, at any time, is life."""
    body = Body()
    silent, alive = body.add(Made("silent")), body.add(Made("alive"))
    for _ in range(60):
        body.beat()
        alive.connection.last_seen = body.now
    assert not silent.sink.closed
    body.beat()
    assert silent.sink.closed == [CloseReason.PONG_TIMEOUT]
    assert not alive.sink.closed


def test_a_stall_of_the_loop_kills_nobody() -> None:
    """Time in which this process stood still is nobody's silence, and nobody's slowness."""
    body = Body()
    quiet, slow = body.add(Made("quiet")), body.add(Made("slow"))
    body.behind(slow)
    body.beat(3)
    body.now += 500
    with capture_logs() as lines:
        body.heart.tick()
    assert [line["event"] for line in lines] == ["loop stood still"]
    assert not quiet.sink.closed
    assert not slow.sink.closed
    body.beat(20)
    assert slow.sink.closed == [CloseReason.TOO_SLOW]
    body.beat(45)
    assert quiet.sink.closed == [CloseReason.PONG_TIMEOUT]


def test_a_stall_does_not_put_signs_of_life_into_the_future() -> None:
    """Who was heard right after the stall is not given the stall on top."""
    body = Body()
    made = body.add(Made())
    body.beat()
    body.now += 500
    made.connection.last_seen = body.now
    body.heart.tick()
    assert made.connection.last_seen == body.now


def test_connections_that_are_not_open_are_left_alone() -> None:
    """Neither a joining nor a closed connection is pinged or closed."""
    body = Body()
    joining = Made("joining", ann(expires_at=0))
    body.hub.join(joining.connection)
    closed = body.add(Made("closed"))
    closed.connection.close(CloseReason.GOING_AWAY)
    body.beat(100)
    assert joining.connection.state is State.JOINING
    assert not closed.sink.written
    assert closed.sink.closed == [CloseReason.GOING_AWAY]


def test_a_slow_client_is_counted_and_logged_once_and_then_closed() -> None:
    """Behind for long enough it is slow; behind for too long it is closed with 1013."""
    body = Body()
    body.settings = replace(body.settings, write_timeout=1000.0)
    made = body.add(Made())
    body.behind(made)
    with capture_logs() as lines:
        body.beat(5)
        assert body.value("dws_slow_clients") == 0
        assert not lines
        body.beat(25)
    assert body.value("dws_slow_clients") == 1
    (line,) = lines
    assert (line["event"], line["user_id"]) == ("client is slow", "ann")
    assert not made.sink.closed
    body.beat()
    assert made.sink.closed == [CloseReason.TOO_SLOW]
    body.hub.leave(made.connection)
    body.beat()
    assert body.value("dws_slow_clients") == 0


def test_a_client_that_catches_up_is_not_slow_any_more() -> None:
    """Being behind is forgotten when the client has caught up; a new time begins anew."""
    body = Body()
    made = body.add(Made())
    for _ in range(5):
        body.behind(made)
        body.beat(10)
        assert body.value("dws_slow_clients") == 1
        made.sink.waiting = 0
        flush(made.connection, body.now)
        body.hub.behind.discard(made.connection)
        made.connection.last_seen = body.now
        body.beat()
        assert body.value("dws_slow_clients") == 0
    assert not made.sink.closed


def test_a_socket_that_takes_no_byte_is_closed_sooner() -> None:
    """The write timeout counts from the last byte the socket took."""
    body = Body()
    stuck, trickling = body.add(Made("stuck")), body.add(Made("trickling"))
    body.behind(stuck, 1_000_000)
    body.behind(trickling, 1_000_000)
    for _ in range(21):
        trickling.sink.waiting -= 1000
        body.beat()
    assert stuck.sink.closed == [CloseReason.TOO_SLOW]
    assert not trickling.sink.closed


def test_a_client_that_was_written_to_meanwhile_moves() -> None:
    """Between two looks it took all that was buffered and got more: its backlog is larger now, and
    shrinking all the time."""
    body = Body()
    body.settings = replace(body.settings, write_timeout=3.0)
    made = body.add(Made())
    body.behind(made, 100_000)
    body.beat()
    made.sink.waiting = 0
    flush(made.connection, body.now)
    body.behind(made, 1_000_000)
    for _ in range(10):
        made.sink.waiting -= 10_000
        body.beat()
    assert not made.sink.closed


def test_acceptance_is_withheld_no_longer_than_the_write_timeout() -> None:
    """A blocked client over its limit is closed in time, also one whose socket takes bytes."""
    body = Body()
    body.settings = replace(body.settings, slow_close=1000.0, write_timeout=5.0)
    full, waiting = (
        body.add(Made(name, max_count=1, policy="block")) for name in ("full", "waiting")
    )
    for made in (full, waiting):
        body.behind(made, 10_000_000)
    full.connection.offer(2, event(2))
    for _ in range(7):
        for made in (full, waiting):
            made.sink.waiting -= 1000
        assert not full.sink.closed
        body.beat()
    assert full.sink.closed == [CloseReason.TOO_SLOW]
    assert not waiting.sink.closed


def test_thresholds_apply_from_the_next_tick() -> None:
    """A reload is enough to give up a client that was slow before it."""
    body = Body()
    made = body.add(Made())
    body.behind(made)
    body.beat(4)
    body.settings = replace(body.settings, slow_after=1.0)
    body.beat()
    assert body.value("dws_slow_clients") == 1
    body.settings = replace(body.settings, slow_close=2.0)
    body.beat()
    assert made.sink.closed == [CloseReason.TOO_SLOW]


def test_a_token_is_warned_of_once_and_then_ends_the_session() -> None:
    """One `token_expiring` at its time, 4403 within a second of the end."""
    body = Body()
    made = body.add(Made(who=ann(WALL + 100)))
    body.settings = replace(body.settings, pong_wait=1000.0)
    body.beat(69)
    assert not made.outbox
    body.beat(29)
    flush(made.connection, body.now)
    assert made.sink.messages() == [
        {"type": "token_expiring", "payload": {"expires_in_seconds": 30}}
    ]
    assert not made.sink.closed
    body.beat(2)
    assert made.sink.closed == [CloseReason.TOKEN_EXPIRED]


def test_a_fresh_token_is_warned_of_again() -> None:
    """Whoever refreshes stays, and is warned before the end of the fresh token."""
    body = Body()
    body.settings = replace(body.settings, pong_wait=1000.0)
    made = body.add(Made(who=ann(WALL + 20)))
    body.beat(10)
    assert len(made.outbox) == 1
    made.connection.principal = ann(WALL + 100)
    body.beat(50)
    assert len(made.outbox) == 1
    body.beat(20)
    assert len(made.outbox) == 2
    assert not made.sink.closed


def test_a_fresh_token_that_ends_sooner_counts_at_once() -> None:
    """Its end is that of the session, whatever the one before it allowed."""
    body = Body()
    made = body.add(Made(who=ann(WALL + 5000)))
    body.settings = replace(body.settings, ping_interval=1000.0, pong_wait=1000.0)
    body.beat(2)
    made.connection.refresh(ann(WALL + 5))
    body.beat(2)
    assert not made.sink.closed
    body.beat(1)
    assert made.sink.closed == [CloseReason.TOKEN_EXPIRED]


def test_a_wall_clock_that_was_set_counts_at_once() -> None:
    """A token ends by the wall clock, also when that jumps."""
    body = Body()
    made = body.add(Made(who=ann(WALL + 5000)))
    body.settings = replace(body.settings, ping_interval=1000.0, pong_wait=1000.0)
    body.beat(2)
    body.wall_step = 5000.0
    body.beat(1)
    assert made.sink.closed == [CloseReason.TOKEN_EXPIRED]


def test_a_changed_pong_wait_applies_at_once() -> None:
    """Who would have been looked at later is looked at in the next round."""
    body = Body()
    made = body.add(Made())
    body.settings = replace(body.settings, ping_interval=1000.0, pong_wait=1000.0)
    body.beat(10)
    body.settings = replace(body.settings, pong_wait=5.0)
    body.beat(1)
    assert made.sink.closed == [CloseReason.PONG_TIMEOUT]


def test_no_warning_is_given_where_none_is_configured() -> None:
    """A warning time of 0 means none."""
    body = Body()
    body.settings = replace(body.settings, expiry_warning=0.0)
    made = body.add(Made(who=ann(WALL + 10)))
    body.beat(9)
    assert not made.outbox
    body.beat(1)
    assert made.sink.closed == [CloseReason.TOKEN_EXPIRED]


def test_gauges_are_read_from_the_hub() -> None:
    """Connections by kind, and what outboxes hold and may hold."""
    body = Body(slices=10)
    made = body.add(Made("a", max_count=7))
    body.add(Made("b", max_count=5))
    body.add(Made("c", principal.admin("root", FOREVER), max_count=3))
    made.connection.offer(1, event(1))
    made.connection.offer(2, event(2))
    body.beat()
    assert body.value("dws_active_connections", type="user") == 2
    assert body.value("dws_active_connections", type="admin") == 1
    assert body.value("dws_websocket_buffer_capacity") == 15
    assert body.value("dws_websocket_buffer_used_count") == 2


async def test_it_beats_until_cancelled() -> None:
    """`run` ticks by the real clock."""
    hub, metrics = Hub(), Metrics()
    settings = replace(
        HeartSettings.from_config(testing_config()), ping_interval=0.05, pong_wait=0.2
    )
    heart = Heart(hub, lambda: settings, metrics)
    made = Made()
    hub.join(made.connection)
    closed = asyncio.Event()
    made.connection.on_close = lambda _: closed.set()
    made.open(now=asyncio.get_running_loop().time())
    running = asyncio.create_task(heart.run())
    async with asyncio.timeout(5):
        await closed.wait()
    assert made.sink.closed == [CloseReason.PONG_TIMEOUT]
    assert PING in made.sink.written
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
