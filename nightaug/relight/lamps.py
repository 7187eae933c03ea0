"""Which lamps a labelled object carries, and where they are inside its box.

Position and kind come from the pixels where they can (red at the corners of a car is its rear; the lit disc
of a signal is the most saturated one), from the box's shape and place where they cannot.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from nightaug.data.frames import Box
from nightaug.relight.lamp_base import TWO_TRACK, Corners, Lamp, choose, pick, round_lamp
from nightaug.relight.settings import RelightSettings
from nightaug.relight.upper import upper_lamps

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

_SIDE_ASPECT = 2.0  # width over height from which a car is seen from the side
_SHOWS_SIDE = 1.35  # the same from which it shows its side beside its face
_MIN_EVIDENCE_SIDE = 10  # pixels: below this a box has too few pixels to tell front from rear
_COLORED = 0.5  # a lamp whose weakest colour is below this share is red, amber or green, not white
_CLEAR_SIDE = 48  # pixels: above this tail lamps are plain to see by day
_RED_EXCESS = 12.0  # grey levels of red over the other two, weighted: a tail lamp by day
_RED_FULL = 60.0  # grey levels above that: surely a lamp
_RED_BODY = 0.16  # share of a patch that is red: the vehicle itself is painted so


class _Spot(NamedTuple):
    """A red spot of a vehicle: centre in the patch, its shape, and the patch pixel of the shape's corner."""

    x: float
    y: float
    shape: F32
    origin: tuple[int, int]


class _Rear(NamedTuple):
    """What the pixels say about a rear view: how sure in [0, 1], and its lamps (at most three)."""

    score: float
    spots: tuple[_Spot, ...]


_NO_REAR = _Rear(0.0, ())


def find_lamps(image: U8, good: list[tuple[Box, Corners]], draws: F64, settings: RelightSettings) -> list[Lamp]:
    """The lamps of all boxes.

    Args:
        image: uint8 (H, W, 3) RGB, the day frame.
        good: what :func:`~nightaug.relight.lamp_base.usable` gave.
        draws: (P, DRAWS) uniform numbers in [0, 1), one row for each label.
        settings: ranges of brightness and chances.

    Returns:
        The lamps, each inside its own box; lamps hidden behind a nearer vehicle are left out.
    """
    height, width = image.shape[:2]
    vehicles = np.array([c for b, c in good if b.category in TWO_TRACK], dtype=np.float64).reshape(-1, 4)
    lamps: list[Lamp] = []
    for (box, corners), u in zip(good, draws, strict=True):
        x1, y1, x2, y2 = corners
        if min(x2 - x1, y2 - y1) < settings.min_lamp_box:
            continue
        bounds = (int(x1), int(y1), int(np.ceil(x2)), int(np.ceil(y2)))
        patch = image[bounds[1] : bounds[3], bounds[0] : bounds[2]]
        # Nearer is lower in the frame: what lies in a nearer vehicle's box is hidden by it.
        nearer = vehicles[vehicles[:, 3] > y2 + 1]
        if box.category in TWO_TRACK:
            view = _view(patch, box, corners, (width, height), u, settings)
            found = _vehicle(view, box, corners, width, u, settings)
            if view.lit and box.category != "car":
                found += upper_lamps(patch, box, corners, view.front, not any(view.cut), nearer, u, settings)
        elif box.category == "traffic light":
            found = [_signal(patch, box, corners, u, settings)]
        elif box.category in ("motorcycle", "rider", "bicycle"):
            found = _single(box, corners, width, u, settings)
        else:
            continue
        for lamp in found:
            inside = (
                (nearer[:, 0] < lamp.x) & (lamp.x < nearer[:, 2]) & (nearer[:, 1] < lamp.y) & (lamp.y < nearer[:, 3])
            )
            if box.category == "traffic light" or not inside.any():
                lamps.append(_colour_kept(lamp._replace(bounds=bounds), settings.core_limit))
    return lamps


