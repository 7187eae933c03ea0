"""The sample world: deterministic, paired, exactly labelled, and night differs from day the way it should."""

from __future__ import annotations

import collections
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from nightaug.data import scenes
from nightaug.data.classes import BDD100K_CLASSES, DAY, NIGHT
from nightaug.data.frames import Box, Frame
from nightaug.data.scenes import assemble
from nightaug.data.scenes.canvas import SUPERSAMPLE
from nightaug.data.scenes.night import light_by_night
from nightaug.data.scenes.populate import make_scene

Image = NDArray[np.uint8]
SMALL = (256, 144)


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Image, Frame, Image, Frame]]:
    """Twenty scenes of twenty drives by day and by night."""
    out = []
    for seed in range(0, 80, 4):
        out.append((*scenes.render(seed, *SMALL, DAY), *scenes.render(seed, *SMALL, NIGHT)))
    return out


@pytest.fixture(scope="module")
def many() -> list[Frame]:
    """The labels of 160 scenes, without lighting them."""
    frames = []
    for seed in range(1000, 1160):
        scene = make_scene(seed, 2.0)
        frames.append(assemble.read_frame(assemble.paint(scene, *SMALL, night=False), scene, DAY))
    return frames


def luma(image: Image) -> NDArray[np.float64]:
    return np.asarray(image @ np.array([0.299, 0.587, 0.114]))


def key(box: Box) -> tuple[object, ...]:
    return (box.category, box.xyxy, box.light_color, box.occluded, box.truncated)


@pytest.mark.parametrize("timeofday", [DAY, NIGHT])
def test_same_seed_same_bytes(timeofday: str) -> None:
    first, frame = scenes.render(17, *SMALL, timeofday)
    again, frame_again = scenes.render(17, *SMALL, timeofday)
    other, _ = scenes.render(18, *SMALL, timeofday)
    assert first.dtype == np.uint8
    assert first.shape == (SMALL[1], SMALL[0], 3)
    assert first.tobytes() == again.tobytes()
    assert frame == frame_again
    assert first.tobytes() != other.tobytes()


def test_frame_says_what_it_is() -> None:
    _, frame = scenes.render(40, *SMALL, NIGHT)
    assert (frame.width, frame.height, frame.timeofday) == (*SMALL, NIGHT)
    assert frame.weather in {"clear", "partly cloudy", "overcast", "rainy", "snowy", "foggy"}
    assert frame.scene in {"city street", "residential", "highway"}
    assert frame.video is not None
    assert frame.name.startswith(frame.video + "-")
    assert len(frame.name) == len("xxxxxxxx-yyyyyyyy.jpg")


def test_drive_keeps_its_street() -> None:
    frames = [scenes.render(seed, *SMALL)[1] for seed in range(8, 13)]
    assert len({(f.video, f.weather, f.scene) for f in frames[:4]}) == 1
    assert frames[4].video != frames[0].video
    assert len({f.name for f in frames}) == 5


def test_pairs_share_boxes(pairs: list[tuple[Image, Frame, Image, Frame]]) -> None:
    for _, day, _, night in pairs:
        assert [key(b) for b in day.boxes] == [key(b) for b in night.boxes]
        assert (day.name, day.video, day.weather) == (night.name, night.video, night.weather)


def test_night_paints_nothing_new() -> None:
    """Day and night differ in light only: every fine pixel belongs to the same thing."""
    for seed in range(700, 740, 3):
        scene = make_scene(seed, 4.0)
        day, night = (assemble.paint(scene, *SMALL, night=n) for n in (False, True))
        np.testing.assert_array_equal(day.ids, night.ids)
        np.testing.assert_array_equal(day.color, night.color)


def test_boxes_lie_inside_the_image(many: list[Frame]) -> None:
    boxes = [b for f in many for b in f.boxes]
    assert len(boxes) > 1500
    for b in boxes:
        assert 0 <= b.x1 < b.x2 <= SMALL[0]
        assert 0 <= b.y1 < b.y2 <= SMALL[1]
        assert b.category in BDD100K_CLASSES
        assert (b.light_color is None) or b.category == "traffic light"


