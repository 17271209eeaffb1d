"""The dashboard as SVG: the same panels, queries and places, from what a Prometheus has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from tests.monitoring.dashboard import Panel, Query, panels
from tests.monitoring.prometheus import Prometheus

_COLUMN: Final = 60
_ROW: Final = 24
_MARGIN: Final = 4
_STEPS: Final = 90
_SERIES: Final = 8
"""Names that the legend of a panel has room for."""
_COLOURS: Final = (
    "#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#f2495c", "#b877d9", "#8ab8ff", "#ffa6b0",
    "#96d98d", "#ca95e5",
)  # fmt: skip
_UNITS: Final = {"cps": "/s", "s": " s", "short": ""}

Points = Sequence[tuple[float, float]]
Lines = list[tuple[str, Points]]


async def picture(watching: Prometheus, begin: float, end: float) -> str:
    """Return the dashboard of what happened between two moments (seconds since 1970)."""
    parts: list[str] = []
    for panel in panels():
        if panel.kind == "row":
            parts.append(_text(_x(panel), _y(panel) + 17, panel.title, size=14, weight="bold"))
            continue
        scale = 2**-20 if panel.unit == "bytes" else 1.0
        lines = await _lines(watching, panel.queries, begin, end, scale)
        parts.append(_frame(panel))
        parts.append(
            _stat(panel, lines) if panel.kind == "stat" else _graph(panel, lines, begin, end)
        )
    height = max(_y(panel) + panel.place["h"] * _ROW for panel in panels()) + _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {24 * _COLUMN} {height}" '
        f'width="{24 * _COLUMN}" height="{height}" font-family="sans-serif" role="img">'
        "<title>The dashboard daisi-ws</title><desc>Its panels with the values of a test cluster: "
        "connections, events and latency, dependencies, sessions, forwarding, resources</desc>"
        f'<rect width="100%" height="100%" fill="#111217"/>{"".join(parts)}</svg>\n'
    )


async def _lines(
    watching: Prometheus, queries: Sequence[Query], begin: float, end: float, scale: float
) -> Lines:
    found: Lines = []
    for query in queries:
        data = await watching.api(
            "query_range",
            query=query.filled("10s"),
            start=f"{begin:.3f}",
            end=f"{end:.3f}",
            step=f"{(end - begin) / _STEPS:.3f}",
        )
        for series in data["result"]:
            points = [(at, float(value) * scale) for at, value in series["values"]]
            points = [(at, value) for at, value in points if math.isfinite(value)]
            if points:
                found.append((query.name(series["metric"]), points))
    return found


def _stat(panel: Panel, lines: Lines) -> str:
    value = lines[0][1][-1][1] if lines else math.nan
    return _text(
        _x(panel) + _width(panel) / 2,
        _y(panel) + 68,
        _shown(value, panel.unit),
        size=30,
        anchor="middle",
        colour="#73bf69",
    )


def _graph(panel: Panel, lines: Lines, begin: float, end: float) -> str:
    left, top = _x(panel) + 52, _y(panel) + 30
    width = _width(panel) - 64
    legend = min(len(lines), _SERIES)
    height = panel.place["h"] * _ROW - 54 - 14 * math.ceil(legend / 2)
    most = _top(max((value for _, points in lines for _, value in points), default=0.0))
    parts = []
    for part in (0.0, 0.5, 1.0):
        y = top + height * (1 - part)
        parts.append(f'<path d="M{left} {y:.1f}h{width}" stroke="#2c3235"/>')
        label = _shown(most * part, panel.unit)
        parts.append(_text(left - 5, y + 4, label, size=10, anchor="end", colour="#9fa7b3"))
    for number, (name, points) in enumerate(lines):
        colour = _COLOURS[number % len(_COLOURS)]
        path, before = "", -math.inf
        for at, value in points:
            gap = at - before > 1.5 * (end - begin) / _STEPS
            x = left + (at - begin) / (end - begin) * width
            path += f"{'M' if gap else 'L'}{x:.1f} {top + height * (1 - value / most):.1f}"
            before = at
        parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.3"/>')
        if number < _SERIES:
            x = _x(panel) + 12 + (number % 2) * _width(panel) / 2
            y = top + height + 18 + 14 * (number // 2)
            parts.append(
                f'<rect x="{x:.1f}" y="{y - 7:.1f}" width="10" height="4" fill="{colour}"/>'
            )
            room = int(_width(panel) / 2 / 6) - 4
            parts.append(_text(x + 14, y, name[:room], size=10, colour="#9fa7b3"))
    return "".join(parts)


def _top(most: float) -> float:
    """Return a round number that nothing is above."""
    if most <= 0:
        return 1.0
    digits = 10.0 ** math.floor(math.log10(most))
    return next(step * digits for step in (1, 2, 5, 10) if step * digits >= most)


def _shown(value: float, unit: str) -> str:
    if math.isnan(value):
        return "no data"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s" and value < 1:
        return f"{value * 1000:.3g} ms"
    if unit == "bytes":
        return f"{value:.3g} MiB"
    number = f"{value / 1000:.3g}k" if value >= 1000 else f"{value:.3g}"
    return number + _UNITS[unit]


def _x(panel: Panel) -> float:
    return panel.place["x"] * _COLUMN + _MARGIN


def _y(panel: Panel) -> float:
    return panel.place["y"] * _ROW + _MARGIN


def _width(panel: Panel) -> float:
    return panel.place["w"] * _COLUMN - 2 * _MARGIN


def _frame(panel: Panel) -> str:
    height = panel.place["h"] * _ROW - 2 * _MARGIN
    return (
        f'<rect x="{_x(panel)}" y="{_y(panel)}" width="{_width(panel)}" height="{height}" '
        f'fill="#181b1f" stroke="#2c3235"/>{_text(_x(panel) + 10, _y(panel) + 17, panel.title)}'
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 12,
    anchor: str = "start",
    weight: str = "normal",
    colour: str = "#ccccdc",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
        f'font-weight="{weight}" fill="{colour}">{escape(text)}</text>'
    )
