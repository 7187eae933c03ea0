"""Lamps on the upper half of buses, trains and trucks: lit windows, the route's sign, marker lamps.

Of 28 large buses in real nights (BDD100K, train) 13 show a row of marker lamps under their roof, 6 lit windows, 6 a
route's sign; of 32 trucks 6 show marker lamps. By night that is most of what tells a bus from the dark.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from nightaug.data.frames import Box
from nightaug.relight.lamp_base import Corners, Lamp, choose, pick, round_lamp
from nightaug.relight.settings import RGB, RelightSettings

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

_FACE = 1.05  #: width over height up to which one face is seen: it carries marker lamps and the route's sign
_GLASS = 0.6  #: glass by day is darker than this share of the vehicle's body
_BAND = (0.06, 0.5)  #: rows of the windows, as shares of the height
_LEAST_MARKED = 14  #: pixels: no marker lamps or route on anything narrower
_LEAST_GLASS = 14  #: pixels: windows of anything smaller are one band
_CLEAR_GLASS = 32  #: pixels: on anything larger a band that nothing shows would look painted on
_MARKERS = (0.06, 0.42, 0.5, 0.58, 0.94)  #: two at the corners and three in the middle, as the law has it in the US


def upper_lamps(
    patch: U8, box: Box, corners: Corners, front: bool, whole: bool, nearer: F64, u: F64, settings: RelightSettings
) -> list[Lamp]:
    """The lamps above the head and tail lamps of a bus, train or truck with its lamps on.

    Args:
        patch: uint8 (h, w, 3) RGB, the box by day.
        front: it comes towards the camera.
        whole: the image's edge does not cut it off.
        nearer: (Q, 4) boxes of vehicles before it, whose glass is not its own.
        u: the label's random numbers.
    """
    # The label's row of draws has too few numbers left: these follow from one that has nothing to do with lamps.
    rng = np.random.default_rng(int(u[13] * 2**32))
    draws = rng.random(8)
    chance = settings.marked_truck if box.category == "truck" else settings.marked_bus
    x1, y1, x2, y2 = corners
    w, h = x2 - x1, y2 - y1
    marked = whole and w / h < _FACE and w >= _LEAST_MARKED
    out: list[Lamp] = []
    if box.category != "truck" and draws[0] < settings.lit_inside:
        color = choose(draws[1], settings.bus_window_colors)
        out += _windows(patch, corners, nearer, color, pick(draws[2] ** 2, settings.bus_window), rng)
    if marked and box.category == "bus" and draws[3] < settings.route_sign_lit:
        color = choose(draws[4], settings.route_sign_colors)
        out.append(_route_sign(corners, color, pick(draws[5], settings.route_sign), rng))
    if marked and draws[6] < chance:
        color = settings.marker_front if front else settings.tail_color
        power, radius = pick(draws[7], settings.marker_lamp), 0.018 * w
        row = y1 + max(0.045 * h, radius)
        out += [round_lamp((x1 + w * share, row), (radius, radius), color, power) for share in _MARKERS]
    return out


def _windows(
    patch: U8,
    corners: Corners,
    nearer: F64,
    color: RGB,
    power: float,
    rng: np.random.Generator,
) -> list[Lamp]:
    """Light behind the glass."""
    left, top = int(corners[0]), int(corners[1])
    hidden = np.zeros(patch.shape[:2], bool)
    for x1, y1, x2, y2 in nearer:
        hidden[_at(y1, top) : _at(y2, top), _at(x1, left) : _at(x2, left)] = True
    out = []
    for x, y, pane in _panes(patch, hidden):
        rows, columns = pane.shape
        at_y, at_x = (float(where.mean()) + 0.5 for where in np.nonzero(pane))
        # Lamps hang from the ceiling, and people and posts stand before the light.
        shape = pane * np.linspace(1, 0.45, rows, dtype=np.float32)[:, None]
        coarse = rng.uniform(0.4, 1, (2, max(columns // max(rows, 1) * 2, 2))).astype(np.float32)
        shape *= cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_LINEAR).reshape(rows, columns)
        at = (left + x, top + y)
        out.append(Lamp(at[0] + at_x, at[1] + at_y, columns / 2, rows / 2, color, power, shape=shape, origin=at))
    return out


def _panes(patch: U8, hidden: NDArray[np.bool_]) -> list[tuple[int, int, F32]]:
    """Glass: what is darker than the body, in the upper half, in a few whole pieces; a band on small ones without.

    Returns:
        Column and row of each one's corner in the patch, and its outline.
    """
    h, w = patch.shape[:2]
    first, last, edge = round(_BAND[0] * h), max(round(_BAND[1] * h), 1), max(w // 20, 1)
    upper = ~hidden
    upper[:first] = upper[last:] = False
    if min(h, w) >= _LEAST_GLASS and upper.any():
        luma = np.asarray(cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY), np.uint8)
        levels = luma[upper]
        # A body that is dark itself, or red, has no glass under the first limit: then what parts its grey levels best.
        parted = float(cv2.threshold(levels[:, None], 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0]) + 1
        for limit in (_GLASS * float(np.percentile(levels, 80)), parted):
            glass = (upper & (luma < limit)).astype(np.uint8)
            glass[:, :edge] = glass[:, w - edge :] = 0
            glass = np.asarray(cv2.medianBlur(glass, 5 if min(h, w) > 40 else 3), np.uint8)
            glass[hidden] = 0
            # What reaches a corner of the box is behind the vehicle.
            panes = [
                (x, y, pane) for x, y, pane in _pieces(glass, 0.7)
                if y > first or (x > edge and x + pane.shape[1] < w - edge)
            ]  # fmt: skip
            if panes:
                return panes
        if min(h, w) >= _CLEAR_GLASS:
            return []
    band = np.zeros((h, w), np.uint8)
    band[h // 6 : max(h * 5 // 12, h // 6 + 1), w // 8 : max(w - w // 8, 1)] = 1
    band[hidden] = 0
    return _pieces(band, 0)


def _pieces(mask: U8, whole: float) -> list[tuple[int, int, F32]]:
    """The largest connected pieces that fill at least that share of their own box: windows do, shade is ragged."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    out = []
    for k in 1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")[:8]:
        x, y, columns, rows, area = (int(v) for v in stats[k])
        if area >= max(0.004 * mask.size, 4) and area >= whole * columns * rows:
            out.append((x, y, (labels[y : y + rows, x : x + columns] == k).astype(np.float32)))
    return out


def _route_sign(corners: Corners, color: RGB, power: float, rng: np.random.Generator) -> Lamp:
    """The line and where it goes, in lit dots under the roof."""
    x1, y1, x2, y2 = corners
    w, h = x2 - x1, y2 - y1
    columns, rows = max(round(w * rng.uniform(0.18, 0.4)), 3), max(round(0.05 * h), 1)
    at = (int((x1 + x2 - columns) / 2), min(int(y1 + max(0.05 * h, 1)), int(y2) - rows))
    letters = np.repeat(rng.uniform(0.1, 1, columns // 2 + 1).astype(np.float32), 2)[:columns]
    shape = np.tile(letters, (rows, 1))
    return Lamp(at[0] + columns / 2, at[1] + rows / 2, columns / 2, rows / 2, color, power, shape=shape, origin=at)


def _at(edge: float, start: int) -> int:
    """Where the edge of another box lies in a patch, 0 where it lies before it."""
    return max(round(edge) - start, 0)
