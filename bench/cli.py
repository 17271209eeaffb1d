"""The command line of the benchmark."""

from __future__ import annotations

import asyncio
import platform
import resource
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from bench.against import Against, resolve
from bench.flags import LAYOUTS, NUMBERS, POINTS
from bench.groups import admins, connect, fanout, forward, idle, memory, parts, path
from bench.machine import look
from bench.profiling import TOOLS, missing, wrapper
from bench.report import write_report
from bench.results import Results
from bench.running import Bench
from bench.settings import Settings
from bench.table import show
from bench.targets import ROOT, Version

GROUPS: Final[dict[str, Callable[[Bench], Coroutine[None, None, None]]]] = {
    module.NAME: module.measure
    for module in (parts, path, fanout, admins, connect, memory, forward, idle)
}


@click.command(context_settings={"show_default": True})
@click.argument("groups", nargs=-1, type=click.Choice(list(GROUPS)))
@click.option("--repeat", default=3, help="How often each figure is measured.")
@click.option("--against", metavar="FILE|REVISION", help="An earlier result, or a git revision.")
@click.option("--floor/--no-floor", default=True, help="Measure the floor, too.")
@click.option("--profile", type=click.Choice(TOOLS), help="Profile every measured process.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for results.json and report.html.",
    show_default=".tmp/bench/TIME",
)
@click.option(
    "--tree", type=click.Path(path_type=Path), default=ROOT, help="Source tree that is measured."
)
@click.option(
    "--path-rates",
    type=NUMBERS,
    default="1000,5000,10000,20000,30000,40000",
    help="Events a second, one after another until a variant is saturated.",
)
@click.option("--path-seconds", default=1.5, help="Seconds for each rate.")
@click.option("--path-clients", default=200, help="Clients, each with a thread of its own.")
@click.option("--path-layouts", type=LAYOUTS, default="1x1,1x2,2x2", help="Hosts x workers.")
@click.option(
    "--fan-out-points",
    type=POINTS,
    default="1x1000,10x1000,100x200,500x100,500x400",
    help="Clients of one chat list, and events a second.",
)
@click.option("--fan-out-seconds", default=1.5, help="Seconds for each point.")
@click.option("--fan-out-layouts", type=LAYOUTS, default="1x1", help="Hosts x workers.")
@click.option("--fan-out-wide", type=POINTS, default="5000x20", help="Points over two workers.")
@click.option("--admins-count", default=1000, help="Admins.")
@click.option("--admins-rate", default=100, help="Events a second.")
@click.option("--admins-seconds", default=1.5, help="Seconds.")
@click.option("--admins-layouts", type=LAYOUTS, default="1x1,1x2", help="Hosts x workers.")
@click.option("--connect-count", default=500, help="Clients, one after another.")
@click.option("--connect-storm", default=5000, help="Clients, all at once; 0 for none.")
@click.option("--connect-missed", default=10, help="Events that each client of the storm missed.")
@click.option("--connect-layouts", type=LAYOUTS, default="1x1,1x2", help="Hosts x workers.")
@click.option(
    "--memory-sizes",
    type=NUMBERS,
    default="1000,2000,10000",
    help="Idle connections at which memory is looked at.",
)
@click.option(
    "--memory-deflate/--no-memory-deflate",
    default=False,
    help="Measure connections with compression, too.",
)
@click.option("--forward-rates", type=NUMBERS, default="1000,5000,20000", help="Events a second.")
@click.option("--forward-seconds", default=1.5, help="Seconds for each rate.")
@click.option("--forward-clients", default=200, help="Clients, each with a thread of its own.")
@click.option("--idle-clients", default=10_000, help="Connections that only answer pings.")
@click.option(
    "--idle-seconds",
    default=20.0,
    help="Seconds: the time between two pings, or a multiple.",
)
@click.option("--parts-seconds", default=0.2, help="CPU time for each part, in seconds.")
@click.option("--parts-times", default=5, help="Repeats of parts that need servers.")
@click.option("--parts-users", default=1000, help="Users of the part that is named after them.")
def main(
    groups: tuple[str, ...],
    against: str | None,
    profile: str | None,
    out: Path | None,
    tree: Path,
    **parameters: Any,
) -> None:
    """Measure GROUPS (all by default) and show product and floor side by side."""
    if profile and (problem := missing(profile)):
        raise click.ClickException(problem)
    out = out or ROOT / ".tmp" / "bench" / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    out.mkdir(parents=True, exist_ok=True)
    _allow_many_sockets()
    # An end that is asked for politely ends what was started, too; not by way of SIGINT, which
    # shells have jobs in the background ignore.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with resolve(against) as other:
        settings = msgspec.convert(
            {
                "versions": [
                    Version(tree=tree, wrapper=wrapper(profile or "", out)),
                    *other.versions,
                ],
                "profile": profile or "",
                "out": out,
                **parameters,
            },
            Settings,
        )
        chosen = [name for name in GROUPS if name in groups or not groups]
        results, unfinished = _measure(settings, chosen, parameters, other)
    results.save(out / "results.json")
    write_report(out / "report.html", results, other)
    show(results, other)
    print(f"\n{out / 'results.json'}\n{out / 'report.html'}")
    if unfinished:
        sys.exit(f"not finished: {', '.join(unfinished)}")


def _measure(
    settings: Settings, chosen: list[str], parameters: dict[str, Any], other: Against
) -> tuple[Results, list[str]]:
    """Measure group by group; return what was found, and the groups that were not finished."""
    began = time.monotonic()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    shown = {name: _plain(value) for name, value in parameters.items()}
    results = Results(
        look(settings.versions[0].tree), started, {"groups": chosen, "against": other.name, **shown}
    )
    machine = results.machine
    print(
        f"daisi-ws {machine.revision} on {machine.cores} x {machine.processor}, "
        f"Python {platform.python_version()}; load before: {machine.load_before:.2f}"
    )
    if machine.load_before > machine.cores / 2:
        results.note(f"the machine was busy before: load {machine.load_before:.2f}")
    bench = Bench(settings, results)
    unfinished: list[str] = []
    for name in chosen:
        print(f"{name}  ({time.monotonic() - began:.0f} s so far)", flush=True)
        try:
            asyncio.run(GROUPS[name](bench))
        except Exception as error:  # noqa: BLE001 - what the others found is not to be lost
            unfinished.append(name)
            told = f"{type(error).__name__}: {str(error)[-1500:]}"
            results.note(f"{name} was not finished: {told}")
            print(f"  {name} was not finished:\n{told}", file=sys.stderr, flush=True)
    print(f"measured in {time.monotonic() - began:.0f} s")
    return results, unfinished


def _plain(value: object) -> object:
    if isinstance(value, list):
        return [v if isinstance(v, int) else str(v) for v in value]
    return value


def _allow_many_sockets() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
