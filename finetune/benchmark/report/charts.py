"""Curves and bars without a script: the lines are inline SVG that stretches; labels are text that does not.

curve("Training loss", [(1, 3.5), (2, 2.5)], number=lambda loss: f"{loss:.2f}")
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from finetune.benchmark.report.html import Html, element

POINTS = 400  # more cannot be seen
SMOOTHED_OVER = 20  # the smoothing window is this fraction of the curve
Points = Sequence[tuple[float, float]]


def curve(title: str, points: Points, *, number: Callable[[float], str], unit: str = "", smooth: bool = True) -> Html:
    """y over steps, with a moving average as the stronger line; empty for fewer than two finite points."""
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    if len(finite) < 2:
        return Html()
    kept = thinned(finite)
    mean = smoothed(kept) if smooth else kept
    mean_of = window_of(len(kept)) * math.ceil(len(finite) / len(kept))
    low, high = min(y for _, y in kept), max(y for _, y in kept)
    marks = ticks(low, high)
    bottom, top = min(low, marks[0]), max(high, marks[-1])
    first, last = int(finite[0][0]), int(finite[-1][0])
    lines = [element("polyline", class_="mean", points=_placed(mean, bottom, top))]
    if smooth:
        lines.insert(0, element("polyline", class_="raw", points=_placed(kept, bottom, top)))
    labels = [
        element("div", element("span", number(mark)), class_="tick", style=f"top:{100 * _down(mark, bottom, top):.2f}%") for mark in marks
    ]
    change = f"{number(mean[0][1])} to {number(mean[-1][1])}{f' {unit}' if unit else ''}"
    picture = element("svg", *lines, viewBox="0 0 100 100", preserveAspectRatio="none", aria_hidden="true")
    caption = element("figcaption", f"{title} ", element("span", f"per step, and the mean of {mean_of} steps" if smooth else change))
    said = f"{title} from {change} over steps {first:,} to {last:,}"
    plot = element("div", *labels, picture, class_="plot", role="img", aria_label=said)
    return element("figure", caption, plot, _axis(f"step {first:,}", f"step {last:,}"))


def bars(title: str, parts: Sequence[Mapping[str, int]]) -> Html:
    """A histogram: how many sequences have up to how many tokens."""
    most = max((part["rows"] for part in parts), default=0)
    if not most:
        return Html()
    said = "; ".join(f"{part['rows']:,} with up to {part['tokens']:,}" for part in parts if part["rows"])
    drawn = [element("i", style=f"height:{100 * part['rows'] / most:.1f}%") for part in parts]
    plot = element("div", *drawn, class_="bars", role="img", aria_label=f"{title}: {said}")
    return element("figure", element("figcaption", title), plot, _axis("0", f"{parts[-1]['tokens']:,} tokens"))


def interval(value: float, low: float, high: float, scale: Callable[[float], float]) -> Html:
    """A dot on a band; `scale` places a value between 0 and 1. The numbers stand next to it, so screen readers skip it."""
    left, right, at = (100 * min(1.0, max(0.0, scale(point))) for point in (low, high, value))
    band = element("i", style=f"left:{left:.1f}%;width:{right - left:.1f}%")
    return element("span", band, element("b", style=f"left:{at:.1f}%"), class_="range", aria_hidden="true")


def scale_of(values: Sequence[float]) -> Callable[[float], float]:
    """From 0 to the largest value; logarithmic if the values span more than a factor of 20."""
    least, most = min(values), max(values) or 1.0
    if least > 0 and most / least > 20:
        low, high = math.log(least) - 0.3, math.log(most) + 0.1
        return lambda value: (math.log(max(value, 1e-12)) - low) / (high - low)
    return lambda value: value / (1.05 * most)


def ticks(low: float, high: float) -> list[float]:
    """Two to six round numbers that cover `low` to `high`."""
    span = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / 2))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if span / (factor * step) <= 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def thinned(points: Points) -> list[tuple[float, float]]:
    """At most POINTS points, each the mean of its neighbours."""
    width = math.ceil(len(points) / POINTS)
    parts = [points[start : start + width] for start in range(0, len(points), width)]
    return [(part[-1][0] if len(part) > 1 else part[0][0], sum(y for _, y in part) / len(part)) for part in parts]


def window_of(length: int) -> int:
    """How many points of a curve the moving average covers."""
    return max(3, length // SMOOTHED_OVER)


def smoothed(points: Points) -> list[tuple[float, float]]:
    """The mean of each point and those before it."""
    width = window_of(len(points))
    heights = [y for _, y in points]
    return [(x, sum(part := heights[max(0, at - width + 1) : at + 1]) / len(part)) for at, (x, _) in enumerate(points)]


def _axis(left: str, right: str) -> Html:
    return element("div", element("span", left), element("span", right), class_="axis")


def _placed(points: Points, bottom: float, top: float) -> str:
    first, across = points[0][0], (points[-1][0] - points[0][0]) or 1
    return " ".join(f"{100 * (x - first) / across:.2f},{100 * _down(y, bottom, top):.2f}" for x, y in points)


def _down(y: float, bottom: float, top: float) -> float:
    """0 is the top of the picture, 1 the bottom."""
    return (top - y) / ((top - bottom) or 1)
