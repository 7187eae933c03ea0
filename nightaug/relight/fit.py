"""Fit relight's constants to somebody's own nights: draw day frames as night, compare, change one constant, again.

Analysis by synthesis with a pattern search (Hooke and Jeeves, 1961): constants one after the other are multiplied or
divided by a step, their ranges widened or narrowed by it, what brings the drawn set nearer to the real one stays, and
after each round the step shrinks. The day frames and their seeds are the same each time, so the search is exact and a
second run ends with the same file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from nightaug.data.frames import Box, lit_by
from nightaug.data.results import LOOK
from nightaug.errors import CheckpointError
from nightaug.images import atomic_write_text
from nightaug.relight.render import relight
from nightaug.relight.settings import RelightSettings
from nightaug.relight.statistics import Values, distances, measure, total

U8 = NDArray[np.uint8]
#: An image and its boxes, in its pixels.
Shot = tuple[U8, list[Box]]

#: What is fitted, in this order: what changes most comes first.
KNOBS: tuple[str, ...] = (
    "median_luma", "sky_luma", "highlight_luma", "contrast", "shadow_flattening", "desaturation", "softness",
    "headlight_pool", "ambient_top", "vehicle_light", "person_light", "sign_light", "signal_light",
    "lit_inside", "bus_window", "route_sign_lit", "route_sign", "marked_bus", "marked_truck", "marker_lamp",
    "headlamp", "tail_lamp", "brake_lamp", "signal_lamp", "core_limit", "lit_on_road", "lit_at_side", "brake_chance",
    "glow", "spill", "wet_chance", "wet", "black_level", "read_noise", "shot_noise", "chroma_noise",
    "street_lamps", "far_lights", "lit_windows", "street_lamp", "far_light", "lit_window",
)  # fmt: skip
#: Constants that are off at 0 begin with this high end when they are tried.
_FROM_NOTHING = {"street_lamps": 4.0, "far_lights": 12.0, "lit_windows": 8.0}
#: What an exponent of light may at least be.
_LEAST = {"contrast": 1.0}
#: Factors of the rounds, and whether ranges are widened and narrowed by them, too.
ROUNDS: tuple[tuple[float, bool], ...] = ((2.0, False), (1.5, True), (1.2, False))
#: A constant is never farther from relight's own than this factor: beyond it another one is at fault.
_FARTHEST = 8.0
#: What a constant's every octave away from relight's own must bring, or chance would decide.
_PRICE = 0.004


@dataclass(frozen=True)
class Fit:
    """What a search ended with.

    Attributes:
        constants: those that differ from relight's own, by name.
        before, after: distances of the drawn day frames from the real nights, scene and classes.
        held_before, held_after: the same of frames that took no part, None where there were none or it was stopped.
        trials: renderings of the whole set.
        stopped: the search was interrupted; the constants are the best so far.
    """

    constants: dict[str, Any]
    before: dict[str, float]
    after: dict[str, float]
    held_before: dict[str, float] | None
    held_after: dict[str, float] | None
    trials: int
    stopped: bool = False


def shrunk(image: U8, boxes: Sequence[Box], side: int) -> Shot:
    """An image whose longer side is at most ``side`` pixels, with its boxes."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image, list(boxes)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    x, y = size[0] / width, size[1] / height
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return small, [
        msgspec.structs.replace(box, x1=box.x1 * x, y1=box.y1 * y, x2=box.x2 * x, y2=box.y2 * y) for box in boxes
    ]