@pytest.mark.parametrize("size", [(256, 144), (512, 288)])
def test_boxes_fit_the_painted_pixels(size: tuple[int, int]) -> None:
    """What is in view of an object lies in its box, and touches all four sides where nothing hides it."""
    touching = 0
    for seed in range(300, 312):
        scene = make_scene(seed, 2.0)
        canvas = assemble.paint(scene, *size, night=False)
        for box in assemble.read_frame(canvas, scene, DAY).boxes:
            assert box.id is not None
            rows, columns = np.nonzero(canvas.ids == int(box.id))
            extent = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / SUPERSAMPLE
            corners = np.array(box.xyxy)
            assert (extent[:2] >= corners[:2]).all()
            assert (extent[2:] <= corners[2:]).all()
            if len(rows) == canvas.marks[int(box.id)].pixels:
                assert box.occluded is False
                np.testing.assert_array_equal(extent, corners)
                touching += 1
    assert touching > 40


def test_hidden_objects_carry_no_label() -> None:
    for seed in range(400, 412):
        scene = make_scene(seed, 2.0)
        canvas = assemble.paint(scene, *SMALL, night=False)
        labelled = {int(b.id or -1) for b in assemble.read_frame(canvas, scene, DAY).boxes}
        for owner, mark in canvas.marks.items():
            seen = int((canvas.ids == owner).sum())
            if seen < assemble.MIN_VISIBLE * mark.pixels or seen == 0:
                assert owner not in labelled


def test_truncated_objects_touch_the_border(many: list[Frame]) -> None:
    cut = [b for f in many for b in f.boxes if b.truncated]
    assert cut
    for b in cut:
        # the painted edge may stop half a pixel short of a border the outline only just crosses
        assert b.x1 <= 1 or b.y1 <= 1 or b.x2 >= SMALL[0] - 1 or b.y2 >= SMALL[1] - 1


def test_all_classes_in_about_bdd100ks_order(many: list[Frame]) -> None:
    counts = collections.Counter(b.category for f in many for b in f.boxes)
    assert set(counts) == set(BDD100K_CLASSES)
    ranked = [name for name, _ in counts.most_common()]
    assert ranked[0] == "car"
    assert set(ranked[1:3]) == {"traffic sign", "traffic light"}
    assert counts["pedestrian"] > counts["bus"]
    assert counts["car"] > 5 * len(many)
    colors = collections.Counter(b.light_color for f in many for b in f.boxes if b.category == "traffic light")
    assert set(colors) == {"red", "yellow", "green", None}


def test_rare_factor() -> None:
    def share(rare: float) -> float:
        count: collections.Counter[str] = collections.Counter()
        for seed in range(2000, 2024):
            scene = make_scene(seed, rare)
            frame = assemble.read_frame(assemble.paint(scene, *SMALL, night=False), scene, DAY)
            count.update(b.category for b in frame.boxes)
        return (count["truck"] + count["bus"] + count["bicycle"] + count["motorcycle"] + count["train"]) / count["car"]

    assert share(0.0) == 0.0
    assert share(1.0) < share(4.0)


def test_small_and_large_objects(many: list[Frame]) -> None:
    side = np.array([np.sqrt((b.x2 - b.x1) * (b.y2 - b.y1)) / SMALL[0] * 512 for f in many for b in f.boxes])
    low, middle, high = np.percentile(side, [5, 50, 95])
    assert low < 8
    assert middle < 32
    assert high > 48


def test_night_is_dark_the_way_nights_are(pairs: list[tuple[Image, Frame, Image, Frame]]) -> None:
    day = np.array([np.percentile(luma(d), [5, 50, 95]) for d, _, _, _ in pairs])
    night = np.array([np.percentile(luma(n), [5, 50, 95]) for _, _, n, _ in pairs])
    assert (night[:, 1] < day[:, 1]).all()
    assert 8 < night[:, 1].mean() < 32  # real BDD100K nights: 17
    assert 70 < day[:, 1].mean() < 125  # real days: 98
    assert 40 < night[:, 2].mean() < 120  # real nights: 79
    top = SMALL[1] // 3
    # by day the sky is the brightest third, by night the darkest
    assert np.mean([luma(d)[:top].mean() > luma(d)[top:].mean() for d, _, _, _ in pairs]) > 0.7
    assert np.mean([luma(n)[:top].mean() < luma(n)[top:].mean() for _, _, n, _ in pairs]) > 0.7


