"""Lamps that a translation has invented: bright, compact spots outside every object that the source does not have."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from nightaug.images import ImageArray

U8 = NDArray[np.uint8]

#: Largest extent of a lamp with its core's glow, as a share of the image's longer side (640 px: 22 px).
_EXTENT = 0.034
#: Least brightness of a lamp's peak, and by how much it must stand out from around it; of white.
_PEAK, _CONTRAST = 0.55, 0.25
#: Part of its height over the surroundings down to which a spot belongs to one lamp.
_CORE = 0.5
#: A source that stands out by this share of the translation's contrast at the same place shows the spot already: white
#: markings, panes and reflectors catch the light by night, too.
_SHOWN = 0.5
#: How far, in pixels of a 640 px image, the source's spot may lie from the translation's.
_NEAR = 2
#: A box is grown by this share of its sides, and this share of the image's longer side: what a lamp's glow reaches.
_GLOW, _GLOW_ALWAYS = 0.2, 0.012
#: Smallest core in square pixels: less is noise of the sensor.
_LEAST = 3
#: A spot fills at least this part of its bounding box, and is at most so many times as long as wide.
_FILL, _LONG = 0.35, 4.0


class Spots(NamedTuple):
    """Lamp-like spots outside every box: ``boxes`` (P, 4) xyxy, ``peak`` (P,) in [0, 1] of white, ``new`` (P,)."""

    boxes: NDArray[np.float64]
    peak: NDArray[np.float64]
    new: NDArray[np.bool_]


def _relief(bright: U8, size: int) -> U8:
    """By how much each pixel stands out from what is around it: white top-hat of an ellipse."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return np.asarray(cv2.morphologyEx(bright, cv2.MORPH_TOPHAT, kernel), np.uint8)


def find_spots(after: ImageArray, boxes: ArrayLike, before: ImageArray | None = None) -> Spots:
    """Lamp-like spots of an image: bright, compact, much brighter than around them, outside every box.

    A spot is new where the source stands out from its own surroundings there by less than half of the spot's
    contrast. Contrast is asked and not brightness, so that a dark copy of the day has no new spot anywhere, nor a sky,
    a window or a white marking that was bright by day.

    Args:
        after: uint8 (H, W, 3).
        boxes: xyxy (P, 4) of everything that may be lit, in its pixels; they are grown for the glow.
        before: the source, of the same size; None: every spot is new.
    """
    height, width = after.shape[:2]
    long = max(height, width)
    size = max(5, round(long * _EXTENT)) | 1
    # The brightest channel: a red lamp is dark in luma.
    bright = np.asarray(cv2.GaussianBlur(after.max(axis=2), (3, 3), 0), np.uint8)
    relief = _relief(bright, size)
    seeds = (relief >= _CONTRAST * 255) & (bright >= _PEAK * 255)
    seeds &= ~_covered(boxes, height, width)
    if not seeds.any():
        return Spots(np.zeros((0, 4)), np.zeros(0), np.zeros(0, bool))
    # Pixels that rise over half of the peak around them are a lamp's core; cores of two lamps stay apart.
    top = cv2.dilate(relief, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
    core = (relief >= _CORE * top.astype(np.float32)) & (relief >= _CONTRAST * 255 * _CORE)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(core.astype(np.uint8), connectivity=8)
    peak, rise, seeded = np.zeros(count), np.zeros(count), np.zeros(count, bool)
    np.maximum.at(peak, labels[core], bright[core])
    np.maximum.at(rise, labels[core], relief[core])
    seeded[np.unique(labels[seeds & core])] = True
    x, y, w, h, area = stats.T.astype(np.float64)
    compact = (area >= _LEAST) & (area >= _FILL * w * h) & (np.maximum(w, h) <= _LONG * np.minimum(w, h))
    compact &= (np.maximum(w, h) <= size) & seeded
    compact[0] = False  # what lies between the spots
    new = np.ones(count, bool)
    if before is not None:
        assert before.shape == after.shape, "expected images of one size"
        day = _relief(np.asarray(cv2.GaussianBlur(before.max(axis=2), (3, 3), 0), np.uint8), size)
        reach = 2 * max(1, round(_NEAR * long / 640)) + 1
        day = cv2.dilate(day, np.ones((reach, reach), np.uint8))
        shown = np.zeros(count)
        np.maximum.at(shown, labels[core], day[core])
        new = shown < _SHOWN * rise
    at = np.flatnonzero(compact)
    found = np.stack([x, y, x + w, y + h], axis=1)[at]
    return Spots(found, peak[at] / 255, new[at])


def _covered(boxes: ArrayLike, height: int, width: int) -> NDArray[np.bool_]:
    """True (H, W) where a spot may belong to a box."""
    mask = np.zeros((height, width), np.uint8)
    given = np.asarray(boxes, np.float64).reshape(-1, 4)
    given = given[np.isfinite(given).all(axis=1)]
    grow = (given[:, 2:] - given[:, :2]) * _GLOW + max(height, width) * _GLOW_ALWAYS
    grown = np.concatenate([given[:, :2] - grow, given[:, 2:] + grow], axis=1)
    for x1, y1, x2, y2 in np.clip(grown, 0, [width, height] * 2).round().astype(int):
        mask[y1:y2, x1:x2] = 1
    return mask.astype(bool)
