"""Charts of the report as inline SVG that fits any width: shapes stretch, text and lines keep their size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from nightaug.experiment.report_read import Interval
from nightaug.experiment.report_words import clear, gained, safe

Point = tuple[float, float]
#: Colours the style sheet knows (classes c0 to c7).
COLOURS = 8


class Level(NamedTuple):
    """A dashed line across a chart, and what it means."""

    at: float
    words: str


def colour(at: int) -> str:
    """The style classes of the line number ``at``; after the last colour they come again, dashed."""
    return f"c{at % COLOURS}" + (" dash" if at >= COLOURS else "")


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers inside [low, high]."""
    step = (high - low) / about
    if step <= 0 or not math.isfinite(step):
        return [low]
    power = 10.0 ** math.floor(math.log10(step))
    step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= step * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def thin(line: Sequence[Point], most: int = 160) -> list[Point]:
    """At most ``most`` points: means of equal runs of neighbours; a short line stays as it is."""
    if len(line) <= most:
        return list(line)
    edges = [round(k * len(line) / most) for k in range(most + 1)]
    parts = [line[a:b] for a, b in pairwise(edges)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def legend(names: Sequence[str]) -> str:
    """The arms and their colours, for all charts below it."""
    items = (f'<li class="{colour(at)}"><i></i>{safe(name)}</li>' for at, name in enumerate(names))
    return f'<ul class="legend">{"".join(items)}</ul>'


def line_chart(
    title: str,
    lines: Sequence[tuple[int, str, Sequence[Point]]],
    x_name: str,
    x_range: Point | None = None,
    y_range: Point | None = None,
    note: str = "",
    level: Level | None = None,
    marks: int = 5,
) -> str:
    """A chart of lines.

    Args:
        title: what the y axis shows.
        lines: number of the colour, name (a tooltip), points.
        x_name: under the x axis.
        x_range, y_range: fixed axes; otherwise those of the points and of ``level``, y from 0.
        note: what the title means.
        level: a line to hold the others against.
        marks: about so many on the y axis.

    Returns:
        HTML; nothing where there is no point.
    """
    points = [point for *_, line in lines for point in line]
    if not points:
        return ""
    x0, x1 = x_range or (min(x for x, _ in points), max(x for x, _ in points))
    heights = [y for _, y in points] + ([level.at] if level is not None else [])
    y0, y1 = y_range or (min(0.0, *heights) * 1.05, max(0.0, *heights) * 1.05)
    wide, high = (x1 - x0) or 1.0, (y1 - y0) or 1.0
    across, up = ticks(x0, x1, 4), ticks(y0, y1, marks)

    def place(x: float, y: float) -> str:
        return f"{(x - x0) / wide * 100:.2f} {100 - (y - y0) / high * 100:.2f}"

    drawn = [f'<path class="grid" d="M{place(x0, y)}L{place(x1, y)}"/>' for y in up]
    for number, name, line in lines:
        if not line:
            continue
        # A single point becomes a dot: a line of no length with a round end.
        path = "L".join(place(x, y) for x, y in (line if len(line) > 1 else [*line, *line]))
        dot = " dot" if len(line) == 1 else ""
        drawn.append(f'<path class="line {colour(number)}{dot}" d="M{path}"><title>{safe(name)}</title></path>')
    told = safe(note)
    if level is not None:
        drawn.append(f'<path class="level" d="M{place(x0, level.at)}L{place(x1, level.at)}"/>')
        told += f"{'<br>' if told else ''}dashed: {safe(level.words)} ({level.at:.3g})"
    ys = "".join(f'<span style="top:{100 - (y - y0) / high * 100:.1f}%">{y:.4g}</span>' for y in up)
    xs = "".join(f'<span style="left:{(x - x0) / wide * 100:.1f}%">{x:,.6g}</span>' for x in across)
    label = f"{safe(title)}, by {safe(x_name)}"
    small = f"<small>{told}</small>" if told else ""
    return (
        f'<figure class="chart"><figcaption>{safe(title)}{small}</figcaption>'
        f'<div class="plot"><div class="ys">{ys}</div>'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f'{"".join(drawn)}</svg><div class="xs">{xs}</div><div class="x-name">{safe(x_name)}</div></div></figure>'
    )


def forest(title: str, rows: Mapping[str, Interval | None], unit: str) -> str:
    """Values with their intervals, one row each, beside a line at zero.

    Args:
        title: what is compared, for people who hear the page.
        rows: name -> value and interval as fractions.
        unit: after the numbers of the axis.
    """
    known = [row for row in rows.values() if row is not None and row.value is not None]
    ends = [end for row in known for end in (row.value, row.low, row.high) if end is not None]
    if not ends:
        return ""
    low, high = min(0.0, *ends), max(0.0, *ends)
    margin = (high - low) * 0.06 or 0.01
    low, high = low - margin, high + margin

    def at(value: float) -> str:
        return f"{(value - low) / (high - low) * 100:.2f}%"

    marks = ticks(low * 100, high * 100, 6)
    lines = "".join(
        f'<line class="{kind}" x1="{x}" x2="{x}" y2="100%"/>'
        for kind, x in (("zero" if abs(mark) < 1e-9 else "grid", at(mark / 100)) for mark in marks)
    )
    parts = [f'<div class="forest" role="list" aria-label="{safe(title)}">']
    for name, row in rows.items():
        said = gained(row)
        body, side = "", "unsure"
        if row is not None and row.value is not None:
            side = ("up" if row.value > 0 else "down") if clear(row.low, row.high) else "unsure"
            if row.low is not None and row.high is not None:
                body = f'<line class="bar" x1="{at(row.low)}" x2="{at(row.high)}" y1="50%" y2="50%"/>'
            body += f'<circle cx="{at(row.value)}" cy="50%" r="5.5"/>'
        parts.append(
            f'<div class="line" role="listitem"><span class="name">{safe(name)}</span>'
            f'<svg class="{side}" aria-hidden="true">{lines}{body}</svg><span class="value">{safe(said)}</span></div>'
        )
    texts = "".join(f'<text x="{at(mark / 100)}" y="12">{mark:.4g}</text>' for mark in marks)
    parts.append(
        f'<div class="line axis" aria-hidden="true"><span></span><svg>{texts}</svg>'
        f"<span>{safe(unit)}</span></div></div>"
    )
    return "".join(parts)