def test_bodies_fall_and_lamps_stay() -> None:
    """From day to night a car's body goes nearly black while its brightest spots, the lamps, do not."""
    body, lamp = [], []
    for seed in range(500, 540, 4):
        day, frame = scenes.render(seed, 384, 216, DAY)
        night, _ = scenes.render(seed, 384, 216, NIGHT)
        for b in frame.boxes:
            if b.category == "car" and not b.occluded and b.x2 - b.x1 > 12:
                area = np.s_[round(b.y1) : round(b.y2), round(b.x1) : round(b.x2)]
                bright, dark = luma(day[area]), luma(night[area])
                body.append(np.median(dark) / np.median(bright))
                lamp.append(np.percentile(dark, 98) / np.percentile(bright, 98))
    assert len(body) > 20
    assert np.median(body) < 0.6
    assert np.median(lamp) > 1.4 * np.median(body)


def test_bright_spots_that_are_no_object(pairs: list[tuple[Image, Frame, Image, Frame]]) -> None:
    """Street lamps, windows and shop signs: most nights hold bright spots no label covers."""
    holding = 0
    for _, _, image, frame in pairs:
        outside = np.ones(image.shape[:2], bool)
        for b in frame.boxes:
            outside[max(int(b.y1) - 4, 0) : int(b.y2) + 4, max(int(b.x1) - 4, 0) : int(b.x2) + 4] = False
        holding += int((image.max(axis=2)[outside] > 180).sum() >= 4)
    assert holding >= 0.7 * len(pairs)


def test_labelled_objects_can_be_found_by_night() -> None:
    """Leaving an object out changes the picture where its box is: nothing is labelled in pure black."""
    weak = total = 0
    for seed in range(600, 616, 4):
        scene = make_scene(seed, 2.0)
        canvas = assemble.paint(scene, 384, 216, night=True)
        frame = assemble.read_frame(canvas, scene, NIGHT)
        image = light_by_night(canvas, scene).astype(int)
        for thing in [t for t in scene.things if t.kind in ("car", "pedestrian", "sign", "signal")][:14]:
            rest = make_scene(seed, 2.0)
            rest.things = [t for t in rest.things if (t.kind, t.x, t.z) != (thing.kind, thing.x, thing.z)]
            without = assemble.paint(rest, 384, 216, night=True)
            left = collections.Counter(key(b) for b in assemble.read_frame(without, rest, NIGHT).boxes)
            gone = [b for b in frame.boxes if key(b) not in left and not b.occluded]
            if len(gone) != 1:
                continue
            b = gone[0]
            change = np.abs(image - light_by_night(without, rest).astype(int)).max(axis=2)
            part = change[int(b.y1) : int(np.ceil(b.y2)), int(b.x1) : int(np.ceil(b.x2))]
            total += 1
            weak += int(np.percentile(part, 90) < 5)
    assert total >= 8
    assert weak <= 0.1 * total


def test_same_scene_at_another_size() -> None:
    small, large = scenes.render(52, 512, 288)[1], scenes.render(52, 1024, 576)[1]
    big = {b.id: b for b in large.boxes}
    # the smallest and the nearly hidden may pass the limits for a label at one size and not at the other
    small.boxes = [b for b in small.boxes if not b.occluded and min(b.x2 - b.x1, b.y2 - b.y1) > 6]
    shared = [(b, big[b.id]) for b in small.boxes if b.id in big]
    assert len(shared) == len(small.boxes) > 0
    for a, b in shared:
        assert a.category == b.category
        np.testing.assert_allclose(np.array(b.xyxy) / 2, a.xyxy, atol=1.5)


