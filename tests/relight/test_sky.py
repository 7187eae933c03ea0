"""What is taken for sky: the open one, whatever its blue, and no wall under it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from nightaug.relight.sky import sky_maps

U8 = NDArray[np.uint8]


def street(sky: tuple[int, int, int], walls: tuple[int, int, int]) -> U8:
    """A street between two houses that reach the top of the frame."""
    image = np.full((180, 320, 3), (120, 120, 122), np.uint8)
    image[:70] = sky
    image[:100, :100], image[:100, 220:] = walls, walls
    noise = np.random.default_rng(1).integers(-3, 4, (180, 320, 1))
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


def shares(image: U8) -> tuple[float, float]:
    """How much of the open sky, and of the walls, is sky."""
    maps = sky_maps(image, np.zeros(image.shape[:2], np.uint8))
    assert maps is not None
    core = maps[0] > 0.5
    return float(core[5:60, 110:210].mean()), float(np.concatenate([core[5:90, 5:90], core[5:90, 230:315]]).mean())


@pytest.mark.parametrize("wall", [(70, 78, 92), (60, 70, 84), (80, 88, 100)])
def test_a_wall_in_the_blue_shade_under_a_white_sky_is_none(wall: tuple[int, int, int]) -> None:
    sky, walls = shares(street((232, 240, 250), wall))
    assert sky > 0.95
    assert walls < 0.05


@pytest.mark.parametrize("sky", [(60, 110, 190), (40, 70, 110), (150, 190, 240), (200, 205, 210)])
def test_the_open_sky_is_one(sky: tuple[int, int, int]) -> None:
    assert shares(street(sky, (110, 80, 60)))[0] > 0.95


def test_the_deep_blue_beside_the_glare_of_the_sun_is_sky() -> None:
    image = street((50, 80, 120), (110, 80, 60))
    image[:60, 180:216] = (250, 252, 255)
    assert shares(image)[0] > 0.95


def horizon(low: tuple[int, int, int], edge: bool) -> U8:
    """Open sky over 50 rows that turns into something else by row 80, softly or at an edge with a dark rim."""
    image = np.full((180, 320, 3), (90, 90, 92), np.uint8)
    image[:50] = (205, 212, 222)
    image[50:85] = low
    if edge:
        image[50:53] = (60, 60, 60)
    else:
        share = np.linspace(0, 1, 30)[:, None, None]
        image[40:70] = np.uint8((1 - share) * np.array((205, 212, 222)) + share * np.array(low))
    noise = np.random.default_rng(1).integers(-2, 3, (180, 320, 1))
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("low", [(205, 170, 140), (150, 154, 160), (190, 180, 130)])
def test_sky_goes_on_into_dusk_and_dull_clouds_but_not_into_a_wall(low: tuple[int, int, int]) -> None:
    found = []
    for edge in (False, True):
        maps = sky_maps(horizon(low, edge), np.zeros((180, 320), np.uint8))
        assert maps is not None
        found.append(float((maps[0] > 0.5)[72:82, 10:310].mean()))
    assert found[0] > 0.9
    assert found[1] < 0.1


def test_a_lit_cloud_of_another_colour_is_sky_and_a_dark_bird_is_none() -> None:
    image = street((190, 200, 215), (110, 80, 60))
    image[25:37, 130:150] = (235, 210, 165)  # too warm to be taken for sky by itself
    image[25:37, 180:195] = (40, 40, 40)
    maps = sky_maps(image, np.zeros(image.shape[:2], np.uint8))
    assert maps is not None
    core = maps[0] > 0.5
    assert core[27:35, 132:148].mean() > 0.95
    assert not core[27:35, 182:193].any()