def _look_for_rear(patch: U8) -> _Rear:
    """Compact red spots on a vehicle that is not red itself are its tail lamps, and show their own shape."""
    h, w = patch.shape[:2]
    pixels = patch.astype(np.float32)
    # Red over orange and brown: taxis, bricks and rust have far more green.
    excess = pixels[..., 0] - np.maximum(1.45 * pixels[..., 1], 1.3 * pixels[..., 2]) - _RED_EXCESS
    if float((excess > 0).mean()) > _RED_BODY:
        return _NO_REAR
    band = np.clip(excess, 0, _RED_FULL)
    band[: int(0.18 * h)] = 0
    band[int(0.85 * h) :] = 0
    _, labels, stats, centres = cv2.connectedComponentsWithStats((band > 0).astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    spots: list[_Spot] = []
    score = 0.0
    for k in 1 + np.argsort(-areas, kind="stable")[:4]:
        x, y, columns, rows, area = (int(v) for v in stats[k])
        if len(spots) == 3 or not max(0.0015 * h * w, 2) <= area <= 0.06 * h * w:
            continue
        inside = labels[y : y + rows, x : x + columns] == k
        red = np.where(inside, band[y : y + rows, x : x + columns], 0)
        peak = float(red.max()) / _RED_FULL
        if peak < 0.35:
            continue
        # The glass is lit as a whole, only its rim fades.
        shape = np.clip(cv2.blur(np.minimum(red / (0.5 * _RED_FULL), 1), (3, 3)), 0, 1).reshape(rows, columns)
        spots.append(_Spot(float(centres[k][0]), float(centres[k][1]), shape.astype(np.float32), (x, y)))
        score += peak
    return _Rear(min(score, 1.0), tuple(spots))


class _View(NamedTuple):
    """How a vehicle is seen: what its rear shows, from the front or not, its lamps on or not, and cut off where."""

    rear: _Rear
    front: bool
    lit: bool
    cut: tuple[bool, bool]  #: by the image's left and right edge


def _view(patch: U8, box: Box, corners: Corners, frame: tuple[int, int], u: F64, settings: RelightSettings) -> _View:
    x1, y1, x2, y2 = corners
    place = (x1 + x2) / 2 / frame[0]
    if settings.left_hand_traffic:
        place = 1 - place
    rear = _look_for_rear(patch) if min(x2 - x1, y2 - y1) >= _MIN_EVIDENCE_SIDE else _NO_REAR
    # Oncoming traffic keeps to one side; straight ahead and on the near side one sees rears.
    front_chance = 0.7 if box.category == "train" else 0.85 / (1 + math.exp((place - 0.34) * 24)) + 0.02
    front = bool(u[0] < front_chance) and not rear.spots
    lit = u[1] < (settings.lit_on_road if 0.25 < place < 0.70 else settings.lit_at_side)
    return _View(rear, front, bool(lit), (x1 <= 2, x2 >= frame[0] - 2))


def _vehicle(view: _View, box: Box, corners: Corners, width: int, u: F64, settings: RelightSettings) -> list[Lamp]:
    """Head or tail lamps of a car, truck, bus or train; ``width`` of the frame, pixels."""
    x1, y1, x2, y2 = corners
    w, h = x2 - x1, y2 - y1
    rear, front, lit, cut = view
    tall = box.category in ("truck", "bus", "train")
    level = (0.76 if tall else 0.57) + (u[2] - 0.5) * (0.08 if tall else 0.2)
    size = (0.028 if tall else 0.04) * min(w, 1.6 * h)
    color = choose(u[4], settings.headlamp_colors)
    braking = bool(lit and u[6] < settings.brake_chance)
    span = (settings.brake_lamp if braking else settings.tail_lamp) if lit else settings.reflector
    tail = pick(u[5], span)
    if rear.spots:
        return _seen_tails(rear, box, corners, cut=cut, size=size, power=tail, settings=settings)
    if w / h > _SIDE_ASPECT and not tall and not any(cut):
        # From the side the headlamp of one end and the tail lamp of the other show as slivers; the pixels do not tell
        # which end is which.
        head, tail_end = (0.04, 0.96) if u[5] < 0.5 else (0.96, 0.04)
        slivers = ((head, color), (tail_end, settings.tail_color))
        radii = (size * 0.5, size * 0.5)
        return [round_lamp((x1 + w * end, y1 + h * 0.55), radii, each, 1.0) for end, each in slivers] if lit else []
    ends = [share for share, gone in zip(_ends((x1 + x2) / 2 / width, w, h, u, settings), cut, strict=True) if not gone]
    if front:
        power = pick(u[5] ** 2, settings.headlamp)
        row = y1 + h * level
        return [round_lamp((x1 + w * end, row), (size * 1.1, size), color, power) for end in ends] if lit else []
    if min(w, h) > _CLEAR_SIDE and u[10] < 0.8:
        return []  # so large, a rear would show its red by day
    row = y1 + h * (level - (0.0 if tall else 0.09))
    out = [round_lamp((x1 + w * end, row), (size, size * 0.8), settings.tail_color, tail) for end in ends]
    if braking and not tall and w > 24 and not any(cut) and u[7] < 0.7:
        out.append(
            round_lamp((x1 + w * sum(ends) / 2, y1 + h * 0.2), (size, size * 0.3), settings.tail_color, tail * 0.7)
        )
    return out


def _ends(place: float, w: float, h: float, u: F64, settings: RelightSettings) -> tuple[float, float]:
    """Where the two lamps of a face are between the left and right end of its box, as shares of the width.

    A box seldom shows a face alone: of 779 pairs of lamps in boxes of real nights (BDD100K, train) the nearer one is
    0.13 of the width from its end of the box (median; quarters 0.09 and 0.19), the two are 0.5 apart (0.3 and 0.6),
    and the face is more often at the outer end. A detector that has only seen pairs as wide as their box takes real
    ones for smaller vehicles.

    Args:
        place: of the box's middle in the frame, 0 left, 1 right.
    """
    low, high = settings.lamps_apart
    if w / h > _SHOWS_SIDE:
        low, high = 0.87 * low, 0.87 * high
    elif min(w, h) > _CLEAR_SIDE:
        low = (low + 2 * high) / 3  # so large, lamps beside its face would be seen to be wrong
    apart = pick(u[11], (low, high))
    inset = max(min(pick(u[3], settings.lamp_inset), 0.97 - apart), 0.03)
    left = (u[12] < 0.65) == (place < 0.5)
    return (inset, inset + apart) if left else (1 - inset - apart, 1 - inset)


def _seen_tails(
    rear: _Rear,
    box: Box,
    corners: Corners,
    *,
    cut: tuple[bool, bool],
    size: float,
    power: float,
    settings: RelightSettings,
) -> list[Lamp]:
    """Tail lamps in the shape the pixels show; a single one at one end has its twin at the other."""
    x1, y1, x2, _ = corners
    left, top = int(x1), int(y1)
    out = []
    for spot in rear.spots:
        at = (spot.origin[0] + left, spot.origin[1] + top)
        lamp = Lamp(left + spot.x + 0.5, top + spot.y + 0.5, size, size, settings.tail_color, power)
        out.append(lamp._replace(shape=spot.shape, origin=at))
    share = (out[0].x - x1) / (x2 - x1)
    at_end = share < 0.25 or share > 0.75
    if len(out) == 1 and at_end and not box.occluded and not any(cut) and x2 - x1 < 1.5 * (corners[3] - y1):
        twin = (x1 + x2 - out[0].x, out[0].y)
        out.append(round_lamp(twin, (size, size * 0.8), settings.tail_color, power))
    return out


def _single(box: Box, corners: Corners, width: int, u: F64, settings: RelightSettings) -> list[Lamp]:
    """The one small lamp of a two-wheeler; bicycles often have none, a rider's lamp is its bicycle's."""
    x1, y1, x2, y2 = corners
    w, h = x2 - x1, y2 - y1
    chance = {"motorcycle": 0.8, "bicycle": 0.4, "rider": 0.25}[box.category]
    if u[1] > chance or w > 1.6 * h:
        return []
    place = (x1 + x2) / 2 / width
    front = u[0] < (0.6 if (place < 0.45) != settings.left_hand_traffic else 0.1)
    r = max(0.05 * w, 0.7)
    y = y1 + h * (0.72 if box.category == "rider" else 0.45)
    if front:
        power = pick(u[5] ** 2, settings.headlamp) * (0.6 if box.category == "motorcycle" else 0.25)
        return [round_lamp(((x1 + x2) / 2, y), (r, r), choose(u[4], settings.headlamp_colors), power)]
    return [round_lamp(((x1 + x2) / 2, y), (r, r), settings.tail_color, pick(u[5], settings.tail_lamp))]


def _signal(patch: U8, box: Box, corners: Corners, u: F64, settings: RelightSettings) -> Lamp:
    """The lit disc of a traffic light: labelled colour first, then the pixels, then the draw."""
    x1, y1, x2, y2 = corners
    w, h = x2 - x1, y2 - y1
    lying = w > 1.3 * h
    pixels = patch.astype(np.float32)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    n = patch.shape[1] if lying else patch.shape[0]
    evidence = {
        "red": red - np.maximum(green, blue) - 25,
        "yellow": np.minimum(red, green) - blue - 70 + 0.2 * (np.minimum(red, green) - 200),
        "green": np.minimum(green - red, green - 0.85 * blue) - 18,
    }
    slot = {"red": 0, "yellow": 1, "green": 2}
    color = box.light_color if box.light_color in slot else None
    if color is None:
        score = {}
        for name, values in evidence.items():
            k = slot[name]
            part = slice(n * k // 3, max(n * (k + 1) // 3, n * k // 3 + 1))
            strip = values[:, part] if lying else values[part]
            score[name] = (
                float(np.partition(strip.ravel(), -max(strip.size // 12, 1))[-max(strip.size // 12, 1)])
                if strip.size
                else 0.0
            )
        best = max(score, key=lambda name: score[name])
        # Most signals that face the camera are red or green; amber lasts seconds.
        color = best if score[best] > 0 else ("red" if u[0] < 0.47 else "green" if u[0] < 0.94 else "yellow")
    share = (0.2, 0.5, 0.8)[slot[color]]
    across = 0.5
    radius = 0.36 * min(w, h, max(w, h) / 2.6)
    x, y = (x1 + w * share, y1 + h * across) if lying else (x1 + w * across, y1 + h * share)
    rgb = {"red": settings.signal_red, "yellow": settings.signal_yellow, "green": settings.signal_green}[color]
    return round_lamp((x, y), (radius, radius), rgb, pick(u[5], settings.signal_lamp))


def _colour_kept(lamp: Lamp, limit: float) -> Lamp:
    """Dim a wide coloured lamp that would wash out to white; small ones do so on real sensors too."""
    if min(lamp.color) > _COLORED:
        return lamp
    area = math.pi * lamp.rx * lamp.ry if lamp.shape is None else float(lamp.shape.sum())
    radius = math.sqrt(max(area, 1e-3) / math.pi)
    return lamp._replace(power=min(lamp.power, limit * min(max(3.0 / radius, 1.0), 3.0)))
