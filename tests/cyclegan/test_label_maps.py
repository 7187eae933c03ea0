from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nightaug.cyclegan.dataset import UnpairedCrops, cut_window, random_window, training_domains
from nightaug.cyclegan.label_maps import BACKGROUND, UNKNOWN, UNSURE, ShownBoxes, Window, label_map, shown_boxes
from nightaug.cyclegan.settings import Augmentation, FaithfulSettings
from nightaug.cyclegan.training_boxes import TrainingBoxes, read_training_boxes
from nightaug.data.frames import Box
from nightaug.errors import DatasetError
from nightaug.images import write_image

REAL = FaithfulSettings.model_validate({"night_boxes": "real", "weights": {"segmentation": 1}})


def shown(boxes: list[list[float]], labels: list[int], window: Window, crop: int) -> ShownBoxes:
    return shown_boxes(np.array(boxes).reshape(-1, 4), np.array(labels, np.uint8), True, window, crop)


def test_boxes_are_cut_scaled_and_mirrored_as_the_crop_is() -> None:
    # An image whose only bright pixels are a box: the label map of any crop of it is where the crop is bright.
    image = np.zeros((90, 160, 3), np.uint8)
    image[30:50, 60:100] = 255
    for seed in range(12):
        window = random_window((90, 160), 64, 128, Augmentation(zoom=1.5), np.random.default_rng(seed))
        bright = cut_window(image, window, 64)[:, :, 0] > 127
        found = label_map(shown([[60, 30, 100, 50]], [3], window, 64), 64).numpy() == 3
        assert (bright & ~found).sum() == 0, "a pixel of the object lies outside its box"
        assert (found & ~bright).sum() <= 2 * (bright.any(0).sum() + bright.any(1).sum()), "the box is a pixel too wide"


def test_small_boxes_lie_in_front_and_the_smallest_still_count() -> None:
    whole = Window(0, 0, 8, 8, False)
    found = label_map(shown([[2, 2, 4, 4], [0, 0, 8, 8], [5.2, 5.2, 5.4, 5.4]], [1, 2, 3], whole, 8), 8)
    expected = torch.full((8, 8), 2, dtype=torch.uint8)
    expected[2:4, 2:4] = 1
    expected[5, 5] = 3
    assert torch.equal(found, expected)
    assert (label_map(shown([], [], whole, 8), 8) == BACKGROUND).all()
    assert (label_map(shown([[-5, -5, 20, 20]], [1], whole, 8), 8) == 1).all()
    assert len(shown([[20, 20, 30, 30]], [1], whole, 8).boxes) == 0
    assert (label_map(ShownBoxes(np.zeros((0, 4)), np.zeros(0, np.uint8), False), 8) == UNKNOWN).all()


def test_the_corners_around_an_ellipse_are_unsure_unless_another_object_is_there() -> None:
    boxes = shown([[0, 0, 16, 16], [8, 8, 16, 16]], [1, 2], Window(0, 0, 16, 16, False), 16)
    found = label_map(boxes, 16, "ellipse")
    assert (found[0, 0], found[4, 4], found[12, 12], found[8, 8]) == (UNSURE, 1, 2, 1)
    assert (label_map(boxes, 16)[8, 8], label_map(boxes, 16)[0, 0]) == (2, 1)


def test_crops_with_labels_are_the_crops_without(labelled: Path) -> None:
    files = training_domains(labelled)
    boxes, notes = read_training_boxes(labelled, files.a, files.b, REAL)
    assert notes == ["1 of 5 night images have no labels"]
    assert boxes.counts() == (6, 4)
    plain = UnpairedCrops(files, 32, 48, Augmentation(), 0)
    aware = UnpairedCrops(files, 32, 48, Augmentation(), 0, boxes)
    kinds = set()
    for index in range(10):
        first, second = plain[index], aware[index]
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert second["labels_a"].shape == second["labels_b"].shape == (32, 32)
        assert second["boxes_a"].shape == (8, 4)
        kinds |= set(second["labels_b"].unique().tolist())
    assert kinds == {BACKGROUND, 1, 2, UNKNOWN}


