"""Detections drawn into pictures: boxes in class colours, labels that stay in the image and off each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from nightaug.data.text import plain
from nightaug.images import ImageArray, check_rgb

Color = tuple[int, int, int]  # RGB
Rect = tuple[int, int, int, int]  # x1, y1, x2, y2; right and bottom exclusive

#: Told apart with the usual colour blindnesses, and light enough for night images: the colours of Okabe and Ito
#: (2008) without black, their blue lightened, then three more.
PALETTE: tuple[Color, ...] = (
    (86, 180, 233),  # sky blue
    (230, 159, 0),  # orange
    (0, 190, 140),  # bluish green, lightened
    (240, 228, 66),  # yellow
    (224, 120, 180),  # reddish purple, lightened
    (238, 102, 51),  # vermilion
    (110, 130, 255),  # blue, lightened
    (245, 245, 245),  # near white
    (170, 170, 80),  # olive
    (180, 130, 110),  # brown
)
#: Geometric mean of an image's sides, px, for each px of line width: 2 px at 1280 x 720, 6 px at 3840 x 2160.
_SIDE_PER_LINE = 480
#: The same for each px of letter height: 15 px at 1280 x 720, 45 px at 3840 x 2160; never below the smallest legible.
_SIDE_PER_LETTER, _SMALLEST_LETTER = 64, 10
#: Longest class name shown.
_LONGEST_NAME = 32
#: Shares of other boxes, added up, that a label may hide; one that could not but hide more is left out.
_MOST_COVERED = 0.5
_HALO: Color = (0, 0, 0)


def class_color(number: int) -> Color:
    """The colour of a class number; after the palette's end it starts again, darker each round."""
    round_, at = divmod(number, len(PALETTE))
    red, green, blue = PALETTE[at]
    share = max(0.4, 1 - 0.3 * round_)
    return round(red * share), round(green * share), round(blue * share)


def line_width(width: int, height: int) -> int:
    """Thickness of a box's line in an image of this size, pixels."""
    return max(1, round(math.sqrt(width * height) / _SIDE_PER_LINE))


