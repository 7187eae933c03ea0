from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import picture

from nightaug.detect.augment import Augment, fit
from nightaug.detect.settings import DetectorAugmentation
from nightaug.errors import ConfigError
from nightaug.images import letterbox

STILL = DetectorAugmentation(flip=0, zoom=0, brightness=0, hue=0, saturation=0)


def block(width: int = 160, height: int = 90) -> tuple[np.ndarray, np.ndarray]:
    """A grey image with one white block, and its box."""
    image = np.full((height, width, 3), 60, np.uint8)
    image[30:60, 40:90] = 255
    return image, np.array([[40.0, 30, 90, 60]])


def whites(image: np.ndarray) -> tuple[int, int, int, int]:
    y, x = np.nonzero(image[..., 1] > 200)
    return x.min(), y.min(), x.max() + 1, y.max() + 1


def test_without_changes_it_is_the_letterbox() -> None:
    image, boxes = block()
    fitted, (left, kept) = Augment(STILL, 128, 96)(image, boxes, np.random.default_rng(0))
    expected, box = letterbox(image, 128, 96)
    assert np.abs(fitted.image.astype(int) - expected).max() <= 1
    assert np.allclose(fitted.boxes, box.to_network(boxes), atol=0.51)
    assert list(left) == [0]
    assert kept == pytest.approx(1)


@pytest.mark.parametrize("seed", range(12))
def test_boxes_stay_on_their_object_whatever_changes(seed: int) -> None:
    image, boxes = block()
    settings = DetectorAugmentation(flip=0.5, zoom=1.0, brightness=0.1, hue=3, saturation=0.1)
    fitted, (left, kept) = Augment(settings, 192, 96)(image, boxes, np.random.default_rng(seed))
    if not len(left):
        return
    assert fitted.boxes[0] == pytest.approx(whites(fitted.image), abs=1.6)
    assert 0 < kept[0] <= 1.0 + 1e-9
    # And back: what is left of the box lies on the original box.
    if kept[0] > 0.999 and not settings.flip:
        assert fitted.letterbox.to_original(fitted.boxes)[0] == pytest.approx(boxes[0], abs=2)


@pytest.mark.parametrize(("width", "height"), [(6000, 3), (2, 5000), (1, 1), (33, 7)])
@pytest.mark.parametrize("zoom", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("at", [0.0, 0.5, 1.0])
def test_strips_and_specks_keep_at_least_a_pixel(width: int, height: int, zoom: float, at: float) -> None:
    shown, _ = fit(np.full((height, width, 3), 255, np.uint8), 128, 96, zoom, at, at)
    assert shown.shape == (96, 128, 3)
    assert (shown > 200).any()


def test_a_box_cut_in_half_says_so() -> None:
    image, boxes = block()
    shown, box = fit(image, 160, 90, 2.0, 0.0, 0.0)  # the left upper quarter: x up to 80, y up to 45
    moved = box.to_network(boxes)
    assert moved[0].tolist() == [80, 60, 180, 120]
    assert whites(shown) == (80, 60, 160, 90)
    augment = Augment(DetectorAugmentation(flip=0, zoom=3, brightness=0, hue=0, saturation=0), 160, 90)
    shares = [augment(image, boxes, np.random.default_rng(s))[1][1] for s in range(40)]
    assert any(len(one) and one[0] < 0.7 for one in shares)
    assert any(not len(one) for one in shares)


@pytest.mark.parametrize("left", [1e-7, 3e-5, 5e-3])
def test_a_sliver_at_the_edge_is_gone(left: float) -> None:
    image = np.full((90, 160, 3), 60, np.uint8)
    slivers = np.array([[160 - left, 10, 200, 30], [10, 90 - left, 40, 120], [-40, 10, left, 30], [10, -9, 40, left]])
    boxes = np.concatenate([slivers, [[20, 20, 60, 60]]])
    flips = DetectorAugmentation(zoom=0, flip=1)
    _, (numbers, _) = Augment(flips, 160, 90)(image, boxes, np.random.default_rng(0))
    assert list(numbers) == [4]


def test_equal_generators_give_equal_samples() -> None:
    image, boxes = picture(1, 120, 80), np.array([[5.0, 5, 50, 40]])
    augment = Augment(DetectorAugmentation(blur=0.5, noise=0.5), 128, 64)
    one, two = (augment(image, boxes, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(one[0].image, two[0].image)
    assert np.array_equal(one[0].boxes, two[0].boxes)
    other = augment(image, boxes, np.random.default_rng(8))
    assert not np.array_equal(one[0].image, other[0].image)


def test_images_without_boxes_pass() -> None:
    fitted, (left, _) = Augment(DetectorAugmentation(), 128, 64)(picture(), np.zeros((0, 4)), np.random.default_rng(0))
    assert fitted.boxes.shape == (0, 4)
    assert len(left) == 0


def test_a_pipeline_of_ones_own(tmp_path: Path) -> None:
    import albumentations as A

    A.save(A.Compose([A.VerticalFlip(p=1)]), str(tmp_path / "mine.json"))
    image, boxes = block()
    settings = STILL.model_copy(update={"pipeline": str(tmp_path / "mine.json")})
    fitted, _ = Augment(settings, 160, 96)(image, boxes, np.random.default_rng(0))
    assert fitted.boxes[0] == pytest.approx(whites(fitted.image), abs=1.1)
    assert fitted.boxes[0][1] == pytest.approx(96 - 3 - 60, abs=1.1)


def test_what_a_pipeline_of_ones_own_cuts_to_a_strip_is_no_object(tmp_path: Path) -> None:
    import albumentations as A

    A.save(A.Compose([A.Crop(x_min=88, y_min=0, x_max=160, y_max=90), A.Resize(90, 160)]), str(tmp_path / "cut.json"))
    image, boxes = block()  # the block ends at x = 90: 2 of its 50 pixels are left
    boxes = np.concatenate([boxes, [[70, 10, 110, 20]]])  # more than half is left
    for share, wanted in ((0.3, [1]), (0.0, [0, 1])):
        settings = STILL.model_copy(update={"pipeline": str(tmp_path / "cut.json"), "min_visible": share})
        _, (numbers, _) = Augment(settings, 160, 90)(image, boxes, np.random.default_rng(0))
        assert list(numbers) == wanted


def test_a_pipeline_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("not: a pipeline")
    with pytest.raises(ConfigError, match=r"albumentations\.save"):
        Augment(STILL.model_copy(update={"pipeline": str(tmp_path / "bad.yaml")}), 64, 64)


def test_importing_it_asks_no_network() -> None:
    code = (
        "import socket\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = refuse\n"
        "from nightaug.detect.augment import Augment\n"
        "from nightaug.detect.settings import DetectorAugmentation\n"
        "Augment(DetectorAugmentation(), 64, 64)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
