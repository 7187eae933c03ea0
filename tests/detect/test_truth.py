"""Truth: numbering, what is left out, and its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import picture

from nightaug.data.frames import Box, Frame
from nightaug.detect.truth import Truth
from nightaug.errors import DatasetError
from nightaug.images import write_image


def _frame(folder: Path, name: str, boxes: list[Box], **known: object) -> Frame:
    write_image(folder / name, picture(1, 96, 64))
    return Frame(name, boxes, path=folder / name, **known)  # type: ignore[arg-type]


def test_images_are_numbered_by_name_and_boxes_in_coco_form(tmp_path: Path) -> None:
    frames = [
        _frame(tmp_path, "b.jpg", [Box(10, 20, 40, 30, "car")], timeofday="night", weather="rainy"),
        _frame(tmp_path, "a.jpg", []),
    ]
    truth = Truth.from_frames(frames, ("bus", "car"))
    assert [(image["id"], image["file_name"]) for image in truth.images] == [(1, "a.jpg"), (2, "b.jpg")]
    assert truth.images[1]["timeofday"] == "night"
    assert truth.images[1]["weather"] == "rainy"
    assert (truth.images[0]["width"], truth.images[0]["height"]) == (96, 64), "read from the file"
    assert truth.annotations == [
        {"id": 1, "image_id": 2, "category_id": 2, "bbox": [10, 20, 30, 10], "area": 300, "iscrowd": 0}
    ]
    assert truth.boxes() == {"bus": 0, "car": 1}
    assert truth.frames[2].path == tmp_path / "b.jpg"
    assert frames[1].width is None, "the caller's frames stay as they are"


def test_what_cannot_be_measured_is_counted(tmp_path: Path) -> None:
    boxes = [
        Box(-10, 5, 20, 25, "car"),  # cut to the image
        Box(96, 5, 120, 25, "car"),  # outside
        Box(1, 1, 9, 9, "rider"),  # another class
        Box(1, 1, 9, 9, "car", crowd=True),
        Box(1, 1, 9, 9, "car", weight=0.0),
        Box(1, 1, 9, 9, "car", weight=0.5),
    ]
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    frames = [
        _frame(tmp_path, "a.jpg", boxes),
        _frame(tmp_path, "b.jpg", [], extra={"labelled": False}),
        Frame("broken.jpg", path=tmp_path / "broken.jpg"),
        Frame("gone.jpg"),
        Frame("known.jpg", [Box(0, 0, 5, 5, "car")], width=50, height=40),
    ]
    truth = Truth.from_frames(frames, ("car",))
    assert [image["file_name"] for image in truth.images] == ["a.jpg", "known.jpg"]
    assert truth.annotations[0]["bbox"] == [0, 5, 20, 20]
    assert [row["iscrowd"] for row in truth.annotations] == [0, 1, 1, 0, 0]
    assert truth.left_out == {"rider": 1}
    assert truth.skipped == {
        "image nobody has labelled": 1,
        "unreadable image": 1,
        "image of unknown size, without a file": 1,
        "box outside the image": 1,
    }
    assert truth.boxes() == {"car": 3}


def test_the_size_is_the_files_not_the_labels(tmp_path: Path) -> None:
    truth = Truth.from_frames(
        [_frame(tmp_path, "a.jpg", [Box(50, 5, 300, 25, "car")], width=400, height=300)], ("car",)
    )
    assert (truth.images[0]["width"], truth.images[0]["height"]) == (96, 64)
    assert truth.annotations[0]["bbox"] == [50, 5, 46, 20]
    assert sum(truth.skipped.values()) == 1


def test_written_and_read_again(tmp_path: Path) -> None:
    frame = _frame(tmp_path, "ä 1.jpg", [Box(1.5, 2.25, 9, 9.125, "traffic light", crowd=True)], scene="tunnel")
    truth = Truth.from_frames([frame], ("car", "traffic light"))
    truth.write(tmp_path / "truth.json")
    again = Truth.read(tmp_path / "truth.json")
    assert (again.classes, again.images, again.annotations) == (truth.classes, truth.images, truth.annotations)
    assert json.loads((tmp_path / "truth.json").read_text())["categories"][1] == {"id": 2, "name": "traffic light"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"images": []}',
        '{"images": [], "annotations": [{"id": 1, "image_id": 3, "category_id": 1, "bbox": [0, 0, 1, 1], "area": 1}], '
        '"categories": [{"id": 1, "name": "car"}]}',
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "truth.json"
    path.write_text(text)
    with pytest.raises(DatasetError, match=r"truth\.json") as caught:
        Truth.read(path)
    assert "\n" not in str(caught.value)
