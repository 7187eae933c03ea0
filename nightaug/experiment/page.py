"""One self-contained HTML page: before/after sliders, curves, tables. No network, no script from elsewhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nightaug.data.frames import Box
from nightaug.images import ImageArray, atomic_write_text, encode_image

#: Curves on the page: title -> metrics drawn in it.
CURVES: dict[str, tuple[str, ...]] = {
    "cycle and identity losses": ("cycle_a", "cycle_b", "identity_a", "identity_b"),
    "adversarial and discriminator losses": (
        "adversarial_a2b",
        "adversarial_b2a",
        "discriminator_a",
        "discriminator_b",
    ),
    "score on validation images (lower is closer to real)": ("score",),
}
_COLORS = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444")

#: A before/after slider: ``.slider`` holds an image, one ``.after`` over it, ``.bar`` and a range input.
SLIDER_STYLE = """
.slider{position:relative;overflow:hidden;touch-action:pan-y;line-height:0;border-radius:6px}
.slider img{width:100%;display:block}
.slider .after{position:absolute;inset:0;clip-path:inset(0 0 0 var(--at,50%))}
.slider .bar{position:absolute;top:0;bottom:0;left:var(--at,50%);width:2px;background:#fff;box-shadow:0 0 4px #000}
.slider input{position:absolute;inset:0;width:100%;height:100%;opacity:0;cursor:ew-resize;margin:0}
.slider:focus-within{outline:3px solid #3b82f6}
"""
SLIDER_SCRIPT = """
for(const i of document.querySelectorAll('.slider input')){
  const set=()=>i.parentElement.style.setProperty('--at',i.value+'%');i.addEventListener('input',set);set()}
"""
_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:0 auto;padding:1rem;background:#fff;color:#111}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem}
.grid{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr))}
figure{margin:0}figcaption{font-size:.85rem;opacity:.8}
.slider .labels{position:absolute;inset:0;background:none;border-radius:0;display:none}
.labels rect{fill:none;stroke:#39ff88;stroke-width:1}
body:has(#show:checked) .labels{display:block}
.row{display:grid;gap:.3rem;grid-template-columns:repeat(auto-fit,minmax(min(48%,14rem),1fr))}
.row img{width:100%;display:block}
pre{overflow-x:auto;font-size:.8rem;background:#8881;padding:.7rem;border-radius:6px}
svg{width:100%;height:auto;background:#8881;border-radius:6px}
@media(prefers-color-scheme:dark){body{background:#111;color:#eee}}
"""


class Comparison(NamedTuple):
    """A source image, its versions, each with its caption, and the labels; all of one size."""

    name: str
    before: ImageArray
    after: list[tuple[str, ImageArray]]
    boxes: Sequence[Box] = ()


def data_uri(image: ImageArray, quality: int = 85) -> str:
    """An image as a JPEG inside a page."""
    return "data:image/jpeg;base64," + base64.b64encode(encode_image(image, "jpg", quality)).decode()


def _overlay(comparison: Comparison) -> str:
    """The labels as an SVG on top of a picture, hidden until the page's box is ticked."""
    height, width = comparison.before.shape[:2]
    shapes = [
        f'<rect x="{b.x1:.1f}" y="{b.y1:.1f}" width="{b.x2 - b.x1:.1f}" height="{b.y2 - b.y1:.1f}">'
        f"<title>{html.escape(b.category)}</title></rect>"
        for b in comparison.boxes
    ]
    return f'<svg class="labels" viewBox="0 0 {width} {height}">{"".join(shapes)}</svg>' if shapes else ""


def _slider(comparison: Comparison, caption: str, after: ImageArray) -> str:
    name = html.escape(f"{comparison.name}: {caption}", quote=True)
    return (
        f'<figure><div class="slider"><img src="{data_uri(comparison.before)}" alt="{name}, before">'
        f'<img class="after" src="{data_uri(after)}" alt="{name}, after">{_overlay(comparison)}<div class="bar"></div>'
        f'<input type="range" min="0" max="100" value="50" aria-label="before/after of {name}"></div>'
        f"<figcaption>{name}</figcaption></figure>"
    )


def curve(title: str, series: Mapping[str, Sequence[tuple[float, float]]], width: int = 640, height: int = 220) -> str:
    """An SVG line chart of named (x, y) points, with its value range and a legend."""
    points = [point for line in series.values() for point in line]
    if not points:
        return ""
    x0, x1 = min(x for x, _ in points), max(x for x, _ in points)
    y0, y1 = min(0.0, *(y for _, y in points)), max(y for _, y in points)
    left, right, top, bottom = 46, 8, 8, 22

    def place(x: float, y: float) -> str:
        across = (x - x0) / ((x1 - x0) or 1) * (width - left - right)
        up = (y - y0) / ((y1 - y0) or 1) * (height - top - bottom)
        return f"{left + across:.1f},{height - bottom - up:.1f}"

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(title, quote=True)}">']
    text = 'font-size="11" fill="currentColor"'
    parts += [
        f'<text x="{left - 4}" y="{top + 10}" text-anchor="end" {text}>{y1:.3g}</text>',
        f'<text x="{left - 4}" y="{height - bottom}" text-anchor="end" {text}>{y0:.3g}</text>',
        f'<text x="{left}" y="{height - 6}" {text}>step {x0:g}</text>',
        f'<text x="{width - right}" y="{height - 6}" text-anchor="end" {text}>{x1:g}</text>',
    ]
    for at, (name, line) in enumerate(series.items()):
        color = _COLORS[at % len(_COLORS)]
        path = " ".join(place(x, y) for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6"/>')
        if len(line) == 1:
            x, y = place(*line[0]).split(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{color}"/>')
        parts.append(
            f'<text x="{left + 8 + at * 150}" y="{top + 12}" font-size="12" fill="{color}">{html.escape(name)}</text>'
        )
    return "".join(parts) + "</svg>"


def write_page(
    path: Path,
    title: str,
    notes: Sequence[str],
    table: Sequence[str],
    comparisons: Sequence[Comparison],
    references: Sequence[tuple[str, Sequence[ImageArray]]] = (),
    metrics: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the page atomically; every image is inside it."""
    body = [f"<h1>{html.escape(title)}</h1>", *(f"<p>{html.escape(note)}</p>" for note in notes)]
    captions = list(dict.fromkeys(caption for comparison in comparisons for caption, _ in comparison.after))
    if any(comparison.boxes for comparison in comparisons):
        body.append('<p><label><input type="checkbox" id="show"> show the labels (boxes of the day image)</label></p>')
    for wanted in captions:
        body.append(f"<h2>Day and night: {html.escape(wanted)}</h2><p>Drag across a picture.</p><div class=grid>")
        body += [_slider(c, caption, after) for c in comparisons for caption, after in c.after if caption == wanted]
        body.append("</div>")
    for caption, images in references:
        body.append(f"<h2>{html.escape(caption)}</h2><div class=row>")
        body += [f'<img src="{data_uri(image)}" alt="{html.escape(caption, quote=True)}">' for image in images]
        body.append("</div>")
    drawn = []
    for name, keys in CURVES.items():
        series = {key: [(row["step"], row[key]) for row in metrics if key in row] for key in keys}
        chart = curve(name, {key: line for key, line in series.items() if line})
        if chart:
            drawn.append(f"<figure><figcaption>{html.escape(name)}</figcaption>{chart}</figure>")
    if drawn:
        body += ["<h2>Training</h2><div class=grid>", *drawn, "</div>"]
    if table:
        body.append(f"<h2>Data</h2><pre>{html.escape(chr(10).join(table))}</pre>")
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,'
        f'initial-scale=1"><title>{html.escape(title)}</title><style>{_STYLE}{SLIDER_STYLE}</style></head><body>{"".join(body)}'
        f"<script>{SLIDER_SCRIPT}</script></body></html>\n"
    )
    atomic_write_text(path, page)
