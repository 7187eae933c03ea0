"""What the judge's detections say of labelled boxes and of everything outside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import picture

from nightaug.curate.judge import Detected, best_threshold, false_detections, find_boxes, new_detections
from nightaug.curate.kept import kept_parts, kept_share
from nightaug.curate.scores import BoxScore
from nightaug.data.frames import Box, Frame
from nightaug.images import write_image

CAR = (10.0, 10.0, 30.0, 20.0)
NEAR = (12.0, 10.0, 32.0, 20.0)  # IoU 0.82 with CAR
FAR = (60.0, 40.0, 80.0, 50.0)


def seen(*rows: tuple[tuple[float, float, float, float], float, str]) -> Detected:
    return Detected([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])


def test_found_is_the_best_of_the_own_class() -> None:
    detected = seen((NEAR, 0.4, "car"), (CAR, 0.3, "car"), (CAR, 0.9, "truck"), (FAR, 0.8, "car"))
    found = find_boxes([CAR, FAR, CAR], ["car", "truck", "bus"], detected)
    assert found.score.tolist() == [0.4, 0, 0]
    assert found.at.tolist() == [0, -1, -1]
    assert find_boxes([CAR], ["car"], seen()).score.tolist() == [0]


def test_false_are_those_no_label_of_any_class_explains() -> None:
    part = (11.0, 11.0, 14.0, 14.0)  # a lamp of the car: contained, IoU small
    around = (0.0, 0.0, 60.0, 40.0)  # holds the car
    detected = seen(
        (NEAR, 0.9, "truck"), (part, 0.9, "car"), (around, 0.9, "car"), (FAR, 0.5, "car"), (FAR, 0.49, "car"),
        (FAR, 0.9, "sheep"),
    )  # fmt: skip
    assert false_detections(detected, [CAR], 0.5, {"car", "truck"}).tolist() == [3]
    assert false_detections(detected, [], 0.5, {"car"}).tolist() == [1, 2, 3]


def test_new_are_those_the_source_did_not_show() -> None:
    after = seen((FAR, 0.6, "car"), ((1.0, 50.0, 9.0, 60.0), 0.6, "car"))
    at = np.array([0, 1])
    assert new_detections(at, after, seen((FAR, 0.3, "truck")), 0.5).tolist() == [1]
    assert new_detections(at, after, seen((FAR, 0.2, "truck")), 0.5).tolist() == [0, 1]  # too faint to have been there


def test_the_threshold_is_where_f1_is_best(tmp_path: Path) -> None:
    frames, detected = [], []
    for i in range(12):
        write_image(tmp_path / f"{i}.png", picture(i))
        boxes = [Box(*CAR, "car"), Box(50, 5, 70, 15, "car"), Box(*FAR, "car")]
        frames.append(Frame(f"{i}.png", boxes, path=tmp_path / f"{i}.png"))
        hits = [(box.xyxy, 0.62, "car") for box in boxes]
        detected.append(seen(*hits, ((2.0, 40.0, 20.0, 60.0), 0.405, "car")))
    score = best_threshold(frames, detected, ("car",))
    assert score is not None
    assert 0.4 < score <= 0.62
    assert best_threshold(frames[:3], detected[:3], ("car",)) is None  # 9 boxes are too few to choose by


def score(**values: float) -> BoxScore:
    return BoxScore(index=0, category="car", xyxy=CAR, **values)  # type: ignore[arg-type]


def test_kept_takes_what_there_is() -> None:
    assert kept_parts(score(), 0.5, 0.1) == {}
    assert kept_share({}) is None
    parts = kept_parts(score(found_day=0.8, found_night=0.4, clip_day=0.5, clip_night=0.6, structure=0.15), 0.5, 0.1)
    assert parts == pytest.approx({"judge": 0.5, "clip": 1.0, "structure": 0.5})
    assert kept_share(parts) == pytest.approx((0.5 * 0.5) ** (1 / 3), abs=1e-4)
    # One that sees nothing does not overrule the others altogether, but the object is lost.
    assert 0 < (kept_share({"judge": 0.0, "structure": 1.0}) or 0) < 0.5


def test_what_was_not_seen_by_day_is_not_held_against_the_night() -> None:
    unseen = score(found_day=0.3, found_night=0.0, clip_day=0.05, clip_night=0.0, structure=0.9)
    assert kept_parts(unseen, 0.5, 0.1) == {"structure": 1.0}
    assert kept_share(kept_parts(score(found_day=0.0, found_night=0.0), 0.5, 0.1)) is None
