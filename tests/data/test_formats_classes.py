"""Classes that a source counts as several and nightaug as one (person, pedestrian): its own numbers come back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image

from nightaug.data.formats import LabelSet, read_labels, write_labels
from nightaug.data.frames import Box, Frame

NAMES = ["pedestrian", "people", "bicycle", "car", "Car", "van", "person", "traffic light"]
MERGED = ("pedestrian", "bicycle", "car", "van", "traffic light")


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (200, 100)).save(tmp_path / "images" / "a.jpg")
    (tmp_path / "labels").mkdir()
    lines = [f"{number} 0.5 0.5 0.2 {number / 10 + 0.1:g}\n" for number in (*range(8), 4, 0)]
    (tmp_path / "labels" / "a.txt").write_text("".join(lines))
    (tmp_path / "data.yaml").write_text(f"names: {NAMES}\n")
    return tmp_path


def coco(path: Path, **more: Any) -> Path:
    """Categories 1 to 3, of which the first two are one class here, and a box of each in either order."""
    names = ("pedestrian", "person", "car")
    document: dict[str, Any] = {
        "images": [{"id": 9, "file_name": "a.jpg", "width": 200, "height": 100}],
        "annotations": [
            {"id": n, "image_id": 9, "category_id": number, "bbox": [10 * n, 20, 8, 30], "iscrowd": 0}
            for n, number in enumerate((2, 1, 3, 2), 1)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
    }
    path.write_text(json.dumps(document | more))
    return path


def test_yolo_keeps_the_sources_class_numbers(yolo: Path, tmp_path: Path) -> None:
    labels = read_labels(yolo / "labels", images=yolo / "images")
    assert labels.classes == MERGED
    assert [box.category for box in labels.frames[0].boxes[:7]] == [
        "pedestrian", "pedestrian", "bicycle", "car", "car", "van", "pedestrian",
    ]  # fmt: skip
    write_labels(labels, tmp_path / "out")
    assert (tmp_path / "out" / "a.txt").read_text() == (yolo / "labels" / "a.txt").read_text()
    assert (tmp_path / "out" / "classes.txt").read_text().splitlines() == NAMES


def test_coco_keeps_the_sources_categories(tmp_path: Path) -> None:
    labels = read_labels(coco(tmp_path / "in.json"))
    assert labels.classes == ("pedestrian", "car")
    assert [box.category for box in labels.frames[0].boxes] == ["pedestrian", "pedestrian", "car", "pedestrian"]
    before, after = (
        json.loads(path.read_text()) for path in (tmp_path / "in.json", *write_labels(labels, tmp_path / "out.json"))
    )
    assert after["categories"] == before["categories"]
    assert [a["category_id"] for a in after["annotations"]] == [2, 1, 3, 2]


def test_a_box_that_was_given_another_class_is_written_as_that(yolo: Path, tmp_path: Path) -> None:
    labels = read_labels(yolo / "labels", images=yolo / "images")
    (frame,) = labels.frames
    was_people = frame.boxes[1]
    assert was_people.source_category == 1
    frame.boxes = [msgspec.structs.replace(was_people, category=name) for name in ("car", "pedestrian", "tram")]
    write_labels(labels, tmp_path / "out")
    assert [line.split()[0] for line in (tmp_path / "out" / "a.txt").read_text().splitlines()] == ["3", "1", "8"]
    assert (tmp_path / "out" / "classes.txt").read_text().splitlines() == [*NAMES, "tram"]


def test_written_as_coco_yolo_labels_count_canonical_classes(yolo: Path, tmp_path: Path) -> None:
    labels = read_labels(yolo / "labels", images=yolo / "images")
    (file,) = write_labels(labels, tmp_path / "out.json", format="coco")
    written = json.loads(file.read_text())
    assert [c["name"] for c in written["categories"]] == list(MERGED)
    assert [a["category_id"] for a in written["annotations"]] == [1, 1, 2, 3, 3, 4, 1, 5, 3, 1]


def test_written_as_yolo_coco_labels_count_canonical_classes(tmp_path: Path) -> None:
    write_labels(read_labels(coco(tmp_path / "in.json")), tmp_path / "out", format="yolo")
    assert (tmp_path / "out" / "classes.txt").read_text().splitlines() == ["pedestrian", "car"]
    assert [line[0] for line in (tmp_path / "out" / "a.txt").read_text().splitlines()] == ["0", "0", "1", "0"]


def test_new_classes_get_free_ids(tmp_path: Path) -> None:
    meta = {"categories": [{"id": 2, "name": "person"}, {"id": "x", "name": "Car"}]}
    frame = Frame("a.jpg", [Box(1, 2, 3, 4, "tram"), Box(1, 2, 3, 4, "car"), Box(1, 2, 3, 4, "bus")], 64, 48)
    (file,) = write_labels(LabelSet([frame], ("pedestrian", "car", "tram"), "coco", meta=meta), tmp_path / "o.json")
    written = json.loads(file.read_text())
    assert [(c["id"], c["name"]) for c in written["categories"]] == [
        (2, "person"), ("x", "Car"), (1, "tram"), (3, "bus"),
    ]  # fmt: skip
    assert [a["category_id"] for a in written["annotations"]] == [1, "x", 3]


@pytest.mark.parametrize("loose", [False, True])
def test_coco_segmentations_are_counted_and_the_rest_is_written_back(tmp_path: Path, loose: bool) -> None:
    shapes: list[Any] = [[[1, 2, 9, 2, 9, 8]], {"counts": "abc", "size": [9, 9]}, [], None]
    annotations = [
        {"id": n, "image_id": 9, "category_id": 1, "bbox": [10, 20, 8, 30], "segmentation": shape}
        for n, shape in enumerate(shapes)
    ]
    more = {
        "annotations": [*annotations, {"image_id": 9, "category_id": "1" if loose else 1, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 1, "name": "car", "supercategory": "vehicle"}],
        "images": [{"id": 9, "file_name": "a.jpg", "width": "200" if loose else 200, "height": 100}],
        "info": {"year": 2020, "contributor": None},
        "licenses": [{"id": 1, "name": "CC"}],
    }
    labels = read_labels(coco(tmp_path / "in.json", **more))
    assert labels.problems.counts["segmentation of which only the box is kept"] == 2
    assert len(labels.frames[0].boxes) == (4 if loose else 5)
    (file,) = write_labels(labels, tmp_path / "out.json")
    written = json.loads(file.read_text())
    assert written["categories"] == more["categories"]
    if not loose:
        assert (written["info"], written["licenses"]) == (more["info"], more["licenses"])


def scalabel(path: Path, *categories: str) -> Path:
    labels = [
        {"id": str(n), "category": name, "box2d": {"x1": 10 * n, "y1": 20, "x2": 10 * n + 8, "y2": 50}}
        for n, name in enumerate(categories)
    ]
    path.write_text(json.dumps([{"name": "a.jpg", "labels": labels}]))
    return path


def test_scalabel_keeps_the_files_own_names(tmp_path: Path) -> None:
    labels = read_labels(scalabel(tmp_path / "in.json", "person", "motor", "car"), format="scalabel")
    assert [box.category for box in labels.frames[0].boxes] == ["pedestrian", "motorcycle", "car"]
    assert not labels.problems
    write_labels(labels, tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert [label["category"] for label in written[0]["labels"]] == ["person", "motor", "car"]


def test_a_second_name_that_would_be_lost_is_said(tmp_path: Path) -> None:
    labels = read_labels(scalabel(tmp_path / "in.json", "person", "pedestrian", "person"), format="scalabel")
    assert dict(labels.problems.counts) == {"second name of a class, which is written back under its first": 1}
    write_labels(labels, tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert [label["category"] for label in written[0]["labels"]] == ["person"] * 3
