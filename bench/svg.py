"""Bars as SVG, made by hand: nothing to install, nothing to load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

_COLOURS: Final = ("#8a8f98", "#1f6feb", "#d9822b", "#2da44e", "#a371f7", "#cf222e")
_LABEL, _WIDTH, _BAR, _GAP = 190, 460, 14, 10


def bars(
    title: str, unit: str, cases: Sequence[str], series: Mapping[str, Mapping[str, float]]
) -> str:
    """Return a picture with a bar for each case and series.

    :param series: values by case, for each name in the legend.
    """
    most = max((value for values in series.values() for value in values.values()), default=0) or 1
    y, parts = 50, []
    for case in cases:
        shown = [(name, values[case]) for name, values in series.items() if case in values]
        middle = y + len(shown) * _BAR / 2 + 4
        parts.append(_text(_LABEL - 8, middle, case, anchor="end"))
        for name, value in shown:
            width = max(value, 0) / most * _WIDTH
            colour = _COLOURS[list(series).index(name) % len(_COLOURS)]
            parts.append(
                f'<rect x="{_LABEL}" y="{y}" width="{width:.1f}" height="{_BAR - 2}" '
                f'fill="{colour}"/>'
            )
            parts.append(_text(_LABEL + width + 5, y + 10, f"{value:.3g}"))
            y += _BAR
        y += _GAP
    legend, x = [], 0.0
    for number, name in enumerate(series):
        colour = _COLOURS[number % len(_COLOURS)]
        legend.append(f'<rect x="{x}" y="26" width="11" height="11" fill="{colour}"/>')
        legend.append(_text(x + 15, 36, name))
        x += 30 + 7 * len(name)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LABEL + _WIDTH + 70}" height="{y}" '
        f'role="img" font-family="sans-serif" font-size="12"><title>{escape(title)}</title>'
        f"{_text(0, 14, f'{title} ({unit})', weight='bold')}{''.join(legend)}{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="currentColor">{escape(text)}</text>'
    )
