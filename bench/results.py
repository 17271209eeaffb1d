"""Figures: what was measured how often, medians, spreads, ratios, and JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.machine import Machine


class Figure(msgspec.Struct):
    """One figure of one case and variant, once for each repeat.

    :param variant: `floor`, or a version with its layout such as `product 1x2`.
    """

    group: str
    case: str
    variant: str
    metric: str
    values: list[float]

    @property
    def median(self) -> float:
        """Return the median over all repeats."""
        return statistics.median(self.values)


class Ratio(msgspec.Struct, frozen=True):
    """One variant's figure over another's, repeat by repeat: median, smallest, largest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        spread = "" if self.low == self.high else f" ({self.low:.2f}-{self.high:.2f})"
        return f"{self.median:.2f}{spread}"


class Results(msgspec.Struct):
    """Everything that a run of the benchmark found."""

    machine: Machine
    started: str
    parameters: dict[str, object]
    figures: list[Figure] = []
    notes: list[str] = []

    def add(self, group: str, case: str, variant: str, **metrics: float) -> None:
        """Take in one repeat."""
        for metric, value in metrics.items():
            found = self.find(group, case, variant, metric)
            if found is None:
                found = Figure(group, case, variant, metric, [])
                self.figures.append(found)
            found.values.append(value)

    def note(self, text: str) -> None:
        """Take in a sentence that a reader of the figures must know."""
        if text not in self.notes:
            self.notes.append(text)

    def find(self, group: str, case: str, variant: str, metric: str) -> Figure | None:
        """Return a figure, None if it was not measured."""
        wanted = (group, case, variant, metric)
        for figure in self.figures:
            if (figure.group, figure.case, figure.variant, figure.metric) == wanted:
                return figure
        return None

    def groups(self) -> list[str]:
        """Return the groups that have figures, in the order they were measured."""
        return list(dict.fromkeys(figure.group for figure in self.figures))

    def rows(self, group: str) -> Iterator[tuple[str, str, dict[str, Figure]]]:
        """Yield case, variant and figures by metric, for one group; cases stay together."""
        of_group = [figure for figure in self.figures if figure.group == group]
        keys = list(dict.fromkeys((figure.case, figure.variant) for figure in of_group))
        order = {case: place for place, case in enumerate(dict.fromkeys(c for c, _ in keys))}
        for case, variant in sorted(keys, key=lambda key: order[key[0]]):
            yield (
                case,
                variant,
                {f.metric: f for f in of_group if (f.case, f.variant) == (case, variant)},
            )

    def save(self, path: Path) -> None:
        """Write JSON."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self)))

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what :meth:`save` wrote.

        :raises msgspec.ValidationError, OSError: it is no such file.
        """
        return msgspec.json.decode(path.read_bytes(), type=cls)


def ratio(above: Figure | None, below: Figure | None, *, paired: bool = True) -> Ratio | None:
    """Return `above` over `below`, repeat by repeat if they were measured in turn.

    Not paired, the spread is what both spreads allow; so it is where one of them has fewer repeats
    (it was saturated before), as nobody knows which.
    """
    if above is None or below is None or min(below.values) <= 0:
        return None
    if paired and len(above.values) == len(below.values):
        ratios = [a / b for a, b in zip(above.values, below.values, strict=True)]
        return Ratio(statistics.median(ratios), min(ratios), max(ratios))
    return Ratio(
        above.median / below.median,
        min(above.values) / max(below.values),
        max(above.values) / min(below.values),
    )
