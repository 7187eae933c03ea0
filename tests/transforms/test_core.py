from __future__ import annotations

import copy
import json
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import picture
from torch.utils.data import DataLoader, Dataset

from nightaug.cyclegan.networks import ResnetGenerator
from nightaug.cyclegan.translator import CycleGANTranslator
from nightaug.errors import CheckpointError, ConfigError
from nightaug.relight import relight
from nightaug.relight.tone import to_linear
from nightaug.transforms import DayToNight, Draw
from nightaug.transforms.blend import blend
from nightaug.translate.translators import Translator

BOXES = np.array([[10.0, 20, 60, 50], [65, 5, 75, 25]])
NAMES = ["car", "traffic light"]
SIDE = {"width": 80, "height": 56}


def dimmed(concurrent: bool = True) -> Translator:
    """Stands for a trained one: a quarter of the grey levels."""
    return Translator("dim", "day2night", None, concurrent, Dim())


class Dim:
    device = "cpu"

    def __call__(self, image: np.ndarray, boxes: Any, seed: int) -> np.ndarray:
        return image // 4


def test_night_keeps_size_and_boxes_and_lights_lamps_where_the_names_say() -> None:
    image, boxes = picture(0, **SIDE), BOXES.copy()
    held = image.copy()
    night = DayToNight(p=1.0, strength=1.0, classes={7: "Trafficlight", 3: "car"})
    out = night(image, boxes, [3, 7], key=5)
    assert out.shape == image.shape
    assert out.dtype == np.uint8
    assert out.mean() < 0.6 * image.mean()
    assert np.array_equal(image, held)
    assert np.array_equal(boxes, BOXES)
    assert np.array_equal(out, night_of(image, 5, ["car", "traffic light"]))  # numbers and names are the same labels
    dark = night_of(image, 5, ["thing", "thing"])
    light = (slice(5, 25), slice(65, 75))
    assert out[light].max() > dark[light].max() + 60, "the signal is lit, an unknown thing is not"
    nameless = DayToNight(p=1.0, strength=1.0, classes=["thing"])
    assert np.array_equal(nameless(image, boxes, [3, 7], key=5), dark)
    assert DayToNight(p=1.0)(image).mean() < image.mean(), "boxes are not needed"
    assert DayToNight(p=1.0)(image, np.zeros((0, 4)), np.zeros(0, int)).mean() < image.mean()


def night_of(image: np.ndarray, key: int, labels: list[str]) -> np.ndarray:
    return DayToNight(p=1.0, strength=1.0)(image, BOXES, labels, key=key)


def test_it_is_relight_with_the_draw() -> None:
    image = picture(1, **SIDE)
    night = DayToNight(p=1.0, strength=(0.6, 0.8))
    drawn = night.draw(image, key="a.jpg")
    assert 0.6 <= drawn.strength <= 0.8
    made = relight(image, night.named_boxes(BOXES, NAMES), seed=drawn.seed, strength=drawn.strength)
    assert np.array_equal(night.apply(image, drawn, BOXES, NAMES), made)


def test_relight_keeps_its_constants(tmp_path: Path) -> None:
    constants = {"median_luma": [80.0, 90.0]}
    file = tmp_path / "fitted.yaml"
    file.write_text(json.dumps({"relight": constants}))
    image, boxes, labels = picture(1), np.array([[4, 5, 40, 50]]), ["car"]
    made = [
        DayToNight(translator, p=1.0, seed=3)(image, boxes, labels)
        for translator in ("relight", file, Translator.load("relight", constants=constants), Translator.load(file))
    ]
    assert made[1].mean() > 1.3 * made[0].mean()
    assert np.array_equal(made[1], made[2])
    assert np.array_equal(made[1], made[3])
    assert np.array_equal(DayToNight(Translator.load("relight"), p=1.0, seed=3)(image, boxes, labels), made[0])


def test_share_and_strength() -> None:
    image = picture(0, 16, 16)
    assert DayToNight(p=0.0)(image) is image
    night = DayToNight(p=0.25, strength=(0.2, 0.9), seed=3)
    draws = [night.draw(image, key=i) for i in range(4000)]
    assert 0.22 < np.mean([d.night for d in draws]) < 0.28
    strengths = [d.strength for d in draws if d.night]
    assert 0.2 <= min(strengths) < 0.22
    assert 0.88 < max(strengths) <= 0.9
    assert len({d.seed for d in draws}) == len(draws)
    assert all(d.night for d in (DayToNight(p=1.0).draw(image) for _ in range(20)))


