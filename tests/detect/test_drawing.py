"""Drawn detections: where lines and labels are, and that nothing leaves the image."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from nightaug.detect import drawing
from nightaug.detect.drawing import PALETTE, class_color, draw_detections, letter_height, line_width

NAMES = ("car", "traffic light", "x" * 200, "a\nb\x1b[31m", "電車")
GREY = 60


def _ground(width: int = 320, height: int = 180) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def _changed(image: np.ndarray) -> np.ndarray:
    return (image != GREY).any(axis=2)


def test_the_line_runs_outside_the_box() -> None:
    out = draw_detections(_ground(), np.array([[100.0, 60, 110, 70]]), [0], [0.9], NAMES)
    assert not _changed(out)[60:70, 100:110].any()  # an object of 10 pixels stays visible
    assert (out[65, 99] == class_color(0)).all()
    assert (out[65, 110] == class_color(0)).all()
    assert (out[59, 105] == class_color(0)).all()
    assert (out[70, 105] == class_color(0)).all()


def test_the_image_itself_stays() -> None:
    image = _ground()
    draw_detections(image, np.array([[10.0, 10, 50, 50]]), [0], [0.9], NAMES)
    assert (image == GREY).all()


@pytest.mark.parametrize(
    ("width", "height"), [(1280, 720), (3840, 2160), (64, 64), (8, 8), (1, 1), (3000, 40), (30, 900)]
)
def test_any_size_and_any_box(width: int, height: int) -> None:
    edges = [-50.0, -0.4, 0.0, 0.3, width / 2, width - 0.5, width, width + 80]
    boxes = [(a, a * height / width, b, b * height / width) for a, b in itertools.product(edges, edges)]
    boxes += [(np.nan, 0, 5, 5), (0, 0, np.inf, np.inf), (1e30, 1e30, 2e30, 2e30)]
    labels = [at % len(NAMES) for at in range(len(boxes))]
    out = draw_detections(_ground(width, height), np.array(boxes), labels, [0.5] * len(boxes), NAMES)
    assert out.shape == (height, width, 3)
    assert out.dtype == np.uint8


@pytest.mark.parametrize(
    "box",
    [(0, 0, 20, 20), (300, 0, 320, 20), (0, 160, 20, 180), (300, 160, 320, 180), (0, 0, 320, 180), (317, 80, 320, 90)],
)
def test_every_label_is_whole_and_inside(box: tuple[int, ...]) -> None:
    out = draw_detections(_ground(), np.array([box], float), [1], [0.87], NAMES)
    tag = drawing._tag("traffic light 0.87", letter_height(320, 180), class_color(1))
    tall, wide = tag.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(out, (tall, wide, 3))[:, :, 0]
    assert (windows == tag).all(axis=(2, 3, 4)).any()


def test_labels_do_not_cover_each_other() -> None:
    placed: list[drawing.Rect] = []
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 600, (80, 2)) * [1, 0.5]
    boxes = np.concatenate([low, low + rng.uniform(4, 60, (80, 2))], axis=1)
    original = drawing._place

    def spy(*args: object) -> drawing.Rect | None:
        rect = original(*args)  # type: ignore[arg-type]
        if rect is not None:
            placed.append(rect)
        return rect

    drawing._place = spy  # type: ignore[assignment]
    try:
        draw_detections(_ground(640, 360), boxes, [0] * 80, list(np.linspace(0.9, 0.3, 80)), NAMES)
    finally:
        drawing._place = original
    assert len(placed) > 10
    for a, b in itertools.combinations(placed, 2):
        assert not drawing._overlap(a, b)
    for x1, y1, x2, y2 in placed:
        assert 0 <= x1 < x2 <= 640
        assert 0 <= y1 < y2 <= 360


def test_no_label_hides_another_object() -> None:
    """A small object right above another one: the other's label goes elsewhere."""
    small, large = [100.0, 60, 112, 72], [98.0, 75, 180, 140]
    out = draw_detections(_ground(), np.array([small, large]), [0, 0], [0.5, 0.9], NAMES)
    assert not _changed(out)[60:72, 100:112].any()


def test_the_surest_is_on_top() -> None:
    boxes = np.array([[50.0, 50, 150, 150], [50.0, 50, 150, 150]])
    for order in ([0, 1], [1, 0]):
        out = draw_detections(_ground(), boxes[order], [order[0], order[1]], [0.9 - 0.5 * n for n in order], NAMES)
        assert (out[100, 49] == class_color(0)).all()


def test_sizes_grow_with_the_image() -> None:
    assert line_width(1280, 720) == 2
    assert line_width(3840, 2160) == 6
    assert line_width(64, 64) == 1
    assert 12 <= letter_height(1280, 720) <= 18
    assert 36 <= letter_height(3840, 2160) <= 54


def test_colors_are_told_apart_and_seen_at_night() -> None:
    assert len({class_color(n) for n in range(len(PALETTE) * 2)}) == len(PALETTE) * 2
    for red, green, blue in PALETTE:
        assert 0.299 * red + 0.587 * green + 0.114 * blue > 100  # light enough on black


def test_drawing_is_repeatable_and_takes_no_scores() -> None:
    boxes = np.array([[50.0, 50, 150, 150], [20, 20, 60, 90]])
    first = draw_detections(_ground(), boxes, [0, 1], None, NAMES)
    assert (first == draw_detections(_ground(), boxes, [0, 1], None, NAMES)).all()
    assert _changed(first).any()


def test_nothing_found_draws_nothing() -> None:
    assert not _changed(draw_detections(_ground(), np.zeros((0, 4)), [], [], NAMES)).any()
