"""Several targets side by side, each with a load process, measured in turn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from bench.loader import Loader
from bench.orders import Answer, Connect, Connected, Done, Drop, Order, Ran, Run, Who
from bench.profiling import Profiler
from bench.results import Results
from bench.settings import Settings
from bench.targets import FloorTarget, Layout, Product, Target

PAYLOAD_PAD: Final = 250
_T = TypeVar("_T", bound=Answer)


@dataclass
class Bench:
    """What every group needs: settings, where figures go, and whom to tell of progress."""

    settings: Settings
    results: Results

    def say(self, text: str) -> None:
        """Show what is being done."""
        print(f"  {text}", flush=True)

    @asynccontextmanager
    async def stages(
        self, layouts: Sequence[Layout], *, floor: bool = True
    ) -> AsyncIterator[list[Stage]]:
        """Start the floor and every version in each layout, each with its load process."""
        targets: list[Target] = []
        if floor and self.settings.floor:
            targets.append(FloorTarget())
        for layout in layouts:
            targets += [Product(version, layout) for version in self.settings.versions]
        async with AsyncExitStack() as stack:
            stages = []
            for target in targets:
                self.say(f"starting {target.name}")
                await stack.enter_async_context(target)
                loader = await stack.enter_async_context(Loader())
                stages.append(Stage(target, loader, self))
            yield stages


@dataclass
class Stage:
    """A target and the load process that is on it."""

    target: Target
    loader: Loader
    bench: Bench

    @property
    def name(self) -> str:
        """Return the name of the variant."""
        return self.target.name

    async def connect(self, clients: Sequence[Who], *, at_once: int = 50) -> Connected:
        """Connect clients, on top of those there are.

        :raises RuntimeError: some could not.
        """
        order = Connect(list(clients), self.target.processes(), at_once)
        connected = await self.loader.ask(order, Connected)
        if connected.failed:
            raise RuntimeError(
                f"{self.name}: {connected.failed} clients not connected: {connected.problem}"
            )
        return connected

    async def drop(self) -> None:
        """Abort all connections."""
        await self.loader.ask(Drop(), Done)

    async def ask(self, order: Order, kind: type[_T]) -> _T:
        """Hand any order to the load process."""
        return await self.loader.ask(order, kind)

    async def run(
        self,
        subjects: Sequence[tuple[str, str]],
        rate: float,
        seconds: float,
        *,
        warm: float = 0.5,
        alike: bool = False,
        label: str = "",
        keep: bool = False,
    ) -> Ran:
        """Publish, and account for every delivery.

        :param alike: all clients get the same events.
        :param keep: do not empty the stream afterwards.
        """
        host, port = self.target.nats_address
        order = Run(
            nats_host=host,
            nats_port=port,
            subjects=list(subjects),
            rate=rate,
            seconds=seconds,
            processes=self.target.processes(),
            warm_seconds=warm,
            alike=alike,
        )
        async with Profiler(self.bench.settings, self.target, label):
            ran = await self.loader.ask(order, Ran)
        if not keep:
            await self.target.empty()
        return ran


def event(
    company: str, agent: str, kind: str, chat: str = "", *, pad: int = PAYLOAD_PAD
) -> tuple[str, str]:
    """Return the subject of an event of about 400 bytes, and its payload after `event_id`."""
    subject = f"websocket.{company}.{agent}.{kind}" + (f".{chat}" if chat else "")
    of_chat = f'"chat_id":"{chat}",' if chat else ""
    return subject, (
        f'"company_id":"{company}","agent_id":"{agent}",{of_chat}"event_time":"2026-01-01T00:00:00Z",'
        f'"row_data":{{"text":"{"x" * pad}"}}}}'
    )


def delivery_figures(ran: Ran) -> dict[str, float]:
    """Return what every run over the whole path is judged by."""
    deliveries = max(ran.deliveries, 1)
    return {
        "cpu_us": sum(ran.cpu.values()) / deliveries * 1e6,
        "p50_ms": ran.latency.get("p50", 0.0),
        "p99_ms": ran.latency.get("p99", 0.0),
        "max_ms": ran.latency.get("max", 0.0),
        "deliveries_s": ran.deliveries / ran.window_seconds,
        "lost": ran.lost,
        "doubled": ran.doubled,
        "disordered": ran.disordered,
        "foreign": ran.foreign,
        "told_dropped": ran.told_dropped,
        "behind_s": ran.behind_seconds,
        "load_cpu_pct": ran.load_cpu * 100,
    }


def saturated(ran: Ran) -> bool:
    """Tell whether the target, or the load, did not keep up with what was offered."""
    return ran.behind_seconds > SATURATED_SECONDS or ran.late_seconds > SATURATED_SECONDS


SATURATED_SECONDS: Final = 0.3