def letter_height(width: int, height: int) -> int:
    """Font size in an image of this size, pixels."""
    wanted = max(_SMALLEST_LETTER, round(math.sqrt(width * height) / _SIDE_PER_LETTER))
    return max(6, min(wanted, height // 6))


def draw_detections(
    image: ImageArray,
    boxes: NDArray[np.floating[Any]],
    labels: Sequence[int],
    scores: Sequence[float] | None,
    names: Sequence[str],
) -> ImageArray:
    """A copy of the image with boxes around the objects and a name and score at each.

    Lines run outside the boxes, so that a light of 8 pixels can still be seen. A label goes where it covers least; one
    that could only be put over other labels or objects is left out (the colour still tells the class).

    Args:
        image: uint8 (H, W, 3) RGB.
        boxes: (P, 4) xyxy, pixels.
        labels: (P,) class numbers.
        scores: (P,) in [0, 1]; None shows names only.
        names: of the classes.
    """
    check_rgb(image)
    out = image.copy()
    height, width = out.shape[:2]
    line = line_width(width, height)
    values = np.asarray(boxes, np.float64).reshape(-1, 4)
    order = sorted(range(len(values)), key=lambda at: -(scores[at] if scores is not None else 0.0))
    frames = {at: frame for at in order if (frame := _outer(values[at], line, width, height)) is not None}
    for at in reversed(order):  # the surest on top
        if at in frames:
            _frame(out, frames[at], line, class_color(int(labels[at])))
    solid = np.array(list(frames.values()), np.int64).reshape(-1, 4)
    placed: list[Rect] = []
    size = letter_height(width, height)
    for own, at in enumerate(frames):
        name = plain(names[int(labels[at])])
        name = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 3] + "..."
        text = name if scores is None else f"{name} {scores[at]:.2f}"
        color = class_color(int(labels[at]))
        tag = _tag(text, size, color)[:height, :width]
        place = _place(tag, frames[at], np.delete(solid, own, axis=0), placed, width, height)
        if place is not None:
            x1, y1, x2, y2 = place
            out[y1:y2, x1:x2] = tag
            placed.append(place)
    return out


def _outer(box: NDArray[np.float64], line: int, width: int, height: int) -> Rect | None:
    """Where the box's line ends on the outside, cut to the image; None for boxes that are not in it."""
    if not np.isfinite(box).all():
        return None
    x1, y1, x2, y2 = np.clip(box, -1e6, 1e6)
    if x2 <= x1 or y2 <= y1 or x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        return None
    left, top = max(0, math.floor(x1) - line), max(0, math.floor(y1) - line)
    return left, top, min(width, math.ceil(x2) + line), min(height, math.ceil(y2) + line)


def _frame(out: ImageArray, outer: Rect, line: int, color: Color) -> None:
    """A line inside ``outer``, and a thin dark one around it that keeps light colours visible on light ground."""
    x1, y1, x2, y2 = outer
    _hollow(out, (max(0, x1 - 1), max(0, y1 - 1), min(out.shape[1], x2 + 1), min(out.shape[0], y2 + 1)), 1, _HALO)
    _hollow(out, outer, line, color)


def _hollow(out: ImageArray, rect: Rect, line: int, color: Color) -> None:
    x1, y1, x2, y2 = rect
    out[y1 : min(y1 + line, y2), x1:x2] = color
    out[max(y2 - line, y1) : y2, x1:x2] = color
    out[y1:y2, x1 : min(x1 + line, x2)] = color
    out[y1:y2, max(x2 - line, x1) : x2] = color


@lru_cache(maxsize=64)
def _font(size: int) -> Any:
    try:
        return ImageFont.load_default(size)
    except ImportError:  # a Pillow without FreeType: one small size
        return ImageFont.load_default()


@lru_cache(maxsize=4096)
def _tag(text: str, size: int, color: Color) -> ImageArray:
    """A label as a picture, uint8 (h, w, 3): dark or light letters on the class's colour."""
    font = _font(size)
    edge = max(1, size // 5)
    # One height for all texts, with and without letters that go below the line.
    top, bottom = font.getbbox("Ag")[1], font.getbbox("Ag")[3]
    wide = math.ceil(font.getlength(text))
    picture = Image.new("RGB", (wide + 2 * edge, math.ceil(bottom - top) + 2 * edge), color)
    bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 110
    ImageDraw.Draw(picture).text((edge, edge - top), text, (0, 0, 0) if bright else (255, 255, 255), font)
    tag = np.array(picture)
    tag.setflags(write=False)  # shared by all that show this text
    return tag


def _place(
    tag: ImageArray, frame: Rect, others: NDArray[np.int64], placed: Sequence[Rect], width: int, height: int
) -> Rect | None:
    """Where a label goes: of the places at its box, the one over the least of other boxes and over no other label."""
    tall, wide = tag.shape[:2]
    x1, y1, x2, y2 = frame
    corners = [(x1, y1 - tall), (x2 - wide, y1 - tall), (x1, y2), (x2 - wide, y2)]
    if x2 - x1 >= wide and y2 - y1 >= 2 * tall:
        corners += [(x1, y1), (x1, y2 - tall)]
    corners += [(x2, y1), (x1 - wide, y1)]
    best: tuple[float, Rect] | None = None
    for x, y in corners:
        left, top = min(max(x, 0), width - wide), min(max(y, 0), height - tall)
        if y != top and not (top == 0 and y1 == 0):  # moved up or down it would leave its box
            continue
        rect = (left, top, left + wide, top + tall)
        if any(_overlap(rect, other) for other in placed):
            continue
        covered = _covered(rect, others)
        if covered > _MOST_COVERED:
            continue
        if best is None or covered < best[0]:
            best = covered, rect
        if covered == 0:
            break
    return best[1] if best is not None else None


def _overlap(a: Rect, b: Rect) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _covered(rect: Rect, others: NDArray[np.int64]) -> float:
    """How much of other boxes a label hides, as the sum of their hidden shares: of small ones it hides most."""
    if len(others) == 0:
        return 0.0
    low = np.maximum(others[:, :2], rect[:2])
    high = np.minimum(others[:, 2:], rect[2:])
    hidden = np.clip(high - low, 0, None).prod(axis=1)
    return float((hidden / (others[:, 2:] - others[:, :2]).prod(axis=1)).sum())
