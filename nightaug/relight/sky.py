"""Where the sky is: bright, smooth, blue or grey, and joined to the top of the frame.

A false sky costs little (a wall goes dark, as walls do at night), a missed one costs the picture, so the
rules lean towards sky; labelled objects are kept out of it.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

_TOP = 0.15  # share of the height in which a piece of sky must begin
_FADE = (0.52, 0.64)  # share of the height over which sky stops being likely
_MIN_LUMA = 85.0  # grey levels: darker than this is sky only when it is clearly blue
_MIN_BLUE_LUMA = 50.0
_BLUE_SHARE = 0.45  # of the sky's grey level: a darker blue is a wall in the shade, unless it is deep
_SMOOTH = 13.0  # grey levels: local standard deviation inside sky
_SAME_COLOR = 30.0  # grey levels: how far sky seen through trees may be from the open sky
_CORNER_COLOR = 20.0  # grey levels: the same inside a labelled box
_GLARE = 225.0  # grey levels: over this, high in the frame, it is sky wherever it is
_DEEP_BLUE = 40.0  # grey levels of blue over red, likewise
_CROWD = 0.12  # share of the pixels around that must be sky
_HOLE_AREA = 0.004  # share of the frame: a larger smooth piece apart from the sky is a wall or a road
_LOW = 0.38  # share of the height below which sky has to look like the sky above
_WHITE = 205.0  # grey levels: so bright, sky may be as warm as a sunset
_HOLES = 0.42  # share of the height below which brightness alone makes no sky
_UNDER_SKY = 0.35  # share of the pixels above that must be sky, below that height
_EVEN = 9.0  # grey levels: local standard deviation of dusk and haze, where the open sky ends in no edge
_DULL = 0.55  # of the sky's grey level: how dull they may be
_PALE = 80  # grey levels between a pixel's channels: more of a colour than dusk has
_AROUND = 0.85  # share of a piece's outline that must be sky
_OPEN = 0.6  # share of the pixels over it that must be sky
_HANGS = 0.3  # share of its width with which such a piece must hang under the sky
_RATIO = (0.32, 0.60)  # blue over the near sky's: none of it is sky below, nearly all of the light is above


def sky_maps(small: U8, solid: U8) -> tuple[F32, F32, F32] | None:
    """Find the sky in a small frame.

    Args:
        small: uint8 (h, w, 3) RGB.
        solid: uint8 (h, w): 0 unlabelled, 1 in an object's box, 2 in a sign's.

    Returns:
        ``core`` in [0, 1] (h, w): surely sky; ``edge`` in [0, 1] (h, w): sky where it is as bright as the sky
        near it; ``luma`` (h, w): that brightness in the blue channel, which parts sky from leaves and
        walls best, in grey levels. None where there is no sky.
    """
    h, w = small.shape[:2]
    if min(h, w) < 8:
        return None
    gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    red, blue = small[..., 0].astype(np.float32), small[..., 2].astype(np.float32)
    mean = cv2.blur(gray, (3, 3))
    deviation = np.sqrt(np.maximum(cv2.blur(gray * gray, (3, 3)) - mean * mean, 0))
    top_luma = float(np.percentile(gray[: max(h // 3, 1)], 95))
    bright = (gray > max(_MIN_LUMA, 0.68 * top_luma)) & ((blue > red - 14) | ((gray > _WHITE) & (blue > 0.8 * red)))
    blueish = (blue - red > 14) & (blue >= small[..., 1].astype(np.float32) - 6) & (gray > _MIN_BLUE_LUMA)
    deep = blue - red > _DEEP_BLUE
    blueish &= (gray > _BLUE_SHARE * top_luma) | deep
    looks = (bright | blueish) & (solid == 0)
    rows = np.arange(h, dtype=np.float32)[:, None] / h
    prior = np.clip((_FADE[1] - rows + 0.1 * (blueish & deep)) / (_FADE[1] - _FADE[0]), 0, 1).astype(np.float32)
    candidate = (looks & (deviation < _SMOOTH) & (prior > 0)).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(candidate, connectivity=4)
    keep = (stats[:, cv2.CC_STAT_TOP] < _TOP * h) & (stats[:, cv2.CC_STAT_AREA] > 0.001 * h * w)
    keep[0] = False
    sky = keep[labels]
    # Holes between leaves are too ragged to be smooth or joined: nothing else up there is so bright or so
    # blue, or they have the open sky's colour and lie no lower than it. Wet roads and pale walls have that
    # too, so the brightness has to be the sky's.
    holes = ((gray > _GLARE) | (blueish & deep)) & (rows < _HOLES)
    if sky.any():
        color = small[sky].mean(axis=0)
        distance = np.abs(small.astype(np.float32) - color.astype(np.float32)).max(axis=2)
        lowest = float(np.percentile(np.nonzero(sky)[0], 98)) / h
        above = rows < min(lowest + 0.04, _FADE[0])
        alike = looks & ~sky & above & (distance < _SAME_COLOR) & (gray > 0.88 * float(gray[sky].mean()))
        _, pieces, sizes, _ = cv2.connectedComponentsWithStats(alike.astype(np.uint8), connectivity=4)
        small_piece = sizes[:, cv2.CC_STAT_AREA] < _HOLE_AREA * h * w
        holes |= alike & small_piece[pieces]
        # The sun and its rim are in the sky too, whatever their colour.
        near = cv2.dilate(sky.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        holes |= near & (rows < _HOLES) & (gray > float(gray[sky].mean()))
        # A label's box has corners of sky; blue is safe to give back, grey might be the object.
        corners = blueish & above & (distance < _CORNER_COLOR) & (solid < 2)
        solid = np.where(corners, 0, solid)
        sky |= corners
    protected = solid > 0
    sky |= holes & ~protected
    if not sky.any():
        return None
    # Near the horizon a pale road in haze looks like sky; but sky gets lighter on its way down, not darker.
    higher = sky & (rows < _LOW)
    if higher.any():
        sky &= (rows < _LOW) | (gray > float(np.median(gray[higher])) - _SAME_COLOR)
    even = (deviation < _EVEN) & (gray > max(_MIN_LUMA, _DULL * top_luma)) & (rows < _FADE[0]) & ~protected
    even &= np.ptp(small, axis=2) < _PALE
    sky |= _hanging(even & ~sky, sky)
    # Glare and lit clouds of another colour than the sky around them.
    sky |= _enclosed((gray > _DULL * top_luma) & (rows < _FADE[0]) & ~protected & ~sky, sky)
    mask = sky.astype(np.float32) * prior
    # Holes between leaves come in crowds; a lone speck is a puddle or a window.
    crowd = cv2.blur(mask, (max(w // 20, 1), max(w // 20, 1)))
    mask[(crowd < _CROWD) & (rows > _TOP)] = 0
    # Far down only what hangs under open sky is sky: a pale road in haze has trees above it.
    above_it = np.cumsum(mask, axis=0, dtype=np.float32) / np.arange(1, h + 1, dtype=np.float32)[:, None]
    mask[(cv2.blur(above_it, (max(w // 20, 1), 1)) < _UNDER_SKY) & (rows > _HOLES)] = 0
    core = cv2.GaussianBlur(cv2.erode(mask, np.ones((3, 3), np.uint8)), (0, 0), 0.8)
    edge = cv2.GaussianBlur(cv2.dilate(mask, np.ones((5, 5), np.uint8)), (0, 0), 1.0)
    edge[protected] = 0
    core[protected] = 0
    sigma = max(w / 24.0, 1.0)
    weight = cv2.GaussianBlur(mask, (0, 0), sigma) + 1e-4
    luma = (cv2.GaussianBlur(mask * blue, (0, 0), sigma) + 1e-4 * float(blue[sky].mean())) / weight
    return core, edge, luma.astype(np.float32)


def _hanging(pieces: NDArray[np.bool_], sky: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Those of the even pieces (h, w) that go on where open sky ends: dusk, haze, dull clouds.

    Where sky ends at a roof or a hill, an edge that is not even lies between.
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats(pieces.astype(np.uint8), connectivity=4)
    open_above = np.cumsum(sky, axis=0) >= _OPEN * np.arange(1, len(sky) + 1)[:, None]
    touching = np.zeros_like(pieces)
    touching[1:] = pieces[1:] & (sky & open_above)[:-1]
    contact = np.bincount(labels[touching], minlength=len(stats))
    keep = contact >= _HANGS * stats[:, cv2.CC_STAT_WIDTH]
    keep[0] = False
    return np.asarray(keep[labels], np.bool_)


def _enclosed(pieces: NDArray[np.bool_], sky: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Those of the pieces (h, w) with sky all around them; the frame's edge counts as nothing."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(pieces.astype(np.uint8), connectivity=4)
    outline = np.zeros(len(stats), np.int64)
    touching = np.zeros(len(stats), np.int64)
    for here, there in (
        (np.s_[1:], np.s_[:-1]), (np.s_[:-1], np.s_[1:]), (np.s_[:, 1:], np.s_[:, :-1]), (np.s_[:, :-1], np.s_[:, 1:])
    ):  # fmt: skip
        edge = pieces[here] & ~pieces[there]
        outline += np.bincount(labels[here][edge], minlength=len(stats))
        touching += np.bincount(labels[here][edge & sky[there]], minlength=len(stats))
    keep = (touching > 0) & (touching >= _AROUND * outline)
    keep[0] = False
    return np.asarray(keep[labels], np.bool_)


def sky_alpha(blue: U8, maps: tuple[F32, F32, F32]) -> F32:
    """Full-size sky opacity: the small maps sharpened by the frame's own blue.

    Args:
        blue: uint8 (H, W), blue channel of the full frame.
        maps: what :func:`sky_maps` gave.

    Returns:
        float32 (H, W) in [0, 1].
    """
    size = (blue.shape[1], blue.shape[0])
    core, edge, luma = maps
    # alpha = max(core, edge * ramp(blue / luma)); slope and offset folded in at the small size.
    slope = cv2.resize(1.0 / (np.maximum(luma, 1.0) * (_RATIO[1] - _RATIO[0])), size, interpolation=cv2.INTER_LINEAR)
    ramp: F32 = cv2.multiply(slope, blue, dtype=cv2.CV_32F)
    cv2.subtract(ramp, _RATIO[0] / (_RATIO[1] - _RATIO[0]), dst=ramp)
    np.clip(ramp, 0.0, 1.0, out=ramp)
    cv2.multiply(ramp, cv2.resize(edge, size, interpolation=cv2.INTER_LINEAR), dst=ramp)
    cv2.max(ramp, cv2.resize(core, size, interpolation=cv2.INTER_LINEAR), dst=ramp)
    return ramp
