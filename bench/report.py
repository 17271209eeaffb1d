"""The report: one HTML file with tables and pictures, nothing from outside."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Final

from bench.against import Against
from bench.results import Results
from bench.svg import bars
from bench.table import HEADINGS, main_metric, rows

_STYLE: Final = """
:root { color-scheme: light dark; font-family: sans-serif; }
body { margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { border-bottom: 1px solid #8886; padding: .25rem .6rem; text-align: right; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
.wide { overflow-x: auto; }
"""
_PICTURES: Final = ("p99_ms", "deliveries_s")


def write_report(path: Path, results: Results, other: Against) -> None:
    """Write the report of a run."""
    groups = "".join(_group(results, other, group) for group in results.groups())
    notes = "".join(f"<li>{escape(note)}</li>" for note in results.notes)
    machine = results.machine
    packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>daisi-ws benchmark</title>'
        f"<style>{_STYLE}</style><h1>daisi-ws {escape(machine.revision)}</h1>"
        f"<p>{escape(results.started)}; {machine.cores} x {escape(machine.processor)}, "
        f"{machine.memory_mb} MB, Linux {escape(machine.kernel)}, Python {machine.python}; load "
        f"before: {machine.load_before:.2f}.<br>{escape(packages)}</p>"
        f"<p>Medians of {results.parameters.get('repeat')} interleaved repeats; ratios with their "
        f"smallest and largest value.</p>"
        f"<ul>{notes}</ul>{groups}</html>\n",
        encoding="utf-8",
    )


def _group(results: Results, other: Against, group: str) -> str:
    heading, *body = rows(results, other, group)
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heading)
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body
    )
    pictures = [_picture(results, group, main_metric(group))]
    pictures += [_picture(results, group, metric) for metric in _PICTURES]
    return (
        f"<h2>{escape(group)}</h2><div class=wide><table><tr>{head}</tr>{lines}</table>"
        f"{''.join(pictures)}</div>"
    )


def _picture(results: Results, group: str, metric: str) -> str:
    cases: list[str] = []
    series: dict[str, dict[str, float]] = {}
    for case, variant, figures in results.rows(group):
        if metric in figures:
            series.setdefault(variant, {})[case] = figures[metric].median
            if case not in cases:
                cases.append(case)
    return f"<p>{bars(group, HEADINGS[metric], cases, series)}</p>" if series else ""
