from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nightaug import __version__
from nightaug.config import build
from nightaug.data.frames import Box, Frame
from nightaug.detect.checkpoint import write_detector
from nightaug.detect.detectors import Detector, Forward, Target, build_detector
from nightaug.detect.regions import RegionBatch
from nightaug.detect.settings import DetectorSettings
from nightaug.errors import CheckpointError, DatasetError
from nightaug.experiment.embedding import (
    Regions,
    balanced,
    class_separation,
    domain_separation,
    labelled_regions,
    plane,
    region_points,
    write_embedding,
)
from nightaug.images import write_image

CLASSES = ("car", "bus", "person")
TINY: dict[str, Any] = {
    "detector": "fcos-resnet18", "width": 128, "height": 64,
    "fcos": {"channels": 32, "convs": 1, "norm": "batch", "width": 0.25},
}  # fmt: skip


class Boxes(Detector):
    """One region a label; its features are the box in the network's input, and its image's mean."""

    def __init__(self, classes: tuple[str, ...] = CLASSES) -> None:
        super().__init__()
        self.name, self.classes, self.width, self.height = "boxes", classes, 64, 32
        self.modes: list[bool] = []

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> Forward:
        self.modes.append(self.training or torch.is_grad_enabled())
        return Forward({}, [], {"means": images.float().mean((1, 2, 3))})

    def labelled_regions(self, forward: Forward, targets: Sequence[Target], letterboxes: Any = None) -> RegionBatch:
        rows = [
            (*box.tolist(), float(forward.outputs["means"][image]), label, image)
            for image, target in enumerate(targets)
            for box, label, weight in zip(target.boxes, target.labels.tolist(), target.weights, strict=True)
            if weight > 0
        ]
        table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 7)
        zero = torch.zeros(len(table))
        return RegionBatch(
            table[:, :5], table[:, :4], table[:, 5].long(), zero, zero, table[:, 6].long(), zero.long(), []
        )


def frames_in(folder: Path, count: int, level: int, name: str, per_image: int = 3) -> list[Frame]:
    """Images of one brightness, each with cars, a bus in every second one, and a class nobody asked for."""
    made = []
    for number in range(count):
        path = folder / f"{name}{number}.png"
        write_image(path, np.full((64, 128, 3), level + number, np.uint8))
        boxes = [Box(4 + 8 * k, 8, 24 + 8 * k, 40, "car") for k in range(per_image)]
        boxes += [Box(60, 10, 110, 50, "bus")] * (number % 2) + [Box(1, 1, 30, 30, "kiosk")]
        made.append(Frame(path.name, boxes, 128, 64, path=path))
    return made


def test_regions_are_those_of_the_wanted_objects_in_the_networks_input(tmp_path: Path) -> None:
    frames = frames_in(tmp_path, 2, 40, "a", per_image=1)
    frames.append(Frame("empty.png", [], path=tmp_path / "not there.png"))
    frames[0].boxes.append(Box(10, 10, 20, 20, "car", crowd=True))
    frames[0].boxes.append(Box(10, 10, 10.5, 20, "car"))
    detector = Boxes().train()
    features, labels = region_points(detector, frames, ("bus", "car"))
    assert features.dtype == np.float32
    assert labels.tolist() == [0, 1, 1]
    assert features[0].tolist() == [30, 5, 55, 25, 41]
    assert sorted(features[1:, 4].tolist()) == [40, 41]
    assert features[1, :4].tolist() == [2, 4, 12, 20]
    assert detector.training
    assert detector.modes == [False]
    # A class the detector does not know has no region, and no frame of it alone is read.
    assert len(region_points(detector, frames, ("kiosk",))[1]) == 0


