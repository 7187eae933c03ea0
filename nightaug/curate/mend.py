"""Mending: a lost object comes back, relit from the source; an invented lamp or object is painted over with it.

    patch = (tone(relit) + c) * exp(field) - c,    mended = night + mask * (patch - night)

``tone`` makes the relit source's grey levels those of the night image, channel by channel (histogram matching).
``field`` is the log of how much brighter the night image still is around the mended places, carried smoothly into them:
seamless cloning (Perez et al., Poisson Image Editing, SIGGRAPH 2003) with a ratio in place of a difference, as light
multiplies, and with push-pull interpolation (Gortler et al., The Lumigraph, SIGGRAPH 1996) in place of a solver. Lamps
keep the light that relight gives them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nightaug.images import ImageArray, check_rgb

F32 = NDArray[np.float32]
Corners = tuple[float, float, float, float]

#: Longer side in pixels of the map on which brightness is compared.
_MAP_SIDE = 480
#: Grey levels added before dividing: in the dark a ratio is mostly noise.
_DARK = 6.0
#: No place is made brighter or darker than by this factor, after the tone has been matched.
_LIMIT = 3.0
#: Made brighter than by these factors, a pixel's noise is partly, and wholly, smoothed; its size in grey levels.
_NOISY, _NOISE = (1.5, 3.0), 40.0
#: Share of the colour around a place that is taken over with the brightness.
_COLOUR = 0.5
#: Shares of the pixels at which grey levels are matched, and how steep the match may be.
_SHARES, _SLOPES = (0.02, 0.1, 0.25, 0.4, 0.55, 0.7, 0.82, 0.91, 0.97, 0.99), (0.35, 2.5)
#: Brightest channel, in grey levels, from which a pixel is partly, and above which it is wholly, a lamp.
_LAMP = (140.0, 230.0)
#: A soft edge around an object, as a share of its box's shorter side, and its limits in pixels.
_EDGE, _EDGE_PIXELS = 0.15, (2.0, 24.0)
#: A soft edge around what is painted over, as a share of its longer side, and its limits in pixels.
_COVER, _COVER_PIXELS = 0.5, (3.0, 24.0)
#: How far the halo of what is painted over may reach, as a share of its longer side; at least so many pixels, and at
#: most so large a share of the image's longer side.
_REACH, _REACH_PIXELS, _REACH_SHARE = 6.0, 16.0, 0.15
#: How far it is surely a halo, likewise, and the limits in pixels.
_CLOSE, _CLOSE_PIXELS = 2.0, (6.0, 40.0)
#: Share by which a pixel in that reach must be brighter than expected to count as halo: partly, and wholly.
_HALO = (0.04, 0.2)


def mend(
    night: ImageArray,
    relit: ImageArray,
    lost: Sequence[Corners],
    invented: Sequence[Corners] = (),
    kept: Sequence[Corners] = (),
) -> ImageArray:
    """Put the relit source where the translation lost an object, or shows one that nobody knows.

    Args:
        night: uint8 (H, W, 3) RGB, the translation.
        relit: the same size, the source made night by :func:`nightaug.relight.relight`.
        lost: xyxy pixels of lost objects; boxes without a finite extent, or outside, are passed over.
        invented: xyxy pixels of what is to be painted over, its halo with it.
        kept: xyxy pixels of the labelled objects that are there, whose lamps are no halo of an invented one.

    Returns:
        uint8 (H, W, 3) RGB, a new array; pixels away from the places are those of ``night``, bit for bit.

    Raises:
        ValueError: the images are not such arrays, or differ in size.
    """
    if check_rgb(night).shape != check_rgb(relit).shape:
        raise ValueError(f"expected two images of one size, got {night.shape} and {relit.shape}")
    size = night.shape[:2]
    objects, covers = object_mask(size, lost), _around(size, invented, _COVER, *_COVER_PIXELS)
    if not objects.any() and not covers.any():
        return night.copy()
    reach = _around(size, invented, _REACH, _REACH_PIXELS, max(_REACH_SHARE * max(size), _REACH_PIXELS))
    toned = _same_tone(night, relit, np.maximum(objects, reach))
    clean = night
    if covers.any():
        patch = _matched(night, toned, np.maximum(objects, reach), relit)
        clean = _mixed(night, patch, np.maximum(covers, reach * _halo(night, patch, kept, invented)))
        # Once more, in the light that is left around: no dark spot in what remains of a halo.
        clean = _mixed(clean, _matched(clean, toned, np.maximum(objects, covers), relit), covers)
    return _mixed(clean, _matched(clean, toned, objects, relit), objects) if objects.any() else clean


def object_mask(size: tuple[int, ...], lost: Sequence[Corners]) -> F32:
    """How far each pixel is replaced by a lost object, float32 (H, W): 1 in its box, softly to 0 around it."""
    mask = np.zeros(size, np.float32)
    for corners in lost:
        _add(mask, corners, _between(_EDGE * _sides(corners)[0], *_EDGE_PIXELS))
    return mask


def _around(size: tuple[int, ...], places: Sequence[Corners], share: float, low: float, high: float) -> F32:
    """1 in each place, softly to 0 at a distance of ``share`` times its longer side, within pixels; float32 (H, W)."""
    mask = np.zeros(size, np.float32)
    for corners in places:
        _add(mask, corners, _between(share * _sides(corners)[1], low, high))
    return mask


def _sides(corners: Corners) -> tuple[float, float]:
    """The shorter and the longer side."""
    width, height = corners[2] - corners[0], corners[3] - corners[1]
    return min(width, height), max(width, height)


def _between(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _add(mask: F32, corners: Corners, edge: float) -> None:
    """Raise ``mask`` to 1 inside the corners, falling to 0 at a distance of ``edge`` pixels, in place."""
    if not all(map(math.isfinite, corners)) or _sides(corners)[0] <= 0:
        return
    x1, y1, x2, y2 = corners
    height, width = mask.shape
    left, right = max(math.floor(x1 - edge), 0), min(math.ceil(x2 + edge), width)
    top, bottom = max(math.floor(y1 - edge), 0), min(math.ceil(y2 + edge), height)
    if left >= right or top >= bottom:
        return
    x, y = np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5
    dx, dy = np.maximum(np.maximum(x1 - x, x - x2), 0), np.maximum(np.maximum(y1 - y, y - y2), 0)
    near = _ramp(1 - np.hypot(dx[None, :], dy[:, None]) / edge, 0.0, 1.0)
    np.maximum(mask[top:bottom, left:right], near, out=mask[top:bottom, left:right])


def _ramp(x: NDArray[Any], low: float, high: float) -> F32:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)


def _lamps(image: NDArray[Any]) -> F32:
    """How far each pixel is a lamp, float32 (H, W) in [0, 1]."""
    return _ramp(image.max(axis=2).astype(np.float32), *_LAMP)


def _trusted(night: NDArray[Any], relit: NDArray[Any], mask: F32) -> F32:
    """Where the two may be compared: outside the mask; a lamp that one of them has says nothing of the light there."""
    trusted = (1 - _lamps(night)) * (1 - _lamps(relit))
    trusted[mask > 0] = 0
    return trusted


def _same_tone(night: ImageArray, relit: ImageArray, mask: F32) -> F32:
    """``relit`` with the grey levels of ``night``, channel by channel; lamps as they are. float32 (H, W, 3)."""
    result = relit.astype(np.float32)
    step = max(1, min(night.shape[:2]) // 180)  # a tone needs no more pixels
    thin = np.s_[::step, ::step]
    here = _trusted(night[thin], relit[thin], mask[thin]) > 0.5
    if np.count_nonzero(here) < 256:  # too few to tell a tone by
        return result
    lamps = _lamps(relit)
    for channel in range(3):
        ours = np.quantile(night[thin][..., channel][here], _SHARES)
        theirs = np.quantile(relit[thin][..., channel][here], _SHARES)
        levels = np.concatenate([[0.0], theirs, [255.0]])
        wanted = np.concatenate([[max(ours[0] - theirs[0], 0.0)], ours, [255.0]])
        table = np.interp(np.arange(256), *_unique(levels, wanted))
        # Steps would show as bands, flat stretches as lost detail.
        steps = np.clip(np.diff(table), *_SLOPES)
        middle = int(np.clip(np.median(theirs), 0, 255))
        table = np.concatenate([[0.0], np.cumsum(steps)])
        table += float(np.median(ours)) - table[middle]
        mapped = np.clip(table, 0, 255)[relit[..., channel]].astype(np.float32)
        result[..., channel] = mapped + lamps * (result[..., channel] - mapped)
    return result


def _unique(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values, inverse = np.unique(x, return_inverse=True)
    return values, np.bincount(inverse, y) / np.bincount(inverse)


def _matched(night: ImageArray, toned: F32, mask: F32, relit: ImageArray) -> F32:
    """``toned`` in the light there is around the mask in ``night``, float32 (H, W, 3); lamps as they are.

    Args:
        relit: what ``toned`` was made of; where it has become much brighter its noise has, too, and is smoothed.
    """
    field = _brightness_field(night, toned, mask) * (1 - _lamps(toned))[..., None]
    patch = np.asarray((toned + _DARK) * np.exp(field) - _DARK, dtype=np.float32)
    gain = (patch.sum(axis=2) + 3 * _DARK) / (relit.sum(axis=2, dtype=np.float32) + 3 * _DARK)
    noisy = _ramp(gain, *_NOISY)[..., None]
    if not (noisy[..., 0] * mask).any():
        return patch
    smooth = np.asarray(cv2.bilateralFilter(patch, 7, _NOISE, 2.5), dtype=np.float32).reshape(patch.shape)
    return np.asarray(patch + noisy * (smooth - patch), dtype=np.float32)


def _mixed(night: ImageArray, patch: F32, mask: F32) -> ImageArray:
    mixed = night + mask[..., None] * (patch - night)
    return np.asarray(np.clip(mixed + 0.5, 0, 255), dtype=np.uint8)


def _halo(night: ImageArray, patch: F32, kept: Sequence[Corners], invented: Sequence[Corners]) -> F32:
    """How far each pixel is brighter than it should be, float32 (H, W) in [0, 1]; not in kept objects."""
    size = night.shape[:2]
    sigma = max(1.5, 0.004 * max(size))
    seen = cv2.GaussianBlur(night.astype(np.float32), (0, 0), sigma)
    expected = cv2.GaussianBlur(patch, (0, 0), sigma)
    excess = ((seen - expected) / (np.maximum(expected, 0) + 2 * _DARK)).reshape(patch.shape).max(axis=2)
    # Close to the lamp it is the lamp's halo, even where it lies on a kept object.
    known = object_mask(size, kept) * (1 - _around(size, invented, _CLOSE, *_CLOSE_PIXELS))
    return np.asarray(_ramp(excess, *_HALO) * (1 - known), dtype=np.float32)


def _brightness_field(night: ImageArray, relit: F32, mask: F32) -> F32:
    """Log of night over relit as it is around the mask, carried into it, float32 (H, W, 3)."""
    height, width = mask.shape
    scale = min(1.0, _MAP_SIDE / max(height, width))
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    trusted = _trusted(night, relit, mask)

    def shrunk(values: NDArray[Any]) -> F32:
        small = cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.GaussianBlur(small, (0, 0), 1.5), dtype=np.float32)

    weight = shrunk(trusted).reshape(size[1], size[0])
    total = np.maximum(weight, 1e-6)[..., None]
    ours = shrunk(night * trusted[..., None]).reshape(*weight.shape, 3) / total
    theirs = shrunk(relit * trusted[..., None]).reshape(*weight.shape, 3) / total
    limit = math.log(_LIMIT)
    field = np.clip(np.log((ours + _DARK) / (np.maximum(theirs, 0) + _DARK)), -limit, limit).astype(np.float32)
    # Colours next to an object are partly those of its neighbours, not of the light.
    even = field.mean(axis=2, keepdims=True)
    filled = _push_pull(even + _COLOUR * (field - even), np.minimum(weight * 4, 1))
    return np.asarray(cv2.resize(filled, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def _push_pull(values: F32, weight: F32) -> F32:
    """Fill ``values`` (h, w, 3) where ``weight`` (h, w) in [0, 1] is small, smoothly, from where it is large."""
    height, width = weight.shape
    sure = weight[..., None]
    if max(height, width) <= 2:
        total = float(weight.sum())
        mean = (values * sure).sum((0, 1)) / total if total > 0 else np.zeros(3, np.float32)
        return np.asarray(values * sure + mean * (1 - sure), dtype=np.float32)
    low_weight = np.asarray(cv2.pyrDown(weight), dtype=np.float32)
    low_weight = low_weight.reshape((height + 1) // 2, (width + 1) // 2)
    low = np.asarray(cv2.pyrDown(values * sure), dtype=np.float32).reshape(*low_weight.shape, 3)
    low = np.asarray(low / np.maximum(low_weight, 1e-6)[..., None], dtype=np.float32)
    low = _push_pull(low, np.minimum(low_weight * 2, 1))
    coarse = np.asarray(cv2.resize(low, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)
    return np.asarray(values * sure + coarse.reshape(values.shape) * (1 - sure), dtype=np.float32)
