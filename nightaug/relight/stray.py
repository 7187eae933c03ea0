"""What is left of the day's light where no label knows of anything: sky between leaves and at the end of a street.

A pale patch in the dark is a sign to a detector, so a patch that no label knows must not stand out.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from nightaug.relight.light import Labels, on_small, ramp
from nightaug.relight.settings import RelightSettings
from nightaug.relight.tone import LUMA

F32 = NDArray[np.float32]

#: Share of the longer side: how far around a pixel its surroundings reach.
_AROUND = 0.045
#: What the sky and labelled objects count as surroundings, next to 1 for the rest: much sky is no reason to put out a
#: street's whole skyline, and an object has a light of its own.
_SKY, _OBJECT = 0.25, 0.15
#: Linear light under which differences are noise.
_FLOOR = 5e-4
#: Share of the height over which the limit ends: light on the road is the own headlights'.
_END = (0.5, 0.62)
#: How far beyond its box an object is left alone, share of the box.
_MARGIN = 0.1


def limit_stray(
    night: F32, alpha: F32 | None, labels: Labels, size: tuple[int, int], settings: RelightSettings, strength: float
) -> None:
    """Hold what no label knows, above the horizon, at ``stray_light`` times what is around it, in place.

    Args:
        night: float32 (H, W, 3), linear light without lamps and glow.
        alpha: float32 (H, W) in [0, 1], the sky's opacity; None without sky.
        size: (width, height) of the small maps.
        strength: in (0, 1].
    """
    height, width = night.shape[:2]
    small = np.asarray(cv2.resize(night, size, interpolation=cv2.INTER_AREA), np.float32) @ LUMA
    weight = np.ones(small.shape, np.float32)
    if alpha is not None:
        weight -= (1 - _SKY) * np.asarray(cv2.resize(alpha, size, interpolation=cv2.INTER_AREA), np.float32)
    known = np.zeros(small.shape, np.float32)
    for _, (x1, y1, x2, y2) in labels:
        dx, dy = _MARGIN * (x2 - x1), _MARGIN * (y2 - y1)
        left, top, right, bottom = on_small((x1 - dx, y1 - dy, x2 + dx, y2 + dy), small.shape, (width, height))
        known[max(top, 0) : bottom, max(left, 0) : right] = 1
    weight *= 1 - (1 - _OBJECT) * known
    sigma = max(_AROUND * max(size), 1.0)
    logs = cv2.GaussianBlur(weight * np.log(small + _FLOOR), (0, 0), sigma)
    around = np.exp(logs / np.maximum(cv2.GaussianBlur(weight, (0, 0), sigma), 1e-3)).astype(np.float32)
    rows = np.linspace(0, 1, small.shape[0], dtype=np.float32)[:, None]
    # As the inverse of the limit, which is 0 where there is none and can be blurred and enlarged.
    inverse = (1 - ramp(rows, *_END)) * (1 - cv2.GaussianBlur(known, (0, 0), 1.0)) / (settings.stray_light * around)
    inverse = np.asarray(cv2.resize(inverse, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    upper = slice(0, math.ceil(_END[1] * height) + 1)
    part = night[upper]
    over = cv2.multiply(cv2.transform(part, LUMA[None]), inverse[upper])
    cv2.pow(over, 4, dst=over)
    over += 1
    # 1 far under the limit, limit / light far over it, 0.84 at the limit.
    gain = cv2.pow(over, -0.25 * strength)
    cv2.multiply(part, cv2.merge((gain,) * 3), dst=part)
