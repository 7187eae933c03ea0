"""Detections against the truth: COCO's numbers and what stands behind them, from one results file for every detector.

The twelve numbers are faster-coco-eval's, equal to pycocotools' to the last bit; everything else comes from the same
matches (see average_precision.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nightaug.detect.average_precision import Matches, average_precision, match
from nightaug.detect.confusion import BACKGROUND, confusion_matrix
from nightaug.detect.eval_coco import coco_numbers, mean
from nightaug.detect.eval_curves import best_score, curves
from nightaug.detect.truth import Truth

#: What AP is given by, and the name for images that do not say.
GROUPS = ("timeofday", "weather", "scene")
UNDEFINED = "undefined"


def evaluate(
    truth: Truth, results: Sequence[dict[str, Any]], *, score: float | None = 0.25, iou: float = 0.5
) -> dict[str, Any]:
    """All metrics of one set of results.

    Args:
        results: COCO results, sound (see ``eval_results.read_results``). As in COCO's code, the 100 best detections of
            an image and class count.
        score, iou: least score and least overlap of the confusion matrix; a score of None takes the one with the
            best mean F1 of these results, which is no fair choice on a test set.

    Returns:
        JSON-ready: ``images``, ``boxes``, ``classes``, ``backend``, ``all`` (COCO's twelve numbers), ``per_class``,
        ``by`` (time of day, weather, scene; each value's own images evaluated alone), ``curves`` (classes with boxes),
        ``confusion``. Fractions 0 to 1, None where there is nothing to measure.
    """
    numbers, per_class, backend = coco_numbers(truth, results)
    matches = match(truth, results)
    counts = truth.boxes()
    with_class = {name: int((m.boxes > 0).sum()) for name, m in zip(truth.classes, matches.per_class, strict=True)}
    for name, row in per_class.items():
        row.update(boxes=counts[name], images=with_class[name])
    drawn = curves(matches)
    score = best_score(drawn) if score is None else score
    matrix = confusion_matrix(truth, results, score, iou)
    return {
        "images": len(truth.images),
        "boxes": sum(counts.values()),
        "classes": list(truth.classes),
        "backend": backend,
        "all": numbers,
        "per_class": per_class,
        "by": {key: _by(truth, matches, key) for key in GROUPS},
        "curves": drawn,
        "confusion": {
            "classes": [*truth.classes, BACKGROUND], "score": score, "iou": iou, "matrix": matrix.tolist(),
        },
    }  # fmt: skip


def _by(truth: Truth, matches: Matches, key: str) -> dict[str, dict[str, Any]]:
    """AP on the images of each value of an attribute: images of weight 0 are as good as not there."""
    values = [image.get(key) or UNDEFINED for image in truth.images]
    table: dict[str, dict[str, Any]] = {}
    for value in sorted(set(values), key=lambda value: (value == UNDEFINED, value)):
        inside = np.array([other == value for other in values])
        found = average_precision(matches, inside)
        table[value] = {
            "AP": mean(found.ap),
            "AP50": mean(found.ap50),
            "images": int(inside.sum()),
            "boxes": int(sum(one.boxes[inside].sum() for one in matches.per_class)),
        }
    return table
