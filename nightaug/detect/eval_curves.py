"""Precision over recall, and F1 over the score threshold, at IoU 0.5."""

from __future__ import annotations

from typing import Any

import numpy as np

from nightaug.detect.average_precision import RECALLS, ClassMatches, Matches, precision_curve
from nightaug.detect.eval_arrays import Floats

#: Score thresholds at which F1 is given; the same for every class, so that classes can be averaged.
SCORES: Floats = np.linspace(0.0, 1.0, 101)


def curves(matches: Matches) -> dict[str, dict[str, Any]]:
    """Class -> its curves, for the classes that have boxes.

    ``recall`` and ``precision`` (101 values each; the best precision at that recall or beyond), ``score`` and ``f1``
    (101 thresholds and what detections with at least that score give), ``best_f1`` and the threshold
    ``best_f1_score`` where it is reached (None without detections), among all scores that occur.
    """
    found = zip(matches.classes, matches.per_class, strict=True)
    return {name: _class_curves(one) for name, one in found if one.boxes.sum()}


def _class_curves(found: ClassMatches) -> dict[str, Any]:
    total = float(found.boxes.sum())
    weight = np.ones(len(found.score))
    precision = precision_curve(weight, np.cumsum(weight), found.hits[0], found.passed[0], total)
    hits = np.r_[0.0, np.cumsum(found.hit[0])]
    counted = np.r_[0.0, np.cumsum(~found.ignored[0])]
    f1 = 2 * hits / (counted + total)  # of the k best detections: 2 TP / (2 TP + FP + FN)
    ends = np.searchsorted(-found.score, -SCORES, "right")
    # A threshold keeps all detections of one score or none.
    whole = np.flatnonzero(np.r_[found.score[1:] != found.score[:-1], len(found.score) > 0]) + 1
    best = max(whole.tolist(), key=lambda k: (f1[k], k), default=None)
    return {
        "recall": RECALLS.round(2).tolist(),
        "precision": precision.round(6).tolist(),
        "score": SCORES.round(2).tolist(),
        "f1": f1[ends].round(6).tolist(),
        "best_f1": 0.0 if best is None else float(f1[best]),
        "best_f1_score": None if best is None else float(found.score[best - 1]),
    }


def best_score(drawn: dict[str, dict[str, Any]]) -> float:
    """The score threshold at which the mean F1 of the classes is highest (the lowest of equals); 0 without classes."""
    if not drawn:
        return 0.0
    mean = np.mean([curve["f1"] for curve in drawn.values()], axis=0)
    return float(SCORES[int(mean.argmax())].round(2))
