"""What several detectors find in one image as one set of boxes: weighted boxes fusion (Solovyev et al., IVC 2021).

Here a detector has one say about an object: of its boxes that overlap the surest one only the best counts, so that one
detector that finds an object twice is no second opinion. The usual package for it brings a compiler along.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nightaug.boxes import iou

#: Boxes of a class that overlap the surest one this much (IoU) are the same object; the paper's value.
SAME_OBJECT = 0.55


class Boxes(NamedTuple):
    """Boxes of one image: ``xyxy`` (P, 4) in pixels, ``scores`` (P,) in [0, 1], ``labels`` (P,) class numbers."""

    xyxy: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]


def fuse(found: Sequence[Boxes], same: float = SAME_OBJECT) -> Boxes:
    """One set of boxes from those of several detectors, best first.

    A box is the mean of the detectors' boxes of that object, weighted by their scores. Its score is the sum of theirs
    over the number of all detectors (the paper's equation 5): an object that half of them see counts half.

    Args:
        found: of each detector, in the same class numbers.
        same: IoU from which on boxes of a class are one object, in (0, 1].
    """
    xyxy = np.concatenate([one.xyxy.reshape(-1, 4) for one in found])
    scores = np.concatenate([one.scores for one in found])
    labels = np.concatenate([one.labels for one in found])
    whose = np.repeat(np.arange(len(found)), [len(one.scores) for one in found])
    order = np.argsort(-scores, kind="stable")
    alike = (iou(xyxy, xyxy) >= same) & (labels[:, None] == labels)
    np.fill_diagonal(alike, True)  # a box without area overlaps nothing, not even itself
    free = np.ones(len(scores), bool)
    boxes, sums, kinds = [], [], []
    for surest in order:
        if not free[surest]:
            continue
        group = order[(alike[surest] & free)[order]]
        # Of each detector the first in the order of scores.
        group = group[np.unique(whose[group], return_index=True)[1]]
        free &= ~alike[surest]
        weights = scores[group]
        total = float(weights.sum())
        boxes.append((xyxy[group] * weights[:, None]).sum(axis=0) / total if total else xyxy[surest])
        sums.append(total)
        kinds.append(labels[surest])
    fused = np.array(sums, np.float64) / max(len(found), 1)
    best = np.argsort(-fused, kind="stable")
    return Boxes(np.array(boxes, np.float64).reshape(-1, 4)[best], fused[best], np.array(kinds, np.int64)[best])