def test_the_choice_is_balanced_and_always_the_same(tmp_path: Path) -> None:
    frames = frames_in(tmp_path, 20, 40, "a")
    (tmp_path / "a3.png").write_bytes(b"no picture")
    features, labels = region_points(Boxes(), frames, CLASSES, most=16)
    assert np.bincount(labels).tolist() == [8, 8]
    again, same = region_points(Boxes(), frames, CLASSES, most=16)
    assert np.array_equal(features, again)
    assert np.array_equal(labels, same)
    other, _ = region_points(Boxes(), frames, CLASSES, most=16, seed=1)
    assert not np.array_equal(features, other)
    # The rare class gives all it has, the others share what it leaves.
    _, labels = region_points(Boxes(), frames, CLASSES, most=40)
    assert np.bincount(labels).tolist() == [31, 9]
    assert len({tuple(row) for row in features}) == 16


def test_an_equal_share_of_each_class() -> None:
    labels = torch.tensor([0] * 50 + [1] * 4 + [2] * 20)
    keys = torch.rand(74, generator=torch.Generator().manual_seed(0))
    chosen = balanced(labels, keys, 25)
    assert torch.bincount(labels[chosen]).tolist() == [11, 4, 10]
    assert len(set(chosen.tolist())) == 25
    lowest = keys[:50].sort().values[:11]
    assert torch.equal(keys[chosen[:11]], lowest)


