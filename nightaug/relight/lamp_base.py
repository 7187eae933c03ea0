"""What a lamp is, and the labels that carry some: shared by :mod:`~nightaug.relight.lamps` and `upper`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nightaug.data.frames import Box
from nightaug.relight.settings import RGB, Range

F32 = NDArray[np.float32]
Corners = tuple[float, float, float, float]

TWO_TRACK = ("car", "truck", "bus", "train")
PEOPLE = ("pedestrian", "rider", "bicycle", "motorcycle")
DRAWS = 16  # random numbers for each box, always drawn, so that one box does not change the next


class Lamp(NamedTuple):
    """One lamp: centre and radii in image pixels, colour in linear RGB, brightness in linear light.

    ``bounds`` is its box (x1, y1, x2, y2), which its core never leaves. ``shape`` is None for an ellipse, or
    the lamp's own outline: float32 in [0, 1], with ``origin`` the pixel (x, y) of its first element.
    """

    x: float
    y: float
    rx: float
    ry: float
    color: RGB
    power: float
    bounds: tuple[int, int, int, int] = (0, 0, 0, 0)
    shape: F32 | None = None
    origin: tuple[int, int] = (0, 0)


def usable(boxes: Sequence[Box], width: int, height: int) -> list[tuple[Box, Corners]]:
    """Boxes that lie in the image with their corners cut to it; NaN, inverted, outside ones are dropped."""
    out = []
    for box in boxes:
        corners = np.array(box.xyxy, dtype=np.float64)
        if box.crowd or not np.isfinite(corners).all():
            continue
        x1, x2 = (float(v) for v in np.clip(corners[[0, 2]], 0, width))
        y1, y2 = (float(v) for v in np.clip(corners[[1, 3]], 0, height))
        if x2 - x1 >= 1 and y2 - y1 >= 1:
            out.append((box, (x1, y1, x2, y2)))
    return out


def pick(draw: float, span: Range) -> float:
    """The value of a range that a number in [0, 1] stands for."""
    return span[0] + draw * (span[1] - span[0])


def choose(draw: float, colors: tuple[RGB, ...]) -> RGB:
    """The colour of several that a number in [0, 1) stands for."""
    return colors[min(int(draw * len(colors)), len(colors) - 1)]


def round_lamp(at: tuple[float, float], radii: tuple[float, float], color: RGB, power: float) -> Lamp:
    """A lamp; one under a pixel wide is widened to a pixel and dimmed, so that its light stays the same."""
    rx, ry = max(radii[0], 0.8), max(radii[1], 0.8)
    return Lamp(at[0], at[1], rx, ry, color, power * max(radii[0] * radii[1] / (rx * ry), 0.3))