def fit_constants(
    days: Sequence[Shot],
    real: Mapping[str, Values],
    *,
    held: tuple[Sequence[Shot], Mapping[str, Values]] | None = None,
    knobs: Sequence[str] = KNOBS,
    rounds: Sequence[tuple[float, bool]] = ROUNDS,
    seed: int = 0,
    workers: int = 1,
    trials: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Fit:
    """Find constants with which drawn days are nearest to real nights.

    Args:
        days: day frames with boxes.
        real: :func:`~nightaug.relight.statistics.measure` of real nights.
        held: day frames and real nights that take no part but tell whether the result holds.
        knobs: names of the constants, in the order they are tried.
        rounds: as :data:`ROUNDS`.
        seed: of the renderings.
        workers: threads.
        trials: a file that remembers every trial; a search that is run again goes on from it.
        progress: called with constants tried, constants in all, and a word on it.
        stop: asked before each trial; True ends the search with what it has.

    Raises:
        CheckpointError: ``trials`` belongs to another search or cannot be read.
    """
    identity = _identity(days, real, seed)
    memory = _Trials(trials, identity)
    count = 0

    def apart(settings: RelightSettings) -> dict[str, float]:
        nonlocal count
        count += 1
        key = _key(settings)
        if key not in memory.known:
            memory.add(key, distances(real, drawn(days, settings, seed, workers)))
        return memory.known[key]

    best = RelightSettings()
    before = nearest = apart(best)
    at, all_of_them, stopped = 0, len(knobs) * len(rounds), False
    for step, stretch in rounds:
        for name in knobs:
            if stopped := stop():
                break
            moves = ((step, step), (1 / step, 1 / step), (1 / step, step), (step, 1 / step))
            for low, high in moves if stretch else moves[:2]:
                moved = False
                while (candidate := turned(best, name, low, high)) is not None and not stop():
                    found = apart(candidate)
                    if total(found) + price(candidate) >= total(nearest) + price(best):
                        break
                    best, nearest, moved = candidate, found, True
                if moved and low == high:
                    break
            at += 1
            if progress is not None:
                progress(at, all_of_them, f"{name}, distance {total(nearest):.3f} (at first {total(before):.3f})")
        if stopped:
            break
    stopped = stopped or stop()
    if held is None or stopped:
        return Fit(changed(best), before, nearest, None, None, count, stopped)
    frames, nights = held
    first, last = (distances(nights, drawn(frames, each, seed + 1, workers)) for each in (RelightSettings(), best))
    return Fit(changed(best), before, nearest, first, last, count)


def drawn(days: Sequence[Shot], settings: RelightSettings, seed: int, workers: int = 1) -> dict[str, Values]:
    """Statistics of day frames drawn as night, each with a seed of its own."""

    def night(number: int) -> Shot:
        image, boxes = days[number]
        return relight(image, boxes, seed=seed * 1_000_003 + number, settings=settings), boxes

    with ThreadPoolExecutor(workers) as pool:
        return measure(pool.map(night, range(len(days))))


def turned(settings: RelightSettings, name: str, low: float, high: float) -> RelightSettings | None:
    """The constants with the ends of one multiplied; None where that changes nothing or is not allowed.

    Args:
        low, high: factors of the ends of a range. A single number takes ``low`` where both are the same, else nothing.
    """
    value, own = getattr(settings, name), getattr(RelightSettings(), name)
    if not isinstance(value, tuple):
        if low != high:
            return None
        new: Any = _within(round(value * low, 8), own)
    elif value[1] == 0:
        if min(low, high) < 1 or name not in _FROM_NOTHING:
            return None
        new = (0.0, _FROM_NOTHING[name])
    else:
        first = own if own[1] else (0.0, _FROM_NOTHING[name])
        least = _LEAST.get(name, 0.0)
        new = tuple(
            max(_within(round(end * factor, 8), start), least)
            for end, factor, start in zip(value, (low, high), first, strict=True)
        )
        if new[0] > new[1]:
            return None
    try:
        moved = replace(settings, **{name: new})
    except ValueError:  # over what is possible
        return None
    return None if getattr(moved, name) == value else moved


def _within(value: float, own: float) -> float:
    return min(max(value, own / _FARTHEST), own * _FARTHEST)


def price(settings: RelightSettings) -> float:
    """What the constants' way from relight's own costs, in units of distance."""
    own, octaves = asdict(RelightSettings()), 0.0
    for name, value in changed(settings).items():
        ends = value if isinstance(value, tuple) else (value,)
        starts = own[name] if isinstance(own[name], tuple) else (own[name],)
        moves = [abs(math.log2(end / start)) if end and start else 1.0 for end, start in zip(ends, starts, strict=True)]
        octaves += sum(moves) / len(moves)
    return _PRICE * octaves


def changed(settings: RelightSettings) -> dict[str, Any]:
    """What differs from relight's own constants."""
    own = asdict(RelightSettings())
    return {name: value for name, value in asdict(settings).items() if value != own[name]}


def _key(settings: RelightSettings) -> str:
    return json.dumps(changed(settings), sort_keys=True)


def _identity(days: Sequence[Shot], real: Mapping[str, Values], seed: int) -> str:
    digest = hashlib.sha256(json.dumps([LOOK, seed, asdict(RelightSettings()), real], sort_keys=True).encode())
    for image, boxes in days:
        digest.update(image.tobytes())
        digest.update(repr([lit_by(box) for box in boxes]).encode())
    return digest.hexdigest()


class _Trials:
    """Distances of all settings tried so far, kept in a file where one is given."""

    def __init__(self, path: Path | None, identity: str) -> None:
        self.path, self.identity = path, identity
        self.known: dict[str, dict[str, float]] = {}
        if path is None or not path.exists():
            return
        try:
            content = json.loads(path.read_text("utf-8"))
            found, known = content["identity"], dict(content["known"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}); delete it to search anew") from error
        if found != identity:
            raise CheckpointError(
                f"{path} remembers a search with other images or another seed; delete it, or choose another --out"
            )
        self.known = known

    def add(self, key: str, apart: dict[str, float]) -> None:
        self.known[key] = apart
        if self.path is not None:
            atomic_write_text(self.path, json.dumps({"identity": self.identity, "known": self.known}))
