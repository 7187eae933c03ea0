"""Detections against the truth: COCO's numbers and what stands behind them, from one results file for every detector.

The twelve numbers are faster-coco-eval's, equal to pycocotools' to the last bit; everything else comes from the same
matches (see average_precision.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nightaug.detect.average_precision import IOUS, RECALLS, Matches, average_precision, match
from nightaug.detect.confusion import BACKGROUND, confusion_matrix
from nightaug.detect.eval_curves import best_score, curves
from nightaug.detect.eval_arrays import Floats
from nightaug.detect.truth import Truth

#: The twelve, in COCO's order.
NUMBERS = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
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
    numbers, per_class, backend = _coco(truth, results)
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
            "AP": _mean(found.ap),
            "AP50": _mean(found.ap50),
            "images": int(inside.sum()),
            "boxes": int(sum(one.boxes[inside].sum() for one in matches.per_class)),
        }
    return table


def _mean(values: Floats) -> float | None:
    """Mean of what could be measured, None if nothing could (nan, or COCO's -1)."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def _coco(
    truth: Truth, results: Sequence[dict[str, Any]]
) -> tuple[dict[str, float | None], dict[str, dict[str, Any]], str]:
    """COCO's twelve numbers, those of each class, and the name of what computed them."""
    import faster_coco_eval

    precision, recall = _accumulate(truth, results)
    numbers = [
        _mean(precision[..., 0, 2]),
        _mean(precision[0, ..., 0, 2]),
        _mean(precision[5, ..., 0, 2]),
        *(_mean(precision[..., area, 2]) for area in (1, 2, 3)),
        *(_mean(recall[..., 0, limit]) for limit in (0, 1, 2)),
        *(_mean(recall[..., area, 2]) for area in (1, 2, 3)),
    ]
    per_class = {
        name: {
            "AP": _mean(precision[:, :, k, 0, 2]),
            "AP50": _mean(precision[0, :, k, 0, 2]),
            "AP75": _mean(precision[5, :, k, 0, 2]),
            "AR_100": _mean(recall[:, k, 0, 2]),
        }
        for k, name in enumerate(truth.classes)
    }
    return dict(zip(NUMBERS, numbers, strict=True)), per_class, f"faster-coco-eval {faster_coco_eval.__version__}"


def _accumulate(truth: Truth, results: Sequence[dict[str, Any]]) -> tuple[Floats, Floats]:
    """COCO's precision (T, R, classes, areas, limits) and recall (T, classes, areas, limits), -1 where undefined."""
    from faster_coco_eval import COCO, COCOeval_faster

    shape = (len(truth.classes), 4, 3)
    if not truth.images or not truth.annotations:
        return np.full((len(IOUS), len(RECALLS), *shape), -1.0), np.full((len(IOUS), *shape), -1.0)
    images = [{"id": image["id"]} for image in truth.images]
    categories = [{"id": number, "name": name} for number, name in enumerate(truth.classes, 1)]
    # Copies: the library writes into what it is given.
    true, found = COCO(), COCO()
    boxes = [dict(row) for row in truth.annotations]
    true.dataset = {"images": images, "annotations": boxes, "categories": categories}
    detections = [
        {
            "id": number,
            "image_id": row["image_id"],
            "category_id": row["category_id"],
            "bbox": row["bbox"],
            "area": row["bbox"][2] * row["bbox"][3],
            "iscrowd": 0,
            "score": row["score"],
        }
        for number, row in enumerate(results, 1)
    ]
    found.dataset = {"images": images, "annotations": detections, "categories": categories}
    true.createIndex()
    found.createIndex()
    run = COCOeval_faster(true, found, "bbox", print_function=_silent)
    run.evaluate()
    run.accumulate()
    return np.asarray(run.eval["precision"]), np.asarray(run.eval["recall"])


def _silent(*text: object) -> None:
    """The library reports each step; nobody reads that."""
