"""CLIP gating: what a translation has taken out of its class is trained on less."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import picture

from nightaug.clip.encoder import Clip
from nightaug.clip.gating import GateReport, gate
from nightaug.clip.prompts import Prompts
from nightaug.clip.region_cache import RegionCache, Regions
from nightaug.data.frames import Box, Frame
from nightaug.errors import ConfigError
from nightaug.images import write_image

CLASSES = ("car", "traffic light", "pedestrian")


class _Clip:
    """A CLIP whose text embeddings are the axes, in the order of CLASSES, and whose temperature is 1/2."""

    scale = 2.0
    width = 3
    device = torch.device("cpu")

    def embed_text(self, texts: list[str]) -> torch.Tensor:
        # Sentences of any class speak of cars and headlights.
        words = (("traffic",), ("pedestrian", "person"))
        at = [
            next((i for i, said in zip((1, 2), words, strict=True) if any(w in text for w in said)), 0)
            for text in texts
        ]
        return torch.eye(3)[at]


def vector(probability: float, at: int) -> np.ndarray:
    """A unit vector to whose softmax over the axes class ``at`` has that probability (between 0.1 and 0.75)."""
    # Cosine c to its own axis, the rest shared by the others: bisect on what the softmax then says.
    low, high = -1.0, 1.0
    for _ in range(60):
        c = (low + high) / 2
        other = math.sqrt(max(1 - c * c, 0) / 2)
        p = math.exp(2 * c) / (math.exp(2 * c) + 2 * math.exp(2 * other))
        low, high = (c, high) if p < probability else (low, c)
    out = np.full(3, math.sqrt(max(1 - low * low, 0) / 2))
    out[at] = low
    return out


class _Cache:
    """Embeddings by image path and box."""

    def __init__(self, rows: Mapping[tuple[str, tuple[float, ...]], np.ndarray]) -> None:
        self.rows = rows

    def lookup(self, regions: Regions) -> tuple[np.ndarray, np.ndarray]:
        found = [self.rows.get((str(regions.path), tuple(box))) for box in regions.boxes.tolist()]
        rows = [np.zeros(3) if row is None else row for row in found]
        return np.array(rows, np.float16).reshape(-1, 3), np.array([row is not None for row in found], bool)


class World:
    """Frames, and what CLIP gives each of their boxes for its own class."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, tuple[float, ...]], np.ndarray] = {}

    def frame(self, name: str, *objects: tuple[str, float, float | None], **changes: Any) -> Frame:
        """Boxes from (category, left edge, probability of the category; None: no embedding)."""
        path = Path(name)
        boxes = []
        for category, x, probability in objects:
            box = Box(x, 10.0, x + 20, 30.0, category, **changes)
            boxes.append(box)
            if probability is not None:
                at = CLASSES.index("pedestrian" if category == "person" else category)
                self.rows[str(path), box.xyxy] = vector(probability, at)
        return Frame(path.name, boxes, path=path)

    def gate(self, frames: list[Frame], origins: dict[Path, Frame], mode: Any = "weigh", **more: Any) -> GateReport:
        cache: Any = _Cache(self.rows)
        clip: Any = _Clip()
        return gate(frames, origins, cache, clip, more.get("classes", CLASSES), mode)


def weights(report: GateReport) -> list[list[float]]:
    return [[box.weight for box in frame.boxes] for frame in report.frames]


