"""Mended places look like their surroundings, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

from nightaug.curate.mend import mend, object_mask

SIZE = (96, 128)


def street(level: float) -> np.ndarray:
    """A road under a darker sky with some texture, uint8 (96, 128, 3)."""
    rng = np.random.default_rng(0)
    y = np.linspace(0.5, 1.5, SIZE[0])[:, None, None]
    noise = rng.normal(1, 0.04, (*SIZE, 1))
    image: np.ndarray = np.clip(level * y * noise * np.array([1.2, 1.0, 0.8]), 0, 255).astype(np.uint8)
    return image


def with_object(image: np.ndarray) -> np.ndarray:
    """Dark body with two red lamps in the box 50, 40, 80, 64."""
    image = image.copy()
    image[42:62, 52:78] //= 3
    image[50:54, 54:58] = image[50:54, 72:76] = (250, 30, 20)
    return image


BOX = (50.0, 40.0, 80.0, 64.0)


def test_an_object_comes_back_in_the_light_of_the_night_image() -> None:
    night, relit = street(40.0), with_object(street(20.0))  # relight chose a darker night
    mended = mend(night, relit, [BOX])
    away = object_mask(SIZE, [BOX]) == 0
    assert np.array_equal(mended[away], night[away])
    body, ground = mended[56:61, 60:70].mean(), night[56:61, 60:70].mean()
    assert body == pytest.approx(ground / 3, rel=0.25)
    # Lamps keep their own light and colour.
    assert mended[52, 56, 0] > 225
    assert mended[52, 56, 1] < 70
    bright = mend(street(80.0), relit, [BOX])[52, 56]
    assert bright[0] > 225
    assert bright[1] < 50
    # No rectangle: what the box holds beside the object is as bright as around it.
    rim = np.concatenate([mended[40:42, 50:80].ravel(), mended[62:64, 50:80].ravel()])
    there = np.concatenate([night[40:42, 50:80].ravel(), night[62:64, 50:80].ravel()])
    assert abs(float(rim.mean()) - float(there.mean())) < 3


def test_an_object_has_the_tone_of_the_night_image() -> None:
    hazy = (street(50.0) // 2 + 30).astype(np.uint8)  # a translator whose black is grey
    body = mend(hazy, with_object(street(40.0)), [BOX])[56:61, 60:70].mean()
    assert 28 < body < hazy[56:61, 60:70].mean() - 5


def test_an_object_stands_in_the_light_of_its_own_place() -> None:
    pool = np.linspace(0.3, 1.7, SIZE[1])[None, :, None]  # brighter to the right
    night, relit = np.clip(street(60.0) * pool, 0, 255).astype(np.uint8), street(30.0)
    for x1 in (12.0, 92.0):
        box = (x1, 40.0, x1 + 24, 64.0)
        mended = mend(night, relit, [box])[40:64, int(x1) : int(x1) + 24]  # nothing stands there: it is the road
        there = night[40:64, int(x1) : int(x1) + 24]
        assert mended.mean() == pytest.approx(there.mean(), rel=0.15)
        assert mended[:, -4:].mean() > mended[:, :4].mean() * 1.05


def test_an_invented_lamp_goes_with_its_halo() -> None:
    night = street(40.0)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    far = np.hypot(x - 30, y - 30)
    lamp = 230 * np.exp(-((far / 3) ** 4)) + 60 * np.exp(-far / 6)
    lit = np.clip(night + lamp[..., None], 0, 255).astype(np.uint8)
    mended = mend(lit, street(20.0), [], [(26.0, 26.0, 34.0, 34.0)])
    assert np.abs(mended[20:40, 20:40].astype(int) - night[20:40, 20:40]).mean() < 6
    assert np.abs(lit[20:40, 20:40].astype(int) - night[20:40, 20:40]).mean() > 25
    assert mended[26:34, 26:34].mean() == pytest.approx(night[26:34, 26:34].mean(), abs=5)  # neither lamp nor hole


def test_lamps_of_kept_objects_are_no_halo() -> None:
    night = with_object(street(40.0))
    bare = street(20.0)
    kept = mend(night, bare, [], [(20.0, 50.0, 24.0, 54.0)], kept=[BOX])
    assert np.array_equal(kept[44:60, 52:78], night[44:60, 52:78])


def test_odd_boxes_and_images() -> None:
    night, relit = street(40.0), street(20.0)
    nan = float("nan")
    odd = [(nan, 0.0, 5.0, 5.0), (9.0, 9.0, 2.0, 2.0), (500.0, 500.0, 600.0, 600.0), (-50.0, -50.0, -20.0, -20.0)]
    assert np.array_equal(mend(night, relit, odd, odd), night)
    whole = [(-10.0, -10.0, 500.0, 500.0)]
    assert mend(night, relit, whole, whole).shape == night.shape  # nothing is left to compare with
    for height, width in ((1, 1), (1, 9), (7, 3)):
        small = np.full((height, width, 3), 9, np.uint8)
        assert mend(small, small, [(0.0, 0.0, 2.0, 2.0)], [(1.0, 0.0, 3.0, 1.0)]).shape == small.shape
    with pytest.raises(ValueError, match="one size"):
        mend(night, relit[1:], [])
    assert night.sum() == street(40.0).sum()  # the arguments are left alone
