"""What readers keep of a frame's boxes: as much as before, in less memory."""

import sys
from pathlib import Path

import numpy as np
import pytest

from nightaug.data.formats import WRITERS, read_labels
from nightaug.data.frames import Box, Frame
from nightaug.data.packed import PackedBoxes, pack_frames, packed
from nightaug.images import write_image

BOXES = [
    Box(0.1, 2.0, 30.25, 4e3, "traffic light", "red", True, None, False, 1.0, "7"),
    Box(-1.5, 0.0, 1e-9, 1.0, "Lieferwagen ü", None, None, False, True, 0.25, None),
]


def test_every_field_comes_back() -> None:
    kept = packed(BOXES)
    assert isinstance(kept, PackedBoxes)
    assert list(kept) == BOXES
    assert kept == BOXES
    assert kept == packed(list(BOXES))
    assert kept != BOXES[:1]
    assert (len(kept), kept[1], kept[-1:], list(reversed(kept))) == (2, BOXES[1], BOXES[1:], BOXES[::-1])
    assert repr(kept) == repr(BOXES)


def test_no_boxes_stay_no_boxes() -> None:
    assert packed([]) == []
    assert not packed([])


def test_changing_a_box_that_was_handed_out_changes_no_other() -> None:
    kept = packed(BOXES)
    kept[0].x1 = 99
    for box in kept:
        box.category = "car"
    assert kept == BOXES


def test_a_frame_takes_a_fraction_of_the_memory() -> None:
    boxes = [Box(i + 0.5, i + 0.25, i + 9.5, i + 7.75, "car", id=str(i)) for i in range(18)]
    (frame,) = pack_frames([Frame("a.jpg", list(boxes))])
    assert isinstance(frame.boxes, PackedBoxes)
    numbers = (box.x1 for box in boxes)
    objects = sys.getsizeof(boxes) + sum(
        sys.getsizeof(box) + 4 * sys.getsizeof(n) for box, n in zip(boxes, numbers, strict=True)
    )
    assert sys.getsizeof(frame.boxes._data) < objects / 3


@pytest.mark.parametrize("name", ["bdd100k", "coco", "scalabel", "voc", "yolo"])
def test_every_reader_packs(name: str, tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.jpg", np.zeros((40, 60, 3), np.uint8))
    frame = Frame("a.jpg", [Box(1, 2, 11, 12, "car"), Box(3, 4, 13, 24, "bus")], 60, 40)
    folder = tmp_path / "labels"
    folder.mkdir()
    target = folder if name in ("voc", "yolo") else folder / "labels.json"
    WRITERS[name]([frame], target, ("car", "bus"))
    (read,) = read_labels(target, images=tmp_path / "images").frames
    assert isinstance(read.boxes, PackedBoxes)
    assert [box.category for box in read.boxes] == ["car", "bus"]
    assert [round(v) for box in read.boxes for v in box.xyxy] == [1, 2, 11, 12, 3, 4, 13, 24]
