"""1:1: every client looks at its own thread, events are spread evenly over them."""

from __future__ import annotations

from collections.abc import Sequence

from bench.orders import Who
from bench.running import Bench, Stage, delivery_figures, event, saturated

NAME = "path"


async def measure(bench: Bench) -> None:
    """Measure each rate until a variant is saturated, in turns."""
    settings = bench.settings
    threads = [event("c", "a", "messages", f"t{i}") for i in range(settings.path_clients)]
    async with bench.stages(settings.path_layouts) as stages:
        for stage in stages:
            await stage.connect(thread_clients(stage, settings.path_clients))
        for turn in range(settings.repeat):
            full: set[str] = set()
            for rate in settings.path_rates:
                for stage in stages:
                    if stage.name not in full and await _one(bench, stage, threads, rate, turn):
                        full.add(stage.name)


def thread_clients(stage: Stage, count: int, doors: Sequence[int] = ()) -> list[Who]:
    """Return clients that select a thread each, spread over the hosts."""
    doors = doors or stage.target.doors
    return [
        Who(
            host="127.0.0.1",
            port=doors[number % len(doors)],
            head=stage.target.user("c", "a", f"u{number}"),
            chat=f"t{number}",
            wants=[number],
        )
        for number in range(count)
    ]


async def _one(
    bench: Bench, stage: Stage, threads: list[tuple[str, str]], rate: int, turn: int
) -> bool:
    seconds = bench.settings.path_seconds
    ran = await stage.run(threads, rate, seconds, label=f"path {rate} {turn}")
    figures = delivery_figures(ran)
    bench.results.add(NAME, f"{rate}/s", stage.name, **figures)
    full = saturated(ran)
    if full:
        bench.results.note(f"path: {stage.name} was saturated at {rate}/s")
    bench.say(
        f"path {rate:>6}/s  {stage.name:<14} {figures['cpu_us']:7.1f} µs  p50 "
        f"{figures['p50_ms']:.2f}  p99 {figures['p99_ms']:.2f} ms  lost {ran.lost}"
        + ("  saturated" if full else "")
    )
    return full
