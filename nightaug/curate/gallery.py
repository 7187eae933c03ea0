"""A page of the worst translations: source and result side by side, lost objects and invented ones marked."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from nightaug.curate.pairs import Pair
from nightaug.curate.scores import BoxScore, ImageScore, TranslationScores
from nightaug.curate.summary import LOST, summary_lines
from nightaug.data.text import plain
from nightaug.errors import ImageError
from nightaug.experiment.page import data_uri
from nightaug.images import ImageArray, atomic_write_text, read_image

#: Width of the page's pictures, pixels, and their JPEG quality.
_WIDTH, _QUALITY = 640, 80
#: Height of the words on a picture, as a share of its width: whatever size the image has, they are read on the page.
_WORDS = 1 / 50
#: Words at a box that begins further right, as a share of the width, end with the box, or the edge would cut them off.
_RIGHT = 0.75

_STYLE = """
:root{color-scheme:dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:88rem;margin:0 auto;padding:1rem;background:#111;color:#eee}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2rem}
.pair{display:grid;gap:.4rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));margin-top:1rem}
.shot{position:relative;line-height:0}.shot img{width:100%}
.shot svg{position:absolute;inset:0;width:100%;height:100%}
rect{fill:none;stroke-width:1.6;vector-effect:non-scaling-stroke}
.kept{stroke:#39d98a}.lost{stroke:#ff5c5c;stroke-dasharray:5 3}.untold{stroke:#9aa4b2}
.object{stroke:#ff4df0}.lamp{stroke:#ffd54d}
text{paint-order:stroke;stroke:#000;stroke-width:.25em;fill:#fff}
p.note{margin:.2rem 0;font-size:.85rem;opacity:.85}
.keys span{padding:0 .5rem;margin-right:.6rem;border:2px solid;border-radius:4px}
.keys .k{border-color:#39d98a}.keys .l{border-color:#ff5c5c}.keys .u{border-color:#9aa4b2}
.keys .o{border-color:#ff4df0}.keys .m{border-color:#ffd54d}
pre{white-space:pre-wrap;font-size:.8rem;background:#8882;padding:.7rem;border-radius:6px}
"""


def _safe(word: object) -> str:
    return html.escape(plain(str(word)), quote=True)


def _least_kept(image: ImageScore) -> float:
    """How much of an image's objects is lost in all: many lost ones weigh more than one."""
    return sum(1 - box.kept for box in image.boxes if box.kept is not None)


def worst_images(images: Sequence[ImageScore], count: int) -> dict[str, list[int]]:
    """Numbers of the images to show, by what is wrong with them; none stands in both lists."""
    invented = sorted(range(len(images)), key=lambda at: (-len(images[at].invented), at))
    invented = [at for at in invented[:count] if images[at].invented]
    lost = sorted(range(len(images)), key=lambda at: (-_least_kept(images[at]), at))
    lost = [at for at in lost if at not in invented and any((box.kept or 1) < LOST for box in images[at].boxes)]
    return {"Most invented": invented, "Least kept": lost[:count]}


def _rect(box: tuple[float, float, float, float], kind: str, title: str, width: int, note: str = "") -> str:
    x1, y1, x2, y2 = box
    text = ""
    if note:
        size, right = width * _WORDS, x1 > width * _RIGHT
        at = f'x="{min(x2, width):.1f}" text-anchor="end"' if right else f'x="{max(x1, 0):.1f}"'
        text = f'<text {at} y="{max(y1 - size / 4, size):.1f}">{_safe(note)}</text>'
    return (
        f'<rect class="{kind}" x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}">'
        f"<title>{_safe(title)}</title></rect>{text}"
    )


def _title(box: BoxScore) -> str:
    parts = [box.category]
    for name in ("kept", "found_day", "found_night", "clip_day", "clip_night", "similarity", "structure", "moved"):
        value = getattr(box, name)
        if value is not None:
            parts.append(f"{name} {value:.2f}")
    return ", ".join(parts)


def _overlay(image: ImageScore, size: tuple[int, int], after: bool) -> str:
    shapes = []
    for box in image.boxes:
        kind = "untold" if box.kept is None else "kept" if box.kept >= LOST else "lost"
        note = f"{box.category} {box.kept:.2f}" if after and kind == "lost" else ""
        shapes.append(_rect(box.xyxy, kind, _title(box), size[0], note))
    if after:
        for each in image.invented:
            what = each.category or "lamp"
            x1, y1, x2, y2 = each.xyxy
            grown = (x1 - 3, y1 - 3, x2 + 3, y2 + 3) if each.kind == "lamp" else each.xyxy
            note = f"{what} {each.score:.2f}" if each.kind == "object" else ""
            shapes.append(_rect(grown, each.kind, f"invented: {what} {each.score:.2f}", size[0], note))
    area, words = f"0 0 {size[0]} {size[1]}", f"font-size:{size[0] * _WORDS:.2f}px"
    return f'<svg viewBox="{area}" preserveAspectRatio="none" style="{words}">{"".join(shapes)}</svg>'


def _shot(picture: ImageArray, overlay: str, name: str) -> str:
    return f'<div class="shot"><img src="{data_uri(picture, _QUALITY)}" alt="{_safe(name)}">{overlay}</div>'


def _fitted(path: Path, width: int, height: int) -> ImageArray:
    size = (min(width, _WIDTH), max(1, round(height * min(1.0, _WIDTH / width))))
    image = read_image(path)
    if image.shape[1::-1] == size:
        return image
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _figure(image: ImageScore, pair: Pair) -> str:
    """An image's block; what cannot be read any more is said instead."""
    assert pair.frame.path is not None
    try:
        height, width = read_image(pair.frame.path).shape[:2]
        before, after = (_fitted(path, width, height) for path in (pair.origin, pair.frame.path))
    except ImageError as error:
        return f'<p class="note">{_safe(error)}</p>'
    kept = [box.kept for box in image.boxes if box.kept is not None]
    objects = sum(each.kind == "object" for each in image.invented)
    words = [
        image.output,
        f"kept {np.mean(kept):.2f} over {len(kept)} objects, {sum(value < LOST for value in kept)} lost"
        if kept
        else "",
        f"{objects} objects and {len(image.invented) - objects} lamps invented",
        "" if image.night is None else f"night {image.night:.2f}",
    ]
    note = "; ".join(word for word in words if word)
    shots = _shot(before, _overlay(image, (width, height), False), f"{image.source}, before")
    shots += _shot(after, _overlay(image, (width, height), True), f"{image.output}, after")
    return f'<div class="pair">{shots}</div><p class="note">{_safe(note)}</p>'


def write_gallery(path: Path, scores: TranslationScores, pairs: Sequence[Pair], worst: int) -> None:
    """Write the page atomically; every picture is inside it.

    Args:
        pairs: of ``scores.images``, in their order.
        worst: images a list.
    """
    name = Path(scores.translated).name
    body = [
        f"<h1>What the translation {_safe(name)} did to its objects</h1>",
        f"<pre>{_safe_lines(summary_lines(scores.summary))}</pre>",
        '<p class="keys"><span class="k">kept</span><span class="l">lost</span><span class="u">cannot be told</span>'
        '<span class="o">invented object</span><span class="m">invented lamp</span></p>',
    ]
    for title, numbers in worst_images(scores.images, worst).items():
        body.append(f"<h2>{title}</h2>")
        body += [_figure(scores.images[at], pairs[at]) for at in numbers] or ["<p>None.</p>"]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    head += f"<title>Scores of {_safe(name)}</title><style>{_STYLE}</style>"
    page = f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'
    atomic_write_text(path, page)


def _safe_lines(lines: Sequence[str]) -> str:
    return "\n".join(_safe(line) for line in lines)