def pseudo(folder: Path, entries: list[dict[str, object]], names: list[str]) -> Path:
    folder.mkdir()
    images = [{"id": i, "file_name": name, "width": 96, "height": 64} for i, name in enumerate(names, 1)]
    document = {"images": images, "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "boat"}]}
    (folder / "images.json").write_text(json.dumps(document))
    (folder / "detections.json").write_text(json.dumps(entries))
    return folder


def test_pseudo_boxes_of_predict_by_score_and_name(labelled: Path, tmp_path: Path) -> None:
    box = [10.0, 10.0, 20.0, 20.0]
    entries: list[dict[str, object]] = [
        {"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": [30.0, 10.0, 20.0, 20.0], "score": 0.45},
        {"image_id": 1, "category_id": 1, "bbox": [60.0, 10.0, 20.0, 20.0], "score": 0.04},
        {"image_id": 1, "category_id": 1, "bbox": [12.0, 12.0, 10.0, 10.0], "score": 0.3},
        {"image_id": 2, "category_id": 2, "bbox": box, "score": 0.9},
        {"image_id": 9, "category_id": 1, "bbox": box, "score": 0.9},
        {"image_id": 2, "category_id": 1, "bbox": [1, 1, -4, 5], "score": 0.9},
    ]
    folder = pseudo(tmp_path / "found", entries, ["deep/trainB0.png", "trainB1.png", "other.png"])
    files = training_domains(labelled)
    for source in (folder, folder / "detections.json"):
        options = REAL.model_copy(update={"night_boxes": str(source)})
        boxes, notes = read_training_boxes(labelled, files.a, files.b, options)
        assert boxes.counts() == (6, 1)
        # A weak one is neither object nor background, and takes nothing from a sure one it lies in.
        found = label_map(boxes.shown(1, files.b[0], Window(0, 0, 96, 96, False), 96), 96)
        assert [int(found[at]) for at in ((20, 20), (20, 40), (20, 70), (50, 50))] == [
            1,
            UNSURE,
            BACKGROUND,
            BACKGROUND,
        ]
        text = "; ".join(notes)
        for part in (
            "2 unusable",
            "2 pseudo boxes with a score under 0.5 are unsure",
            "1 pseudo boxes with a score under 0.05 are not used",
            "1 pseudo boxes of classes",
            "3 of 5 night",
        ):
            assert part in text, text
    # Any label format does too; labels without scores are sure.
    file = tmp_path / "other.json"
    document = json.loads((labelled / "annotations" / "train_B.json").read_text())
    options = REAL.model_copy(update={"night_boxes": str(file)})
    for scores, expected in (({}, 4), ({"score": 0.4}, 3)):
        document["annotations"][2].update(scores)
        file.write_text(json.dumps(document))
        assert read_training_boxes(labelled, files.a, files.b, options)[0].counts() == (6, expected)


def test_missing_boxes_are_explained(labelled: Path, tmp_path: Path) -> None:
    files = training_domains(labelled)
    folder = pseudo(tmp_path / "found", [], ["trainB0.png"])
    with pytest.raises(DatasetError, match=r"no box of faithful\.min_score=0\.5 or more belongs"):
        read_training_boxes(labelled, files.a, files.b, REAL.model_copy(update={"night_boxes": str(folder)}))
    lines = tmp_path / "yolo" / "labels"
    lines.mkdir(parents=True)
    (lines / "trainB0.txt").write_text("0 0.5 0.5 0.1 0.1 0.9\n")
    (lines / "classes.txt").write_text("car\n")
    for source in (lines, lines.parent):
        with pytest.raises(DatasetError, match=r"takes COCO \(nightaug predict --format coco\)"):
            read_training_boxes(labelled, files.a, files.b, REAL.model_copy(update={"night_boxes": str(source)}))
    (folder / "detections.json").write_text("[{]")
    with pytest.raises(DatasetError, match=r"detections\.json: cannot be read"):
        read_training_boxes(labelled, files.a, files.b, REAL.model_copy(update={"night_boxes": str(folder)}))
    (labelled / "annotations" / "train_B.json").unlink()
    with pytest.raises(DatasetError, match=r"no boxes of night images; set faithful\.night_boxes to pseudo boxes"):
        read_training_boxes(labelled, files.a, files.b, REAL)
    (labelled / "annotations" / "train_A.json").unlink()
    with pytest.raises(DatasetError, match="no boxes of day images"):
        read_training_boxes(labelled, files.a, files.b, REAL)


def test_crowds_and_strange_classes_are_objects_of_no_class(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    write_image(path, np.zeros((16, 16, 3), np.uint8))
    boxes = [Box(0, 0, 4, 4, "car"), Box(4, 4, 8, 8, "car", crowd=True), Box(8, 8, 12, 12, "boat")]
    boxes += [Box(12, 0, 16, 4, "car", weight=0.0)]
    held = TrainingBoxes([(path, boxes)], [], ["car"])
    found = label_map(held.shown(0, path, Window(0, 0, 16, 16, False), 16), 16)
    assert [int(found[at, at]) for at in (1, 5, 9, 13)] == [1, UNSURE, UNSURE, BACKGROUND]
    assert found[1, 13] == UNSURE
    assert held.shown(1, path, Window(0, 0, 16, 16, False), 16).known is False
