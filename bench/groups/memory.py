"""Memory: what an idle connection adds to the processes' proportional set size (PSS)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import msgspec

from bench.orders import Idle, Idled, Who
from bench.running import Bench, Stage
from bench.targets import Layout

NAME: Final = "memory"
OFFER: Final = "Sec-WebSocket-Extensions: permessage-deflate"
DEFLATE: Final = {"DAISI_WS_APP_WEBSOCKET_COMPRESSION_MODE": "no_context_takeover"}
_PER_AGENT: Final = 10
_SETTLE_SECONDS: Final = 2.0


async def measure(bench: Bench) -> None:
    """Connect more and more clients. Each variant is measured once: a process grows only once."""
    layouts = [Layout(1, 1)]
    async with bench.stages(layouts) as stages:
        for stage in stages:
            await _grow(bench, stage, stage.name)
    if bench.settings.memory_deflate:
        plain = bench.settings.versions
        bench.settings.versions = [
            replace(v, environment={**v.environment, **DEFLATE}) for v in plain
        ]
        try:
            async with bench.stages(layouts, floor=False) as stages:
                for stage in stages:
                    await _grow(bench, stage, f"{stage.name} deflate", deflate=True)
        finally:
            bench.settings.versions = plain


async def _grow(bench: Bench, stage: Stage, variant: str, *, deflate: bool = False) -> None:
    before = await _pss(stage, bench)
    connected = 0
    for size in sorted(bench.settings.memory_sizes):
        clients = idle_clients(stage, connected, size)
        await stage.connect([offering(who) for who in clients] if deflate else clients)
        connected = size
        kib = (await _pss(stage, bench) - before) / size / 1024
        bench.results.add(NAME, f"{size} idle", variant, pss_kib=kib)
        bench.say(f"memory {size:>6}  {variant:<14} {kib:.1f} KiB a connection")
    await stage.drop()


def idle_clients(stage: Stage, start: int, end: int) -> list[Who]:
    """Return clients, ten of each agent, spread over the hosts."""
    doors = stage.target.doors
    return [
        Who(
            host="127.0.0.1",
            port=doors[number % len(doors)],
            head=stage.target.user("c", f"a{number // _PER_AGENT}", f"u{number}"),
        )
        for number in range(start, end)
    ]


def offering(who: Who) -> Who:
    """Return a client that offers compression and sends one compressed message, as a browser
    does when a chat is selected."""
    offer = who.head.replace("\r\n\r\n", f"\r\n{OFFER}\r\n\r\n")
    return msgspec.structs.replace(who, head=offer, chat="chat-1")


async def _pss(stage: Stage, bench: Bench) -> int:
    idled = await stage.ask(Idle(_SETTLE_SECONDS, stage.target.processes()), Idled)
    if idled.ended:
        bench.results.note(f"memory: {idled.ended} connections of {stage.name} ended meanwhile")
    return sum(idled.pss.values())