def test_draws_follow_seed_epoch_and_key_only() -> None:
    image = picture(0, 16, 16)
    night, other = DayToNight(seed=4), DayToNight(seed=5)
    keys = [f"{i}.jpg" for i in range(30)]
    free = [[night.draw(image, k) for k in keys] for _ in range(2)]
    assert free[0] != free[1], "without an epoch, a second pass must not repeat the first"
    again = DayToNight(seed=4)
    assert [again.draw(image, k) for k in keys] == free[0], "same seed and sequence"
    night.set_epoch(2)
    other.set_epoch(2)
    second = [night.draw(image, k) for k in keys]
    assert [night.draw(image, k) for k in reversed(keys)] == second[::-1], "order does not matter"
    assert [other.draw(image, k) for k in keys] != second
    night.set_epoch(3)
    assert [night.draw(image, k) for k in keys] != second
    content = [night.draw(picture(i, 16, 16)) for i in (0, 1, 0)]
    assert content[0] == content[2] != content[1]


def test_global_generators_stay_where_they_were() -> None:
    def states() -> list[Any]:
        return [random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()]

    before = states()
    DayToNight(p=1.0)(picture(0, 32, 32))
    assert states() == before


class Frames(Dataset[Any]):
    def __init__(self, night: DayToNight) -> None:
        self.night = night

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        image = picture(index, 24, 16)
        drawn = self.night.draw(image)
        out = self.night.apply(image, drawn)
        return index, int(out.astype(np.int64).sum()), drawn.seed


def epoch_of(loader: DataLoader[Any]) -> list[tuple[int, ...]]:
    rows = [tuple(int(v) for v in row) for batch in loader for row in zip(*batch, strict=True)]
    return sorted(rows)


def test_any_number_of_workers_gives_the_same_night_in_an_epoch() -> None:
    night = DayToNight(p=0.5, seed=1)
    night.set_epoch(0)
    seen = [
        epoch_of(DataLoader(Frames(night), batch_size=3, num_workers=n, shuffle=bool(n), persistent_workers=False))
        for n in (0, 1, 2)
    ]
    assert seen[0] == seen[1] == seen[2]
    kept = DataLoader(Frames(night), batch_size=3, num_workers=2, persistent_workers=True)
    assert epoch_of(kept) == seen[0]
    night.set_epoch(1)
    new = epoch_of(kept)
    assert new != seen[0], "workers that stay alive are told of the new epoch"
    assert new == epoch_of(DataLoader(Frames(night), batch_size=3))


def test_spawned_workers_see_the_epoch() -> None:
    night = DayToNight(p=0.5, seed=1)
    night.set_epoch(0)
    loader = DataLoader(
        Frames(night), batch_size=4, num_workers=1, persistent_workers=True, multiprocessing_context="spawn"
    )
    first = epoch_of(loader)
    night.set_epoch(1)
    second = epoch_of(loader)
    here = DataLoader(Frames(night), batch_size=4)
    assert second == epoch_of(here)
    night.set_epoch(0)
    assert first == epoch_of(here) != second


class Same(Frames):
    """Every sample the same image, so that only chance tells them apart."""

    def __getitem__(self, index: int) -> Any:
        return (self.night.draw(picture(0, 8, 8)).seed % 2**62,)


def test_without_an_epoch_no_worker_and_no_epoch_repeats_another() -> None:
    night = DayToNight(p=0.5)
    torch.manual_seed(3)
    fresh = DataLoader(Same(night), batch_size=2, num_workers=2)
    first, second = epoch_of(fresh), epoch_of(fresh)
    kept = DataLoader(Same(night), batch_size=2, num_workers=2, persistent_workers=True)
    passes = [*first, *second, *epoch_of(kept), *epoch_of(kept)]
    assert len(set(passes)) == len(passes) == 48
    torch.manual_seed(3)
    assert epoch_of(fresh) == first, "torch's seed repeats the run"


def test_copies() -> None:
    image = picture(0, 16, 16)
    night = DayToNight(p=0.5, seed=9, classes=["car"])
    night.set_epoch(4)
    for twin in (pickle.loads(pickle.dumps(night)), copy.deepcopy(night)):
        assert twin.draw(image) == night.draw(image)
        assert twin.classes == night.classes
        twin.set_epoch(5)
        assert night.draw(image) != twin.draw(image), "a copy goes its own way"


def test_blend_against_the_formula() -> None:
    rng = np.random.default_rng(0)
    day, night = rng.integers(0, 256, (2, 6, 5, 3), dtype=np.uint8)
    assert np.array_equal(blend(day, night, 1.0), night)
    assert np.array_equal(blend(day, night, 0.0), day)
    floor = to_linear(1)
    half = blend(day, night, 0.5)
    for d, n, got in zip(day.ravel(), night.ravel(), half.ravel(), strict=True):
        light = ((to_linear(d) + floor) * (to_linear(n) + floor)) ** 0.5 - floor
        assert abs(to_linear(int(got)) - light) <= min(abs(to_linear(int(got) + s) - light) for s in (-1, 1)) + 1e-12


