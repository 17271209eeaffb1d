"""Admins with mixed subscriptions: agent events match by company and agent, each exact or any."""

from __future__ import annotations

from typing import Final

from bench.orders import Who
from bench.running import Bench, Stage, delivery_figures, event

NAME: Final = "admins"
_COMPANIES: Final = 20
_AGENTS: Final = 5


async def measure(bench: Bench) -> None:
    """Measure one rate, in turns."""
    settings = bench.settings
    agents = [(f"c{i % _COMPANIES}", f"a{i // _COMPANIES}") for i in range(_COMPANIES * _AGENTS)]
    subjects = [event(company, agent, "agents") for company, agent in agents]
    case = f"{settings.admins_count} x {settings.admins_rate}/s"
    async with bench.stages(settings.admins_layouts) as stages:
        for stage in stages:
            await stage.connect(_admins(stage, settings.admins_count, agents))
        for turn in range(settings.repeat):
            for stage in stages:
                ran = await stage.run(
                    subjects,
                    settings.admins_rate,
                    settings.admins_seconds,
                    alike=True,
                    label=f"admins {turn}",
                )
                figures = delivery_figures(ran)
                bench.results.add(NAME, case, stage.name, **figures)
                bench.say(
                    f"admins {case}  {stage.name:<14} {figures['cpu_us']:6.2f} µs  p99 "
                    f"{figures['p99_ms']:.1f} ms  lost {ran.lost}"
                )


def _admins(stage: Stage, count: int, agents: list[tuple[str, str]]) -> list[Who]:
    """Return admins: a tenth sees everything, the rest one company, one agent, or both."""
    clients = []
    for number in range(count):
        company, agent = agents[number % len(agents)]
        match number % 10:
            case 0:
                company = agent = "*"
            case 1 | 2 | 3:
                agent = "*"
            case 4 | 5:
                company = "*"
        doors = stage.target.doors
        clients.append(
            Who(
                host="127.0.0.1",
                port=doors[number % len(doors)],
                head=stage.target.admin(f"admin{number}", company, agent),
                wants=[
                    index
                    for index, (c, a) in enumerate(agents)
                    if company in ("*", c) and agent in ("*", a)
                ],
            )
        )
    return clients
