"""Plain box arithmetic on numpy arrays, no image library and no torch.

Boxes are (P, 4) float arrays. ``xyxy`` are corner coordinates in pixels of the original image, the
right and bottom edge exclusive (a box that covers the whole image is ``0, 0, width, height``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def _as_boxes(boxes: ArrayLike) -> FloatArray:
    array = np.asarray(boxes, dtype=np.float64)
    if array.size == 0:
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"expected boxes of shape (P, 4), got {array.shape}")
    return array


def xywh_to_xyxy(boxes: ArrayLike) -> FloatArray:
    """Left, top, width, height (COCO) to corners, (P, 4) to (P, 4)."""
    b = _as_boxes(boxes)
    return np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], axis=1)


def xyxy_to_xywh(boxes: ArrayLike) -> FloatArray:
    """Corners to left, top, width, height (COCO), (P, 4) to (P, 4)."""
    b = _as_boxes(boxes)
    return np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], axis=1)


def cxcywh_to_xyxy(boxes: ArrayLike) -> FloatArray:
    """Centre, width, height (YOLO) to corners, (P, 4) to (P, 4)."""
    b = _as_boxes(boxes)
    return np.concatenate([b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], axis=1)


def xyxy_to_cxcywh(boxes: ArrayLike) -> FloatArray:
    """Corners to centre, width, height (YOLO), (P, 4) to (P, 4)."""
    b = _as_boxes(boxes)
    return np.concatenate([(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]], axis=1)


def area(boxes: ArrayLike) -> FloatArray:
    """Area in square pixels, (P,); inverted boxes count 0."""
    b = _as_boxes(boxes)
    sides: FloatArray = np.clip(b[:, 2:] - b[:, :2], 0, None)
    product: FloatArray = sides[:, 0] * sides[:, 1]
    return product


def iou(a: ArrayLike, b: ArrayLike) -> FloatArray:
    """Intersection over union of every pair, (P, 4) and (Q, 4) to (P, Q) in [0, 1]."""
    first, second = _as_boxes(a), _as_boxes(b)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    overlap = np.prod(np.clip(high - low, 0, None), axis=2)
    union = area(first)[:, None] + area(second)[None, :] - overlap
    ratio: FloatArray = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return ratio


def clip(boxes: ArrayLike, width: float, height: float) -> FloatArray:
    """Cut boxes to an image of ``width`` x ``height`` pixels, (P, 4) to (P, 4)."""
    b = _as_boxes(boxes).copy()
    b[:, 0::2] = np.clip(b[:, 0::2], 0, width)
    b[:, 1::2] = np.clip(b[:, 1::2], 0, height)
    return b


def valid(boxes: ArrayLike, min_side: float = 1.0) -> NDArray[np.bool_]:
    """True where all coordinates are finite and both sides reach ``min_side`` pixels, (P,)."""
    b = _as_boxes(boxes)
    finite = np.isfinite(b).all(axis=1)
    with np.errstate(invalid="ignore"):
        sides = ((b[:, 2] - b[:, 0]) >= min_side) & ((b[:, 3] - b[:, 1]) >= min_side)
    result: NDArray[np.bool_] = finite & sides
    return result