def test_a_trained_translator_is_blended_and_asked_for_no_names() -> None:
    image = picture(0, **SIDE)
    full = DayToNight(dimmed(), p=1.0)(image, BOXES, [0, 1])
    assert np.array_equal(full, image // 4)
    part = DayToNight(dimmed(concurrent=False), p=1.0, strength=0.5)(image)
    assert np.array_equal(part, blend(image, image // 4, 0.5))
    assert (full < part).mean() > 0.9
    assert (part < image).mean() > 0.9


@pytest.fixture
def generator(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "generator.pth"
    torch.save(ResnetGenerator(blocks=1, width=4).state_dict(), path)
    return path


class Made(Frames):
    def __getitem__(self, index: int) -> Any:
        return index, int(self.night(picture(index, 24, 16), key=index).astype(np.int64).sum())


def test_a_trained_run_is_loaded_where_it_is_used(generator: Path) -> None:
    night = DayToNight(generator, p=1.0, device="cpu", precision="fp32")
    assert night._loaded is None
    loader = DataLoader(Made(night), batch_size=6, num_workers=1)
    there, here = epoch_of(loader), epoch_of(DataLoader(Made(night), batch_size=6))
    assert there == here
    assert pickle.loads(pickle.dumps(night))._loaded is None, "weights do not travel"
    whole = CycleGANTranslator.load(generator, device="cpu", precision="fp32")
    assert np.array_equal(night(picture(0)), whole(picture(0)))


def test_cuda_is_not_started_in_a_forked_worker(generator: Path) -> None:
    loader = DataLoader(Made(DayToNight(generator, p=1.0, device="cuda")), num_workers=1)
    with pytest.raises(ConfigError, match=r"forked worker: use device='cpu', num_workers=0"):
        next(iter(loader))
    held = dimmed()
    held.function.device = "cuda:0"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="is on a GPU, which a forked worker cannot use"):
        next(iter(DataLoader(Made(DayToNight(held, p=1.0)), num_workers=1)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": 1.5}, r"expected p in \[0, 1\], got 1.5"),
        ({"p": float("nan")}, "expected p"),
        ({"strength": 1.1}, "expected strength"),
        ({"strength": (0.9, 0.1)}, "expected strength"),
        ({"strength": "dark"}, "expected strength"),
        ({"classes": "car"}, "expected classes as a list"),
        ({"classes": [1, 2]}, "expected classes as a list"),
    ],
)
def test_wrong_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DayToNight(**arguments)


def test_a_missing_run_and_the_wrong_direction() -> None:
    with pytest.raises(CheckpointError, match="no such run"):
        DayToNight("no/such/run")
    with pytest.raises(ConfigError, match="night2day"):
        DayToNight(Translator("x", "night2day", None, True, Dim()))
    with pytest.raises(ConfigError, match="epoch"):
        DayToNight().set_epoch(-1)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8), np.uint8), "needs a uint8 RGB image"),
        (np.zeros((8, 8, 1), np.uint8), "colour image"),
        (np.zeros((8, 8, 4), np.uint8), "colour image"),
        (np.zeros((8, 8, 3), np.float32), "float32"),
        (np.zeros((0, 8, 3), np.uint8), "needs a uint8"),
        ("picture.jpg", "got str"),
    ],
)
def test_wrong_images(image: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DayToNight(p=0.0)(image)


def test_labels_that_cannot_be_used() -> None:
    image, night = picture(0, **SIDE), DayToNight(p=1.0)
    with pytest.raises(ConfigError, match="labels are numbers: give DayToNight their names"):
        night(image, BOXES, [0, 1])
    with pytest.raises(ConfigError, match="a label for each box, got 1 labels and 2 boxes"):
        night(image, BOXES, ["car"])
    with pytest.raises(ConfigError, match=r"boxes \(P, 4\)"):
        night(image, BOXES[:, :3], NAMES)
    assert night(image, [[np.nan, 0, 5, 5], [9, 9, 1, 1]], NAMES).shape == image.shape


def test_the_import_is_light() -> None:
    code = (
        "import sys, nightaug.transforms\n"
        "heavy = {'torch', 'torchvision', 'albumentations', 'ultralytics', 'cv2'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "sys.modules['albumentations'] = None\n"
        "try: nightaug.transforms.DayToNight().albumentations()\n"
        "except nightaug.errors.ConfigError as error: assert 'pip install' in str(error), error\n"
        "else: raise AssertionError('no error')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


def test_draw_is_a_plain_tuple() -> None:
    assert tuple(Draw(True, 0.5, 3)) == (True, 0.5, 3)
