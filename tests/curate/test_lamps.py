"""Invented lamps: bright spots that the source does not have."""

from __future__ import annotations

import numpy as np

from nightaug.curate.lamps import find_spots
from nightaug.data.scenes import render
from nightaug.relight import relight

SIZE = (180, 320)


def spot(image: np.ndarray, x: float, y: float, radius: float = 3.0) -> np.ndarray:
    """The image with a lamp."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    glow = np.clip(1.2 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / radius**2), 0, 1)[..., None]
    return (255 * (1 - (1 - image / 255) * (1 - glow))).astype(np.uint8)


def street(level: float) -> np.ndarray:
    """A bright sky above a road with white markings and bright windows, under some light."""
    image = np.full((*SIZE, 3), 90.0)
    image[:60] = 235  # sky
    image[60:90] = 120  # houses
    image[65:71, 40:300:20] = 250
    image[65:71, 44:300:20] = 250  # windows
    image[130:170, 150:156] = 240  # marking
    image[140:144, 60:66] = 240
    return (image * level).clip(0, 255).astype(np.uint8)


def test_painted_lamps_are_new_and_nothing_else() -> None:
    day, night = street(1.0), street(0.15)
    assert not find_spots(night, [], day).new.any()
    bad = spot(spot(night, 100, 30), 250, 110, 2.0)
    found = find_spots(bad, [], day)
    assert found.new.sum() == 2
    centres = (found.boxes[found.new, :2] + found.boxes[found.new, 2:]) / 2
    assert np.abs(np.sort(centres, axis=0) - [[100.5, 30.5], [250.5, 110.5]]).max() < 1.5
    assert (found.peak[found.new] > 0.9).all()


def test_a_lamp_of_a_labelled_object_is_its_own() -> None:
    day, bad = street(1.0), spot(street(0.15), 250, 110)
    assert not len(find_spots(bad, [[230, 100, 256, 120]], day).new)
    near = find_spots(bad, [[225, 100, 246, 120]], day)  # the glow reaches out of the box
    assert not near.new.any()
    assert find_spots(bad, [[10, 100, 40, 120], [np.nan] * 4], day).new.sum() == 1


def test_what_was_bright_by_day_is_no_lamp() -> None:
    day = street(1.0)
    night = street(0.12)
    night[140:144, 60:66] = 255  # the marking shines in the headlights,
    night[65:71, 40:300:20] = 230  # and windows stayed bright
    found = find_spots(night, [], day)
    assert len(found.new)
    assert not found.new.any()
    assert find_spots(night, []).new.all()  # without a source nobody can tell


def test_neither_a_dim_copy_nor_a_relit_scene_has_new_lamps() -> None:
    for seed in (101, 104):
        day, frame = render(seed, *SIZE[::-1])
        boxes = [box.xyxy for box in frame.boxes]
        assert find_spots(relight(day, frame.boxes), boxes, day).new.sum() == 0
        for gain in (1.0, 0.6, 0.2):
            assert find_spots((day * gain).astype(np.uint8), boxes, day).new.sum() == 0
