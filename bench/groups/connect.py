"""Connecting: one after the other, and all at once for what was missed.

Every client is the first of its agent, so that each costs a token, a lock, a route and a barrier.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from bench.orders import Caught, Connected, Missed, Placed, Positions, Who
from bench.profiling import Profiler
from bench.running import Bench, Stage, event

NAME: Final = "connect"
_WARM: Final = 20
_STORM_AGENTS: Final = 100


async def measure(bench: Bench) -> None:
    """Measure both, in turns."""
    settings = bench.settings
    async with bench.stages(settings.connect_layouts) as stages:
        for stage in stages:
            await _make_reader(stage)
            await stage.connect(_lonely(stage, "warm", _WARM), at_once=1)
        for turn in range(settings.repeat):
            for stage in stages:
                await _one_by_one(bench, stage, turn)
        if settings.connect_storm:
            for stage in stages:
                await _storm(bench, stage)


async def _make_reader(stage: Stage) -> None:
    """Publish a little: no pod reads the stream before its first event."""
    await stage.run([event("nobody", "a", "chats")], 20, 0.2, warm=0.0)


async def _one_by_one(bench: Bench, stage: Stage, turn: int) -> None:
    count = bench.settings.connect_count
    async with Profiler(bench.settings, stage.target, f"connect {turn}"):
        connected = await stage.connect(_lonely(stage, f"t{turn}", count), at_once=1)
    figures = _figures(connected)
    bench.results.add(NAME, "one after another", stage.name, **figures)
    bench.say(
        f"connect {count}  {stage.name:<14} {figures['cpu_us']:6.0f} µs  "
        f"ready p50 {figures['p50_ms']:.2f}  p99 {figures['p99_ms']:.2f} ms"
    )
    await stage.drop()


async def _storm(bench: Bench, stage: Stage) -> None:
    """All clients lose their connection, miss events, and come back at once."""
    settings = bench.settings
    count, missed = settings.connect_storm, settings.connect_missed
    subjects = [event("c", f"a{i}", "chats") for i in range(_STORM_AGENTS)]
    await stage.connect(_crowd(stage, count, []), at_once=100)
    positions = (await stage.ask(Positions(), Placed)).positions
    await stage.drop()
    await stage.run(subjects, _STORM_AGENTS * missed / 0.5, 0.5, warm=0.0, keep=True)
    connected = await stage.connect(_crowd(stage, count, positions), at_once=count)
    caught = Caught(0, 0, 0, 0, 0)
    if connected.recovered:
        caught = await stage.ask(Missed(), Caught)
    bench.results.add(
        NAME,
        f"storm of {count}, {missed} missed",
        stage.name,
        **_figures(connected),
        all_ready_s=connected.seconds,
        recovered_pct=connected.recovered / count * 100,
        lost=caught.lost,
        doubled=caught.doubled,
        disordered=caught.disordered,
        foreign=caught.foreign,
    )
    bench.say(
        f"storm {count}  {stage.name:<14} all ready in {connected.seconds:.1f} s, "
        f"{connected.recovered} recovered, {caught.lost} of {caught.expected} lost"
    )
    await stage.drop()


def _figures(connected: Connected) -> dict[str, float]:
    times = sorted(connected.ready_ms)
    return {
        "cpu_us": sum(connected.cpu.values()) / len(times) * 1e6,
        "p50_ms": times[len(times) // 2],
        "p99_ms": times[int((len(times) - 1) * 0.99)],
        "max_ms": times[-1],
    }


def _lonely(stage: Stage, name: str, count: int) -> list[Who]:
    doors = stage.target.doors
    return [
        Who(
            host="127.0.0.1",
            port=doors[number % len(doors)],
            head=stage.target.user("c", f"{name}-{number}", "u"),
        )
        for number in range(count)
    ]


def _crowd(stage: Stage, count: int, positions: list[tuple[str, int]]) -> list[Who]:
    doors = stage.target.doors
    queries = [f"last_seq={seq}&stream={quote(stream, safe='')}" for stream, seq in positions]
    return [
        Who(
            host="127.0.0.1",
            port=doors[number % len(doors)],
            head=stage.target.user(
                "c", f"a{number % _STORM_AGENTS}", f"u{number}", queries[number] if queries else ""
            ),
            wants=[number % _STORM_AGENTS],
        )
        for number in range(count)
    ]
