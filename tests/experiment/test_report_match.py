from __future__ import annotations

from typing import Any

from nightaug.detect.truth import Truth
from nightaug.experiment.report_match import choose, outcomes


def truth(*boxes: tuple[int, int, list[float], int]) -> Truth:
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 100} for i in range(1, 9)]
    annotations: list[dict[str, Any]] = [
        {"id": k, "image_id": image, "category_id": category, "bbox": box, "area": 1, "iscrowd": crowd}
        for k, (image, category, box, crowd) in enumerate(boxes, 1)
    ]
    return Truth(("car", "light"), images, annotations)


def found(image: int, category: int, box: list[float], score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def test_hits_misses_and_false_alarms() -> None:
    known = truth((1, 1, [10, 10, 20, 20], 0), (1, 2, [50, 50, 10, 10], 0), (1, 1, [60, 0, 40, 40], 1))
    results = [
        found(1, 1, [11, 10, 20, 20], 0.6),  # overlaps, but the surer one takes the car
        found(1, 1, [10, 10, 20, 21], 0.9),
        found(1, 1, [50, 50, 10, 10], 0.8),  # the right place, another class
        found(1, 1, [65, 5, 10, 10], 0.8),  # in a crowd of cars
        found(1, 2, [50, 50, 10, 10], 0.2),  # under the threshold
    ]
    here = outcomes(known, results, 0.3)[1]
    assert [row["score"] for row in here.hits] == [0.9]
    assert sorted(row["score"] for row in here.false) == [0.6, 0.8]
    assert [row["category_id"] for row in here.missed] == [2]


def test_no_detections_and_no_objects() -> None:
    assert outcomes(truth(), [], 0.3)[1] == ([], [], [])
    assert len(outcomes(truth((1, 1, [0, 0, 9, 9], 0)), [], 0.3)[1].missed) == 1
    assert len(outcomes(truth(), [found(2, 1, [0, 0, 9, 9], 0.9)], 0.3)[2].false) == 1


def test_images_where_arms_differ_come_first_then_random_ones() -> None:
    known = truth(
        *((image, 1, [0, 0, 50, 50], 0) for image in range(1, 8)), (8, 1, [0, 0, 9, 9], 1), (5, 2, [60, 60, 9, 9], 0)
    )
    arms = {
        "day": outcomes(known, [], 0.3),
        "night": outcomes(
            known,
            [found(5, 1, [0, 0, 50, 50], 0.9), found(5, 2, [60, 60, 9, 9], 0.9), found(2, 1, [0, 0, 50, 50], 0.9)],
            0.3,
        ),
    }
    shown = choose(known, arms, set(range(1, 9)), most=2, random=3)
    assert [(item.image, item.at_random) for item in shown[:2]] == [(5, False), (2, False)]
    rest = [item.image for item in shown[2:]]
    assert len(rest) == 3
    assert all(item.at_random for item in shown[2:])
    assert rest == sorted(set(rest) - {2, 5, 8})
    assert shown == choose(known, arms, set(range(1, 9)), most=2, random=3)
    assert [item.image for item in choose(known, arms, {1, 8})] == [1]
