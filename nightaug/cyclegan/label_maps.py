"""From boxes of an image to a label map of its crop: what is an object, what is none, what nobody knows.

A label map is uint8 (H, W): ``BACKGROUND`` outside every box, ``1 + class number`` in a box, ``UNSURE`` where there is
an object but not surely of one class, or not surely one (crowds, weak pseudo boxes, the corners around an ellipse),
``UNKNOWN`` where nobody has looked. Smaller boxes lie in front of larger ones, unsure ones behind all others.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nightaug.boxes import FloatArray

BACKGROUND = 0
UNKNOWN = 254
UNSURE = 255
#: More classes than this do not fit beside the two marks above.
MAX_CLASSES = UNKNOWN - 1

Masks = Literal["box", "ellipse"]


class Window(NamedTuple):
    """Where a crop lies in its image: corner and sides in pixels, and whether it is mirrored."""

    left: int
    top: int
    width: int
    height: int
    flipped: bool


class ShownBoxes(NamedTuple):
    """The boxes a crop shows.

    ``boxes`` (P, 4) xyxy in pixels of the crop, clipped to it, unsure ones first, then larger ones first; ``labels``
    (P,) uint8, as in a label map; ``known``: somebody has looked for objects in the image.
    """

    boxes: FloatArray
    labels: np.ndarray
    known: bool


def shown_boxes(boxes: FloatArray, labels: np.ndarray, known: bool, window: Window, crop: int) -> ShownBoxes:
    """Boxes of an image as its crop shows them.

    Args:
        boxes: (P, 4) xyxy, pixels of the original image.
        labels: (P,) as in a label map.
        window: what is cut from the image, scaled to ``crop`` x ``crop`` pixels.
    """
    scale = np.array([crop / window.width, crop / window.height] * 2)
    moved = (boxes - [window.left, window.top, window.left, window.top]) * scale
    if window.flipped:
        moved = np.stack([crop - moved[:, 2], moved[:, 1], crop - moved[:, 0], moved[:, 3]], axis=1)
    # By their whole size, not by the part that is seen: the order is the same in every crop.
    # Unsure ones first: a detector finds a sure object again, weakly, many times.
    order = np.lexsort((-np.prod(moved[:, 2:] - moved[:, :2], axis=1), labels != UNSURE))
    moved, labels = np.clip(moved, 0, crop)[order], labels[order]
    seen = (moved[:, 2:] - moved[:, :2] > 0).all(axis=1)
    return ShownBoxes(moved[seen], labels[seen], known)


def label_map(shown: ShownBoxes, crop: int, masks: Masks = "box") -> Tensor:
    """The label map of a crop, uint8 (crop, crop).

    A pixel that a box touches belongs to it, so that no lamp is too small to count.
    """
    if not shown.known:
        return torch.full((crop, crop), UNKNOWN, dtype=torch.uint8)
    result = np.full((crop, crop), BACKGROUND, np.uint8)
    for (x1, y1, x2, y2), label in zip(shown.boxes, shown.labels, strict=True):
        part = result[int(np.floor(y1)) : int(np.ceil(y2)), int(np.floor(x1)) : int(np.ceil(x2))]
        if masks == "box":
            part[:] = label
            continue
        inside = _ellipse(part.shape[0], part.shape[1])
        part[inside] = label
        # What another object is known to cover stays its own.
        part[~inside & (part == BACKGROUND)] = UNSURE
    return torch.from_numpy(result)


def _ellipse(height: int, width: int) -> np.ndarray:
    """bool (height, width): the largest ellipse; all of it where there is no room for corners."""
    if min(height, width) < 4:
        return np.ones((height, width), bool)
    y = (np.arange(height) + 0.5) / height * 2 - 1
    x = (np.arange(width) + 0.5) / width * 2 - 1
    return np.asarray(y[:, None] ** 2 + x[None] ** 2 <= 1)


def some_boxes(shown: ShownBoxes, crop: int, count: int, rng: np.random.Generator) -> Tensor:
    """(count, 4) boxes of a crop, drawn at random where there are more, filled up with zeros; float32."""
    chosen = np.sort(rng.permutation(len(shown.boxes))[:count])
    result = torch.zeros(count, 4)
    if len(chosen):
        result[: len(chosen)] = torch.from_numpy(shown.boxes[chosen])
    return result


def outside(labels: Tensor) -> Tensor:
    """bool, shape of ``labels``: surely in no box."""
    return labels == BACKGROUND


def inside(labels: Tensor) -> Tensor:
    """bool, shape of ``labels``: in a box."""
    return (labels != BACKGROUND) & (labels != UNKNOWN)
