"""What makes a relit frame a night to a detector: the light of a finished frame, less even than by day.

Found by looking at what detectors of relit days miss on real nights (BDD100K): edges of day's shading that night does
not have, too little contrast between neighbouring pixels, and roofs and ends of vehicles too plain to see. All of it is
off where its setting is 0.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from nightaug.relight.lamp_base import TWO_TRACK, pick
from nightaug.relight.light import REFERENCE_SIDE, Labels, ramp
from nightaug.relight.settings import Range, RelightSettings

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

#: Linear light under which differences are noise.
_FLOOR = 1.5e-3
#: Linear light from which on a pixel is a lamp, which no other light changes, and e times that: surely one.
_LAMP = 0.25
#: Natural log of light by which a pixel changes at most.
_MOST = 3.0
#: Sizes of patches of uneven light.
_SIZES = 3
#: Broad light is measured on a frame with this longer side, in pixels.
_SMALL = 320.0


def finish(
    night: F32,
    day: F32,
    labels: Labels,
    draws: F64,
    rng: np.random.Generator,
    settings: RelightSettings,
    strength: float,
) -> None:
    """Change the light of a finished frame in place.

    Nothing gets brighter than by ``day``, or than it is.

    Args:
        night: float32 (H, W, 3), linear light with all lamps and their glow.
        day: the same frame by day, linear.
        draws: (P, DRAWS) uniform numbers, a row for each label.
        rng: source of the frame's own numbers; as many are drawn for every setting.
        strength: in (0, 1].
    """
    # All drawn, so that one setting does not change the numbers of another.
    shading, steep = rng.uniform(*settings.shading_removed), rng.uniform(*settings.detail)
    broad, fine = (_log_uniform(rng, span) for span in (settings.shading_size, settings.detail_size))
    unit = max(night.shape[:2]) / REFERENCE_SIDE
    field = np.zeros(night.shape[:2], np.float32)
    logs = np.log(night.mean(axis=2) + _FLOOR)
    if steep > 0:
        field += steep * (logs - _blurred(logs, fine * unit))
    if shading > 0:
        wide = _blurred(logs, broad * unit)
        field -= shading * (wide - float(wide.mean()))
    if settings.dapple[1]:
        field += dapples(rng.spawn(1)[0], night.shape[:2], settings)
    if settings.roof_fade[1] or settings.side_fade[1]:
        field -= faded(labels, draws, night.shape[:2], settings)
    if field.any():
        field *= strength * (1 - np.clip(logs - math.log(_LAMP), 0, 1))
        most = np.maximum(day, night)
        night *= np.exp(np.clip(field, -_MOST, _MOST))[..., None]
        np.minimum(night, most, out=night)


def _log_uniform(rng: np.random.Generator, span: Range) -> float:
    return math.exp(rng.uniform(math.log(span[0]), math.log(span[1])))


def _blurred(values: F32, sigma: float) -> F32:
    """Gaussian blur; a wide one is made small and enlarged, where nobody sees the difference."""
    h, w = values.shape
    shrink = max(min(sigma / 3, max(h, w) / _SMALL), 1.0)
    if shrink > 1:
        size = (max(round(w / shrink), 1), max(round(h / shrink), 1))
        values = np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), np.float32)
    blurred = cv2.GaussianBlur(values, (0, 0), max(sigma / shrink, 0.5))
    return np.asarray(cv2.resize(blurred, (w, h), interpolation=cv2.INTER_LINEAR), np.float32).reshape(h, w)


def dapples(rng: np.random.Generator, size: tuple[int, int], settings: RelightSettings) -> F32:
    """Uneven light as from lamps, leaves and walls that a day does not show, in logs, float32 (h, w).

    Shade under a car and light on its roof are as by day in a relit image, and a detector comes to rely on them; broad
    random light leaves it the edges (compare random textures, Geirhos et al., ICLR 2019).
    """
    h, w = size
    unit = max(h, w) / REFERENCE_SIDE
    field = np.zeros((h, w), np.float32)
    for _ in range(_SIZES):
        # Patches under two pixels would be noise.
        apart = max(_log_uniform(rng, settings.dapple_size) * unit, 2.0)
        grid = rng.standard_normal((int(h / apart) + 2, int(w / apart) + 2)).astype(np.float32)
        sigma = rng.uniform(*settings.dapple)
        field += sigma * cv2.resize(grid, (w, h), interpolation=cv2.INTER_CUBIC).reshape(h, w)
    return field


def faded(labels: Labels, draws: F64, size: tuple[int, int], settings: RelightSettings) -> F32:
    """Light that roofs and ends of vehicles lack, in logs, float32 (h, w).

    By night light comes from lamps at the height of bumpers; roof and ends melt into the dark. A detector that has
    only seen vehicles whole boxes their lit parts on real nights.
    """
    fade = np.zeros(size, np.float32)
    for (box, corners), u in zip(labels, draws, strict=True):
        if box.category not in TWO_TRACK:
            continue
        top, ends = pick(u[13], settings.roof_fade), pick(u[14], settings.side_fade)
        x1, y1, x2, y2 = corners
        # It falls off outside the box, or its rectangle shows.
        left, right = max(int(x1 - 0.3 * (x2 - x1)), 0), min(math.ceil(x2 + 0.3 * (x2 - x1)) + 1, size[1])
        above, below = max(int(y1 - 0.3 * (y2 - y1)), 0), min(math.ceil(y2 + 0.2 * (y2 - y1)) + 1, size[0])
        across = np.abs((np.arange(left, right, dtype=np.float32) + 0.5 - (x1 + x2) / 2) / max((x2 - x1) / 2, 0.5))
        down = (np.arange(above, below, dtype=np.float32) + 0.5 - y1) / max(y2 - y1, 1.0)
        edge = 0.4 + 0.2 * u[15]
        roof = ramp((edge - down) / (edge - 0.05))
        end = np.clip((across - 0.55) / 0.45, 0, 1)
        change = np.maximum(top * roof[:, None], ends * end[None, :])
        change *= (
            ramp((1.6 - across) / 0.6)[None, :]
            * np.minimum(ramp((down + 0.3) / 0.3), ramp((1.2 - down) / 0.2))[:, None]
        )
        part = fade[above:below, left:right]
        np.maximum(part, change.astype(np.float32), out=part)
    return fade