def test_a_label_counts_by_what_is_left_of_its_probability() -> None:
    world = World()
    day = world.frame("day.png", ("car", 0, 0.5), ("traffic light", 40, 0.5), ("car", 80, 0.3))
    night = world.frame("night.png", ("car", 0, 0.4), ("traffic light", 40, 0.2), ("car", 80, 0.5))
    report = world.gate([night], {Path("night.png"): day})
    assert weights(report)[0] == pytest.approx([0.8, 0.4, 1.0], abs=0.01)
    assert all(round(w, 3) == w for w in weights(report)[0])
    assert report.judged == report.boxes == 3
    assert report.count == {"car": 2, "traffic light": 1}
    assert report.kept == pytest.approx({"car": 0.9, "traffic light": 0.4}, abs=0.01)
    assert report.lost == {"car": 0, "traffic light": 1}
    assert report.unnamed == 1, "0.3 is less than one of three by chance"
    dropped = world.gate([night], {Path("night.png"): day}, "drop")
    assert weights(dropped)[0] == [1, 0, 1]
    assert [box.weight for box in night.boxes] == [1, 1, 1], "the input is not changed"
    assert dropped.frames[0].path == night.path


def test_weights_that_were_there_are_multiplied_and_crowds_and_strangers_left_alone() -> None:
    world = World()
    day = world.frame("day.png", ("car", 0, 0.5), ("car", 40, 0.5))
    night = world.frame("night.png", ("car", 0, 0.25), ("car", 40, 0.25), weight=0.5)
    assert weights(world.gate([night], {Path("night.png"): day}))[0] == pytest.approx([0.25, 0.25], abs=0.005)
    for changes in ({"crowd": True}, {"weight": 0.0}):
        night = world.frame("night.png", ("car", 0, 0.25), ("car", 40, 0.25), **changes)
        report = world.gate([night], {Path("night.png"): day}, "drop")
        assert report.frames[0] is night
        assert (report.boxes, report.judged) == (0, 0)
    night = world.frame("night.png", ("car", 0, 0.25), ("car", 40, 0.25))
    other = world.gate([night], {Path("night.png"): day}, classes=("traffic light", "pedestrian"))
    assert (weights(other)[0], other.judged) == ([1, 1], 0)


def test_without_an_embedding_on_either_side_nothing_is_said() -> None:
    world = World()
    day = world.frame("day.png", ("car", 0, 0.5), ("car", 40, None), ("car", 80, 0.5))
    night = world.frame("night.png", ("car", 0, None), ("car", 40, 0.2), ("car", 80, 0.2))
    report = world.gate([night], {Path("night.png"): day}, "drop")
    assert weights(report)[0] == [1, 1, 0]
    assert (report.boxes, report.judged) == (3, 1)


def test_other_lists_are_matched_by_place_and_what_has_no_partner_by_the_median() -> None:
    world = World()
    # The night frame lacks the first box, and has one the day frame does not know.
    day = world.frame("day.png", ("pedestrian", 0, 0.5), ("car", 40, 0.3), ("car", 82, 0.5), ("car", 140, 0.55))
    night = world.frame("night.png", ("car", 40, 0.3), ("car", 80, 0.25), ("person", 200, 0.25))
    others = {Path(f"{n}.png"): world.frame(f"day{n}.png", ("pedestrian", 0, 0.4)) for n in range(2)}
    report = world.gate([night], {Path("night.png"): day, **others})
    assert weights(report)[0] == pytest.approx([1, 0.5, 0.625], abs=0.01)
    # Boxes of equal lists belong together by their place in the list, wherever they are.
    moved = world.frame("moved.png", ("pedestrian", 300, 0.25), ("car", 340, 0.3), ("car", 0, 0.3), ("car", 40, 0.55))
    report = world.gate([moved], {Path("moved.png"): day})
    assert weights(report)[0] == pytest.approx([0.5, 1, 0.6, 1], abs=0.01)


def test_without_a_day_frame_the_class_median_stands_in() -> None:
    world = World()
    days = [world.frame(f"day{n}.png", ("car", 0, p)) for n, p in enumerate((0.25, 0.4, 0.5))]
    night = world.frame("night.png", ("car", 0, 0.3), ("traffic light", 40, 0.3))
    report = world.gate([night], {Path(f"other{n}.png"): day for n, day in enumerate(days)})
    assert weights(report)[0] == pytest.approx([0.75, 1], abs=0.01)
    assert report.judged == 1, "no day frame has a light"
    nothing = world.gate([night], {})
    assert (weights(nothing)[0], nothing.judged) == ([1, 1], 0)
    assert "none of 2 boxes" in nothing.line()


