"""Forward: what the hop to another pod costs.

Two hosts with a worker each. The clients are all on the host that reads the stream (`local`), or
all on the other one (`remote`): the difference is the hop.
"""

from __future__ import annotations

from typing import Final

from bench.groups.path import thread_clients
from bench.running import Bench, Stage, delivery_figures, event, saturated
from bench.targets import Layout, Product

NAME: Final = "forward"


async def measure(bench: Bench) -> None:
    """Measure each rate with local and with remote clients, in turns."""
    settings = bench.settings
    count = settings.forward_clients
    threads = [event("c", "a", "messages", f"t{i}") for i in range(count)]
    async with bench.stages([Layout(2, 1)], floor=False) as stages:
        for stage in stages:
            await stage.run([event("nobody", "a", "chats")], 20, 0.2, warm=0.0)
        for turn in range(settings.repeat):
            for stage in stages:
                for rate in settings.forward_rates:
                    await _one(bench, stage, threads, rate, turn)


async def _one(
    bench: Bench, stage: Stage, threads: list[tuple[str, str]], rate: int, turn: int
) -> None:
    settings, target = bench.settings, stage.target
    assert isinstance(target, Product)
    reader = target.reader()
    if not reader:
        raise RuntimeError(f"{stage.name}: nobody reads the stream, so no host is the local one")
    per_delivery: dict[str, float] = {}
    for where in ("local", "remote"):
        doors = [h.http_port for h in target.hosts if (h.name == reader) is (where == "local")]
        await stage.connect(thread_clients(stage, settings.forward_clients, doors))
        ran = await stage.run(
            threads, rate, settings.forward_seconds, label=f"forward {where} {rate} {turn}"
        )
        await stage.drop()
        figures = delivery_figures(ran)
        per_delivery[where] = figures["cpu_us"]
        for host, cpu in ran.cpu.items():
            side = "reader_us" if host == reader else "receiver_us"
            figures[side] = cpu / max(ran.deliveries, 1) * 1e6
        if where == "remote":
            figures["hop_us"] = per_delivery["remote"] - per_delivery["local"]
        bench.results.add(NAME, f"{rate}/s", f"{stage.name} {where}", **figures)
        bench.say(
            f"forward {rate:>6}/s  {stage.name} {where:<6} {figures['cpu_us']:6.1f} µs  "
            f"{figures['deliveries_s']:.0f}/s  lost {ran.lost}"
            + ("  saturated" if saturated(ran) else "")
        )
