from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import picture
from torch.utils.data import DataLoader, Dataset

from nightaug.errors import ConfigError
from nightaug.transforms import DayToNight, albumentations
from nightaug.translate.translators import Translator

A = pytest.importorskip("albumentations")

NAMES = ["car", "traffic light"]
IMAGE = picture(0, 80, 56)
XYXY = np.array([[10.0, 20, 60, 50], [65, 5, 75, 25]], np.float32)
FORMATS = {
    "pascal_voc": XYXY,
    "coco": np.array([[10.0, 20, 50, 30], [65, 5, 10, 20]], np.float32),
    "yolo": np.array([[35 / 80, 35 / 56, 50 / 80, 30 / 56], [70 / 80, 15 / 56, 10 / 80, 20 / 56]], np.float32),
    "albumentations": XYXY / np.array([80, 56, 80, 56], np.float32),
}


def step(**arguments: Any) -> albumentations.AlbumentationsNight:
    return DayToNight(**({"p": 1.0, "strength": 1.0, "classes": NAMES} | arguments)).albumentations()


def compose(*steps: Any, format: str = "pascal_voc", fields: tuple[str, ...] = ("class_labels",), **more: Any) -> Any:
    return A.Compose([*steps], bbox_params=A.BboxParams(format=format, label_fields=list(fields)), **more)


def test_every_format_gives_the_same_night_and_the_same_boxes() -> None:
    made = []
    for format, boxes in FORMATS.items():
        out = compose(step(), format=format, seed=1)(image=IMAGE, bboxes=boxes, class_labels=[0, 1])
        # albumentations itself turns boxes to shares and back, in float32.
        assert np.allclose(out["bboxes"], boxes, atol=1e-4)
        assert out["class_labels"] == [0, 1]
        made.append(out["image"])
    lit = (slice(5, 25), slice(65, 75))
    dark = compose(step(classes=[]), seed=1)(image=IMAGE, bboxes=XYXY, class_labels=[0, 1])["image"]
    assert made[0][lit].max() > dark[lit].max() + 60, "the signal is lit"
    for other in made[1:]:
        assert np.abs(made[0].astype(int) - other).mean() < 0.2
    assert np.array_equal(XYXY, FORMATS["pascal_voc"])


def test_labels_in_all_their_forms() -> None:
    def made(pipeline: Any, boxes: Any = XYXY, **labels: Any) -> np.ndarray:
        pipeline.set_random_seed(1)
        out: np.ndarray = pipeline(image=IMAGE, bboxes=boxes, **labels)["image"]
        return out

    numbers = made(compose(step()), class_labels=[0, 1])
    names = compose(step(classes=None))
    assert np.array_equal(made(names, class_labels=["car", "traffic light"]), numbers)
    assert np.array_equal(made(names, class_labels=["car", "light"]), numbers), "labels seen later are known too"
    several = compose(step(), fields=("weights", "class_labels"))
    assert np.array_equal(made(several, weights=[0.5, 1.0], class_labels=[0, 1]), numbers)
    chosen = DayToNight(p=1.0, strength=1.0, classes=NAMES).albumentations(label_field="kind")
    assert np.array_equal(
        made(compose(chosen, fields=("kind", "class_labels")), kind=[0, 1], class_labels=[5, 5]), numbers
    )
    columns = A.Compose([step()], bbox_params=A.BboxParams(format="pascal_voc"))
    assert np.array_equal(made(columns, np.hstack([XYXY, [[0], [1]]]).astype(np.float32)), numbers)
    nested = compose(A.OneOf([A.Sequential([step()], p=1.0)], p=1.0))
    assert made(nested, class_labels=[0, 1])[5:25, 65:75].max() > 150
    empty = compose(step())(image=IMAGE, bboxes=np.zeros((0, 4)), class_labels=[])
    assert empty["image"].mean() < 0.7 * IMAGE.mean()
    with pytest.raises(ConfigError, match="which of the label_fields"):
        made(compose(step(), fields=("class_a", "class_b")), class_a=[0, 1], class_b=[0, 1])
    with pytest.raises(ConfigError, match="'x' is not among"):
        made(compose(DayToNight(p=1.0, classes=NAMES).albumentations(label_field="x")), class_labels=[0, 1])