def test_smallest_and_largest_size() -> None:
    assert scenes.render(1, 64, 36, NIGHT)[0].shape == (36, 64, 3)
    assert scenes.render(1, 1280, 720, DAY)[0].shape == (720, 1280, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 1281, 720), "expected a size"),
        ((1, 512, 20), "expected a size"),
        ((-1, 512, 288), "expected a seed"),
        ((1 << 62, 512, 288), "expected a seed"),
        ((1, 512, 288, "dusk"), "expected timeofday"),
    ],
)
def test_bad_arguments(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scenes.render(*arguments)


def test_bad_rare() -> None:
    with pytest.raises(ValueError, match="expected rare"):
        scenes.render(1, rare=-1)


def test_seeds_never_meet() -> None:
    parts = [(s, t) for s in ("train", "val", "test") for t in (DAY, NIGHT)]
    for seed in (0, 1, 7):
        drives = [{s // 4 for s in scenes.scene_seeds(seed, *part, 300)} for part in parts]
        assert sum(len(d) for d in drives) == len(set().union(*drives))
    assert set(scenes.scene_seeds(0, "train", DAY, 9)).isdisjoint(scenes.scene_seeds(1, "train", DAY, 9))
    assert scenes.scene_seeds(3, "val", NIGHT, 5) == scenes.scene_seeds(3, "val", NIGHT, 50)[:5]
    with pytest.raises(ValueError, match="expected a split"):
        scenes.scene_seeds(0, "train", "dusk", 3)
    with pytest.raises(ValueError, match="expected a count"):
        scenes.scene_seeds(0, "train", DAY, -3)


def digest(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_write_world(tmp_path: Path) -> None:
    counts = {"train": {DAY: 5, NIGHT: 4}, "val": {NIGHT: 3}}
    steps: list[tuple[int, int]] = []
    summary = scenes.write_world(
        tmp_path / "a", counts, width=128, height=72, seed=5, progress=lambda i, n: steps.append((i, n))
    )
    assert steps == [(i, 12) for i in range(1, 13)]
    assert summary["strangers"] == 0
    stored = json.loads((tmp_path / "a/world.json").read_text())
    assert stored["world_version"] == scenes.WORLD_VERSION
    assert stored["counts"] == counts
    drives: dict[str, set[str]] = {}
    for split, number in (("train", 9), ("val", 3)):
        frames = json.loads((tmp_path / f"a/labels/det_20/det_{split}.json").read_text())
        assert len(frames) == number
        drives[split] = {f["videoName"] for f in frames}
        for f in frames:
            image = cv2.imread(str(tmp_path / "a/images/100k" / split / f["name"]))
            assert image is not None
            assert image.shape == (72, 128, 3)
            for label in f["labels"]:
                assert set(label["box2d"]) == {"x1", "y1", "x2", "y2"}
                assert label["category"] in BDD100K_CLASSES
                assert {"occluded", "truncated"} <= set(label["attributes"])
    assert not drives["train"] & drives["val"]
    # the same bytes again, over what is there, and by several processes
    before = digest(tmp_path / "a")
    scenes.write_world(tmp_path / "a", counts, width=128, height=72, seed=5)
    assert digest(tmp_path / "a") == before
    scenes.write_world(tmp_path / "b", counts, width=128, height=72, seed=5, workers=2)
    assert digest(tmp_path / "b") == before
    assert not list((tmp_path / "a").rglob("*.part"))


def test_write_world_counts_strangers(tmp_path: Path) -> None:
    folder = tmp_path / "images/100k/train"
    folder.mkdir(parents=True)
    (folder / "mine.jpg").write_bytes(b"x")
    assert scenes.write_world(str(tmp_path), {"train": {DAY: 1}}, width=64, height=36)["strangers"] == 1


def test_write_pairs(tmp_path: Path) -> None:
    scenes.write_pairs(str(tmp_path), 3, width=128, height=72, seed=2)
    day, night = (json.loads((tmp_path / f"labels/det_20/det_{t}.json").read_text()) for t in ("day", "night"))
    assert [f["name"] for f in day] == [f["name"] for f in night]
    assert [f["labels"] for f in day] == [f["labels"] for f in night]
    assert {f["attributes"]["timeofday"] for f in day + night} == {DAY, NIGHT}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 5000}, "expected a size"),
        ({"quality": 0}, "expected a JPEG quality"),
        ({"workers": 0}, "expected at least 1 worker"),
        ({"seed": -1}, "expected a world seed"),
        ({"rare": 9.0}, "expected rare"),
    ],
)
def test_write_world_bad_arguments(tmp_path: Path, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scenes.write_world(tmp_path, {"train": {DAY: 1}}, **settings)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
