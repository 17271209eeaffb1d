"""Fan-out: everybody looks at the chat list of one agent."""

from __future__ import annotations

from bench.orders import Who
from bench.running import Bench, Stage, delivery_figures, event, saturated
from bench.targets import Layout

NAME = "fan-out"


async def measure(bench: Bench) -> None:
    """Measure clients x events a second, in turns; the widest over two workers."""
    settings = bench.settings
    if settings.fan_out_points:
        async with bench.stages(settings.fan_out_layouts) as stages:
            await _points(bench, stages, settings.fan_out_points)
    if settings.fan_out_wide:
        async with bench.stages([Layout(1, 2)]) as stages:
            await _points(bench, stages, settings.fan_out_wide)


async def _points(bench: Bench, stages: list[Stage], points: list[tuple[int, int]]) -> None:
    connected = 0
    for clients, rate in sorted(points):
        for stage in stages:
            await stage.connect(list_clients(stage, connected, clients))
        connected = max(clients, connected)
        for turn in range(bench.settings.repeat):
            for stage in stages:
                await _one(bench, stage, clients, rate, turn)


async def _one(bench: Bench, stage: Stage, clients: int, rate: int, turn: int) -> None:
    ran = await stage.run(
        [event("c", "a", "chats")],
        rate,
        bench.settings.fan_out_seconds,
        alike=True,
        label=f"fan-out {clients} {rate} {turn}",
    )
    figures = delivery_figures(ran)
    bench.results.add(NAME, f"{clients} x {rate}/s", stage.name, **figures)
    if saturated(ran):
        bench.results.note(f"fan-out: {stage.name} was saturated at {clients} x {rate}/s")
    bench.say(
        f"fan-out {clients:>5} x {rate:>5}/s  {stage.name:<14} {figures['cpu_us']:7.2f} µs  "
        f"p99 {figures['p99_ms']:.1f} ms  lost {ran.lost}"
        + ("  saturated" if saturated(ran) else "")
    )


def list_clients(stage: Stage, start: int, end: int) -> list[Who]:
    """Return clients of one chat list, spread over the hosts."""
    doors = stage.target.doors
    return [
        Who(
            host="127.0.0.1",
            port=doors[number % len(doors)],
            head=stage.target.user("c", "a", f"u{number}"),
            wants=[0],
        )
        for number in range(start, end)
    ]
