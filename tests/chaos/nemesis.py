"""Draws faults from a seed, makes them, one or several at a time, and notes what came of each."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.chaos.faults import CATALOGUE, Fault, Strike
from tests.chaos.stage import Pair, Stage

_AT_ONCE: Final = (1, 1, 1, 1, 1, 1, 1, 2, 2, 3)
_CALM_SECONDS: Final = (0.3, 2.0)


@dataclass
class Band:
    """A fault that was made; times in seconds since the beginning.

    :param recovered: when every worker of all hosts was READY again.
    """

    name: str
    began: float
    ended: float = 0.0
    recovered: float = 0.0
    detail: str = ""
    problem: str = ""

    @property
    def recovery(self) -> float:
        """Seconds from its end until everybody was READY."""
        return max(self.recovered - self.ended, 0.0)


class Nemesis:
    """Makes faults.

    :param names: kinds to draw from; every kind comes once before one comes again.
    :param say: called with each band when it is over.
    :param length: what the durations of faults are multiplied by.
    """

    def __init__(
        self,
        on: Stage,
        seed: int,
        names: list[str],
        say: Callable[[Band], None],
        length: float = 1.0,
    ) -> None:
        self._on = on
        self._seed = seed
        self._names = names
        self._say = say
        self._length = length
        self._chance = random.Random(f"nemesis-{seed}")
        self._bag: list[str] = []
        self._number = 0
        self.bands: list[Band] = []

    async def run(self, seconds: float) -> None:
        """Make faults for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await self._round(self._chance.choice(_AT_ONCE))

    async def each_once(self, at_once: int) -> None:
        """Make every kind once, so many at a time."""
        order = list(self._names)
        self._chance.shuffle(order)
        self._bag = order[::-1]
        while self._bag:
            await self._round(at_once)

    async def _round(self, count: int) -> None:
        strikes = self._draw(count)
        bands = await asyncio.gather(*(self._strike(*strike) for strike in strikes))
        problem = ""
        try:
            await self._on.all_ready()
        except AssertionError as error:
            problem = str(error)
        for band in bands:
            band.recovered = self._on.meter.now
            band.problem = band.problem or problem
            self._say(band)
        await asyncio.sleep(self._chance.uniform(*_CALM_SECONDS))

    def _draw(self, count: int) -> list[tuple[Fault, Strike, float]]:
        """Draw faults that do not stand in each other's way."""
        drawn: list[tuple[Fault, Strike, float]] = []
        taken: set[str] = set()
        for name in self._next_names(3 * count):
            kind = CATALOGUE[name]
            pair = self._pair(kind)
            claims = {c if c not in ("host", "reader") else pair.host.name for c in kind.claims}
            if claims & taken or len(drawn) == count:
                continue
            taken |= claims
            self._number += 1
            chance = random.Random(f"{self._seed}-{self._number}")
            delay = self._chance.uniform(0, 2) if drawn else 0.0
            drawn.append((kind, Strike(self._on, pair, chance, self._length), delay))
            self._bag.remove(name)
        return drawn

    def _next_names(self, count: int) -> list[str]:
        if not self._bag:
            self._bag = list(self._names)
            self._chance.shuffle(self._bag)
        return self._bag[::-1][:count]

    def _pair(self, kind: Fault) -> Pair:
        pair = self._chance.choice(self._on.pairs)
        if "reader" in kind.claims:
            host = self._on.host_of(self._on.reader[1])
            return next((p for p in self._on.pairs if p.host is host), pair)
        return pair

    async def _strike(self, kind: Fault, strike: Strike, delay: float) -> Band:
        await asyncio.sleep(delay)
        band = Band(kind.name, self._on.meter.now)
        self.bands.append(band)
        try:
            band.detail = await kind.strike(strike)
        except Exception as error:  # noqa: BLE001 - the other faults go on
            band.problem = f"{type(error).__name__}: {error}"
        band.ended = self._on.meter.now
        return band
