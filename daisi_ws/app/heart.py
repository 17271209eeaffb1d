"""The one timer for all connections: pings, signs of life, slow clients, ending tokens.

Every connection is passed once in a round of about a second, and looked at when something may be
due for it. A round is cut into slices, so that many thousand connections never hold the loop up at
once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

import structlog

from daisi_ws.app.connection import Connection, State
from daisi_ws.app.hub import Hub
from daisi_ws.app.waiting import until_tick
from daisi_ws.config import Config
from daisi_ws.domain import frames
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.wire import ping_frame
from daisi_ws.metrics import Metrics

log = structlog.get_logger()

ROUND_SECONDS: Final = 1.0
SLICES: Final = 10
LATE_SECONDS: Final = 1.0
"""A tick later than this was held up by this process: nobody is blamed for that time."""

_PING: Final = ping_frame()
_PHASES: Final = 1009
_EARLY_SECONDS: Final = 0.001
"""Looked at so much before something is due: what is rounded makes no look come a round late."""
_CLOCK_STEP_SECONDS: Final = 0.1
"""Wall clock and monotonic clock may drift apart so far before all tokens are looked at again."""

# Python 3.11 looks an enum's member up in a function: it would cost more than passing a connection.
_OPEN: Final = State.OPEN


@dataclass(frozen=True, slots=True)
class HeartSettings:
    """What the configuration says about living connections, all in seconds.

    :param slow_after: behind for longer, a client counts as slow.
    :param slow_close: behind for longer, it is closed.
    :param write_timeout: its socket takes no byte for longer, or an event's acceptance is withheld
        for it for longer, it is closed.
    :param expiry_warning: 0 for no warning.
    """

    ping_interval: float
    pong_wait: float
    slow_after: float
    slow_close: float
    write_timeout: float
    expiry_warning: float

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Take the settings from a checked configuration."""
        app = config.app
        return cls(
            ping_interval=app.ping_interval_seconds,
            pong_wait=app.pong_wait_seconds,
            slow_after=app.websocket_slow_client_latency_ms / 1000,
            slow_close=app.websocket_slow_client_disconnect_threshold_ms / 1000,
            write_timeout=app.write_timeout_seconds,
            expiry_warning=app.token_expiry_warning_seconds,
        )


@dataclass(slots=True)
class _Behind:
    """A client that is behind.

    :param moved_at: when its backlog last shrank.
    :param held: sequence from which acceptance is withheld for it, since `held_at`.
    :param slow: it was called slow.
    """

    backlog: int
    moved_at: float
    held: int | None = None
    held_at: float = 0.0
    slow: bool = False

    def look(self, connection: Connection, backlog: int, now: float) -> None:
        """Note what has changed since the last look."""
        if backlog < self.backlog:
            self.moved_at = now
        self.backlog = backlog
        held = connection.outbox.held_from()
        if held != self.held:
            self.held, self.held_at = held, now

    def stuck(self, now: float, since: float) -> float:
        """Return for how long, in seconds, it takes nothing, or withholds what it was offered.

        :param since: when it fell behind: before that its socket took everything.
        """
        moved_at = max(self.moved_at, since)
        return now - (moved_at if self.held is None else min(moved_at, self.held_at))


