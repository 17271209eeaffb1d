"""Idle: the CPU of many connections that only answer pings."""

from __future__ import annotations

from typing import Final

from bench.groups.memory import idle_clients
from bench.orders import Idle, Idled
from bench.profiling import Profiler
from bench.running import Bench
from bench.targets import Layout

NAME: Final = "idle"


async def measure(bench: Bench) -> None:
    """Measure once; the time should be that between two pings (20 s), or a multiple."""
    settings = bench.settings
    async with bench.stages([Layout(1, 1)], floor=False) as stages:
        for stage in stages:
            await stage.connect(idle_clients(stage, 0, settings.idle_clients))
        for stage in stages:
            async with Profiler(settings, stage.target, "idle"):
                order = Idle(settings.idle_seconds, stage.target.processes())
                idled = await stage.ask(order, Idled)
            percent = sum(idled.cpu.values()) / idled.seconds * 100
            case = f"{settings.idle_clients} idle"
            bench.results.add(NAME, case, stage.name, cpu_pct_of_core=percent, ended=idled.ended)
            if idled.ended:
                bench.results.note(
                    f"idle: {idled.ended} connections of {stage.name} ended meanwhile"
                )
            bench.say(f"idle {settings.idle_clients}  {stage.name:<14} {percent:.2f} % of a core")
            await stage.drop()
