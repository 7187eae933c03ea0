from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import picture
from PIL import Image

from nightaug.data.frames import Box, Frame
from nightaug.detect.augment import Augment
from nightaug.detect.dataset import DetectionSamples, StillImages, make_loader
from nightaug.detect.sampling import Mixture, Source
from nightaug.detect.settings import DetectorAugmentation
from nightaug.errors import DatasetError
from nightaug.images import write_image

STILL = DetectorAugmentation(flip=0, zoom=0, brightness=0, hue=0, saturation=0)


def samples(
    frames: list[Frame], classes: tuple[str, ...] = ("car", "bus"), settings: DetectorAugmentation = STILL
) -> DetectionSamples:
    return DetectionSamples(Mixture([Source("a", frames)], 0), classes, Augment(settings, 96, 64), 0)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    write_image(tmp_path / "a.png", picture(0, 96, 64))
    return tmp_path / "a.png"


def test_labels_become_numbers_boxes_and_weights(image: Path) -> None:
    boxes = [
        Box(1, 2, 30, 40, "bus"),
        Box(5, 5, 20, 20, "car", weight=0.5),
        Box(0, 0, 60, 60, "car", crowd=True),
        Box(0, 0, 9, 9, "tram"),
    ]
    target = samples([Frame("a.png", boxes, path=image, extra={"weight": 0.25})])[0].target
    assert target.labels.tolist() == [1, 0, 0]
    assert target.weights.tolist() == [1.0, 0.5, 0.0]
    assert target.boxes[0].tolist() == [1, 2, 30, 40]
    assert target.image_weight == 0.25


def test_an_image_without_boxes_is_a_sample(image: Path) -> None:
    sample = samples([Frame("a.png", path=image)])[0]
    assert sample.target.boxes.shape == (0, 4)
    assert sample.image.shape == (3, 64, 96)
    assert sample.image.dtype == torch.uint8


def test_what_the_edge_has_cut_off_is_neither_object_nor_background(image: Path) -> None:
    outside = Box(-60, 10, 10, 30, "car")  # a seventh of it is in the image
    weights = samples([Frame("a.png", [outside, Box(20, 5, 60, 50, "car")], path=image)])[0].target.weights
    assert weights.tolist() == [0.0, 1.0]


def test_unreadable_files_are_replaced_and_counted(tmp_path: Path, image: Path) -> None:
    (tmp_path / "torn.jpg").write_bytes(image.read_bytes()[:200])
    data = samples([Frame("torn.jpg", path=tmp_path / "torn.jpg"), Frame("a.png", path=image)])
    got = [data[i] for i in range(4)]
    assert {Path(s.path).name for s in got} == {"a.png"}
    assert got[-1].unreadable == 1
    with pytest.raises(DatasetError, match="none of the 1 images"):
        samples([Frame("torn.jpg", path=tmp_path / "torn.jpg")])[0]


def test_labels_on_stored_pixels_are_turned_like_the_image(tmp_path: Path) -> None:
    shown = np.full((96, 64, 3), 40, np.uint8)
    shown[10:30, 20:50] = 250
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    Image.fromarray(np.rot90(shown).copy()).save(tmp_path / "x.png", exif=exif)
    # In stored pixels the block is at y 14..44, x 10..30.
    frame = Frame("x.png", [Box(10, 14, 30, 44, "car")], width=96, height=64, path=tmp_path / "x.png")
    data = DetectionSamples(Mixture([Source("a", [frame])], 0), ("car",), Augment(STILL, 64, 96), 0)
    assert data[0].target.boxes[0].tolist() == [20, 10, 50, 30]


def test_loaders_give_the_same_with_and_without_workers(image: Path) -> None:
    frames = [Frame(f"{n}.png", [Box(1, 2, 3 + n, 40, "car")], path=image) for n in range(5)]
    data = samples(frames, settings=DetectorAugmentation())
    alone, helped = (list(make_loader(data, range(2, 8), 2, workers, False)) for workers in (0, 2))
    assert len(alone) == len(helped) == 3
    for one, two in zip(alone, helped, strict=True):
        assert torch.equal(one.images, two.images)
        assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(one.targets, two.targets, strict=True))


def test_still_images_survive_what_cannot_be_decoded(tmp_path: Path, image: Path) -> None:
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    still = StillImages([image, tmp_path / "torn.jpg"], 96, 64)
    assert [still[n].unreadable for n in range(2)] == [0, 1]


class Proposals:
    """A grid of proposals over every image, numbered by their embeddings."""

    def __init__(self, count: int = 12) -> None:
        x = np.arange(count, dtype=np.float32) * 8
        self.boxes = np.stack([x, x / 2, x + 20, x / 2 + 16], axis=1)

    def regions(self, path: str | Path) -> tuple[np.ndarray, np.ndarray]:
        return self.boxes, np.eye(len(self.boxes), dtype=np.float16)


def proposed(image: Path, settings: DetectorAugmentation, most: int, proposals: Proposals | None) -> DetectionSamples:
    frames = [Frame("a.png", [Box(1, 2, 30, 40, "car"), Box(50, 10, 80, 60, "bus")], path=image)]
    augment = Augment(settings, 96, 64)
    return DetectionSamples(Mixture([Source("a", frames)], 0), ("car",), augment, 0, proposals=proposals, most=most)


def test_proposals_go_through_the_changes_of_the_image(image: Path) -> None:
    given = Proposals()
    lively = DetectorAugmentation(flip=0.5, zoom=0.5)
    data = proposed(image, lively, 100, given)
    seen = 0
    for index in range(8):
        target = data[index].target
        assert target.regions is not None
        number = target.regions.clip.float().argmax(dim=1)
        assert len(set(number.tolist())) == len(number)
        # A label on a proposal's place goes where the proposal goes.
        frames = [Frame("a.png", [Box(*given.boxes[n].tolist(), "car") for n in number], path=image)]
        alone = DetectionSamples(Mixture([Source("a", frames)], 0), ("car",), Augment(lively, 96, 64), 0)
        assert torch.allclose(alone[index].target.boxes, target.regions.boxes, atol=1e-3)
        seen += len(number)
    assert 20 < seen < 8 * 12  # some are cut off by the zoom


def test_proposals_change_nothing_else_and_are_drawn_by_the_sample(image: Path) -> None:
    lively = DetectorAugmentation()
    plain, few = (proposed(image, lively, 3, given) for given in (None, Proposals()))
    picks = set()
    for index in range(6):
        one, two = plain[index], few[index]
        assert torch.equal(one.image, two.image)
        assert torch.equal(one.target.boxes, two.target.boxes)
        assert torch.equal(one.target.weights, two.target.weights)
        assert one.target.regions is None
        assert two.target.regions is not None
        assert len(two.target.regions.boxes) <= 3
        again = few[index].target.regions
        assert again is not None
        assert torch.equal(again.clip, two.target.regions.clip)
        picks.add(tuple(again.clip.float().argmax(dim=1).tolist()))
    assert len(picks) > 2


def test_an_image_without_proposals_is_a_sample(image: Path) -> None:
    target = proposed(image, STILL, 3, Proposals(0))[0].target
    assert target.regions is not None
    assert target.regions.boxes.shape == (0, 4)
    assert len(target.boxes) == 1
    moved = target.to("cpu")
    assert moved.regions is not None
