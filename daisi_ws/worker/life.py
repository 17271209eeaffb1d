"""A worker and its supervisor: signals in, reports out, and an end when the supervisor is gone."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import structlog

from daisi_ws.app.waiting import TICK_SECONDS, until_tick
from daisi_ws.domain.slots import (
    HEARTBEAT_SECONDS,
    Draining,
    Heartbeat,
    NotReady,
    Ready,
    Report,
    WorkerContext,
    encode_report,
)

log = structlog.get_logger(__name__)


class Life:
    """What the supervisor tells this worker, and what it is told.

    :param reload: called for SIGHUP.
    """

    def __init__(self, context: WorkerContext, reload: Callable[[], None]) -> None:
        self._context = context
        self._reload = reload
        self._said: Report | None = None
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()

    def start(self) -> None:
        """Install the signal handlers and watch the lifeline."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_term)
        loop.add_signal_handler(signal.SIGINT, self._on_quick)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        loop.add_reader(self._context.lifeline_fd, self._on_lifeline)

    async def report(
        self, problems: Callable[[], dict[str, str]], changed: Callable[[], None]
    ) -> None:
        """Send heartbeats, and whether this worker is ready whenever that changes.

        :param problems: what keeps it from being ready, by part.
        :param changed: called when it has become ready, or is so no more.
        """
        beats = round(HEARTBEAT_SECONDS / TICK_SECONDS)
        count = 0
        while True:
            if count % beats == 0:
                self.say(Heartbeat())
            count += 1
            why = "; ".join(f"{part}: {what}" for part, what in problems().items())
            state: Report = NotReady(why) if why else Ready()
            if not self.stop.is_set() and state != self._said:
                if type(state) is not type(self._said):
                    log.info("ready" if not why else "not ready", why=why or None)
                    changed()
                self._said = state
                self.say(state)
            await asyncio.sleep(until_tick())

    def say(self, report: Report) -> None:
        """Send one report; a supervisor that does not read loses it."""
        try:
            os.write(self._context.report_fd, encode_report(report))
        except (BlockingIOError, BrokenPipeError):
            return

    def _on_term(self) -> None:
        if self.stop.is_set():
            self.hurry.set()
        else:
            self.say(Draining())
        self.stop.set()

    def _on_quick(self) -> None:
        self.stop.set()
        self.hurry.set()

    def _on_lifeline(self) -> None:
        if os.read(self._context.lifeline_fd, 1):
            return
        asyncio.get_running_loop().remove_reader(self._context.lifeline_fd)
        log.warning("the supervisor is gone: leaving")
        self._on_quick()
