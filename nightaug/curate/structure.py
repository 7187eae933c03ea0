"""Are the lines of the drawing still there? Agreement of edges before and after, whatever the light; no weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from nightaug.images import ImageArray

F32 = NDArray[np.float32]

#: Added to luma in [0, 1] before the logarithm: about the noise of a dark sensor, so that noise draws no lines.
_FLOOR = 0.03
#: Standard deviation in pixels of the window whose mean contrast a gradient is divided by.
_WINDOW = 5.0
#: Contrast (gradient of log luma a pixel) that counts as half a line: weaker ones are noise or JPEG blocks.
_FAINT = 0.03
#: Standard deviation in pixels of the patches inside which dark may have become bright: a lamp, a silhouette.
_PATCH = 1.5
#: What unrelated pictures agree in by chance, as patches may turn their sign: this much is 0.
_CHANCE = 0.15
#: Pixels around a box that belong to it: an object's outline lies on its box's edge.
_RIM = 1
#: Boxes with a side under this many pixels have too few gradients to compare.
MIN_SIDE = 5.0
#: A box whose mean squared line length by day is under this shows no drawing that could be kept.
_BLANK = 0.02


class _Lines(NamedTuple):
    """Gradients of log luma over the contrast around them: ``x``, ``y`` and their ``length``, (H, W)."""

    x: F32
    y: F32
    length: F32


def _lines(image: ImageArray) -> _Lines:
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    log = cv2.GaussianBlur(np.log(luma + _FLOOR), (0, 0), 0.8)
    x, y = cv2.Scharr(log, cv2.CV_32F, 1, 0, scale=1 / 32), cv2.Scharr(log, cv2.CV_32F, 0, 1, scale=1 / 32)
    power = np.asarray(x * x + y * y, np.float32)
    around = np.sqrt(cv2.GaussianBlur(power, (0, 0), _WINDOW)) + _FAINT
    length = np.asarray(np.sqrt(power) / around, np.float32)
    return _Lines(np.asarray(x / around, np.float32), np.asarray(y / around, np.float32), length)


def _sums(values: F32, corners: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum of (H, W) inside each box (P,)."""
    table = cv2.integral(values, sdepth=cv2.CV_64F)
    x1, y1, x2, y2 = corners.T
    out: NDArray[np.float64] = table[y2, x2] - table[y1, x2] - table[y2, x1] + table[y1, x1]
    return out


def agreement(before: ImageArray, after: ImageArray, boxes: ArrayLike, shift: int = 1) -> NDArray[np.float64]:
    """How much of what is drawn in each box before is there after.

    Let g be the gradient of log(luma + 0.03) over its root mean square nearby. A darker copy, or one under a light that
    changes slowly, has the same g. Let g' be the g after, nowhere longer than the one before. The agreement is

        a = sum |G * (g . g')| / sum G * |g|^2  over the box,

    G a Gaussian of 1.5 pixels: inside a small patch, dark may have become bright (a lamp is lit, the sky behind a sign
    turns black) and the lines are the same ones. New lines count little, as only places with lines before are asked.
    The best of all shifts of up to ``shift`` pixels is taken, and what chance gives, 0.15, becomes 0.

    Args:
        before, after: uint8 (H, W, 3) of one size.
        boxes: xyxy (P, 4), pixels of both.
        shift: pixels the drawing may have moved by.

    Returns:
        (P,) in [0, 1], NaN where a side is under :data:`MIN_SIDE` or nothing was drawn before.

    Raises:
        ValueError: images of two sizes.
    """
    if before.shape != after.shape:
        raise ValueError(f"expected images of one size, got {before.shape} and {after.shape}")
    height, width = before.shape[:2]
    given = np.asarray(boxes, np.float64).reshape(-1, 4)
    whole = np.where(np.isfinite(given), given, 0)
    sides = np.minimum(whole[:, 2:], [width, height]) - np.maximum(whole[:, :2], 0)
    large = np.isfinite(given).all(axis=1) & (sides >= MIN_SIDE).all(axis=1)
    out = np.full(len(given), np.nan)
    if not large.any():
        return out
    corners = np.rint(np.clip(whole[large], 0, [width, height] * 2)).astype(np.int64)
    corners = np.clip(corners + np.array([-_RIM, -_RIM, _RIM, _RIM]), 0, [width, height] * 2)
    day, night = _lines(before), _lines(after)
    drawn = _sums(np.asarray(cv2.GaussianBlur(day.length**2, (0, 0), _PATCH), np.float32), corners)
    best = np.zeros(len(corners))
    for dy in range(-shift, shift + 1):
        for dx in range(-shift, shift + 1):
            x, y, length = (_moved(each, dx, dy) for each in night)
            cut = np.minimum(1, day.length / np.maximum(length, 1e-6))
            both = np.asarray((day.x * x + day.y * y) * cut, np.float32)
            best = np.maximum(best, _sums(np.abs(cv2.GaussianBlur(both, (0, 0), _PATCH)), corners))
    share = (best / np.maximum(drawn, 1e-9) - _CHANCE) / (1 - _CHANCE)
    area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    out[large] = np.where(drawn > _BLANK * area, np.clip(share, 0, 1), np.nan)
    return out


def _moved(values: F32, dx: int, dy: int) -> F32:
    if not dx and not dy:
        return values
    move: Any = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    return np.asarray(cv2.warpAffine(values, move, values.shape[::-1], flags=cv2.INTER_NEAREST), np.float32)