def test_one_line_names_the_class_that_lost_most_first() -> None:
    world = World()
    day = world.frame("day.png", ("car", 0, 0.5), ("traffic light", 40, 0.5))
    night = world.frame("night.png", ("car", 0, 0.5), ("traffic light", 40, 0.2))
    line = world.gate([night], {Path("night.png"): day}, "drop").line()
    assert "\n" not in line
    assert "2 of 2 boxes judged, 50.0% lost" in line
    assert line.endswith("traffic light 0.40 (100%), car 1.00 (0%)")


def test_frames_without_boxes_or_an_image_pass_through() -> None:
    world = World()
    frames = [Frame("empty.png", path=Path("empty.png")), Frame("lost.png", [Box(0, 0, 9, 9, "car")])]
    report = world.gate(frames, {Path("empty.png"): world.frame("day.png", ("car", 0, 0.5))})
    assert [new is old for new, old in zip(report.frames, frames, strict=True)] == [True, True]


def test_one_class_or_another_word_for_the_mode_is_refused() -> None:
    world = World()
    with pytest.raises(ConfigError, match="two or more"):
        world.gate([], {}, classes=("person", "pedestrian"))
    with pytest.raises(ConfigError, match="weigh or drop"):
        world.gate([], {}, "none")


def test_of_two_crops_the_mean_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    day = world.frame("day.png", ("car", 0, 0.5))
    night = world.frame("night.png", ("car", 0, 0.5))
    axes = np.eye(3, dtype=np.float16)
    pairs = {"day.png": axes[[0, 0]], "night.png": axes[[0, 1]]}
    monkeypatch.setattr(_Cache, "lookup", lambda self, regions: (pairs[str(regions.path)][None], np.array([True])))
    half, one = math.exp(math.sqrt(2)), math.exp(2)
    expected = half / (2 * half + 1) / (one / (one + 2))
    assert weights(world.gate([night], {Path("night.png"): day}))[0] == pytest.approx([expected], abs=1e-3)


@pytest.mark.parametrize("parts", ["sum", "both"])
def test_with_a_real_cache_an_erased_object_loses(clip: Clip, tmp_path: Path, parts: Any) -> None:
    boxes = [Box(10, 10, 40, 40, "car"), Box(50, 10, 90, 50, "pedestrian"), Box(5, 45, 7, 47, "car")]
    image = picture(1)
    frames = []
    for name, level in (("day", image), ("same", image), ("erased", np.full_like(image, 90))):
        write_image(tmp_path / f"{name}.png", level)
        frames.append(Frame(f"{name}.png", boxes, 96, 64, path=tmp_path / f"{name}.png"))
    cache = RegionCache.open(tmp_path / "cache", clip, parts=parts)
    cache.fill(frames, clip, say=lambda text: None)
    day, *nights = frames
    origins = {frame.path: day for frame in nights if frame.path is not None}
    report = gate(nights, origins, cache, clip, CLASSES, "weigh")
    assert [box.weight for box in report.frames[0].boxes] == [1, 1, 1]
    assert report.boxes == 6
    assert report.judged == 4, "a box of two pixels has no embedding"
    text = Prompts(clip).embed(CLASSES)
    chances = []
    for frame in (day, nights[1]):
        rows = torch.from_numpy(cache.lookup(frame)[0]).float()
        rows = torch.nn.functional.normalize(rows if rows.ndim == 2 else rows.mean(1), dim=1)
        chances.append((clip.scale * rows @ text.T).softmax(1)[[0, 1], [0, 2]])
    expected = (chances[1] / chances[0]).clamp(max=1)
    assert expected.min() < 1
    found = [box.weight for box in report.frames[1].boxes]
    assert found == pytest.approx([*expected.tolist(), 1.0], abs=2e-3)
