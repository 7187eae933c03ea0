"""Labels of images with an EXIF orientation: boxes must lie where the object is in the image as read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nightaug.data.domains import prepare
from nightaug.data.formats import open_dataset
from nightaug.data.frames import Box, Frame
from nightaug.data.upright import turned, upright
from nightaug.images import read_image

MARK = (40, 8, 72, 24)  # x1, y1, x2, y2 in the stored image of 96 x 64


def sideways(path: Path, orientation: int) -> Path:
    """An image with one bright block, stored as is, with this orientation noted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((64, 96, 3), 20, np.uint8)
    x1, y1, x2, y2 = MARK
    pixels[y1:y2, x1:x2] = 250
    exif = Image.Exif()
    if orientation != 1:
        exif[274] = orientation
    Image.fromarray(pixels).save(path, exif=exif.tobytes())
    return path


def mark_of(path: Path) -> tuple[float, ...]:
    rows, columns = np.nonzero(read_image(path)[:, :, 1] > 128)
    return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def frame_of(path: Path, width: int = 96, height: int = 64) -> Frame:
    return Frame(path.name, [Box(40, 8, 72, 24, "car", "red", True)], width, height, path=path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_boxes_turn_as_the_image_does(tmp_path: Path, orientation: int, ending: str) -> None:
    path = sideways(tmp_path / f"x.{ending}", orientation)
    frame = frame_of(path)
    expected = turned(frame, orientation)
    assert expected.boxes[0].xyxy == mark_of(path)
    assert (expected.height, expected.width) == read_image(path).shape[:2]
    assert (expected.boxes[0].light_color, expected.boxes[0].occluded) == ("red", True)
    found = upright(frame)
    # Where the size does not tell, the labels stay as they are.
    assert found == expected if orientation >= 5 else found is frame
    assert frame.boxes[0].xyxy == MARK
    assert upright(found) is found


def test_nothing_is_turned_without_need(tmp_path: Path) -> None:
    turned_file, damaged = sideways(tmp_path / "x.jpg", 6), tmp_path / "bad.jpg"
    damaged.write_bytes(turned_file.read_bytes()[:40])
    for frame in (
        frame_of(turned_file, 64, 96),  # upright already
        frame_of(turned_file, 960, 640),  # of another size
        frame_of(sideways(tmp_path / "plain.jpg", 1)),
        frame_of(damaged),
        frame_of(tmp_path / "missing.jpg"),
        Frame("x.jpg", [], 96, 64),
        Frame("x.jpg", [], None, None, path=turned_file),
    ):
        assert upright(frame) is frame


@pytest.mark.parametrize("brightness", [True, False])
def test_prepare_turns_the_labels(tmp_path: Path, brightness: bool) -> None:
    for side in "ab":
        path = sideways(tmp_path / side / "x.jpg", 6)
        x1, y1, x2, y2 = MARK
        document = {
            "images": [{"id": 1, "file_name": "x.jpg", "width": 96, "height": 64}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}],
            "categories": [{"id": 1, "name": "car"}],
        }
        (tmp_path / side / "labels.json").write_text(json.dumps(document))
    report = prepare(
        out=tmp_path / "out", a=tmp_path / "a", b=tmp_path / "b", split="1:0:0", check_brightness=brightness
    )
    assert report.problem_counts["labels turned upright with their image"] == 2
    assert "size in the labels is wrong" not in report.problem_counts
    for found in open_dataset(tmp_path / "out").frames():
        assert (found.width, found.height) == (64, 96)
        assert found.boxes[0].xyxy == mark_of(path)
