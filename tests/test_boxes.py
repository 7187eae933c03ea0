from __future__ import annotations

import numpy as np
import pytest

from nightaug import boxes


def test_conversions_invert_each_other() -> None:
    xyxy = np.array([[10, 20, 40, 60], [0, 0, 1, 1.5]])
    assert np.allclose(boxes.xywh_to_xyxy(boxes.xyxy_to_xywh(xyxy)), xyxy)
    assert np.allclose(boxes.cxcywh_to_xyxy(boxes.xyxy_to_cxcywh(xyxy)), xyxy)
    assert boxes.xyxy_to_xywh(xyxy)[0].tolist() == [10, 20, 30, 40]
    assert boxes.xyxy_to_cxcywh(xyxy)[0].tolist() == [25, 40, 30, 40]


def test_iou_of_known_pairs() -> None:
    first = [[0, 0, 10, 10], [5, 5, 5, 5]]
    second = [[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]]
    assert np.allclose(boxes.iou(first, second), [[1, 1 / 3, 0], [0, 0, 0]])


@pytest.mark.parametrize("empty", [[], np.zeros((0, 4))])
def test_no_boxes_are_no_problem(empty: object) -> None:
    assert boxes.iou(empty, [[0, 0, 1, 1]]).shape == (0, 1)
    assert boxes.area(empty).shape == (0,)
    assert boxes.clip(empty, 4, 4).shape == (0, 4)
    assert boxes.valid(empty).shape == (0,)


def test_clip_and_valid() -> None:
    assert boxes.clip([[-5, 2, 50, 9]], 20, 8).tolist() == [[0, 2, 20, 8]]
    given = [[0, 0, 2, 2], [2, 2, 0, 0], [0, 0, 0.5, 9], [0, 0, np.nan, 4], [0, 0, np.inf, 4]]
    assert boxes.valid(given).tolist() == [True, False, False, False, False]


def test_wrong_shape_says_so() -> None:
    with pytest.raises(ValueError, match=r"shape \(P, 4\), got \(1, 3\)"):
        boxes.area([[1, 2, 3]])