def test_it_stands_among_other_steps() -> None:
    pipeline = compose(A.HorizontalFlip(p=1.0), step(), A.RandomCrop(32, 40), A.ColorJitter(p=1.0), seed=3)
    out = pipeline(image=IMAGE, bboxes=XYXY, class_labels=[0, 1], mask=np.ones(IMAGE.shape[:2], np.uint8))
    assert out["image"].shape == (32, 40, 3)
    assert out["mask"].min() == 1
    assert A.Compose([step()], strict=True)(image=IMAGE)["image"].mean() < IMAGE.mean(), "without boxes"
    two = A.Compose([step()], additional_targets={"other": "image"})(image=IMAGE, other=IMAGE)
    assert np.array_equal(two["image"], two["other"])
    many = A.Compose([step()])(images=np.stack([IMAGE, IMAGE // 2]))["images"]
    assert many.shape == (2, *IMAGE.shape)
    assert max(many[0].mean(), many[1].mean()) < 0.5 * IMAGE.mean()


def test_chance_follows_the_pipeline() -> None:
    def nights(pipeline: Any) -> list[int]:
        return [int(pipeline(image=IMAGE)["image"].sum()) for _ in range(12)]

    pipeline = A.Compose([step(p=0.5)], seed=7)
    first = nights(pipeline)
    assert 1 < len(set(first)) < 12, "some days, some different nights"
    assert nights(A.Compose([step(p=0.5)], seed=7)) == first != nights(A.Compose([step(p=0.5)], seed=8))
    pipeline.set_random_seed(7)
    assert nights(pipeline) == first
    assert nights(A.Compose([step(p=0.5, seed=1)], seed=7)) != first, "its own seed counts as well"
    off = A.Compose([step(p=0.0)])(image=IMAGE)["image"]
    assert np.array_equal(off, IMAGE)
    forced = A.Compose([A.OneOf([step(p=0.01)], p=1.0)])
    assert all(total != int(IMAGE.sum()) for total in nights(forced)), "OneOf has already decided"


class Frames(Dataset[Any]):
    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        return int(self.pipeline(image=IMAGE[:16, :16])["image"].astype(np.int64).sum())


def test_workers_that_inherited_one_generator_do_not_repeat_each_other() -> None:
    loader = DataLoader(Frames(A.Compose([step()], seed=1)), batch_size=1, num_workers=2)
    passes = [[int(v) for v in loader], [int(v) for v in loader]]
    assert len(set(passes[0])) == 8
    assert passes[0] != passes[1]
    fixed = step()
    fixed.set_epoch(0)
    assert len({int(v) for v in DataLoader(Frames(A.Compose([fixed])), num_workers=1)}) == 1


def test_replay_gives_the_same_night_with_the_same_lamps() -> None:
    boxes = A.BboxParams(format="pascal_voc", label_fields=["class_labels"])
    for _ in range(6):
        pipeline = A.ReplayCompose([step(p=0.5), A.HorizontalFlip(p=0.5)], bbox_params=boxes)
        out = pipeline(image=IMAGE, bboxes=XYXY, class_labels=[0, 1])
        again = A.ReplayCompose.replay(out["replay"], image=IMAGE, bboxes=XYXY, class_labels=[0, 1])
        assert np.array_equal(out["image"], again["image"])


def test_it_can_be_saved_and_loaded(tmp_path: Path) -> None:
    classes = {3: "car", 7: "traffic light"}
    pipeline = compose(step(p=0.75, classes=classes, strength=(0.7, 0.9), seed=5), A.HorizontalFlip(p=0.5))
    json.dumps(A.to_dict(pipeline))
    for name, kind in (("pipeline.json", "json"), ("pipeline.yaml", "yaml")):
        A.save(pipeline, tmp_path / name, data_format=kind)
        loaded = A.load(tmp_path / name, data_format=kind)
        made = []
        for each in (pipeline, loaded):
            each.set_random_seed(4)
            made.append([each(image=IMAGE, bboxes=XYXY, class_labels=[3, 7])["image"] for _ in range(4)])
        assert np.array_equal(made[0], made[1])
        assert loaded[0].night.strength == (0.7, 0.9)
        assert loaded[0].p == 0.75
    travelled = pickle.loads(pickle.dumps(pipeline))
    travelled.set_random_seed(4)
    assert np.array_equal(travelled(image=IMAGE, bboxes=XYXY, class_labels=[3, 7])["image"], made[0][0])
    held = DayToNight(Translator("x", "day2night", None, True, lambda image, boxes, seed: image)).albumentations()
    with pytest.raises(ConfigError, match="give DayToNight the translator's path"):
        A.to_dict(A.Compose([held]))


def test_other_kinds_of_images() -> None:
    pipeline = A.Compose([step()], seed=2)
    whole = pipeline(image=IMAGE)["image"]
    pipeline.set_random_seed(2)
    floats = pipeline(image=IMAGE.astype(np.float32) / 255)["image"]
    assert floats.dtype == np.float32
    assert np.array_equal(np.rint(floats * 255), whole)
    assert np.allclose(floats * 255, whole, atol=1e-3)
    with pytest.raises(ConfigError, match="put it before the step that normalises"):
        A.Compose([A.Normalize(), step()])(image=IMAGE)
    for grey in (IMAGE[..., 0], IMAGE[..., :1]):
        with pytest.raises(ConfigError, match="DayToNight needs a"):
            pipeline(image=grey)
    with pytest.raises(ConfigError, match="uint8, or floats"):
        pipeline(image=IMAGE.astype(np.uint16))