class Heart:
    """Looks after the connections of a hub.

    :param settings: read in each tick, so that changes apply.
    :param clock: monotonic seconds; `wall_clock`: Unix time in seconds.
    :param slices: ticks in a round.
    """

    def __init__(
        self,
        hub: Hub,
        settings: Callable[[], HeartSettings],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        *,
        slices: int = SLICES,
    ) -> None:
        self._hub = hub
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._wall_clock = wall_clock
        self._slices = slices
        self._slice = 0
        self._round: list[Connection] = []
        self._round_at = self._previous_round_at = self._due = clock()
        self._pause = ROUND_SECONDS / slices
        self._looked_with: HeartSettings | None = None
        self._wall_offset = 0.0
        self._capacity = self._used = 0
        self._warned: dict[Connection, float] = {}
        self._behind: dict[Connection, _Behind] = {}

    async def run(self) -> None:
        """Tick until cancelled."""
        self._due = self._clock()
        while True:
            self.tick()
            await asyncio.sleep(until_tick(self._pause))

    def tick(self) -> None:
        """Look at the next slice of the round, and at every client that is behind."""
        now, settings = self._clock(), self._settings()
        late = now - self._due
        if late > LATE_SECONDS:
            self._forgive(late, now)
        self._pause = min(ROUND_SECONDS, settings.ping_interval) / self._slices
        self._due = now + self._pause
        if self._slice == 0:
            self._begin_round(now)
        wall = self._wall_clock()
        self._reschedule(wall - now, settings)
        self._pass(self._round[self._slice :: self._slices], now, wall, settings)
        self._look_behind(now, settings)
        self._slice = (self._slice + 1) % self._slices
        if self._slice == 0:
            self._end_round()

    def _forgive(self, late: float, now: float) -> None:
        log.warning("loop stood still", seconds=round(late, 3))
        for connection in self._hub.connections():
            connection.last_seen = min(now, connection.last_seen + late)
            if connection.behind_since is not None:
                connection.behind_since = min(now, connection.behind_since + late)
        for behind in self._behind.values():
            behind.moved_at = min(now, behind.moved_at + late)
            behind.held_at = min(now, behind.held_at + late)

    def _begin_round(self, now: float) -> None:
        self._previous_round_at, self._round_at = self._round_at, now
        self._round = self._hub.connections()
        self._capacity = self._used = 0

    def _reschedule(self, wall_offset: float, settings: HeartSettings) -> None:
        """Look at everybody anew if the settings were changed or the wall clock was set."""
        stepped = abs(wall_offset - self._wall_offset) > _CLOCK_STEP_SECONDS
        if stepped or settings != self._looked_with:
            self._wall_offset, self._looked_with = wall_offset, settings
            for connection in self._hub.connections():
                connection.look_at = 0.0

    def _pass(
        self, connections: list[Connection], now: float, wall: float, settings: HeartSettings
    ) -> None:
        capacity = used = 0
        for connection in connections:
            if connection.state is not _OPEN:
                continue
            outbox = connection.outbox
            capacity += outbox.max_count
            if outbox.size:
                used += len(outbox)
            if connection.look_at <= now:
                self._look(connection, now, wall, settings)
        self._capacity += capacity
        self._used += used

    def _look(
        self, connection: Connection, now: float, wall: float, settings: HeartSettings
    ) -> None:
        """Do what is due for a connection, and note when something may be due again."""
        if now - connection.last_seen > settings.pong_wait:
            connection.close(CloseReason.PONG_TIMEOUT)
            return
        remaining = connection.principal.expires_at - wall
        if remaining <= 0:
            connection.close(CloseReason.TOKEN_EXPIRED)
            return
        if remaining <= settings.expiry_warning:
            self._warn(connection, remaining)
        else:
            remaining -= settings.expiry_warning
        interval = settings.ping_interval
        # Each connection has a phase of its own: those that came together are not pinged together.
        phase = (id(connection) >> 4) % _PHASES / _PHASES * interval
        pings = (self._round_at + phase) // interval
        if connection.sink is not None and (self._previous_round_at + phase) // interval != pings:
            connection.sink.write(_PING)
        next_ping = (pings + 1) * interval - phase
        silent_at = connection.last_seen + settings.pong_wait
        connection.look_at = min(next_ping, silent_at, now + remaining) - _EARLY_SECONDS

    def _warn(self, connection: Connection, remaining: float) -> None:
        expires_at = connection.principal.expires_at
        if self._warned.get(connection) == expires_at:
            return
        self._warned[connection] = expires_at
        self._metrics.tally.other_sent += 1
        connection.send(frames.token_expiring(remaining))

    def _look_behind(self, now: float, settings: HeartSettings) -> None:
        for connection in self._behind.keys() - self._hub.behind:
            del self._behind[connection]
        for connection in list(self._hub.behind):
            sink, since = connection.sink, connection.behind_since
            if connection.state is not _OPEN or sink is None or since is None:
                continue
            backlog = sink.backlog()
            behind = self._behind.setdefault(connection, _Behind(backlog, since))
            behind.look(connection, backlog, now)
            slow = now - since > settings.slow_after
            if now - since > settings.slow_close or (
                behind.stuck(now, since) > settings.write_timeout
            ):
                connection.close(CloseReason.TOO_SLOW)
            elif slow and not behind.slow:
                self._tell_slow(connection, backlog, now - since)
            behind.slow = slow

    def _tell_slow(self, connection: Connection, backlog: int, seconds: float) -> None:
        principal = connection.principal
        log.warning(
            "client is slow",
            request_id=connection.request_id,
            kind=principal.kind,
            company_id=principal.company_id,
            agent_id=principal.agent_id,
            **{f"{principal.kind}_id": principal.principal_id},
            behind_seconds=round(seconds, 3),
            backlog_bytes=backlog,
            waiting=len(connection.outbox),
            dropped=connection.dropped,
        )

    def _end_round(self) -> None:
        self._round = []
        self._warned = {c: at for c, at in self._warned.items() if c.state is State.OPEN}
        metrics = self._metrics
        for kind, count in self._hub.counts().items():
            metrics.active_connections.labels(kind).set(count)
        metrics.buffer_capacity.set(self._capacity)
        metrics.buffer_used.set(self._used)
        metrics.slow_clients.set(sum(behind.slow for behind in self._behind.values()))
