"""The tiny stand-in: it trains, goes on where it was killed, and its accuracy is told by size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import picture

from nightaug.boxes import iou
from nightaug.clip import tiny
from nightaug.clip.accuracy import accuracy_table, crop_accuracy
from nightaug.clip.encoder import Clip, load_clip
from nightaug.clip.prompts import BACKGROUND, Prompts
from nightaug.clip.region_cache import RegionCache
from nightaug.clip.tiny import TinySettings, soft_contrastive, train_tiny
from nightaug.clip.tiny_data import Caption, captions, cut_crops, positives, with_background
from nightaug.data.frames import Box, Frame
from nightaug.errors import ConfigError, DatasetError, NightaugError
from nightaug.images import write_image
from nightaug.runs import RunFolder

from .conftest import TINY

CLASSES = ("car", "pedestrian", "traffic light")


@pytest.fixture
def street(tmp_path: Path) -> list[Frame]:
    """Red blocks are cars, blue ones pedestrians, by day and by night."""
    rng = np.random.default_rng(0)
    frames = []
    for i in range(12):
        image = picture(i, level=0.2 if i % 2 else 0.6)
        boxes = []
        for k, (name, color) in enumerate((("car", (220, 20, 20)), ("pedestrian", (20, 20, 220)))):
            x, y = int(rng.integers(2, 20)) + 45 * k, int(rng.integers(2, 30))
            w, h = (24, 14) if name == "car" else (8, 26)
            image[y : y + h, x : x + w] = color
            boxes.append(Box(x, y, x + w, y + h, name))
        path = tmp_path / "street" / f"{i}.png"
        write_image(path, image)
        frames.append(Frame(path.name, boxes, 96, 64, "night" if i % 2 else "daytime", path=path))
    return frames


def test_a_loss_that_becomes_nan_stops_before_anything_is_saved(street: list[Frame], tmp_path: Path) -> None:
    settings = TinySettings(**{**TINY.model_dump(), "steps": 8, "learning_rate": 1e30, "mixed_precision": "fp32"})
    with pytest.raises(NightaugError, match=r"^(loss|weights of the tiny CLIP) became non-finite .* learning_rate"):
        train_tiny(street, ("car", "pedestrian"), tmp_path / "run", settings)
    assert RunFolder(tmp_path / "run").latest_state() is None
    assert not list((tmp_path / "run").glob("open_clip*"))


def test_it_learns_and_a_resumed_run_ends_the_same(
    street: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TinySettings(
        **{**TINY.model_dump(), "steps": 30, "batch": 12, "save_every": 10, "log_every": 10, "mixed_precision": "fp32"}
    )
    classes = ("car", "pedestrian")
    whole = train_tiny(street[:8], classes, tmp_path / "whole", settings)
    assert whole.finished
    assert whole.crops == {"car": 8, "pedestrian": 8}
    losses = [row["loss"] for row in RunFolder(tmp_path / "whole").read_metrics()]
    assert losses[-1] < losses[0]

    step = tiny._Trainer.step

    def dying(self: tiny._Trainer, number: int) -> float:
        if number == 23:
            raise KeyError("killed")
        return step(self, number)

    monkeypatch.setattr(tiny._Trainer, "step", dying)
    with pytest.raises(KeyError):
        train_tiny(street[:8], classes, tmp_path / "torn", settings)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="--resume"):
        train_tiny(street[:8], classes, tmp_path / "torn", settings)
    train_tiny(street[:8], classes, tmp_path / "torn", settings, resume=True)
    name = tiny.WEIGHTS_NAME
    assert (tmp_path / "torn" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert (tmp_path / "torn" / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()

    clip = load_clip(str(tmp_path / "whole"), precision="fp32")
    cache = RegionCache.open(tmp_path / "cache", clip)
    cache.fill(street[8:], clip, say=lambda text: None)
    report = crop_accuracy(cache, street[8:], Prompts(clip), classes, edges=(0, 16, 64))
    assert report["crops"] == 8
    assert report["all"]["accuracy"] > 0.9
    assert report["all"]["majority"] == 0.5
    assert [row["crops"] for row in report["by_size"]] == [4, 4]
    assert set(report["by_time"]) == {"daytime", "night"}
    assert "| all | 8 |" in accuracy_table(report)


def test_background_lies_beside_the_objects(street: list[Frame], tmp_path: Path) -> None:
    more = with_background(street, 3, seed=1)
    for before, after in zip(street, more, strict=True):
        assert after.boxes[: len(before.boxes)] == before.boxes
        added = after.boxes[len(before.boxes) :]
        assert 0 < len(added) <= 3
        assert {box.category for box in added} == {BACKGROUND}
        places = np.array([box.xyxy for box in added])
        assert iou(places, np.array([box.xyxy for box in before.boxes])).max() < 0.3
        assert (places >= 0).all()
        assert (places[:, 2:] <= [96, 64]).all()
    assert with_background(street, 3, seed=1) == more, "drawn by seed"
    assert with_background(street, 3, seed=2) != more
    unknown = Frame("a", [Box(0, 0, 9, 9, "car")])
    assert with_background([unknown], 3, 0) == [unknown], "its size is not known"

    settings = TinySettings(**{**TINY.model_dump(), "steps": 2, "background": 2})
    crops = train_tiny(street, ("car", "pedestrian"), tmp_path / "run", settings).crops
    assert crops["car"] == 12
    assert 12 <= crops[BACKGROUND] <= 24


def test_captions_are_true_and_true_pairs_are_targets(frames: list[Frame]) -> None:
    crops = cut_crops(frames, CLASSES, TINY, torch.device("cpu"))
    assert len(crops.label) == 15
    index = np.arange(15)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        said = captions(crops, index, CLASSES, rng)
        right = positives(crops, index, said)
        assert bool(right.diagonal().all())
        for i, caption in enumerate(said):
            words = caption.text
            assert ("red" in words.split()) == (caption.color == 1)
            assert not ("night" in words and crops.time[i] != 2)
            assert not ("day" in words and crops.time[i] != 1)
            seen.add((caption.label, caption.time, caption.color))
    assert len(seen) > 6
    claim = [Caption("a red traffic light at night", 2, 2, 1)] * 15
    true = (crops.label == 2) & (crops.time == 2) & (crops.color == 1)
    assert torch.equal(positives(crops, index, claim)[:, 0], true)


def test_the_loss_against_clips_and_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(6, 8, generator=generator) for _ in range(2))
    scale = torch.tensor(5.0)
    logits = scale * torch.nn.functional.normalize(image) @ torch.nn.functional.normalize(text).T
    plain = (
        torch.nn.functional.cross_entropy(logits, torch.arange(6))
        + torch.nn.functional.cross_entropy(logits.T, torch.arange(6))
    ) / 2
    torch.testing.assert_close(soft_contrastive(image, text, scale, torch.eye(6, dtype=torch.bool)), plain)
    target = torch.eye(6, dtype=torch.bool)
    target[0, 3] = target[2, 1] = target[2, 5] = True
    total = 0.0
    for side in (logits, logits.T):
        hit = target if side is logits else target.T
        for i in range(6):
            chance = torch.softmax(side[i], 0).log()
            total -= float(chance[hit[i]].mean()) / 12
    assert float(soft_contrastive(image, text, scale, target)) == pytest.approx(total, rel=1e-5)


def test_nothing_to_train_on(tmp_path: Path, frames: list[Frame]) -> None:
    with pytest.raises(DatasetError, match="train split"):
        train_tiny(frames[:1], CLASSES, tmp_path / "run", TINY)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_in_memory_and_on_disk_are_one_model(clip: Clip) -> None:
    model = tiny.as_clip(tiny.build_tiny(TINY), TINY)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model.embed_images(images), clip.embed_images(images))