def made(shift: float, classes: int = 3, count: int = 60, width: int = 12, seed: int = 0, groups: int = 20) -> Regions:
    """Regions around a centre for each class, moved by ``shift`` in half of the features."""
    rng = np.random.default_rng([seed, 1])
    centres = np.random.default_rng(9).normal(0, 3, (classes, width))
    labels = np.repeat(np.arange(classes), count)
    features = centres[labels] + rng.normal(0, 1, (len(labels), width))
    features[:, : width // 2] += shift
    return Regions(features.astype(np.float32), labels, np.array([f"{seed}-{i % groups}" for i in range(len(labels))]))


def test_domains_apart_and_domains_mixed() -> None:
    assert domain_separation(made(0), made(5, seed=1)) == pytest.approx(1.0, abs=0.01)
    assert domain_separation(made(0), made(0, seed=1)) == pytest.approx(0.5, abs=0.1)
    assert domain_separation(made(0), made(0, seed=1)) == domain_separation(made(0), made(0, seed=1))


def test_another_mixture_of_classes_is_no_domain() -> None:
    day, night = made(0, count=100), made(0, count=100, seed=1)
    keep = (night.labels > 0) | (np.arange(300) < 10)
    night = Regions(*(part[keep] for part in night))
    day = Regions(*(part[(day.labels < 2) | (np.arange(300) % 10 == 0)] for part in day))
    assert domain_separation(day, night) == pytest.approx(0.5, abs=0.12)


def test_what_one_drive_shares_is_no_domain() -> None:
    """Every drive has a look of its own: it must not be known again from the other folds."""
    looks = np.random.default_rng(3).normal(0, 20, (2, 40, 60))

    def domain(side: int) -> Regions:
        drives = np.repeat(np.arange(40), 6)
        rng = np.random.default_rng([side, 5])
        features = looks[side, drives] + rng.normal(0, 0.1, (240, 60))
        return Regions(features.astype(np.float32), drives % 1, np.array([f"{side}/{d}" for d in drives]))

    assert domain_separation(domain(0), domain(1)) == pytest.approx(0.5, abs=0.2)


def test_too_little_to_tell_is_none() -> None:
    assert domain_separation(made(0, groups=1), made(0, seed=1)) is None
    assert domain_separation(made(0, count=3), made(0, seed=1)) is None
    assert class_separation(made(0, classes=1), made(0, classes=1)) == (None, None)


def test_classes_learned_by_day_and_named_at_night() -> None:
    recall, chance = class_separation(made(0), made(0, seed=1))
    assert recall is not None
    assert recall > 0.97
    assert chance == pytest.approx(1 / 3)
    night = made(0, seed=1)
    mixed = night._replace(features=np.random.default_rng(0).permutation(night.features))
    recall, _ = class_separation(made(0), mixed)
    assert recall == pytest.approx(1 / 3, abs=0.12)
    # Recall is a mean over classes: one class lost weighs a third, however few regions it has.
    few = np.concatenate([np.arange(0, 120), np.arange(120, 126)])
    night = Regions(*(part[few] for part in night))
    night.features[120:] = night.features[:6]
    recall, _ = class_separation(made(0), night)
    assert recall == pytest.approx(2 / 3, abs=0.03)


def test_the_plane_shows_what_varies_most() -> None:
    rng = np.random.default_rng(0)
    hidden = rng.normal(0, 1, 200)
    features = np.stack([hidden, hidden * 1000, -hidden, rng.normal(0, 1, 200), np.full(200, 7.0)], axis=1)
    features += rng.normal(0, 0.01, features.shape) * [1, 1000, 1, 1, 0]
    points, share = plane(features)
    assert share[0] == pytest.approx(0.75, abs=0.01)
    assert share.sum() == pytest.approx(1, abs=0.01)
    assert abs(np.corrcoef(points[:, 0], hidden)[0, 1]) > 0.999
    turned, _ = plane(features * [1, 2, 1, 1, 1])
    assert np.allclose(points, turned)
    assert plane(np.ones((3, 4)))[0].tolist() == [[0, 0]] * 3


def test_before_and_after_are_written(tmp_path: Path) -> None:
    settings = build(DetectorSettings, TINY)
    for number in (0, 1):
        detector = build_detector(settings.model_copy(update={"seed": number}), CLASSES, pretrained=False)
        run = tmp_path / f"run{number}"
        run.mkdir()
        write_detector(run / "last.safetensors", detector, settings, 1, __version__)
    day, night = frames_in(tmp_path, 6, 120, "day"), frames_in(tmp_path, 6, 10, "night")
    args = (tmp_path / "run0", tmp_path / "run1" / "last.safetensors", day, night, CLASSES, True)
    write_embedding(tmp_path / "embedding.json", *args)
    content = json.loads((tmp_path / "embedding.json").read_text())
    assert content["classes"] == list(CLASSES)
    for side in ("before", "after"):
        found = content[side]
        points = found["points"]
        assert {point[2] for point in points} == {0, 1}
        assert {point[3] for point in points} == {0, 1}
        assert all(point[0] == round(point[0], 3) for point in points)
        middle = [np.mean([p[:2] for p in points if p[3] == domain], axis=0) for domain in (0, 1)]
        assert (middle[1] >= middle[0] - 1e-3).all()
        assert 0 <= found["domain_separation"] <= 1
        assert 0 <= found["class_separation"] <= 1
        assert found["chance"] == 0.5
        assert 0 < sum(found["variance"]) <= 1.001
    assert content["before"]["points"] != content["after"]["points"]
    # The same objects in both.
    assert [p[2:] for p in content["before"]["points"]] == [p[2:] for p in content["after"]["points"]]
    first = (tmp_path / "embedding.json").read_bytes()
    write_embedding(tmp_path / "embedding.json", *args)
    assert (tmp_path / "embedding.json").read_bytes() == first
    with pytest.raises(DatasetError, match="night images show no object of the classes car, bus, person"):
        write_embedding(tmp_path / "x.json", args[0], args[1], day, [], CLASSES, True)
    with pytest.raises(CheckpointError):
        write_embedding(tmp_path / "x.json", tmp_path / "nowhere", args[1], day, night, CLASSES, True)
    assert not (tmp_path / "x.json").exists()


def test_drives_are_kept_whole_where_they_are_known(tmp_path: Path) -> None:
    frames = frames_in(tmp_path, 4, 40, "a", per_image=1)
    frames[0].video = frames[1].video = "drive"
    assert set(labelled_regions(Boxes(), frames, CLASSES).groups) == {"drive", "a2.png", "a3.png"}
