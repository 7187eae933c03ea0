"""Truth and detections as arrays, and the greedy assignment of one to the other, as COCO's reference code does it.

A *group* is what may be matched with each other: the boxes of one image and class for AP, those of one image for a
confusion matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nightaug.detect.truth import Truth

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

#: Numbers in one block of overlaps: bounds the memory, whatever the data set.
_BLOCK = 2_000_000


class Boxes(NamedTuple):
    """Boxes of truth or of detections: x, y, width, height (P, 4) in pixels of the original image."""

    xywh: Floats
    image: Ints  # (P,) position in truth.images
    label: Ints  # (P,) position in truth.classes
    score: Floats  # (P,) 1 for truth
    crowd: Flags  # (P,) False for detections

    def take(self, which: NDArray[Any]) -> Boxes:
        return Boxes(*(array[which] for array in self))


def as_boxes(truth: Truth, rows: Sequence[dict[str, Any]]) -> Boxes:
    """Annotations or results as arrays, in the order given.

    Raises:
        KeyError: a row names an image the truth does not have.
    """
    place = {image["id"]: position for position, image in enumerate(truth.images)}
    return Boxes(
        np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4),
        np.array([place[row["image_id"]] for row in rows], np.int64),
        np.array([row["category_id"] for row in rows], np.int64) - 1,
        np.array([row.get("score", 1.0) for row in rows], np.float64),
        np.array([row.get("iscrowd", 0) for row in rows], np.bool_),
    )


def by_score(boxes: Boxes, group: Ints, limit: int) -> Ints:
    """Order of boxes by group, then falling score (ties as given); at most ``limit`` of a group."""
    order = np.lexsort((-boxes.score, group))
    return order[_rank(group[order]) < limit]


def _rank(group: Ints) -> Ints:
    """Place of each row within its run of equal groups."""
    if not len(group):
        return np.zeros(0, np.int64)
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    return np.arange(len(group)) - np.repeat(starts, np.diff(np.r_[starts, len(group)]))


def overlap(detected: Floats, true: Floats, crowd: Flags) -> Floats:
    """IoU of (..., 4) with (..., 4), both x, y, width, height; for crowds, the part of the detection that is inside.

    The operations and their order are those of COCO's ``bbIou``, so that not a bit differs at a threshold.
    """
    width = np.minimum(detected[..., 2] + detected[..., 0], true[..., 2] + true[..., 0])
    width -= np.maximum(detected[..., 0], true[..., 0])
    height = np.minimum(detected[..., 3] + detected[..., 1], true[..., 3] + true[..., 1])
    height -= np.maximum(detected[..., 1], true[..., 1])
    shared = np.where((width > 0) & (height > 0), width * height, 0.0)
    area = detected[..., 2] * detected[..., 3]
    union = np.where(crowd, area, area + true[..., 2] * true[..., 3] - shared)
    ratio: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)
    return ratio


class Assignment(NamedTuple):
    """Which true box each detection took, and whether it lies in a crowd; T thresholds, D detections."""

    taken: Ints  # (T, D) row of the true box, -1 without
    in_crowd: Flags  # (T, D) no true box, but enough of a crowd box


def assign(
    detected: Boxes, group: Ints, true: Boxes, true_group: Ints, thresholds: Floats, prefer_own: bool = False
) -> Assignment:
    """Give each detection, best score first, the free true box of its group that it overlaps most.

    Of equal overlaps the later box wins, as in COCO's code. A crowd box may be taken again and again, and only
    where no other fits.

    Args:
        detected: ordered by group, then falling score (see :func:`by_score`).
        group, true_group: (D,) and (G,) non-negative numbers.
        thresholds: (T,) least overlap.
        prefer_own: of equal overlaps, the box of the detection's own class wins first.
    """
    taken = np.full((len(thresholds), len(group)), -1, np.int64)
    crowd_overlap = np.zeros(len(group))
    least = np.minimum(thresholds, 1 - 1e-10)
    order = np.argsort(true_group, kind="stable")
    sorted_group = true_group[order]
    groups, first, count = np.unique(group, return_index=True, return_counts=True)
    low = np.searchsorted(sorted_group, groups, "left")
    size = np.searchsorted(sorted_group, groups, "right") - low
    busy = np.flatnonzero(size)
    busy = busy[np.argsort(size[busy] * 1000 + count[busy], kind="stable")]  # alike ones share a block, unpadded
    start = 0
    while start < len(busy):
        end, widest, longest = start, 0, 0
        while end < len(busy):
            widest, longest = max(widest, size[busy[end]]), max(longest, count[busy[end]])
            if end > start and (end - start + 1) * widest * longest > _BLOCK:
                break
            end += 1
        block = busy[start:end]
        rows = _padded(first[block], count[block])  # (B, K) of detections, -1 beyond the last
        places = _padded(low[block], size[block])
        boxes = np.where(places >= 0, order[places], -1)  # (B, G) of true boxes
        _assign_block(detected, rows, true, boxes, least, prefer_own, taken, crowd_overlap)
        start = end
    in_crowd = (taken < 0) & (crowd_overlap[None] >= least[:, None])
    return Assignment(taken, in_crowd)


def _padded(first: Ints, count: Ints) -> Ints:
    steps = np.arange(count.max())
    return np.where(steps < count[:, None], first[:, None] + steps, -1)


def _assign_block(
    detected: Boxes,
    rows: Ints,
    true: Boxes,
    boxes: Ints,
    least: Floats,
    prefer_own: bool,
    taken: Ints,
    crowd_overlap: Floats,
) -> None:
    """Fill ``taken`` and ``crowd_overlap`` for B groups at once: the first detections of all, the second ones, ..."""
    crowd = true.crowd[boxes]  # (B, G)
    ratio = overlap(detected.xywh[rows][:, :, None], true.xywh[boxes][:, None], crowd[:, None])  # (B, K, G)
    ratio[(rows < 0)[:, :, None] | (boxes < 0)[:, None]] = 0
    if crowd.any():
        inside = np.where(crowd[:, None], ratio, 0).max(axis=2)
        crowd_overlap[rows[rows >= 0]] = inside[rows >= 0]
        ratio[np.broadcast_to(crowd[:, None], ratio.shape)] = 0
    rank = ratio
    if prefer_own:
        same = detected.label[rows][:, :, None] == true.label[boxes][:, None]
        rank = ratio + 1e-9 * (same & (ratio > 0))
    hopeful = ratio.max(axis=2) >= least.min()  # (B, K); most detections overlap nothing enough
    free = np.ones((len(least), *boxes.shape), np.bool_)  # (T, B, G)
    last = boxes.shape[1] - 1
    for k in np.flatnonzero(hopeful.any(axis=0)):
        some = np.flatnonzero(hopeful[:, k])
        enough = free[:, some] & (ratio[some, k][None] >= least[:, None, None])  # (T, S, G)
        candidates = np.where(enough, rank[some, k][None], -1.0)
        best = last - candidates[..., ::-1].argmax(axis=2)  # (T, S), the last of equals
        threshold, at = np.nonzero(enough.any(axis=2))
        chosen = best[threshold, at]
        free[threshold, some[at], chosen] = False
        taken[threshold, rows[some[at], k]] = boxes[some[at], chosen]
