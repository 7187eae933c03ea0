"""relight: a day frame becomes night, lamps only where the labels are, the same bytes for the same seed."""

from __future__ import annotations

import dataclasses
import math
import threading
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from nightaug.data.classes import BDD100K_CLASSES
from nightaug.data.frames import Box
from nightaug.errors import ConfigError
from nightaug.relight import RelightSettings, relight
from nightaug.relight.lamp_base import DRAWS, usable
from nightaug.relight.lamps import find_lamps
from nightaug.relight.tone import to_linear

U8 = NDArray[np.uint8]


def day(height: int = 360, width: int = 640) -> U8:
    """A plain street: blue sky, grey houses with windows, a paler road."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:] = (110, 105, 100)
    image[: int(0.35 * height)] = (120, 170, 235)
    image[int(0.6 * height) :] = (130, 130, 132)
    for x in range(20, width, 60):
        image[int(0.42 * height) : int(0.5 * height), x : x + 20] = (60, 62, 66)
    texture = np.random.default_rng(5).integers(-6, 7, (height, width, 1))
    return np.clip(image.astype(int) + texture, 0, 255).astype(np.uint8)


def with_car(image: U8, box: Box, lamp: tuple[int, int, int] | None = (190, 25, 25)) -> U8:
    """A dark car with red tail lamps drawn into its box."""
    out = image.copy()
    x1, y1, x2, y2 = (int(v) for v in box.xyxy)
    w, h = x2 - x1, y2 - y1
    out[y1:y2, x1:x2] = (45, 48, 55)
    if lamp is not None:
        for share in (0.06, 0.80):
            left = x1 + int(share * w)
            out[y1 + int(0.4 * h) : y1 + int(0.55 * h), left : left + int(0.14 * w)] = lamp
    return out


def luma(image: U8) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.float32)


CAR = Box(270, 190, 370, 270, "car")
QUIET = dataclasses.replace(RelightSettings(), read_noise=(0.0, 0.0), shot_noise=(1e-7, 1e-7), wet_chance=0.0)


@pytest.mark.parametrize("seed", range(6))
def test_night_is_darker_and_keeps_its_shape(seed: int) -> None:
    image = day()
    night = relight(image, [CAR], seed=seed)
    assert night.shape == image.shape
    assert night.dtype == np.uint8
    assert luma(night).mean() < 0.45 * luma(image).mean()
    sky = luma(night)[:100]
    assert sky.mean() < 30
    assert sky.mean() < 0.2 * luma(image)[:100].mean()


def test_equal_calls_give_equal_bytes_and_seeds_differ() -> None:
    image = day()
    before = image.copy()
    first = relight(image, [CAR], seed=3)
    assert np.array_equal(first, relight(image, [CAR], seed=3))
    assert not np.array_equal(first, relight(image, [CAR], seed=4))
    assert np.array_equal(image, before)
    for seed in (-1, 2**70):
        assert relight(image, seed=seed).shape == image.shape


def test_threads_and_global_random_state_change_nothing() -> None:
    image = day()
    expected = [relight(image, [CAR], seed=s) for s in range(4)]
    state = repr(np.random.get_state())
    got: dict[int, U8] = {}
    workers = [threading.Thread(target=lambda s=s: got.update({s: relight(image, [CAR], seed=s)})) for s in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(np.array_equal(got[s], expected[s]) for s in range(4))
    assert repr(np.random.get_state()) == state


@pytest.mark.parametrize("seed", range(8))
def test_without_boxes_nothing_is_brighter_than_by_day(seed: int) -> None:
    image = day()
    gain = relight(image, None, seed=seed).astype(int) - image.astype(int)
    assert gain.max() <= 0
    assert np.array_equal(relight(image, None, seed=seed), relight(image, [], seed=seed))


@pytest.mark.parametrize("seed", range(6))
def test_lamps_stay_with_their_boxes(seed: int) -> None:
    image = with_car(day(), CAR)
    signal = Box(500, 80, 512, 112, "traffic light", light_color="red")
    far = np.ones(image.shape[:2], dtype=bool)
    for box in (CAR, signal):
        x1, y1, x2, y2 = (int(v) for v in box.xyxy)
        far[max(y1 - 45, 0) : y2 + 45, max(x1 - 45, 0) : x2 + 45] = False
    plain = relight(image, None, seed=seed, settings=QUIET).astype(int)
    lit = relight(image, [CAR, signal], seed=seed, settings=QUIET).astype(int)
    assert (lit - plain)[far].max() <= 14  # only the faint veil of the widest glow
    assert lit[far].max() <= image[far].max()


@pytest.mark.parametrize("seed", range(6))
def test_tail_lamps_are_lit_where_the_pixels_show_them(seed: int) -> None:
    image = with_car(day(), CAR)
    lit = dataclasses.replace(RelightSettings(), lit_on_road=1.0)
    night = relight(image, [CAR], seed=seed, settings=lit).astype(int)
    for x in (270 + 13, 270 + 87):
        lamp = night[223:233, x - 4 : x + 4].reshape(-1, 3).mean(axis=0)
        assert lamp[0] > 120
        assert lamp[0] > 1.6 * lamp[1:].max()
    roof = luma(night.astype(np.uint8))[195:205, 300:340].mean()
    assert luma(night.astype(np.uint8))[190:270, 270:370].max() > 3 * roof


def test_oncoming_cars_get_white_lamps_more_often_than_red() -> None:
    box = Box(60, 200, 110, 236, "car")
    image = with_car(day(), box, lamp=None)
    always = dataclasses.replace(RelightSettings(), lit_at_side=1.0, lit_on_road=1.0)
    white = 0
    for seed in range(20):
        patch = relight(image, [box], seed=seed, settings=always)[200:236, 60:110].reshape(-1, 3).astype(int)
        brightest = patch[patch.sum(axis=1).argmax()]
        white += bool(brightest.min() > 150)
    assert white >= 12


@pytest.mark.parametrize("seed", range(6))
def test_a_car_seen_from_the_side_has_a_headlamp_at_one_end_and_a_tail_lamp_at_the_other(seed: int) -> None:
    box = Box(220, 200, 420, 270, "car")
    image = with_car(day(), box, lamp=None)
    settings = dataclasses.replace(QUIET, lit_on_road=1.0, lit_at_side=1.0)
    night = relight(image, [box], seed=seed, settings=settings).astype(int)[215:265]
    dark = relight(image, [box], seed=seed, settings=dataclasses.replace(settings, lit_on_road=0.0)).astype(int)
    gain = (night - dark[215:265]).clip(0)
    ends = [gain[:, 220:250].reshape(-1, 3), gain[:, 390:420].reshape(-1, 3)]
    peaks = [end[end.sum(1).argmax()] for end in ends]
    red, white = sorted(peaks, key=lambda peak: peak[2] / max(peak[0], 1))
    assert min(red[0], white[0]) > 60
    assert red[2] < 0.4 * red[0]
    assert white[2] > 0.4 * white[0]


def test_pairs_of_lamps_do_not_always_span_their_box() -> None:
    rng = np.random.default_rng(0)
    apart, nearer, outer = [], [], []
    for box in (Box(60, 200, 100, 236, "car"), Box(520, 200, 580, 236, "car")):
        good = usable([box], 640, 360)
        for _ in range(60):
            lit = dataclasses.replace(RelightSettings(), lit_at_side=1.0, brake_chance=0.0)
            lamps = find_lamps(day(), good, rng.random((1, DRAWS)), lit)
            shares = sorted((lamp.x - box.x1) / (box.x2 - box.x1) for lamp in lamps)
            assert len(shares) == 2
            assert 0 < shares[0] < shares[1] < 1
            apart.append(shares[1] - shares[0])
            nearer.append(min(shares[0], 1 - shares[1]))
            outer.append((shares[0] < 1 - shares[1]) == (box.x1 < 320))
    # As in boxes of real nights: half a box apart, one of them near an end, more often the outer one.
    assert 0.4 < np.median(apart) < 0.6
    assert np.percentile(apart, 90) - np.percentile(apart, 10) > 0.25
    assert np.median(nearer) < 0.2
    assert 0.5 < np.mean(outer) < 0.8
    wide = dataclasses.replace(RelightSettings(), lit_at_side=1.0, lamps_apart=(0.7, 0.7), lamp_inset=(0.15, 0.15))
    lamps = find_lamps(day(), usable([Box(60, 200, 100, 236, "car")], 640, 360), rng.random((1, DRAWS)), wide)
    assert sorted((lamp.x - 60) / 40 for lamp in lamps) == pytest.approx([0.15, 0.85])


def test_left_hand_traffic_mirrors_the_guess() -> None:
    box = Box(530, 200, 580, 236, "car")
    image = with_car(day(), box, lamp=None)
    lit = dataclasses.replace(RelightSettings(), lit_at_side=1.0, lit_on_road=1.0)
    left = dataclasses.replace(lit, left_hand_traffic=True)
    count = [
        sum(
            bool(relight(image, [box], seed=s, settings=k)[200:236, 530:580].min(axis=2).max() > 150) for s in range(12)
        )
        for k in (lit, left)
    ]
    assert count[0] < count[1]


@pytest.mark.parametrize(("color", "row", "channel"), [("red", 0.2, 0), ("green", 0.8, 1), ("yellow", 0.5, 0)])
@pytest.mark.parametrize("seed", range(3))
def test_signals_light_in_their_labelled_colour(color: str, row: float, channel: int, seed: int) -> None:
    image = day()
    x1, y1, x2, y2 = 300, 90, 324, 150
    image[y1:y2, x1:x2] = (30, 30, 28)
    night = relight(image, [Box(x1, y1, x2, y2, "traffic light", light_color=color)], seed=seed).astype(int)
    y = round(y1 + row * (y2 - y1))
    disc = night[y - 3 : y + 4, 308:316].reshape(-1, 3).mean(axis=0)
    assert disc.argmax() == channel
    assert disc.max() > 150
    weak = {"red": (1, 2), "yellow": (2,), "green": (0,)}[color]
    assert all(disc.max() > 1.5 * disc[k] for k in weak)
    other = round(y1 + (0.8 if row < 0.5 else 0.2) * (y2 - y1))
    assert night[other - 2 : other + 3, 309:315].max() < disc.max()


@pytest.mark.parametrize(("color", "rgb", "row"), [("red", (230, 60, 50), 0.2), ("green", (40, 220, 170), 0.8)])
def test_unlabelled_signals_follow_their_pixels(color: str, rgb: tuple[int, int, int], row: float) -> None:
    image = day()
    image[90:150, 300:324] = (30, 30, 28)
    centre = round(90 + row * 60)
    cv2.circle(image, (312, centre), 7, rgb, -1)
    for seed in range(4):
        night = relight(image, [Box(300, 90, 324, 150, "traffic light")], seed=seed).astype(int)
        disc = night[centre - 3 : centre + 4, 309:316].reshape(-1, 3).mean(axis=0)
        assert disc.argmax() == (0 if color == "red" else 1)
        assert disc.max() > 150


def test_signs_stand_out_from_what_is_around_them() -> None:
    image = day()
    image[150:180, 420:450] = (110, 105, 100)
    signs = [relight(image, [Box(420, 150, 450, 180, "traffic sign")], seed=s, settings=QUIET) for s in range(6)]
    for night in signs:
        values = luma(night)
        assert values[153:177, 423:447].mean() > 1.2 * values[150:180, 380:412].mean()


def test_a_car_is_brighter_than_the_road_in_one_frame_and_darker_in_another() -> None:
    # A label that always shines would teach a detector to look for light, and real nights hide cars in the dark.
    image = day()
    box = Box(270, 230, 370, 290, "car")
    no_lamps = dataclasses.replace(QUIET, lit_on_road=0.0, lit_at_side=0.0, reflector=(0.0, 0.0))
    over = []
    for seed in range(40):
        values = luma(relight(image, [box], seed=seed, settings=no_lamps))
        around = np.concatenate([values[235:285, 200:255], values[235:285, 385:440]]).mean()
        over.append(values[240:280, 290:350].mean() / around)
    assert 0.15 < np.mean(np.array(over) < 1) < 0.6
    assert max(over) > 1.2
    assert min(over) < 0.85


def test_every_labelled_class_is_taken() -> None:
    names = [*BDD100K_CLASSES, "something else"]
    boxes = [Box(20 + 50 * k, 180, 60 + 50 * k, 250, name) for k, name in enumerate(names)]
    assert relight(day(), boxes, seed=1).shape == (360, 640, 3)


def test_unusable_boxes_light_nothing() -> None:
    image = day()
    bad = [
        Box(math.nan, 10, 50, 50, "car"),
        Box(10, 10, math.inf, 50, "car"),
        Box(100, 100, 50, 50, "car"),
        Box(5000, 5000, 6000, 6000, "car"),
        Box(-90, -90, -10, -10, "traffic light", light_color="red"),
        Box(20, 20, 20.4, 20.4, "car"),
        Box(100, 100, 400, 300, "car", crowd=True),
    ]
    assert np.array_equal(relight(image, bad, seed=2), relight(image, [], seed=2))


@pytest.mark.parametrize("boxes", [np.array([[4.0, 5.0, 30.0, 40.0]]), [(4, 5, 30, 40)]])
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_boxes_without_a_class_are_refused_with_what_is_taken(boxes: Any, strength: float) -> None:
    with pytest.raises(ConfigError, match=r"expected boxes as nightaug.data.frames.Box\(x1, y1, x2, y2, category\)"):
        relight(day(), boxes, strength=strength)


def test_boxes_over_the_edge_are_cut() -> None:
    image = day()
    for box in (
        Box(-50, 200, 60, 300, "car"),
        Box(600, 200, 900, 700, "bus"),
        Box(-9, -9, 5, 9, "traffic light"),
    ):
        assert relight(image, [box], seed=0).shape == image.shape
    assert relight(image, [Box(-1e9, -1e9, 1e9, 1e9, "truck")], seed=0).shape == image.shape


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_wet_road_turns_no_tiny_frame_black() -> None:
    wet = dataclasses.replace(RelightSettings(), wet_chance=1.0)
    for height, width in ((16, 20), (12, 21), (3, 5)):
        image = np.full((height, width, 3), 150, np.uint8)
        for seed in range(8):
            assert relight(image, [Box(1, 1, 4, 3, "car")], seed=seed, settings=wet).max() > 0


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3), (7, 9), (33, 20), (300, 50)])
def test_small_frames(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    box = Box(0, 0, size[1], size[0], "car")
    for category in ("car", "traffic light", "traffic sign", "bus"):
        box.category = category
        for night in (relight(image, [box, box], seed=0), relight(image, seed=0)):
            assert night.shape == image.shape


@pytest.mark.parametrize("value", [0, 1, 20, 128, 255])
def test_flat_frames(value: int) -> None:
    image = np.full((90, 160, 3), value, np.uint8)
    night = relight(image, [Box(40, 40, 80, 60, "car")], seed=0)
    assert luma(night)[:20].mean() <= value + 8


LIT = dataclasses.replace(QUIET, street_lamps=(3, 5), far_lights=(8, 14), lit_windows=(6, 10))


@pytest.mark.parametrize("seed", range(6))
def test_street_lights_are_lamps_of_no_class_and_touch_no_label(seed: int) -> None:
    image = with_car(day(), CAR)
    sign = Box(60, 150, 90, 175, "traffic sign")
    bare, lit = (relight(image, [CAR, sign], seed=seed, settings=one) for one in (QUIET, LIT))
    added = lit.astype(int) - bare.astype(int)
    bright = added.max(axis=2) > 60
    assert bright.sum() > 20
    # They may shine on a labelled object, and never lie in one.
    for box in (CAR, sign):
        x1, y1, x2, y2 = (int(v) for v in box.xyxy)
        assert not bright[y1:y2, x1:x2].any()
    # Nothing that a signal could be taken for: where it shines, red and green go together.
    red, green = added[bright][:, 0], added[bright][:, 1]
    assert (green > 0.35 * red - 12).all()
    assert (red > 0.5 * green - 12).all()
    assert np.array_equal(lit, relight(image, [CAR, sign], seed=seed, settings=LIT))


def test_far_lights_lie_around_the_horizon_and_windows_out_of_the_sky() -> None:
    image = day()
    far = dataclasses.replace(QUIET, far_lights=(14, 14))
    windows = dataclasses.replace(QUIET, lit_windows=(12, 12))
    for seed in range(4):
        bare = relight(image, seed=seed, settings=QUIET).astype(int)
        rows = np.nonzero((relight(image, seed=seed, settings=far) - bare).max(axis=2) > 60)[0]
        assert rows.size
        assert rows.min() > 0.3 * 360
        assert rows.max() < 0.7 * 360
        rows = np.nonzero((relight(image, seed=seed, settings=windows) - bare).max(axis=2) > 40)[0]
        assert not rows.size or rows.min() > 0.3 * 360  # the sky ends at 0.35


def test_dapples_are_broad_uneven_light_that_brings_no_edge_and_nothing_brighter_than_by_day() -> None:
    day = np.full((180, 320, 3), 150, np.uint8)
    day[:, 160:] = 90
    even = RelightSettings(
        read_noise=(0, 0), shot_noise=(1e-9, 1e-9), median_luma=(30, 30), highlight_luma=200, vignette=(0, 0),
        ambient_patches=(0, 0), ambient_top=(1, 1), headlight_pool=(0, 0), bonnet=(1, 1), haze_removed=0.0,
    )  # fmt: skip
    uneven = dataclasses.replace(even, dapple=(0.5, 0.5), dapple_size=(120, 300))
    plain, night = (relight(day, [], seed=3, settings=some).astype(float).mean(2)[20:140] for some in (even, uneven))
    ratio = np.log((night + 1) / (plain + 1))
    assert ratio.std() > 0.05
    # No step between neighbours but rounding (a grey level of eleven), not at the day's own edge either.
    assert np.abs(np.diff(ratio, axis=1)).max() < 0.12
    assert (night <= day[20:140].mean(2) + 1).all()
    other = relight(day, [], seed=4, settings=uneven).astype(float).mean(2)[20:140]
    assert np.abs(np.log((other + 1) / (night + 1))).max() > 0.2


def test_roofs_and_ends_of_vehicles_may_melt_into_the_dark() -> None:
    # A car as bright as what is around it, lamps off: only light makes the difference.
    image = day()
    whole = dataclasses.replace(QUIET, lit_on_road=0.0, lit_at_side=0.0, reflector=(0.0, 0.0), vehicle_light=(1.0, 1.0))
    faded = dataclasses.replace(whole, roof_fade=(1.5, 1.5), side_fade=(0.8, 0.8))
    plain, night = (luma(relight(image, [CAR], seed=2, settings=some)) for some in (whole, faded))
    ratio = (night + 0.5) / (plain + 0.5)
    roof, body, left = ratio[194:202, 300:340], ratio[245:265, 310:330], ratio[245:265, 271:277]
    assert roof.mean() < 0.6
    assert abs(body.mean() - 1) < 0.1
    assert left.mean() < 0.8
    assert abs(ratio[300:340].mean() - 1) < 0.05
    # People and signs have none.
    for category in ("pedestrian", "traffic sign"):
        other = [Box(300, 190, 330, 270, category)]
        assert np.array_equal(
            relight(image, other, seed=2, settings=whole), relight(image, other, seed=2, settings=faded)
        )


def test_detail_makes_neighbours_differ_more_and_nothing_brighter_than_by_day() -> None:
    rng = np.random.default_rng(1)
    image = np.clip(day().astype(int) + rng.integers(-30, 31, (360, 640, 1)), 0, 255).astype(np.uint8)
    even = dataclasses.replace(QUIET, median_luma=(30.0, 30.0), softness=(0.0, 0.0), black_level=(0.0, 0.0))
    steep = dataclasses.replace(even, detail=(1.0, 1.0))
    plain, night = (luma(relight(image, [], seed=3, settings=some)) for some in (even, steep))
    road = slice(230, 330)
    assert night[road].std() / night[road].mean() > 1.3 * plain[road].std() / plain[road].mean()
    assert abs(np.median(night[road]) / np.median(plain[road]) - 1) < 0.15
    assert (night <= luma(image) + 3).all()
    half = luma(relight(image, [], seed=3, strength=0.5, settings=steep))
    assert half.mean() > night.mean()
    assert (half <= luma(image) + 3).all()


def test_broad_shade_can_be_evened_out() -> None:
    image = day()
    image[:, :320] = image[:, :320] // 2
    even = dataclasses.replace(QUIET, median_luma=(30.0, 30.0), shadow_flattening=(0.0, 0.0), even_contrast=9.0)
    without = dataclasses.replace(even, shading_removed=(1.0, 1.0), shading_size=(40.0, 40.0))
    road = [luma(relight(image, [], seed=3, settings=some))[230:330] for some in (even, without)]
    steps = [abs(np.log(night[:, 40:240].mean() / night[:, 400:600].mean())) for night in road]
    assert steps[0] > 0.4
    assert steps[1] < 0.5 * steps[0]


def test_one_setting_of_the_finish_does_not_change_another() -> None:
    image = day()
    faded = dataclasses.replace(QUIET, roof_fade=(1.0, 2.0), side_fade=(0.5, 1.0))
    both = dataclasses.replace(faded, detail=(0.0, 1.0))
    steep = dataclasses.replace(QUIET, detail=(0.0, 1.0))
    plain, roofs, edges, all_of_it = (
        luma(relight(image, [CAR], seed=8, settings=some)) + 0.5 for some in (QUIET, faded, steep, both)
    )
    # In logs they add up, but for the noise and the rounding.
    added = np.log(roofs / plain) + np.log(edges / plain)
    assert np.abs(np.log(all_of_it / plain) - added).mean() < 0.05
    assert np.abs(np.log(roofs / plain)).mean() > 0.002


def test_a_night_frame_stays_a_night_frame() -> None:
    dark = (day() // 9).astype(np.uint8)
    night = relight(dark, [], seed=0)
    assert luma(night).mean() <= luma(dark).mean() + 2
    assert luma(night).mean() > 0.15 * luma(dark).mean()


def test_views_and_read_only_frames_are_taken() -> None:
    image = day()
    expected = relight(image[:, ::2], seed=0)
    frozen = np.ascontiguousarray(image[:, ::2])
    frozen.flags.writeable = False
    assert np.array_equal(relight(frozen, seed=0), expected)


def test_strength_goes_from_day_to_night() -> None:
    image = with_car(day(), CAR)
    means = [luma(relight(image, [CAR], seed=1, strength=k / 8)).mean() for k in range(9)]
    assert means == sorted(means, reverse=True)
    zero = relight(image, [CAR], seed=1, strength=0.0)
    assert np.array_equal(zero, image)
    assert zero is not image
    slight = relight(image, [CAR], seed=1, strength=0.01).astype(int) - image.astype(int)
    assert np.abs(slight).mean() < 6


@pytest.mark.parametrize("strength", [-0.1, 1.1, math.nan])
def test_strength_out_of_range(strength: float) -> None:
    with pytest.raises(ValueError, match=r"expected strength in \[0, 1\]"):
        relight(day(), strength=strength)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        "frame.jpg",
    ],
)
def test_wrong_frames(image: object) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W, 3\)"):
        relight(image)  # type: ignore[arg-type]


def test_noise_follows_its_setting() -> None:
    image = np.full((240, 320, 3), 128, np.uint8)
    plain = dataclasses.replace(RelightSettings(), median_luma=(30.0, 30.0), ambient_patches=(0.0, 0.0))
    loud = dataclasses.replace(plain, read_noise=(0.002, 0.002), shot_noise=(4e-4, 4e-4))
    quiet = dataclasses.replace(plain, read_noise=(0.0, 0.0), shot_noise=(1e-8, 1e-8))
    low, high = (luma(relight(image, seed=0, settings=k))[110:150, 140:180] for k in (quiet, loud))
    spread = float((high - low).std())
    # Variance read**2 + shot * light, through the slope of the tone curve.
    light = to_linear(float(low.mean()))
    slope = 255 * 1.055 / 2.4 * light ** (1 / 2.4 - 1)
    expected = math.sqrt(0.002**2 + 4e-4 * light) * slope
    assert 0.6 * expected < spread < 1.6 * expected


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("headlamp", (5.0, 2.0), "headlamp"),
        ("glow", (-1.0, 2.0), "glow"),
        ("median_luma", (0.0, 20.0), "median_luma"),
        ("spill", (math.nan, 1.0), "spill"),
        ("ambient_colors", (), "ambient_colors"),
        ("work_side", 2, "work_side"),
    ],
)
def test_settings_say_what_is_wrong(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RelightSettings(), **{name: value})  # type: ignore[arg-type]


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RelightSettings().work_side = 64  # type: ignore[misc]
