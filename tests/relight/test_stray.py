"""What no label knows does not stand out of the night; what a label knows does."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from nightaug.data.frames import Box
from nightaug.relight import relight, relight_settings

U8 = NDArray[np.uint8]
GAP = (slice(60, 72), slice(100, 112))  # in the trees
LOW = (slice(190, 202), slice(100, 112))  # on the road
SIGN = (slice(60, 72), slice(220, 232))


def wood() -> U8:
    """Dark trees with a piece of bright sky between them, and a sign; a pale spot on the road."""
    image = np.full((240, 320, 3), (38, 44, 36), np.uint8)
    image[130:] = (90, 90, 92)
    noise = np.random.default_rng(3).integers(-8, 9, (240, 320, 1))
    image = np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)
    for place in (GAP, SIGN, LOW):
        image[place] = (225, 215, 200)
    return image


def light(frame: U8, place: tuple[slice, slice]) -> float:
    """Mean linear light of a place."""
    return float(((frame[place] / 255.0) ** 2.2).mean())


def nights(stray: float, seed: int) -> U8:
    boxes = [Box(220, 60, 232, 72, "traffic sign")]
    return relight(wood(), boxes, seed=seed, settings=relight_settings({"stray_light": stray, "softness": [0, 0]}))


@pytest.mark.parametrize("seed", range(4))
def test_a_gap_in_the_trees_does_not_stand_out_and_a_labelled_sign_does(seed: int) -> None:
    without, held = nights(0, seed), nights(2, seed)
    trees = light(without, (slice(50, 90), slice(60, 95)))
    assert light(without, GAP) > 6 * trees
    assert light(held, GAP) < 0.5 * light(without, GAP)
    assert light(held, SIGN) == pytest.approx(light(without, SIGN), rel=0.1)
    assert light(held, LOW) == pytest.approx(light(without, LOW), rel=0.1)
    assert light(held, (slice(50, 90), slice(60, 95))) == pytest.approx(trees, rel=0.1)


def test_a_wide_pale_wall_keeps_its_light() -> None:
    image = np.full((240, 320, 3), (150, 140, 125), np.uint8)
    image[130:] = (90, 90, 92)
    image[:130:13], image[:130, ::17] = (120, 112, 100), (120, 112, 100)
    wall = (slice(20, 110), slice(40, 280))
    made = [relight(image, [], seed=1, settings=relight_settings({"stray_light": value})) for value in (0, 2)]
    assert light(made[1], wall) > 0.85 * light(made[0], wall)


def test_strength_takes_part() -> None:
    """Half of a night holds back half of the light, in stops."""
    boxes: list[Box] = []
    ratios = []
    for strength in (0.01, 1.0):
        made = [
            relight(wood(), boxes, seed=1, strength=strength, settings=relight_settings({"stray_light": value}))
            for value in (0, 2)
        ]
        ratios.append(light(made[1], GAP) / light(made[0], GAP))
    assert ratios[0] > 0.9
    assert ratios[1] < 0.5
