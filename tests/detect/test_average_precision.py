"""AP from matches made once, with and without weights of the images."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from made_detections import made, pycocotools_evaluation

from nightaug.detect.average_precision import average_precision, match
from nightaug.detect.truth import Truth


def _reference(truth: Truth, results: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """AP and AP50 of each class by pycocotools, nan for its -1."""
    precision = pycocotools_evaluation(truth, results).eval["precision"][:, :, :, 0, 2]
    ap, ap50 = precision.mean(axis=(0, 1)), precision[0].mean(axis=0)
    return np.where(ap < 0, np.nan, ap), np.where(ap50 < 0, np.nan, ap50)


@pytest.mark.parametrize(("seed", "grid", "detections"), [(0, 0, 30), (1, 10, 30), (2, 5, 30), (3, 10, 350)])
def test_equals_coco(seed: int, grid: int, detections: int) -> None:
    truth, results = made(seed, images=20, detections=detections, grid=grid)
    found = average_precision(match(truth, results))
    ap, ap50 = _reference(truth, results)
    np.testing.assert_allclose(found.ap, ap, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.ap50, ap50, rtol=0, atol=1e-12)
    assert np.isnan(found.ap[-1]), "a class without boxes"


def test_weights_count_images_as_often_as_a_bootstrap_draws_them() -> None:
    truth, results = made(5, images=12, decimals=15)
    drawn = np.random.default_rng(0).multinomial(12, [1 / 12] * 12)
    assert drawn.max() > 1
    assert drawn.min() == 0
    images, annotations, detections = [], [], []
    for record, times in zip(truth.images, drawn, strict=True):
        for _ in range(times):
            number = len(images) + 1
            images.append({**record, "id": number})
            own = [row for row in truth.annotations if row["image_id"] == record["id"]]
            annotations += [{**row, "image_id": number, "id": len(annotations) + n} for n, row in enumerate(own, 1)]
            detections += [{**row, "image_id": number} for row in results if row["image_id"] == record["id"]]
    ap, ap50 = _reference(Truth(truth.classes, images, annotations), detections)
    found = average_precision(match(truth, results), drawn)
    np.testing.assert_allclose(found.ap, ap, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.ap50, ap50, rtol=0, atol=1e-9)


def test_a_closed_form() -> None:
    """Two boxes; a hit, a false alarm, a hit: precision 1 up to recall 0.5, then 2/3."""
    truth, _ = made(0, images=1, classes=1, boxes=0)
    truth.annotations = [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": [100.0 * n, 0.0, 50.0, 50.0], "area": 2500.0, "iscrowd": 0}
        for n in (1, 2)
    ]
    results = [
        {"image_id": 1, "category_id": 1, "bbox": [100.0, 0.0, 50.0, 50.0], "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": [300.0, 300.0, 50.0, 50.0], "score": 0.8},
        {"image_id": 1, "category_id": 1, "bbox": [200.0, 0.0, 50.0, 30.0], "score": 0.7},  # IoU 0.6
    ]
    found = average_precision(match(truth, results))
    assert found.ap50[0] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    above = 51 / 101  # the second hit counts at 0.50, 0.55 and 0.60 only
    assert found.ap[0] == pytest.approx(0.3 * found.ap50[0] + 0.7 * above)


def test_of_equal_overlaps_the_later_box_is_taken_as_coco_does() -> None:
    """The first detection lies midway; which box it takes decides whether the second one finds its own."""
    truth, _ = made(0, images=1, classes=1, boxes=0)
    truth.annotations = [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": [x, 0.0, 40.0, 40.0], "area": 1600.0, "iscrowd": 0}
        for n, x in ((1, 0.0), (2, 8.0))
    ]
    for second in (0.0, 8.0):
        results = [
            {"image_id": 1, "category_id": 1, "bbox": [x, 0.0, 40.0, 40.0], "score": score}
            for x, score in ((4.0, 0.9), (second, 0.8))
        ]
        found = average_precision(match(truth, results))
        np.testing.assert_allclose(found.ap, _reference(truth, results)[0], rtol=0, atol=1e-12)


def test_scaling_all_weights_changes_nothing_and_zero_weights_leave_nothing() -> None:
    truth, results = made(7)
    matches = match(truth, results)
    once, thrice = average_precision(matches), average_precision(matches, np.full(30, 3.0))
    np.testing.assert_allclose(once.ap, thrice.ap, rtol=0, atol=1e-12)
    assert np.isnan(average_precision(matches, np.zeros(30)).ap).all()


def test_the_order_of_results_does_not_matter_without_ties() -> None:
    truth, results = made(8, decimals=15)
    shuffled = copy.deepcopy(results)
    np.random.default_rng(0).shuffle(shuffled)  # type: ignore[arg-type]
    np.testing.assert_array_equal(
        average_precision(match(truth, results)).ap, average_precision(match(truth, shuffled)).ap
    )


@pytest.mark.parametrize("empty", ["results", "truth", "images"])
def test_nothing_to_match(empty: str) -> None:
    truth, results = made(3)
    if empty == "results":
        found = average_precision(match(truth, []))
        assert found.ap[0] == 0
        assert np.isnan(found.ap[-1])
        return
    truth.annotations = []
    if empty == "images":
        truth.images, results = [], []
    assert np.isnan(average_precision(match(truth, results)).ap).all()
