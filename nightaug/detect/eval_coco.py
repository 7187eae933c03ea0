"""COCO's twelve numbers, by faster-coco-eval, equal to those of pycocotools to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nightaug.detect.average_precision import IOUS, MAX_DETECTIONS, RECALLS
from nightaug.detect.eval_arrays import Floats
from nightaug.detect.truth import Truth

#: The twelve, in COCO's order.
NUMBERS = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
#: Least and largest area in square pixels: all, small, medium, large.
_AREAS = ((0, 1e5**2), (0, 32**2), (32**2, 96**2), (96**2, 1e5**2))
_LIMITS = (1, 10, MAX_DETECTIONS)
#: What pycocotools gives for one hit among one detection: it adds an epsilon to the divisor, faster-coco-eval does not.
_ALMOST_ONE = 1 / (1 + np.spacing(1))


def coco_numbers(
    truth: Truth, results: Sequence[dict[str, Any]]
) -> tuple[dict[str, float | None], dict[str, dict[str, Any]], str]:
    """The twelve numbers, AP, AP50, AP75 and AR_100 of each class, and the name of what computed them.

    Fractions 0 to 1, None where there is no box to measure.
    """
    import faster_coco_eval  # type: ignore[import-untyped]

    precision, recall = _accumulate(truth, results)
    numbers = [
        mean(precision[..., 0]),
        mean(precision[0, ..., 0]),
        mean(precision[5, ..., 0]),
        *(mean(precision[..., area]) for area in (1, 2, 3)),
        *(mean(recall[..., 0, limit]) for limit in (0, 1, 2)),
        *(mean(recall[..., area, 2]) for area in (1, 2, 3)),
    ]
    per_class = {
        name: {
            "AP": mean(precision[:, :, k, 0]),
            "AP50": mean(precision[0, :, k, 0]),
            "AP75": mean(precision[5, :, k, 0]),
            "AR_100": mean(recall[:, k, 0, 2]),
        }
        for k, name in enumerate(truth.classes)
    }
    return dict(zip(NUMBERS, numbers, strict=True)), per_class, f"faster-coco-eval {faster_coco_eval.__version__}"


def mean(values: Floats) -> float | None:
    """Mean of what could be measured, None if nothing could (nan, or COCO's -1)."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def _accumulate(truth: Truth, results: Sequence[dict[str, Any]]) -> tuple[Floats, Floats]:
    """Precision with 100 detections (IoU, recall, class, area) and recall (IoU, class, area, limit); -1 undefined."""
    n_classes = len(truth.classes)
    if not truth.annotations:
        shape = (n_classes, len(_AREAS))
        return np.full((len(IOUS), len(RECALLS), *shape), -1.0), np.full((len(IOUS), *shape, len(_LIMITS)), -1.0)
    # Half a box beyond the first hit: precision there is 1 if and only if the best two detections are both hits.
    # Only where they are not does the missing epsilon show, as a first precision of 1 instead of just below.
    second = 1.5 / np.maximum(_box_counts(truth), 1)  # (class, area)
    recalls = np.unique(np.concatenate([RECALLS, second.ravel()]))
    precision, recall = _run(truth, results, recalls)
    at_second = precision[:, np.searchsorted(recalls, second), np.arange(n_classes)[:, None], np.arange(len(_AREAS))]
    precision = precision[:, np.searchsorted(recalls, RECALLS)]
    single = (precision == 1.0) & (at_second != 1.0)[:, None]
    precision[single] = _ALMOST_ONE
    return precision, recall


def _box_counts(truth: Truth) -> Floats:
    """Boxes of each class and area that count, (class, area)."""
    counts = np.zeros((len(truth.classes), len(_AREAS)))
    for row in truth.annotations:
        if not row["iscrowd"]:
            counts[row["category_id"] - 1] += [low <= row["area"] <= high for low, high in _AREAS]
    return counts


def _run(truth: Truth, results: Sequence[dict[str, Any]], recalls: Floats) -> tuple[Floats, Floats]:
    from faster_coco_eval import COCO, COCOeval_faster  # type: ignore[import-untyped]

    images = [{"id": image["id"]} for image in truth.images]
    categories = [{"id": number, "name": name} for number, name in enumerate(truth.classes, 1)]
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
    documents = []
    # Copies of the rows: the library writes into what it is given.
    for rows in ([dict(row) for row in truth.annotations], detections):
        document = COCO()
        document.dataset = {"images": images, "annotations": rows, "categories": categories}
        document.createIndex()
        documents.append(document)
    run = COCOeval_faster(*documents, "bbox", print_function=_silent)
    run.params.recThrs = recalls
    run.evaluate()
    run.accumulate()
    return np.asarray(run.eval["precision"])[..., -1].copy(), np.asarray(run.eval["recall"])


def _silent(*text: object) -> None:
    """The library reports each step; nobody reads that."""
