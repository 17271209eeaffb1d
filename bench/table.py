"""The table at the end: a row a case and variant, a column a metric, and ratios."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from bench.against import Against, over_floor
from bench.results import Figure, Results

MAIN: Final = {"parts": "us", "memory": "pss_kib", "idle": "cpu_pct_of_core"}
"""What the ratios of a group are about; CPU per delivery or connection where it is not named."""

HEADINGS: Final = {
    "us": "µs CPU",
    "cpu_us": "µs CPU",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "deliveries_s": "per s",
    "pss_kib": "KiB PSS",
    "cpu_pct_of_core": "% of core",
    "hop_us": "µs hop",
    "reader_us": "µs reader",
    "receiver_us": "µs receiver",
    "all_ready_s": "all ready s",
    "recovered_pct": "% recovered",
}
_WRONG: Final = ("lost", "doubled", "disordered", "foreign", "told_dropped")


def main_metric(group: str) -> str:
    """Return the metric that a group is about."""
    return MAIN.get(group, "cpu_us")


def columns(results: Results, group: str) -> list[str]:
    """Return the metrics of a group that are shown, in their order."""
    measured = {figure.metric for figure in results.figures if figure.group == group}
    return [metric for metric in HEADINGS if metric in measured]


def rows(results: Results, other: Against, group: str) -> Iterator[list[str]]:
    """Yield heading and rows of a group."""
    shown = columns(results, group)
    accounts = any(f.metric == "lost" for f in results.figures if f.group == group)
    yield [
        "case",
        "variant",
        *(HEADINGS[metric] for metric in shown),
        *(["wrong"] if accounts else []),
        "/ floor",
        *([f"/ {other.name}"] if other.name else []),
    ]
    for case, variant, figures in results.rows(group):
        main = figures.get(main_metric(group))
        yield [
            case,
            variant,
            *(_number(figures.get(metric)) for metric in shown),
            *([wrong(figures)] if accounts else []),
            _text(over_floor(results, main) if main else None),
            *([_text(other.ratio(results, main) if main else None)] if other.name else []),
        ]


def wrong(figures: dict[str, Figure]) -> str:
    """Return what was lost, doubled, … over all repeats; `0` is right."""
    found = [
        f"{total:.0f} {name.replace('_', ' ')}"
        for name in _WRONG
        if name in figures and (total := math.fsum(figures[name].values))
    ]
    return ", ".join(found) or "0"


def show(results: Results, other: Against) -> None:
    """Print everything."""
    for group in results.groups():
        print(f"\n{group}")
        _print_table(list(rows(results, other, group)))
    for note in results.notes:
        print(f"note: {note}")


def _print_table(lines: Sequence[Sequence[str]]) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  " + "  ".join(cells).rstrip())


def _number(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    value = figure.median
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}"


def _text(value: object) -> str:
    return "-" if value is None else str(value)
