"""The confusion matrix of a detector: which class was taken for which, what was missed, what was made up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nightaug.detect.eval_arrays import Ints, as_boxes, assign, by_score
from nightaug.detect.truth import Truth

BACKGROUND = "background"


def confusion_matrix(truth: Truth, results: Sequence[dict[str, Any]], score: float, iou: float = 0.5) -> Ints:
    """Count pairs of true and detected class.

    All classes compete: of an image's detections with at least ``score``, the best first takes the free box it
    overlaps most (at least ``iou``; of equals, one of its own class). Crowd boxes are ignored, and so is a detection
    without a box that lies in a crowd of its own class.

    Returns:
        (C + 1, C + 1): rows what is there, columns what was detected; the last row are false alarms, the last column
        boxes that were missed.
    """
    size = len(truth.classes) + 1
    true, detected = as_boxes(truth, truth.annotations), as_boxes(truth, results)
    detected = detected.take(detected.score >= score)
    detected = detected.take(by_score(detected, detected.image, max(1, len(detected.score))))
    single = true.take(~true.crowd)
    threshold = np.array([iou])
    taken = assign(detected, detected.image, single, single.image, threshold, prefer_own=True).taken[0]
    crowds = true.take(true.crowd)
    step = len(truth.images)
    order = np.lexsort((detected.image, detected.label))
    lies_in = np.zeros(len(taken), np.bool_)
    ordered = detected.take(order)
    lies_in[order] = assign(
        ordered, ordered.label * step + ordered.image, crowds, crowds.label * step + crowds.image, threshold
    ).in_crowd[0]
    matrix = np.zeros((size, size), np.int64)
    hit = taken >= 0
    np.add.at(matrix, (single.label[taken[hit]], detected.label[hit]), 1)
    alarms = detected.label[~hit & ~lies_in]
    matrix[-1, :-1] = np.bincount(alarms, minlength=size - 1)
    missed = np.ones(len(single.label), np.bool_)
    missed[taken[hit]] = False
    matrix[:-1, -1] = np.bincount(single.label[missed], minlength=size - 1)
    return matrix
