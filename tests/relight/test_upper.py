"""Lamps above the head and tail lamps: windows of buses, the route's sign, marker lamps."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from nightaug.data.frames import Box
from nightaug.relight import RelightSettings, relight
from nightaug.relight.lamp_base import DRAWS, Lamp, usable
from nightaug.relight.lamps import find_lamps

U8 = NDArray[np.uint8]
BUS = Box(260, 120, 380, 260, "bus")
#: Nothing but what a test turns on.
NONE: dict[str, Any] = {
    "read_noise": (0.0, 0.0), "shot_noise": (1e-7, 1e-7), "lit_on_road": 1.0, "lit_at_side": 1.0, "lit_inside": 0.0,
    "route_sign_lit": 0.0, "marked_bus": 0.0, "marked_truck": 0.0,
}  # fmt: skip


def with_bus(box: Box = BUS, body: tuple[int, int, int] = (190, 190, 185)) -> U8:
    """A grey street and the back of a pale bus with one dark window."""
    image = np.full((360, 640, 3), 110, np.uint8)
    x1, y1, x2, y2 = (int(v) for v in box.xyxy)
    w, h = x2 - x1, y2 - y1
    image[y1:y2, x1:x2] = body
    image[y1 + h // 5 : y1 + h * 2 // 5, x1 + w // 5 : x2 - w // 5] = (45, 50, 58)
    return image


def night(image: U8, boxes: list[Box], seed: int = 0, **settings: Any) -> NDArray[np.float32]:
    lit = relight(image, boxes, seed=seed, settings=RelightSettings(**{**NONE, **settings}))
    return np.asarray(cv2.cvtColor(lit, cv2.COLOR_RGB2GRAY), np.float32)


def lamps(image: U8, boxes: list[Box], seed: int = 0, **settings: Any) -> list[Lamp]:
    good = usable(boxes, image.shape[1], image.shape[0])
    draws = np.random.default_rng(seed).random((len(good), DRAWS))
    return find_lamps(image, good, draws, RelightSettings(**{**NONE, **settings}))


def upper(image: U8, boxes: list[Box], seed: int = 0, **settings: Any) -> list[Lamp]:
    """The lamps that the settings add to one box's."""
    without = lamps(image, boxes, seed)
    return lamps(image, boxes, seed, **settings)[len(without) :]


@pytest.mark.parametrize("seed", range(4))
def test_light_comes_through_the_glass_of_a_bus_and_not_through_its_body(seed: int) -> None:
    dark = night(with_bus(), [BUS], seed)
    lit = night(with_bus(), [BUS], seed, lit_inside=1.0, bus_window=(0.4, 0.4))
    glass, body = (slice(152, 172), slice(292, 348)), (slice(200, 225), slice(300, 340))
    assert lit[glass].mean() > 2.5 * max(dark[glass].mean(), 20)
    assert (lit[body] - dark[body]).mean() < 0.25 * (lit[glass] - dark[glass]).mean()


def test_windows_are_lit_in_some_buses_and_never_in_parked_ones() -> None:
    image = with_bus()
    some = [bool(upper(image, [BUS], seed, lit_inside=0.4)) for seed in range(60)]
    assert 0.2 < np.mean(some) < 0.6
    parked = {"lit_on_road": 0.0, "lit_at_side": 0.0}
    full = {"lit_inside": 1.0, "route_sign_lit": 1.0, "marked_bus": 1.0}
    assert np.array_equal(night(image, [BUS], **parked), night(image, [BUS], **parked, **full))


def test_a_nearer_car_hides_the_window_behind_it() -> None:
    car = Box(255, 140, 385, 300, "car")
    both = [BUS, car]
    assert np.array_equal(night(with_bus(), both), night(with_bus(), both, lit_inside=1.0))


def test_what_is_dark_behind_a_bus_is_no_window() -> None:
    image = with_bus()
    image[120:175, 364:380] = (20, 25, 20)  # trees beside its roof, to the box's corner
    found = upper(image, [BUS], lit_inside=1.0)
    assert found
    assert all(not (lamp.x > 360) for lamp in found)


def test_a_bus_too_small_to_show_glass_has_one_band_of_light() -> None:
    far = Box(300, 160, 311, 172, "bus")
    assert len(upper(with_bus(far), [far], lit_inside=1.0)) == 1


@pytest.mark.parametrize("body", [(150, 30, 35), (60, 62, 75), (62, 70, 95)])
def test_a_red_or_dark_body_has_windows_too(body: tuple[int, int, int]) -> None:
    found = upper(with_bus(body=body), [BUS], lit_inside=1.0)
    assert len(found) == 1
    assert (found[0].x, found[0].y) == pytest.approx((320, 162), abs=2)
    assert found[0].rx == pytest.approx(36, abs=3)


