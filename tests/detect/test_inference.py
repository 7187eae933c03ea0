from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import picture

from nightaug.data.frames import Box, Frame
from nightaug.detect.detectors import Detector, Forward, Found
from nightaug.detect.inference import detect_frames, detect_images
from nightaug.detect.truth import Truth
from nightaug.images import write_image


class FindsWhite(Detector):
    """Gives the bounding box of what is white, as class 1, with the share of white as score."""

    def __init__(self) -> None:
        super().__init__()
        self.classes, self.width, self.height = ("bus", "car"), 128, 96
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor, targets: object = None) -> Forward:
        return Forward({}, [], {"images": images})

    def found(self, forward: Forward) -> list[Found]:
        result = []
        for image in forward.outputs["images"]:
            y, x = (image.amin(dim=0) > 200).nonzero(as_tuple=True)
            boxes = (
                torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()[None] if len(x) else x.new_zeros(0, 4)
            )
            result.append(Found(boxes, torch.full((len(boxes),), 0.5), torch.ones(len(boxes), dtype=torch.long)))
        return result


def white_block(path: Path, width: int, height: int) -> Path:
    image = np.full((height, width, 3), 40, np.uint8)
    image[height // 4 : height // 2, width // 4 : width // 2] = 255
    write_image(path, image)
    return path


@pytest.mark.parametrize("size", [(64, 48), (400, 100), (90, 300), (8, 8)])
def test_boxes_come_back_in_pixels_of_the_original(tmp_path: Path, size: tuple[int, int]) -> None:
    width, height = size
    path = white_block(tmp_path / "a.png", width, height)
    found = next(iter(detect_images(FindsWhite(), [path])))
    tolerance = 1.6 * max(width / 128, height / 96, 0.5)
    assert found.boxes[0] == pytest.approx([width // 4, height // 4, width // 2, height // 2], abs=tolerance)
    assert not found.unreadable


def test_an_unreadable_image_finds_nothing_and_says_so(tmp_path: Path) -> None:
    good = white_block(tmp_path / "a.png", 64, 48)
    (tmp_path / "torn.png").write_bytes(good.read_bytes()[:60])
    found = list(detect_images(FindsWhite(), [good, tmp_path / "torn.png", good], batch=3))
    assert [one.unreadable for one in found] == [False, True, False]
    assert [len(one.boxes) for one in found] == [1, 0, 1]


def test_results_carry_the_truths_numbers(tmp_path: Path) -> None:
    frames = []
    for name in ("b.png", "a.png"):
        frames.append(Frame(name, [Box(1, 1, 5, 5, "car")], path=white_block(tmp_path / name, 64, 48)))
    truth = Truth.from_frames(frames, ("car", "tram"))
    seen: list[tuple[int, int]] = []
    results = detect_frames(FindsWhite(), truth, progress=lambda done, total: seen.append((done, total)))
    assert [row["image_id"] for row in results] == [1, 2]
    assert {row["category_id"] for row in results} == {1}
    assert results[0]["bbox"] == pytest.approx([16, 12, 16, 12], abs=1)
    assert seen == [(1, 2), (2, 2)]
    # A class the truth does not measure is left out.
    assert detect_frames(FindsWhite(), Truth.from_frames(frames, ("bus",))) == []


def test_detection_leaves_the_mode_as_it_was(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture())
    detector = FindsWhite().train()
    list(detect_images(detector, [tmp_path / "a.png"]))
    assert detector.training
