"""COCO's average precision from matches made once, for any weights of the images.

A bootstrap draws images again and again; what was matched with what does not change, only how often each image
counts. So matching is done once, detections are sorted once, and an AP costs a few cumulative sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from nightaug.detect.eval_arrays import Flags, Floats, Ints, as_boxes, assign, by_score
from nightaug.detect.truth import Truth

#: IoU 0.50, 0.55 ... 0.95 and recall 0, 0.01 ... 1, as COCO's code computes them.
IOUS: Floats = np.linspace(0.5, 0.95, 10)
RECALLS: Floats = np.linspace(0.0, 1.0, 101)
#: Detections of one image and class that count, the best ones.
MAX_DETECTIONS = 100
#: A detection larger than this (square pixels) that hits nothing is ignored, as in COCO's code.
_LARGEST = 1e5**2


class ClassMatches(NamedTuple):
    """The detections of one class, best score first (ties in the order of the images)."""

    score: Floats  # (D,)
    image: Ints  # (D,) position in the truth's images
    hit: Flags  # (T, D) found a box at this IoU
    ignored: Flags  # (T, D) counts neither as a hit nor as a false alarm (crowds)
    boxes: Ints  # (n_images,) boxes of the class in each image, without crowds
    hits: tuple[Ints, ...]  # T times the positions where ``hit``
    passed: tuple[Ints, ...]  # T times the positions where ``ignored``


@dataclass(frozen=True)
class Matches:
    """Everything AP needs of one set of results: a :class:`ClassMatches` for each class of the truth."""

    classes: tuple[str, ...]
    n_images: int
    per_class: tuple[ClassMatches, ...]


class AveragePrecision(NamedTuple):
    """(classes,) each, 0 to 1, nan where a class has no box."""

    ap: Floats  # mean over IoU 0.50 to 0.95
    ap50: Floats


def match(truth: Truth, results: Sequence[dict[str, Any]], ious: Floats = IOUS) -> Matches:
    """Match COCO results with the truth, class by class, at each IoU threshold.

    Args:
        results: ``{"image_id", "category_id", "bbox", "score"}``, sound (see ``eval_results.read_results``).
        ious: (T,) the thresholds, COCO's ten where nothing is said.
    """
    true, detected = as_boxes(truth, truth.annotations), as_boxes(truth, results)
    n_images, n_classes = len(truth.images), len(truth.classes)
    true_group = true.label * n_images + true.image
    group = detected.label * n_images + detected.image
    order = by_score(detected, group, MAX_DETECTIONS)
    detected, group = detected.take(order), group[order]
    taken, ignored = assign(detected, group, true, true_group, ious)
    hit = taken >= 0
    ignored |= ~hit & (detected.xywh[:, 2] * detected.xywh[:, 3] > _LARGEST)
    ends = np.searchsorted(detected.label, np.arange(n_classes + 1))
    per_class = []
    for label in range(n_classes):
        ranked = ends[label] + np.argsort(-detected.score[ends[label] : ends[label + 1]], kind="stable")
        counted = true.image[(true.label == label) & ~true.crowd]
        hits, passed = hit[:, ranked], ignored[:, ranked]
        per_class.append(
            ClassMatches(
                detected.score[ranked],
                detected.image[ranked],
                hits,
                passed,
                np.bincount(counted, minlength=n_images),
                tuple(np.flatnonzero(row) for row in hits),
                tuple(np.flatnonzero(row) for row in passed),
            )
        )
    return Matches(truth.classes, n_images, tuple(per_class))


def average_precision(matches: Matches, image_weights: ArrayLike | None = None) -> AveragePrecision:
    """AP (IoU 0.50 to 0.95) and AP50 of every class; of other thresholds their mean, and that at the first.

    Args:
        image_weights: (n_images,) how often each image counts, as a bootstrap draws them; 0 leaves it out. Equal to
            evaluating a dataset in which every image is there so many times. None counts each once: COCO's AP.
    """
    weights = np.ones(matches.n_images) if image_weights is None else np.asarray(image_weights, np.float64)
    assert weights.shape == (matches.n_images,), f"expected ({matches.n_images},) weights, got {weights.shape}"
    rows = [_class_precision(found, weights) for found in matches.per_class]
    table = np.array(rows, np.float64).reshape(len(rows), len(rows[0]) if rows else len(IOUS))
    return AveragePrecision(table.mean(axis=1), table[:, 0].copy())


def _class_precision(found: ClassMatches, weights: Floats) -> list[float]:
    """AP at each IoU threshold."""
    total = float(found.boxes @ weights)
    if total <= 0:
        return [float("nan")] * len(found.hits)
    weight = weights[found.image]
    counted = np.cumsum(weight)
    return [
        float(precision_curve(weight, counted, hits, passed, total).mean())
        for hits, passed in zip(found.hits, found.passed, strict=True)
    ]


def precision_curve(weight: Floats, counted: Floats, hits: Ints, passed: Ints, total: float) -> Floats:
    """Best precision at recall 0, 0.01 ... 1 or beyond: (101,), 0 where that recall is not reached.

    Only hits are looked at: between two of them recall stays and precision falls, so no maximum lies there.

    Args:
        weight, counted: (D,) of each detection, and its cumulative sum.
        hits, passed: positions of hits and of ignored detections.
        total: weight of all boxes.
    """
    curve = np.zeros(len(RECALLS))
    if not len(hits):
        return curve
    found = np.cumsum(weight[hits])
    seen = counted[hits]
    if len(passed):
        before = np.searchsorted(passed, hits)
        seen = seen - np.r_[0.0, np.cumsum(weight[passed])][before]
    precision = found / (seen + np.spacing(1))
    best = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(found / total, RECALLS, "left")
    reached = at < len(best)
    curve[reached] = best[at[reached]]
    return curve
