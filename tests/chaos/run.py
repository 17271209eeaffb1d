"""One run, from the first process to the verdict."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nats.aio.client import Client as NatsClient

from tests.chaos.faults import CATALOGUE, why_not
from tests.chaos.leaks import before, look
from tests.chaos.nemesis import Band, Nemesis
from tests.chaos.report import Outcome, assess
from tests.chaos.stage import Stage, stage
from tests.chaos.traffic import Mix, Traffic

AGENTS: Final = [(f"company-{n}", f"agent-{m}") for n in range(5) for m in range(2)]
CHATS: Final = 3
_QUIET_SECONDS: Final = 3.0
_SETTLE_SECONDS: Final = 60.0
_SAMPLE_SECONDS: Final = 0.25


@dataclass
class Plan:
    """What a run is made of.

    :param faults: kinds to draw from; empty: all.
    :param each_once: make every kind once, so many at a time, instead of drawing for `minutes`.
    :param length: what the durations of faults are multiplied by.
    :param chat_changes: each second, over all users.
    :param cuts: TCP connections cut each second, over all clients.
    """

    seed: int
    minutes: float = 2.0
    faults: list[str] = field(default_factory=list)
    each_once: int = 0
    length: float = 1.0
    rate: float = 150.0
    users: int = 200
    admins: int = 12
    slow: int = 6
    chat_changes: float = 8.0
    cuts: float = 1.0


@dataclass
class Run:
    """A run that is over: its outcome, and what the picture is made from."""

    outcome: Outcome
    on: Stage


async def perform(plan: Plan, folder: Path, say: Callable[[str], None]) -> Run:
    """Do a whole run.

    :param folder: for data and logs.
    :param say: called with each line of progress.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGUSR1, _tell_tasks)
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    skipped = {name: why for name in plan.faults or CATALOGUE if (why := why_not(name))}
    names = [name for name in plan.faults or CATALOGUE if name not in skipped]
    outcome = Outcome(plan.seed, plan.minutes, skipped=skipped)
    chance = random.Random(plan.seed)

    def traffic(client: NatsClient) -> Traffic:
        return Traffic(client, AGENTS, CHATS, Mix(plan.rate), plan.seed)

    async with stage(folder, traffic, chance, clock="clock_stepped" in names) as on:
        say(f"{len(on.hosts)} hosts are READY")
        outcome.remains = await before(on)
        await on.crowd.gather(AGENTS, plan.users, plan.admins, plan.slow)
        say(f"{len(on.crowd.watchers)} clients are connected")
        on.meter.began = began = time.monotonic()
        on.meter.slow.clear()
        nemesis = Nemesis(on, plan.seed, names, lambda band: say(_line(band)), plan.length)
        async with _life(on, plan):
            await asyncio.sleep(2)
            if plan.each_once:
                await nemesis.each_once(plan.each_once)
            else:
                await nemesis.run(60 * plan.minutes)
            await asyncio.sleep(2)
        say("no more faults: waiting for what is on its way")
        outcome.minutes = (time.monotonic() - began) / 60
        await _settle(on)
        bands = sorted(nemesis.bands, key=lambda b: b.began)
        for seq_at in on.traffic.ledger.at.values():
            on.meter.published(seq_at)
        say("all clients leave; looking for what is left")
        await on.crowd.leave()
        await look(on, outcome.remains)
        say("judging")
        assess(outcome, on, bands)
    return Run(outcome, on)


def _tell_tasks() -> None:
    """Print where everything waits, as SIGUSR1 asks for."""
    for task in asyncio.all_tasks():
        task.print_stack(limit=4)


@asynccontextmanager
async def _life(on: Stage, plan: Plan) -> AsyncIterator[None]:
    """Let events flow, chats change and connections drop until the block is left."""
    work = [
        on.traffic.run(),
        on.crowd.change_chats(plan.chat_changes),
        on.crowd.drop_out(plan.cuts),
        on.follow_reader(),
        _sample(on),
    ]
    tasks = [asyncio.create_task(w) for w in work]
    async with AsyncExitStack() as undo:
        undo.push_async_callback(_end, tasks)
        yield
    await on.traffic.drained()


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    left = set(tasks)
    while left:  # a library may keep a cancellation to itself
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=2)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _sample(on: Stage) -> None:
    lag = 0.0
    while True:
        on.meter.sample(on.crowd.connected, lag)
        due = time.monotonic() + _SAMPLE_SECONDS
        await asyncio.sleep(_SAMPLE_SECONDS)
        lag = time.monotonic() - due


async def _settle(on: Stage) -> None:
    """Wait until everybody is connected, and nothing has come for a while.

    Who is not by then is a problem: of a client without positions nothing more would be demanded.
    """
    deadline = time.monotonic() + _SETTLE_SECONDS
    seen, quiet_since = -1, time.monotonic()
    while time.monotonic() < deadline:
        count = sum(s.delivered for s in on.meter.seconds.values())
        missing = [w for w in on.crowd.watchers if not w.connected and w.client.ready is not None]
        if count != seen or missing:
            seen, quiet_since = count, time.monotonic()
        elif time.monotonic() - quiet_since > _QUIET_SECONDS:
            return
        await asyncio.sleep(0.25)
    away = [w.account.name for w in on.crowd.watchers if not w.connected]
    if away:
        on.problems.append(
            f"not connected {_SETTLE_SECONDS:g} s after the last fault: {', '.join(sorted(away))}"
        )


def _line(band: Band) -> str:
    problem = f"  PROBLEM {band.problem.splitlines()[0][:200]}" if band.problem else ""
    return (
        f"{band.began:7.1f} s  {band.name:24} ready {band.recovery:4.1f} s after"
        f"  {band.detail}{problem}"
    )
