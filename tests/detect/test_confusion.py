"""The confusion matrix, counted by hand."""

from __future__ import annotations

from typing import Any

from made_detections import made

from nightaug.detect.confusion import confusion_matrix
from nightaug.detect.truth import Truth


def _truth(*boxes: tuple[int, list[float], bool]) -> Truth:
    """One image of classes a, b with boxes of (category, xywh, crowd)."""
    truth, _ = made(0, images=1, classes=2, boxes=0)
    for number, (category, box, crowd) in enumerate(boxes, 1):
        row = {"id": number, "image_id": 1, "category_id": category, "bbox": box, "area": box[2] * box[3]}
        truth.annotations.append({**row, "iscrowd": int(crowd)})
    return truth


def _found(category: int, box: list[float], score: float) -> dict[str, Any]:
    return {"image_id": 1, "category_id": category, "bbox": box, "score": score}


LEFT, MIDDLE, RIGHT = [0.0, 0.0, 40.0, 40.0], [100.0, 0.0, 40.0, 40.0], [200.0, 0.0, 40.0, 40.0]


def test_right_wrong_missed_and_made_up() -> None:
    truth = _truth((1, LEFT, False), (1, MIDDLE, False), (2, RIGHT, False))
    results = [
        _found(1, LEFT, 0.9),  # right
        _found(2, MIDDLE, 0.8),  # a taken for b
        _found(2, [300.0, 300.0, 9.0, 9.0], 0.7),  # made up
        _found(2, RIGHT, 0.1),  # below the score: RIGHT is missed
    ]
    assert confusion_matrix(truth, results, 0.25).tolist() == [[1, 1, 0], [0, 0, 1], [0, 1, 0]]
    assert confusion_matrix(truth, results, 0.05).tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]


def test_the_best_score_takes_the_box_and_a_second_one_is_made_up() -> None:
    truth = _truth((1, LEFT, False))
    results = [_found(1, LEFT, 0.5), _found(2, [0.0, 0.0, 40.0, 30.0], 0.6)]
    assert confusion_matrix(truth, results, 0.25).tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]


def test_of_two_boxes_in_one_place_the_own_class_is_taken() -> None:
    truth = _truth((1, LEFT, False), (2, LEFT, False))
    for own in (1, 2):
        matrix = confusion_matrix(truth, [_found(own, LEFT, 0.5)], 0.25)
        assert matrix[own - 1, own - 1] == 1
        assert matrix.sum() == 2


def test_crowds_are_neither_missed_nor_made_up() -> None:
    truth = _truth((1, [0.0, 0.0, 200.0, 200.0], True), (1, RIGHT, False))
    inside = [_found(1, [20.0, 20.0, 30.0, 30.0], 0.9), _found(1, [60.0, 20.0, 30.0, 30.0], 0.9)]
    assert confusion_matrix(truth, inside, 0.25).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    other = [_found(2, [20.0, 20.0, 30.0, 30.0], 0.9)]
    assert confusion_matrix(truth, other, 0.25)[2, 1] == 1, "a crowd of another class is no excuse"


def test_the_least_overlap_counts() -> None:
    truth = _truth((1, LEFT, False))
    half = [_found(1, [0.0, 0.0, 40.0, 20.0], 0.9)]
    assert confusion_matrix(truth, half, 0.25, iou=0.5)[0, 0] == 1
    assert confusion_matrix(truth, half, 0.25, iou=0.51)[0, 0] == 0


def test_rows_sum_to_boxes_and_columns_to_detections() -> None:
    truth, results = made(3)
    truth.annotations = [row for row in truth.annotations if not row["iscrowd"]]
    matrix = confusion_matrix(truth, results, 0.3)
    assert matrix.sum(axis=1)[:-1].tolist() == list(truth.boxes().values())
    strong = [row for row in results if row["score"] >= 0.3]
    counts = [sum(row["category_id"] == n for row in strong) for n in range(1, 5)]
    assert matrix.sum(axis=0)[:-1].tolist() == counts


def test_nothing_at_all() -> None:
    truth, _ = made(0, images=0, classes=2)
    assert confusion_matrix(truth, [], 0.25).tolist() == [[0, 0, 0]] * 3
