"""The lights of a street that belong to no labelled object: street lamps, far points of light, lit windows.

Real night is full of them, and a detector that has never seen one takes each for a signal or a headlamp. They are white
or the yellow of lamps, never red or green, and never in a labelled box, so that no label becomes untrue: what they
show is no object of any class. Off unless asked for, as ``relight`` otherwise adds nothing outside boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nightaug.data.frames import Box
from nightaug.relight.lamp_base import Corners, Lamp
from nightaug.relight.scene import Scene
from nightaug.relight.settings import RGB, Range, RelightSettings

F32 = NDArray[np.float32]

#: How far a light keeps from a labelled box, as a share of the frame's longer side.
_APART = 0.008
#: Radius of the nearest street lamp and of a far point, reference pixels of a frame whose longer side is 1280.
_LAMP_RADIUS, _POINT_RADIUS = 9.0, 1.6
_REFERENCE = 1280.0


def street_lights(
    labels: Sequence[tuple[Box, Corners]],
    frame: tuple[int, int],
    sky: F32 | None,
    scene: Scene,
    rng: np.random.Generator,
    settings: RelightSettings,
) -> list[Lamp]:
    """Lamps that no label knows.

    Args:
        labels: what :func:`nightaug.relight.lamp_base.usable` gave; lights keep away from them.
        frame: width and height, pixels.
        sky: float32 (h, w), how surely each place is sky, any size; None where there is none. No window is lit in it.
        scene: where its horizon is.
        rng: numbers of this image alone.
        settings: ``street_lamps``, ``far_lights``, ``lit_windows`` and their colours and brightness.
    """
    width, height = frame
    unit = max(width, height) / _REFERENCE
    horizon = scene.horizon * height
    vanishing = width * rng.uniform(0.38, 0.62)
    taken = np.array([corners for _, corners in labels], dtype=np.float64).reshape(-1, 4)
    apart = _APART * max(width, height)
    found: list[Lamp] = []

    def add(x: float, y: float, rx: float, ry: float, power: float, color: RGB, shape: F32 | None = None) -> None:
        if not (0 <= x < width and 0 <= y < height):
            return
        grown = (taken[:, 0] - apart - rx, taken[:, 1] - apart - ry, taken[:, 2] + apart + rx, taken[:, 3] + apart + ry)
        if np.any((grown[0] < x) & (x < grown[2]) & (grown[1] < y) & (y < grown[3])):
            return
        lamp = Lamp(x, y, max(rx, 0.8), max(ry, 0.8), color, power, (0, 0, width, height))
        if shape is not None:
            left, top = round(x - shape.shape[1] / 2), round(y - shape.shape[0] / 2)
            if left < 0 or top < 0 or left + shape.shape[1] > width or top + shape.shape[0] > height:
                return
            lamp = lamp._replace(shape=shape, origin=(left, top))
        found.append(lamp)

    # A row on each side of the road: a straight line from the vanishing point, nearer lamps larger and higher.
    for side in (-1, 1):
        count = _count(rng, settings.street_lamps)
        color = _color(rng, settings.street_lamp_colors)
        rise, reach = rng.uniform(0.45, 0.95), rng.uniform(0.45, 0.8)
        first, ratio = rng.uniform(0.6, 1.1), rng.uniform(0.5, 0.72)
        for number in range(count):
            near = first * ratio**number
            radius = _LAMP_RADIUS * unit * near * rng.uniform(0.7, 1.2)
            x = vanishing + side * reach * near * width
            add(x, horizon * (1 - rise * near), radius, radius * 0.7, _between(rng, settings.street_lamp), color)
    for _ in range(_count(rng, settings.far_lights)):
        x = vanishing + rng.normal(0, 0.22) * width
        y = horizon + rng.normal(-0.02, 0.03) * height
        radius = _POINT_RADIUS * unit * rng.uniform(0.5, 1.6)
        add(x, y, radius, radius, _between(rng, settings.far_light), _color(rng, settings.street_lamp_colors))
    for _ in range(_count(rng, settings.lit_windows)):
        x, y = rng.uniform(0, width), rng.uniform(0.1, 1.0) * horizon
        w, h = (max(2, round(unit * side * rng.uniform(0.5, 1.8))) for side in (12, 9))
        if sky is not None and _at(sky, x / width, y / height) > 0.3:
            continue
        light = rng.uniform(0.4, 1.0, (2, 3)).astype(np.float32)
        # A window is dim beside its curtain and bright beside its lamp.
        shape = np.asarray(np.repeat(np.repeat(light, math.ceil(h / 2), 0), math.ceil(w / 3), 1)[:h, :w], np.float32)
        add(x, y, w / 2, h / 2, _between(rng, settings.lit_window), _color(rng, settings.street_lamp_colors), shape)
    return found


def _between(rng: np.random.Generator, span: Range) -> float:
    return float(rng.uniform(span[0], span[1]))


def _count(rng: np.random.Generator, span: Range) -> int:
    return round(_between(rng, span))


def _color(rng: np.random.Generator, colors: Sequence[RGB]) -> RGB:
    return colors[int(rng.integers(len(colors)))]


def _at(values: F32, x: float, y: float) -> float:
    h, w = values.shape[:2]
    return float(values[min(int(y * h), h - 1), min(int(x * w), w - 1)])
