from __future__ import annotations

import numpy as np
import pytest

from nightaug.detect.fusion import Boxes, fuse


def some(*rows: tuple[tuple[float, float, float, float], float, int]) -> Boxes:
    xyxy, scores, labels = zip(*rows, strict=True) if rows else ((), (), ())
    return Boxes(np.array(xyxy, np.float64).reshape(-1, 4), np.array(scores, np.float64), np.array(labels, np.int64))


def test_boxes_of_one_object_are_their_mean_weighted_by_score() -> None:
    fused = fuse([some(((0, 0, 10, 10), 0.6, 0)), some(((1, 0, 11, 12), 0.2, 0))])
    np.testing.assert_allclose(fused.xyxy, [[0.25, 0, 10.25, 10.5]])
    np.testing.assert_allclose(fused.scores, [0.4])


def test_what_one_of_two_sees_counts_half() -> None:
    fused = fuse([some(((0, 0, 10, 10), 0.9, 0), ((50, 0, 60, 10), 0.6, 0)), some(((50, 0, 60, 10), 0.6, 0))])
    np.testing.assert_allclose(fused.scores, [0.6, 0.45])
    assert fused.xyxy[0].tolist() == [50, 0, 60, 10], "best first"


def test_a_detector_has_one_say_about_an_object() -> None:
    twice = some(((0, 0, 10, 10), 0.8, 0), ((0, 0, 10, 9), 0.7, 0))
    fused = fuse([twice, some(((0, 0, 10, 10), 0.4, 0))])
    np.testing.assert_allclose(fused.scores, [0.6])
    np.testing.assert_allclose(fused.xyxy, [[0, 0, 10, 10]])


def test_other_classes_and_other_places_are_other_objects() -> None:
    fused = fuse([some(((0, 0, 10, 10), 0.8, 0)), some(((0, 0, 10, 10), 0.6, 1), ((8, 0, 18, 10), 0.5, 0))])
    assert sorted(zip(fused.labels.tolist(), fused.scores.tolist(), strict=True)) == [(0, 0.25), (0, 0.4), (1, 0.3)]


def test_the_order_of_detectors_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(3):
        corners = rng.uniform(0, 60, (20, 2))
        found.append(
            Boxes(np.hstack([corners, corners + rng.uniform(5, 40, (20, 2))]), rng.random(20), rng.integers(0, 2, 20))
        )
    one, other = fuse(found), fuse(found[::-1])
    np.testing.assert_allclose(one.xyxy, other.xyxy)
    np.testing.assert_allclose(one.scores, other.scores)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_images_with_nothing_in_them_and_boxes_without_area(number: int) -> None:
    rows = [((5.0, 5.0, 5.0, 5.0), 0.0, 0), ((9.0, 9.0, 9.0, 12.0), 0.5, 1)][:number]
    fused = fuse([some(*rows), some()])
    assert len(fused.scores) == number
    assert np.isfinite(fused.xyxy).all()
    assert fused.xyxy.shape == (number, 4)
