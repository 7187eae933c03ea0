"""What a night looks like in numbers: of whole images and of the objects in them, and how far two sets are apart.

Only distributions are compared, so no image of one set needs a partner in the other. Brightness is measured in stops
(log2), as darkness holds most of a night.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from nightaug.data.frames import Box

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
#: Name of what is measured -> its values, one an image or object.
Values = dict[str, list[float]]

#: Grey level from which a pixel counts as a lamp.
BRIGHT = 180
#: Objects with a side under this many pixels are not measured.
MIN_SIDE = 6.0
#: A class with fewer objects than this in either set is not compared.
MIN_OBJECTS = 20
#: Name of the statistics of whole images among those of classes.
SCENE = "scene"

_PERCENTILES = (5, 25, 50, 75, 95, 99)
_LEVELS = np.linspace(0.05, 0.95, 19)
#: Differences are told in units of the real set's spread, which is taken for at least this much.
_LEAST_SPREAD = {"share": 0.02, "stops": 0.2}
#: Sets that lie farther apart than this in one statistic are simply far.
_FAR = 5.0


def measure(images: Iterable[tuple[U8, Sequence[Box]]]) -> dict[str, Values]:
    """Statistics of images and their objects.

    Args:
        images: uint8 (H, W, 3) RGB each, with boxes in its pixels; crowds and boxes of weight 0 are passed over.

    Returns:
        Class name (or :data:`SCENE`) -> statistic -> values.
    """
    found: dict[str, Values] = {}
    for image, boxes in images:
        planes = _Planes(image)
        _add(found.setdefault(SCENE, {}), planes.scene())
        for box in boxes:
            if not box.crowd and box.weight > 0 and (row := planes.object(box)) is not None:
                _add(found.setdefault(box.category, {}), row)
    return found


def distances(real: Mapping[str, Values], made: Mapping[str, Values]) -> dict[str, float]:
    """How far two sets are apart, for the scene and each class with enough objects in both.

    A statistic's distance is the mean difference of its quantiles (Wasserstein-1) in units of its spread in the real
    set, at most 5; a class' is the mean over its statistics.
    """
    out: dict[str, float] = {}
    for name in sorted(set(real) & set(made)):
        rows = [_distance(kind, real[name][kind], made[name][kind]) for kind in real[name] if kind in made[name]]
        least = 1 if name == SCENE else MIN_OBJECTS
        if rows and min(len(next(iter(each[name].values()))) for each in (real, made)) >= least:
            out[name] = float(np.mean(rows))
    return out


def total(apart: Mapping[str, float]) -> float:
    """One number: the scene's distance plus the classes' mean."""
    classes = [value for name, value in apart.items() if name != SCENE]
    return apart.get(SCENE, 0.0) + (float(np.mean(classes)) if classes else 0.0)


def _add(values: Values, row: Mapping[str, float]) -> None:
    for name, value in row.items():
        values.setdefault(name, []).append(value)


def _distance(kind: str, real: Sequence[float], made: Sequence[float]) -> float:
    a, b = np.quantile(real, _LEVELS), np.quantile(made, _LEVELS)
    spread = max(float(np.std(real)), _LEAST_SPREAD["share" if kind.endswith("share") else "stops"])
    return min(float(np.abs(a - b).mean()) / spread, _FAR)


class _Planes:
    """What all statistics of one image are taken from."""

    def __init__(self, image: U8) -> None:
        values = image.astype(np.float32)
        self.red, self.green, self.blue = values[..., 0], values[..., 1], values[..., 2]
        self.luma: F32 = 0.299 * self.red + 0.587 * self.green + 0.114 * self.blue
        self.stops: F32 = np.log2(self.luma + 2)
        high, low = values.max(axis=2), values.min(axis=2)
        self.saturation: F32 = (high - low) / (high + 8)
        smooth = np.asarray(cv2.GaussianBlur(self.luma, (0, 0), 1.0), np.float32)
        smoother = np.asarray(cv2.GaussianBlur(self.luma, (0, 0), 4.0), np.float32)
        self.fine, self.coarse = np.abs(self.luma - smooth), np.abs(smooth - smoother)
        self.bright = self.luma > BRIGHT
        self.reddish = (self.red > 90) & (self.red > 2 * self.green) & (self.red > 2 * self.blue)

    def scene(self) -> dict[str, float]:
        height = self.luma.shape[0]
        thirds = np.array_split(np.arange(height), min(3, height))
        rows = {f"p{at}": float(np.percentile(self.stops, at)) for at in _PERCENTILES}
        rows |= {f"third {n}": float(self.stops[part].mean()) for n, part in enumerate(thirds)}
        rows |= {
            "fine": _stops(self.fine.mean()),
            "grain": _stops(np.median(self.fine)),
            "coarse": _stops(self.coarse.mean()),
            "saturation share": float(self.saturation.mean()),
            "warmth": float(np.log2((self.red.mean() + 4) / (self.blue.mean() + 4))),
            "lamps": float(np.log2(1 + cv2.connectedComponents(self.bright.astype(np.uint8))[0] - 1)),
            "bright share": float(self.bright.mean()),
            "red share": float(self.reddish.mean()),
        }
        return rows

    def object(self, box: Box) -> dict[str, float] | None:
        """Statistics of one object and of what is around it; None where it is too small or outside."""
        height, width = self.luma.shape
        x1, y1 = max(round(box.x1), 0), max(round(box.y1), 0)
        x2, y2 = min(round(box.x2), width), min(round(box.y2), height)
        if not (x2 - x1 >= MIN_SIDE and y2 - y1 >= MIN_SIDE):
            return None
        inside = (slice(y1, y2), slice(x1, x2))
        dx, dy = (x2 - x1) // 2, (y2 - y1) // 2
        around = self.stops[max(y1 - dy, 0) : y2 + dy, max(x1 - dx, 0) : x2 + dx]
        stops = self.stops[inside]
        rest = max(around.size - stops.size, 1)
        ring = (float(around.sum()) - float(stops.sum())) / rest if around.size > stops.size else float(stops.mean())
        return {
            "mean": float(stops.mean()),
            "p10": float(np.percentile(stops, 10)),
            "p50": float(np.median(stops)),
            "p90": float(np.percentile(stops, 90)),
            "top": float(stops.max()),
            "over its surroundings": float(stops.mean()) - ring,
            "fine": _stops(self.fine[inside].mean()),
            "coarse": _stops(self.coarse[inside].mean()),
            "saturation share": float(self.saturation[inside].mean()),
            "white share": float((self.bright & ~self.reddish)[inside].mean()),
            "red share": float(self.reddish[inside].mean()),
        }


def _stops(value: float | np.floating) -> float:
    return float(np.log2(value + 0.25))
