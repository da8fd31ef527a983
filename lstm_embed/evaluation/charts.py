"""Pictures for the report: lines, points and bars as inline SVG, the same bytes for the same numbers."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the browser's fonts
    "svg.hashsalt": "lstm_embed",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e1e7ec",
    "lines.markersize": 3,
}


def line_chart(lines: Mapping[str, Sequence[tuple[float, float | None]]], x_label: str, y_label: str) -> Markup:
    """Draw lines by name, each a sequence of (x, y); None leaves a gap."""

    def draw(axes: Axes) -> None:
        for name, points in lines.items():
            x, y = np.array(points, float).reshape(-1, 2).T
            axes.plot(x, y, label=name, marker="o" if len(x) <= 60 else "")
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.legend(frameon=False)

    return _drawn(draw, height=3.6)


def scatter(x: Sequence[float], y: Sequence[float], x_label: str, y_label: str) -> Markup:
    """Draw points."""

    def draw(axes: Axes) -> None:
        axes.scatter(x, y, s=6, alpha=0.6)
        axes.set(xlabel=x_label, ylabel=y_label)

    return _drawn(draw, height=3.6)


def bar_chart(bars: Mapping[str, float], value_label: str) -> Markup:
    """Draw horizontal bars with their values, the first on top."""

    def draw(axes: Axes) -> None:
        axes.bar_label(axes.barh(list(bars), list(bars.values())), fmt="%.1f", padding=3)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set(xlabel=value_label)

    return _drawn(draw, height=0.8 + 0.3 * len(bars))


def _drawn(draw: Callable[[Axes], None], height: float) -> Markup:
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # matplotlib measures text in its own font, which lacks letters that the browser's have.
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure = Figure(figsize=(6.4, height), layout="constrained")
        draw(figure.subplots())
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = file.getvalue()
    return Markup(text[text.index("<svg") :])
