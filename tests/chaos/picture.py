"""The picture of a run, as SVG: time on x; events, faults, latency, clients below one another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Final

from tests.chaos.nemesis import Band
from tests.chaos.run import Run

_WIDTH: Final = 1400
_LEFT: Final = 170
_RIGHT: Final = 20
_PANEL: Final = 120
_ROW: Final = 13
_GAP: Final = 34
_COLOURS: Final = {
    "worker": "#d1495b", "reader": "#8d0801", "supervisor": "#bc4749", "host": "#6a040f",
    "redis": "#edae49", "nats": "#00798c", "consumer": "#00798c", "redelivered": "#00798c",
    "peers": "#6a4c93", "clients": "#30638e", "rolling": "#2a9d8f", "reloaded": "#2a9d8f",
}  # fmt: skip

_DESCRIPTION: Final = (
    "Over time: events published and deliveries each second, a row of faults for each kind,"
    " latency of deliveries, clients connected"
)

Points = Sequence[tuple[float, float]]


def picture(run: Run) -> str:
    """Return an SVG of a run."""
    meter, bands = run.on.meter, run.outcome.faults
    end = max(meter.seconds, default=1) + 1
    seconds = [meter.seconds.get(n) for n in range(end)]
    drawing = _Drawing(end, bands, _headline(run))
    at = [(n, s) for n, s in enumerate(seconds) if s is not None]
    drawing.panel(
        "each second",
        [
            ("events published", "#30638e", [(n, s.published) for n, s in at]),
            ("deliveries", "#2a9d8f", [(n, s.delivered) for n, s in at]),
        ],
    )
    drawing.faults(bands)
    drawing.panel(
        "latency, s (log)",
        [
            ("p50", "#2a9d8f", [(n, s.latency(0.5)) for n, s in at if s.delivered]),
            ("p99", "#d1495b", [(n, s.latency(0.99)) for n, s in at if s.delivered]),
        ],
        log=True,
    )
    drawing.panel(
        "clients connected", [("", "#30638e", [(n, s.connected) for n, s in at if s.connected])]
    )
    return drawing.svg()


def _headline(run: Run) -> str:
    outcome, verdict = run.outcome, run.outcome.verdict
    return (
        f"seed {outcome.seed}: {len(outcome.faults)} faults in {outcome.minutes:.1f} minutes,"
        f" {outcome.counts['events']} events, {outcome.delivered} deliveries to"
        f" {outcome.counts['clients']} clients: {verdict.lost} lost, {verdict.doubled} doubled,"
        f" {verdict.disordered} out of order, {verdict.foreign} foreign"
    )


class _Drawing:
    """An SVG that grows downwards, panel by panel."""

    def __init__(self, seconds: float, bands: Sequence[Band], title: str) -> None:
        self._scale = (_WIDTH - _LEFT - _RIGHT) / seconds
        self._seconds = seconds
        self._bands = bands
        self._parts: list[str] = []
        self._title = title
        self._y = 44.0
        self._text(10, 24, title, size=14)

    def panel(self, name: str, lines: list[tuple[str, str, Points]], *, log: bool = False) -> None:
        """Draw curves over the bands of all faults."""
        values = [v for _, _, points in lines for _, v in points if v > 0]
        top, low = max(values, default=1.0), min(values, default=0.001)
        height = _height(top, low) if log else _linear(top)
        for band in self._bands:
            colour, width = _colour(band.name), max((band.ended - band.began) * self._scale, 1)
            self._rect(self._x(band.began), self._y, width, _PANEL, colour, 0.13)
        self._rect(_LEFT, self._y, self._seconds * self._scale, _PANEL, "none", 1, "#999")
        for mark in _marks(top, low, log=log):
            y = self._y + _PANEL - height(mark)
            self._text(_LEFT - 6, y + 4, f"{mark:g}", anchor="end")
        self._text(8, self._y + 12, name)
        for number, (label, colour, points) in enumerate(lines):
            self._text(8, self._y + 30 + 14 * number, label, colour=colour)
            path = " ".join(
                f"{self._x(x + 0.5):.1f},{self._y + _PANEL - height(v):.1f}" for x, v in points
            )
            self._parts.append(
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.2"/>'
            )
        self._y += _PANEL + 4
        self._axis()

    def faults(self, bands: Sequence[Band]) -> None:
        """Draw a row for each kind: the fault itself, and thin until everybody was READY."""
        for name in sorted({band.name for band in bands}):
            self._text(_LEFT - 6, self._y + 10, name, anchor="end", size=10)
            for band in (b for b in bands if b.name == name):
                x, colour = self._x(band.began), _colour(name)
                width = max((band.ended - band.began) * self._scale, 2)
                self._rect(x, self._y + 2, width, _ROW - 4, colour, 0.9, tip=_tip(band))
                after = max(band.recovered - band.ended, 0) * self._scale
                self._rect(x + width, self._y + _ROW / 2 - 1, after, 2, colour, 0.6)
            self._y += _ROW
        self._y += 4
        self._axis()

    def svg(self) -> str:
        """Return the whole."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {self._y:.0f}"'
            f' font-family="sans-serif"><title>{escape(self._title)}</title>'
            f"<desc>{_DESCRIPTION}</desc>"
            '<rect width="100%" height="100%" fill="#fff"/>' + "\n".join(self._parts) + "</svg>\n"
        )

    def _axis(self) -> None:
        step = next(s for s in (10, 20, 30, 60, 120, 300, 600, 3600) if self._seconds / s <= 20)
        for second in range(0, int(self._seconds) + 1, step):
            self._text(self._x(second), self._y + 10, f"{second} s", anchor="middle", size=10)
        self._y += _GAP

    def _x(self, second: float) -> float:
        return _LEFT + max(second, 0) * self._scale

    def _rect(  # noqa: PLR0917
        self, x: float, y: float, width: float, height: float, fill: str, opacity: float,
        stroke: str = "none", tip: str = "",
    ) -> None:  # fmt: skip
        inside = f"<title>{escape(tip)}</title>" if tip else ""
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
            f' fill="{fill}" fill-opacity="{opacity}" stroke="{stroke}">{inside}</rect>'
        )

    def _text(
        self, x: float, y: float, text: str, *, anchor: str = "start", size: int = 12,
        colour: str = "#222",
    ) -> None:  # fmt: skip
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}"'
            f' text-anchor="{anchor}">{escape(text)}</text>'
        )


def _linear(top: float) -> Callable[[float], float]:
    return lambda value: value / top * (_PANEL - 8)


def _height(top: float, low: float) -> Callable[[float], float]:
    first, span = math.log10(low), max(math.log10(top) - math.log10(low), 1e-9)
    return lambda value: (math.log10(max(value, low)) - first) / span * (_PANEL - 8)


def _marks(top: float, low: float, *, log: bool) -> list[float]:
    if not log:
        step = 10 ** math.floor(math.log10(top)) if top > 0 else 1.0
        return [0, step, *([top // step * step] if top >= 2 * step else [])]
    return [10.0**n for n in range(math.ceil(math.log10(low)), math.floor(math.log10(top)) + 1)]


def _colour(name: str) -> str:
    return _COLOURS.get(name.partition("_")[0], "#777")


def _tip(band: Band) -> str:
    return f"{band.name} {band.detail}: {band.began:.1f}-{band.ended:.1f} s"
