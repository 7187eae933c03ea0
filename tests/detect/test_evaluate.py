"""evaluate(): COCO's numbers to the last bit, subsets, curves, and nothing to measure."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from made_detections import made, pycocotools_evaluation

from nightaug.detect.eval_coco import NUMBERS
from nightaug.detect.eval_curves import best_score
from nightaug.detect.evaluate import evaluate


def _none(value: float) -> float | None:
    return None if value == -1 else float(value)


@pytest.mark.parametrize(
    ("seed", "grid", "images", "detections"),
    [
        *((seed, (0, 5, 10)[seed % 3], 20, 30) for seed in range(8)),
        (20, 10, 3, 400),  # more than 100 of an image and class
        (21, 0, 30, 3),
        (22, 0, 8, 1),  # classes whose one detection is a hit
    ],
)
def test_the_twelve_numbers_are_those_of_pycocotools_to_the_last_bit(
    seed: int, grid: int, images: int, detections: int
) -> None:
    truth, results = made(seed, images=images, detections=detections, grid=grid)
    before = copy.deepcopy((truth.annotations, truth.images, results))
    metrics = evaluate(truth, results)
    reference = pycocotools_evaluation(truth, results)
    assert [metrics["all"][name] for name in NUMBERS] == [_none(value) for value in reference.stats]
    for number, name in enumerate(truth.classes):
        precision = reference.eval["precision"][:, :, number, 0, 2]
        row = metrics["per_class"][name]
        assert row["AP"] == _none(precision.mean())
        assert row["AP50"] == _none(precision[0].mean())
        assert row["AR_100"] == _none(reference.eval["recall"][:, number, 0, 2].mean())
        counted = [r for r in truth.annotations if r["category_id"] == number + 1 and not r["iscrowd"]]
        assert (row["boxes"], row["images"]) == (len(counted), len({r["image_id"] for r in counted}))
    assert (truth.annotations, truth.images, results) == before, "inputs stay as they are"


def test_subsets_are_evaluated_on_their_own_images() -> None:
    truth, results = made(4)
    by = evaluate(truth, results)["by"]
    assert list(by["timeofday"]) == ["daytime", "night", "undefined"]
    for value, row in by["timeofday"].items():
        ids = [image["id"] for image in truth.images if (image["timeofday"] or "undefined") == value]
        stats = pycocotools_evaluation(truth, results, ids).stats
        assert row["AP"] == pytest.approx(stats[0], abs=1e-12)
        assert row["AP50"] == pytest.approx(stats[1], abs=1e-12)
        assert row["images"] == len(ids)
        assert row["boxes"] == sum(r["image_id"] in ids and not r["iscrowd"] for r in truth.annotations)
    assert list(by["weather"]) == ["undefined"]
    assert by["scene"]["city street"]["images"] == 30


def test_f1_and_precision_over_thresholds() -> None:
    truth, results = made(6)
    metrics = evaluate(truth, results)
    assert set(metrics["curves"]) == {"class 0", "class 1", "class 2"}, "class 3 has no boxes"
    reference = pycocotools_evaluation(truth, results)
    for number, (name, curve) in enumerate(metrics["curves"].items()):
        assert [len(curve[key]) for key in ("recall", "precision", "score", "f1")] == [101] * 4
        np.testing.assert_allclose(curve["precision"], reference.eval["precision"][0, :, number, 0, 2], atol=1e-6)
        # At the best threshold: evaluating only the detections over it gives that F1, by counting.
        strong = [r for r in results if r["score"] >= curve["best_f1_score"] and r["category_id"] == number + 1]
        run = pycocotools_evaluation(truth, strong)
        images = [one for one in run.evalImgs if one and one["category_id"] == number + 1 and one["aRng"][1] == 1e10]
        seen = [one for one in images if one["aRng"][0] == 0]
        hits = sum(int(((one["dtMatches"][0] > 0) & ~one["dtIgnore"][0]).sum()) for one in seen)
        counted = sum(int((~one["dtIgnore"][0]).sum()) for one in seen)
        boxes = metrics["per_class"][name]["boxes"]
        assert curve["best_f1"] == pytest.approx(2 * hits / (counted + boxes))
        assert max(curve["f1"]) <= curve["best_f1"] + 1e-6


def test_the_score_of_the_confusion_matrix() -> None:
    truth, results = made(6)
    given, best = evaluate(truth, results, score=0.4), evaluate(truth, results, score=None)
    assert given["confusion"]["score"] == 0.4
    assert best["confusion"]["score"] == best_score(best["curves"])
    assert given["confusion"]["classes"] == [*truth.classes, "background"]
    mean = np.mean([curve["f1"] for curve in best["curves"].values()], axis=0)
    assert mean[round(best["confusion"]["score"] * 100)] == mean.max()


def test_perfect_detections() -> None:
    truth, _ = made(2)
    results = [
        {"image_id": row["image_id"], "category_id": row["category_id"], "bbox": row["bbox"], "score": 0.9}
        for row in truth.annotations
        if not row["iscrowd"]
    ]
    metrics = evaluate(truth, results)
    assert metrics["all"]["AP"] == 1
    assert metrics["per_class"]["class 0"]["AP"] == 1
    assert metrics["per_class"]["class 3"]["AP"] is None
    assert all(curve["best_f1"] == 1 for curve in metrics["curves"].values())


@pytest.mark.parametrize("case", ["no detections", "no boxes", "only crowds", "no images", "no classes"])
def test_nothing_to_measure_gives_none_and_no_crash(case: str) -> None:
    truth, results = made(2)
    if case == "no detections":
        results = []
    elif case == "no boxes":
        truth.annotations = []
    elif case == "only crowds":
        for row in truth.annotations:
            row["iscrowd"] = 1
    else:
        truth.annotations, results = [], []
        truth.images = [] if case == "no images" else truth.images
        truth.classes = () if case == "no classes" else truth.classes
    metrics = evaluate(truth, results, score=None)
    json.dumps(metrics, allow_nan=False)
    if case == "no detections":
        assert metrics["all"]["AP"] == 0
        assert metrics["per_class"]["class 3"]["AP"] is None
        assert metrics["curves"]["class 0"]["best_f1"] == 0
        assert metrics["curves"]["class 0"]["best_f1_score"] is None
    else:
        assert set(metrics["all"].values()) == {None}
        assert metrics["curves"] == {}
        assert metrics["boxes"] == 0
