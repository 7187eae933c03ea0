"""On stand-ins for ultralytics' classes, and on ultralytics itself where it is installed (the page's own lines)."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from helpers import picture

from nightaug.errors import ConfigError
from nightaug.transforms import DayToNight

IMAGE = picture(0, 80, 56)
XYXY = np.array([[10.0, 20, 60, 50], [65, 5, 75, 25]], np.float32)
FORMATS = {
    "xyxy": XYXY,
    "xywh": np.array([[35.0, 35, 50, 30], [70, 15, 10, 20]], np.float32),
    "ltwh": np.array([[10.0, 20, 50, 30], [65, 5, 10, 20]], np.float32),
}
NAMES = {0: "car", 1: "traffic light"}


class Bboxes:
    def __init__(self, format: str) -> None:
        self.format = format


class Instances:
    def __init__(self, values: np.ndarray, format: str, normalized: bool) -> None:
        self.bboxes, self._bboxes, self.normalized = values, Bboxes(format), normalized


class Data:
    """What of ``YOLODataset`` reading one frame takes."""

    def __init__(self) -> None:
        self.data = {"names": NAMES}
        self.held = np.ascontiguousarray(IMAGE[..., ::-1])

    def update_labels_info(self, label: dict[str, Any]) -> dict[str, Any]:
        label["instances"] = Instances(XYXY, "xyxy", False)
        return label

    def get_image_and_label(self, index: int) -> dict[str, Any]:
        return self.update_labels_info({"img": self.held, "cls": np.array([[0.0], [1.0]])})


def night(**arguments: Any) -> DayToNight:
    made = DayToNight(**({"p": 1.0, "strength": 1.0} | arguments))
    made.set_epoch(0)
    return made


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("normalized", [True, False])
def test_every_form_of_boxes(format: str, normalized: bool) -> None:
    values = FORMATS[format] / np.float32([80, 56, 80, 56]) if normalized else FORMATS[format].copy()
    instances, held = Instances(values, format, normalized), values.copy()
    image = np.ascontiguousarray(IMAGE[..., ::-1])
    labels = night(classes=NAMES).ultralytics()({"img": image, "instances": instances, "cls": np.array([[0.0], [1]])})
    expected = night(classes=NAMES)(IMAGE, XYXY, [0, 1])
    assert np.abs(labels["img"][..., ::-1].astype(int) - expected).mean() < 0.2
    assert labels["img"].flags.c_contiguous
    assert np.array_equal(image[..., ::-1], IMAGE), "the dataset may keep the day image"
    assert np.array_equal(instances.bboxes, held)
    assert (instances._bboxes.format, instances.normalized) == (format, normalized)
    day = {"img": image, "instances": instances, "cls": np.zeros((2, 1))}
    assert night(p=0.0).ultralytics()(day)["img"] is image


def test_attached_it_changes_each_frame_once_with_the_datasets_names() -> None:
    dataset = Data()
    step = night().ultralytics()
    assert step.attach(dataset) is dataset
    step.attach(dataset)
    expected = night(classes=NAMES)(IMAGE, XYXY, [0, 1])
    assert np.array_equal(dataset.get_image_and_label(0)["img"][..., ::-1], expected)
    for twin in (pickle.loads(pickle.dumps(dataset)), copy.deepcopy(dataset)):
        assert np.array_equal(twin.get_image_and_label(0)["img"][..., ::-1], expected)
        assert twin.update_labels_info.read.__self__ is twin

    class Both:
        datasets = (Data(), Data())

    night().ultralytics().attach(Both())
    assert all(np.array_equal(part.get_image_and_label(0)["img"][..., ::-1], expected) for part in Both.datasets)
    with pytest.raises(ConfigError, match="expected a dataset of ultralytics, got list"):
        step.attach([])


def test_wrong_images() -> None:
    with pytest.raises(ConfigError, match="colour image"):
        night().ultralytics()({"img": np.zeros((8, 8, 1), np.uint8)})
