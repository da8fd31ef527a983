"""Small pictures as inline SVG: lines, points, bars. All text is escaped here."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 12, 42
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
COLOURS = (
    "#1f6fb4", "#d1690e", "#2e8b57", "#b3336b", "#6b5bb5", "#8a6d1d",
    "#1798a6", "#c23b22", "#5d7a1f", "#9a4fb0", "#4d5a66", "#c78a00",
)  # fmt: skip


def escape(text: object) -> str:
    """Return text that is safe between tags and inside quotes; control characters and lone surrogates are replaced."""
    return html.escape(_FORBIDDEN.sub("\ufffd", str(text)), quote=True)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of a scatter plot."""

    x: float
    y: float
    group: str
    """Decides the colour and stands in the legend."""
    title: str = ""
    """Shown when the mouse is over the point."""


class _Scale:
    """Maps values of one axis to pixels, with round tick marks."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, include_zero: bool = False) -> None:
        finite = [v for v in values if math.isfinite(v)] or [0.0]
        low, high = min(finite), max(finite)
        if include_zero:
            low, high = min(low, 0.0), max(high, 0.0)
        if high - low < 1e-12:
            low, high = low - 0.5, high + 0.5
        step = _round_step((high - low) / 5)
        self._low, self._high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        count = round((self._high - self._low) / step)
        self.ticks = [self._low + i * step for i in range(count + 1)]
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 1)


def _round_step(size: float) -> float:
    magnitude = 10.0 ** math.floor(math.log10(size))
    return next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= size * 0.999)


def _number(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:,.0f}k"
    return f"{value:.4g}" if abs(value) > 1e-12 else "0"


def _frame(x: _Scale, y: _Scale, x_label: str, y_label: str) -> str:
    parts = []
    for tick in y.ticks:
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(tick)}" y2="{y(tick)}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y(tick) + 4}" text-anchor="end">{_number(tick)}</text>')
    for tick in x.ticks:
        parts.append(f'<text x="{x(tick)}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle">{_number(tick)}</text>')
    parts.append(
        f'<text x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text transform="translate(14 {(HEIGHT - _BOTTOM) / 2}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )
    return "".join(parts)


def _svg(body: str, label: str, height: int = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">{body}</svg>'


def legend(names: Sequence[str]) -> str:
    """Return the colours of some names as HTML; the first name has the first colour."""
    items = (
        f'<span><i style="background:{COLOURS[i % len(COLOURS)]}"></i>{escape(name)}</span>'
        for i, name in enumerate(names)
    )
    return f'<p class="legend">{"".join(items)}</p>'


def line_chart(lines: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str) -> str:
    """Draw lines by name, each a sequence of (x, y); values that are not finite are left out."""
    lines = {name: [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1])] for name, points in lines.items()}
    everything = [point for points in lines.values() for point in points]
    x = _Scale([p[0] for p in everything], _LEFT, WIDTH - _RIGHT)
    y = _Scale([p[1] for p in everything], HEIGHT - _BOTTOM, _TOP)
    body = _frame(x, y, x_label, y_label)
    for i, points in enumerate(lines.values()):
        colour = COLOURS[i % len(COLOURS)]
        path = " ".join(f"{x(a)},{y(b)}" for a, b in points)
        body += f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{path}"/>'
        if len(points) <= 60:
            body += "".join(f'<circle cx="{x(a)}" cy="{y(b)}" r="2.2" fill="{colour}"/>' for a, b in points)
    return _svg(body, f"{y_label} by {x_label}") + legend(list(lines))


def scatter(points: Sequence[Point], x_label: str, y_label: str, *, show_legend: bool = True) -> str:
    """Draw points, coloured by group, with their titles on hover."""
    groups = list(dict.fromkeys(point.group for point in points))
    x = _Scale([point.x for point in points], _LEFT, WIDTH - _RIGHT)
    y = _Scale([point.y for point in points], HEIGHT - _BOTTOM, _TOP)
    body = [_frame(x, y, x_label, y_label)]
    for point in points:
        colour = COLOURS[groups.index(point.group) % len(COLOURS)]
        title = f"<title>{escape(point.title)}</title>" if point.title else ""
        body.append(
            f'<circle cx="{x(point.x)}" cy="{y(point.y)}" r="3" fill="{colour}" fill-opacity="0.6">{title}</circle>'
        )
    drawn = _svg("".join(body), f"{y_label} against {x_label}")
    return drawn + (legend(groups) if show_legend else "")


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar, with the ends of its interval if it has one."""

    name: str
    value: float
    interval: tuple[float, float] | None = None


def bar_chart(bars: Sequence[Bar], value_label: str) -> str:
    """Draw horizontal bars with their values; the first is set off by its colour."""
    row, left = 26, 190
    height = row * len(bars) + 34
    ends = [v for bar in bars for v in (bar.value, *(bar.interval or ()))]
    x = _Scale(ends, left, WIDTH - 64, include_zero=True)
    body = []
    for tick in x.ticks:
        body.append(f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="4" y2="{row * len(bars) + 6}"/>')
        body.append(f'<text x="{x(tick)}" y="{row * len(bars) + 20}" text-anchor="middle">{_number(tick)}</text>')
    for i, bar in enumerate(bars):
        top, middle = row * i + 8, row * i + 20
        start, end = sorted((x(0.0), x(bar.value)))
        body.append(f'<text x="{left - 8}" y="{middle + 3}" text-anchor="end">{escape(bar.name)}</text>')
        colour = COLOURS[0] if i == 0 else "#9db4c8"
        body.append(f'<rect x="{start}" y="{top}" width="{max(end - start, 0.5):.1f}" height="17" fill="{colour}"/>')
        edge = end
        if bar.interval:
            low, high = x(bar.interval[0]), x(bar.interval[1])
            body.append(
                f'<path class="whisker" d="M{low} {middle - 6}v8M{low} {middle - 2}H{high}M{high} {middle - 6}v8"/>'
            )
            edge = max(edge, high)
        body.append(f'<text x="{edge + 5:.1f}" y="{middle + 3}">{bar.value:.1f}</text>')
    return _svg("".join(body), value_label, height) + f'<p class="legend">{escape(value_label)}</p>'
