"""Curves of top-1 by epoch as SVG, legible on white and on black."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from mdistiller.engine.lines import shortened

from .rows import Row

WIDTH, HEIGHT = 440, 260  # of the field with its scales, in units that a page of 400 pixels makes 0.85 of one
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 24, 40
FONT = 14
MOST_BANDS = 5  # more would hide each other
COLOURS = "#3a7fc2", "#c96a12", "#2a8c65", "#c8475a", "#8a68c8", "#8f6f32", "#bd55a0", "#7a7a7a"
DASHES = "", "6 3", "2 3"
GREY = "#808080"
LEGEND_LINE = 20
LONGEST_OF_TWO, LONGEST_NAME = 18, 44  # characters of names in a legend of two columns, and of one
SHARES = 1, 2, 2.5, 5, 10  # of a power of ten, between two marks of a scale


@dataclass
class Curve:
    """name: in the legend; runs: values by epoch of each seed."""

    name: str
    runs: list[list[float]]

    @property
    def means(self) -> list[float]:
        return [statistics.fmean(values) for values in zip(*self.runs, strict=True)]


def curves_of(rows: Sequence[Row]) -> list[Curve]:
    """Those of cells with finished runs."""
    curves = [Curve(row.cell.name, [each.curve for each in row.outcomes.values()]) for row in rows]
    return [curve for curve in curves if curve.runs]


def draw(curves: Sequence[Curve], title: str) -> str:
    """The SVG of `curves`: means over seeds and, of a few, bands from the lowest to the highest.

    Each curve is a group of class `curve`, its entry in the legend included.
    """
    values = [value for curve in curves for run in curve.runs for value in run]
    epochs = max(len(run) for curve in curves for run in curve.runs)
    low, high = min(values), max(values)
    step = step_of(max(high - low, 1), 5)
    low, high = math.floor(low / step) * step, max(math.ceil(high / step), math.floor(low / step) + 1) * step
    columns = 2 if all(len(curve.name) <= LONGEST_OF_TWO for curve in curves) else 1

    def x(epoch: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (epoch - 1) / max(1, epochs - 1)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    def points(values: Sequence[float]) -> list[str]:
        return [f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in enumerate(values, 1)]

    parts = [f'<text x="{LEFT}" y="14" fill="currentColor">{escape(title)}, top-1 in %</text>']
    for number in range(round((high - low) / step) + 1):
        value = low + number * step
        parts.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="{GREY}" stroke-opacity=".3"/>')
        parts.append(text_at(LEFT - 6, y(value) + FONT / 3, f"{value:g}", "end"))
    across = max(1, round(step_of(epochs, 6)))
    for epoch in sorted({1, *range(across, epochs + 1, across)}):
        parts.append(text_at(x(epoch), HEIGHT - BOTTOM + 17, str(epoch), "middle"))
    parts.append(text_at((LEFT + WIDTH) / 2, HEIGHT - 4, "epoch", "middle"))
    for number, curve in enumerate(curves):
        colour, dash = style_of(number)
        line = f'fill="none" stroke="{colour}" stroke-width="1.8" stroke-dasharray="{dash}"'
        means, drawn = curve.means, [f"<title>{escape(curve.name)}</title>"]
        if len(curve.runs) > 1 and len(curves) <= MOST_BANDS:
            bands = [(min(values), max(values)) for values in zip(*curve.runs, strict=True)]
            outline = [*points([high for _, high in bands]), *reversed(points([low for low, _ in bands]))]
            drawn.append(f'<polygon points="{" ".join(outline)}" fill="{colour}" fill-opacity=".13"/>')
        if len(means) == 1:
            drawn.append(f'<circle cx="{x(1):.1f}" cy="{y(means[0]):.1f}" r="3.5" fill="{colour}"/>')
        drawn.append(f'<polyline points="{" ".join(points(means))}" {line}/>')
        left = LEFT + (WIDTH - LEFT) / columns * (number % columns)
        top = HEIGHT + 12 + LEGEND_LINE * (number // columns)
        drawn.append(f'<path d="M{left:.0f} {top}h26" {line}/>')
        drawn.append(text_at(left + 32, top + FONT / 3, shortened(curve.name, LONGEST_NAME), "start"))
        parts.append(f'<g class="curve">{"".join(drawn)}</g>')
    height = HEIGHT + 8 + LEGEND_LINE * math.ceil(len(curves) / columns)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" color="{GREY}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="{FONT}">{"".join(parts)}</svg>'
    )


def style_of(number: int) -> tuple[str, str]:
    """Colour and dashes of a curve."""
    return COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]


def text_at(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor">{escape(text)}</text>'


def step_of(span: float, most: int) -> float:
    """A round number that divides `span` into at most about `most` parts."""
    power = 10 ** math.floor(math.log10(span / most))
    return next(share * power for share in SHARES if share * power >= span / most)