def test_a_pale_car_before_a_dark_bus_does_not_pass_for_its_body() -> None:
    image = with_bus(body=(90, 95, 110))
    image[165:300, 330:400] = 250
    car = Box(330, 165, 400, 300, "car")
    without = len(lamps(image, [BUS, car]))
    found = [lamp for lamp in lamps(image, [BUS, car], lit_inside=1.0) if lamp.shape is not None and lamp.y < 165]
    assert len(lamps(image, [BUS, car], lit_inside=1.0)) == without + 1
    assert len(found) == 1
    assert found[0].x < 335


@pytest.mark.parametrize(("box", "bands"), [(Box(300, 160, 324, 186, "bus"), 1), (BUS, 0)])
def test_without_glass_to_see_small_buses_are_lit_in_a_band_and_large_ones_are_not(box: Box, bands: int) -> None:
    image = np.full((360, 640, 3), 70, np.uint8)
    assert len(upper(image, [box], lit_inside=1.0)) == bands


@pytest.mark.parametrize(("category", "setting"), [("bus", "marked_bus"), ("truck", "marked_truck")])
def test_marker_lamps_hang_in_a_row_under_the_roof(category: str, setting: str) -> None:
    box = named(BUS, category)
    found = upper(with_bus(), [box], **{setting: 1.0})
    assert len(found) == 5
    assert {round(lamp.y) for lamp in found} == {round(found[0].y)}
    assert 120 < found[0].y < 132
    assert min(lamp.x for lamp in found) < 275
    assert max(lamp.x for lamp in found) > 365
    settings = RelightSettings()
    assert found[0].color in (settings.tail_color, settings.marker_front)


def named(box: Box, category: str) -> Box:
    return Box(*box.xyxy, category)


def test_marker_lamps_are_red_from_behind_and_amber_from_the_front() -> None:
    settings = RelightSettings()
    oncoming = Box(20, 120, 140, 260, "bus")
    colors = {}
    for name, box in (("rear", Box(430, 120, 550, 260, "bus")), ("front", oncoming)):
        every = [upper(with_bus(box), [box], seed, marked_bus=1.0)[0].color for seed in range(30)]
        colors[name] = np.mean([color == settings.tail_color for color in every])
    assert colors["rear"] > 0.9
    assert colors["front"] < 0.4


@pytest.mark.parametrize(
    "box",
    [Box(200, 150, 420, 260, "bus"), Box(0, 120, 120, 260, "bus"), Box(520, 120, 640, 260, "truck")],
    ids=["from the side", "cut on the left", "cut on the right"],
)
def test_only_a_whole_face_carries_marker_lamps_and_a_route(box: Box) -> None:
    assert not upper(with_bus(box), [box], marked_bus=1.0, marked_truck=1.0, route_sign_lit=1.0)


def test_cars_and_trucks_show_no_route() -> None:
    for category in ("car", "truck"):
        box = named(BUS, category)
        assert not upper(with_bus(), [box], route_sign_lit=1.0, lit_inside=1.0)


def test_the_route_is_lit_under_the_roof_in_every_bus_size_it_fits() -> None:
    for side in (14, 30, 120):
        box = Box(300, 100, 300 + side, 100 + side * 1.2, "bus")
        (sign,) = upper(with_bus(box), [box], route_sign_lit=1.0)
        assert sign.shape is not None
        assert box.x1 <= sign.origin[0]
        assert sign.origin[0] + sign.shape.shape[1] <= box.x2
        assert box.y1 <= sign.origin[1] < box.y1 + 0.25 * (box.y2 - box.y1)
        assert sign.origin[1] + sign.shape.shape[0] <= box.y2


def test_boxes_of_every_size_keep_their_lamps_inside() -> None:
    rng = np.random.default_rng(3)
    image = rng.integers(0, 255, (200, 300, 3), np.uint8)
    every = {"lit_inside": 1.0, "route_sign_lit": 1.0, "marked_bus": 1.0, "marked_truck": 1.0, "min_lamp_box": 0.0}
    for number in range(300):
        x, y = rng.uniform(-20, 300), rng.uniform(-20, 200)
        w, h = np.exp(rng.uniform(0, 5.3, 2))
        box = Box(x, y, x + w, y + h, ("bus", "train", "truck")[number % 3])
        for lamp in lamps(image, [box], number, **every):
            if lamp.shape is None:
                continue
            rows, columns = lamp.shape.shape
            assert lamp.bounds[0] <= lamp.origin[0]
            assert lamp.origin[0] + columns <= lamp.bounds[2]
            assert lamp.bounds[1] <= lamp.origin[1]
            assert lamp.origin[1] + rows <= lamp.bounds[3]
        assert relight(image, [box], seed=number, settings=RelightSettings(**{**NONE, **every})).shape == image.shape


def test_signs_shine_in_one_frame_and_are_dim_in_another() -> None:
    image = np.full((360, 640, 3), 110, np.uint8)
    image[150:180, 420:450] = 140
    sign = Box(420, 150, 450, 180, "traffic sign")
    levels = [night(image, [sign], seed)[155:175, 425:445].mean() for seed in range(30)]
    assert max(levels) > 2 * min(levels)
