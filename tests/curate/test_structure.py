"""Edge agreement: the light does not matter, the drawing does."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from helpers import picture

from nightaug.curate.structure import agreement
from nightaug.data.scenes import render
from nightaug.relight import relight

BOX = [[20, 12, 76, 52]]


def drawn(seed: int = 0) -> np.ndarray:
    """A picture with hard-edged patches of its own."""
    image = picture(seed, level=0.5)
    rng = np.random.default_rng(seed)
    for _ in range(30):
        x, y = rng.integers(0, 88), rng.integers(0, 56)
        image[y : y + rng.integers(3, 12), x : x + rng.integers(3, 12)] = rng.integers(40, 220, 3)
    return image


def test_light_does_not_matter() -> None:
    day = drawn()
    ramp = np.linspace(0.15, 0.6, day.shape[1])[None, :, None]
    darker = {"same": day, "dim": day * 0.2, "gamma": 255 * (day / 255) ** 2 * 0.6, "ramp": day * ramp}
    found = {name: agreement(day, image.astype(np.uint8), BOX)[0] for name, image in darker.items()}
    assert found["same"] == pytest.approx(1, abs=1e-4)
    assert min(found.values()) > 0.7, found


def test_another_drawing_is_near_nothing() -> None:
    assert max(agreement(drawn(0), drawn(seed), BOX)[0] for seed in range(1, 6)) < 0.3
    erased = drawn()
    erased[10:54, 18:78] = erased[10:54, 18:78].mean(axis=(0, 1))
    assert agreement(drawn(), erased, BOX)[0] < 0.1


def test_dark_may_become_bright_and_move_by_a_pixel() -> None:
    day = drawn()
    assert agreement(day, 255 - day, BOX)[0] > 0.5  # a lit lamp, a silhouette
    assert agreement(day, np.roll(day, 1, axis=1), BOX)[0] > 0.9 > agreement(day, np.roll(day, 4, axis=1), BOX)[0]


def test_relit_objects_are_kept_and_erased_ones_are_not() -> None:
    kept, lost = [], []
    for seed in range(101, 105):
        day, frame = render(seed, 256, 144)
        boxes = np.array([box.xyxy for box in frame.boxes])
        night = relight(day, frame.boxes)
        mask = np.zeros(night.shape[:2], np.uint8)
        for x1, y1, x2, y2 in boxes.astype(int):
            mask[y1 : y2 + 1, x1 : x2 + 1] = 255
        erased = cv2.inpaint(night, mask, 3, cv2.INPAINT_TELEA)
        kept.append(agreement(day, night, boxes))
        lost.append(agreement(day, erased, boxes))
    assert np.nanmedian(np.concatenate(kept)) > 0.6
    assert np.nanmedian(np.concatenate(lost)) < 0.25


def test_what_cannot_be_told() -> None:
    flat = np.full((64, 96, 3), 90, np.uint8)
    boxes = [[10, 10, 13, 30], [np.nan, 0, 1, 1], [90, 60, 300, 300], *BOX]
    assert np.isnan(agreement(drawn(), drawn(), boxes)).tolist() == [True, True, True, False]
    assert np.isnan(agreement(flat, drawn(), BOX)[0])
    with pytest.raises(ValueError, match="one size"):
        agreement(drawn(), drawn()[:, :50], BOX)
