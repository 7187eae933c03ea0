"""The sheet a scene is painted on: surfaces, lamps, depth and object numbers, twice as fine as the image.

A scene is painted once, back to front, into plain buffers (what a surface reflects, what it sends out,
how far it is, whose it is); day and night differ only in how :mod:`.day` and :mod:`.night` light them.
That is what makes a pair share its boxes, and what makes the boxes exact: they are read off the painted
object numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
RGB = tuple[float, float, float]

#: The buffers are this many times finer than the image; edges and boxes get half a pixel.
SUPERSAMPLE = 2
#: Metres at which the depth code saturates; code = 255 * sqrt(NEAREST / z).
NEAREST = 3.0

#: Numbers in the id buffer that are no object.
SKY, GROUND, WALL, CLUTTER, LEAVES, HOOD = range(6)
FIRST_OBJECT = 8
LAST_OBJECT = 255

_SHIFT = 3
_FIXED = 1 << _SHIFT
# our pixel i reaches from i to i + 1, cv2's is centred on i; what is left of the half rounds
_TO_CENTRE = _FIXED / 2 - 0.5


@dataclass(frozen=True)
class Camera:
    """A level pinhole camera above the road; metres, x right, y up, z ahead.

    Attributes:
        focal: focal length in image widths.
        horizon: row of the horizon as a share of the image height.
        height: metres above the road.
        yaw: shift of the vanishing point, in image widths.
        curve: sideways bend of the street, metres per square metre of distance.
    """

    focal: float
    horizon: float
    height: float
    yaw: float
    curve: float


@dataclass(frozen=True)
class Light:
    """A lamp bright enough to glow: position in metres, linear colour, strength (1 is a tail lamp)."""

    x: float
    y: float
    z: float
    color: RGB
    power: float
    owner: int
    kind: str


@dataclass
class Mark:
    """What the canvas knows of one painted object; the extent is in fine pixels, right/bottom exclusive."""

    category: str
    light_color: str | None
    outline: list[Array] = field(default_factory=list)
    low: Array = field(default_factory=lambda: np.zeros(2))
    high: Array = field(default_factory=lambda: np.zeros(2))
    extent: tuple[int, int, int, int] | None = None
    pixels: int = 0


@lru_cache(maxsize=16)
def _ring(sides: int) -> Array:
    angle = np.arange(sides) * (2 * math.pi / sides)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def depth_code(z: float) -> float:
    return 255.0 * math.sqrt(NEAREST / max(z, NEAREST))


class Canvas:
    """Buffers and the few strokes everything is drawn with. Colours are sRGB 0..255."""

    def __init__(self, width: int, height: int, camera: Camera, night: bool) -> None:
        self.width, self.height = width, height
        self.camera = camera
        self.night = night
        w, h = width * SUPERSAMPLE, height * SUPERSAMPLE
        self.w, self.h = w, h
        self.color = np.zeros((h, w, 4), np.uint8)  # reflected colour, depth code
        self.emit = np.zeros((h, w, 4), np.uint8)  # emitted colour, retro-reflection
        self.ids = np.zeros((h, w), np.uint8)
        self.lights: list[Light] = []
        self.marks: dict[int, Mark] = {}
        self._f = camera.focal * w
        self._cx = (0.5 + camera.yaw) * w
        self._hy = camera.horizon * h

    # --- geometry -----------------------------------------------------------------------------------

    def project(self, points: ArrayLike) -> Array:
        """World metres (..., 3) to fine pixels (..., 2)."""
        p = np.asarray(points, dtype=np.float64)
        z = np.maximum(p[..., 2], 0.9)
        out = np.empty((*p.shape[:-1], 2))
        out[..., 0] = self._cx + self._f * (p[..., 0] / z + self.camera.curve * z)
        out[..., 1] = self._hy + self._f * (self.camera.height - p[..., 1]) / z
        return out

    def scale(self, z: float) -> float:
        """Fine pixels a metre at distance z."""
        return self._f / max(z, 0.9)

    def point(self, x: float, y: float, z: float) -> tuple[float, float]:
        """One world point to fine pixels; the same as :meth:`project`, without arrays."""
        z = max(z, 0.9)
        return (
            self._cx + self._f * (x / z + self.camera.curve * z),
            self._hy + self._f * (self.camera.height - y) / z,
        )

    def in_view(self, x: float, z: float, reach: float) -> bool:
        """Whether something within ``reach`` metres of (x, z) can show at all."""
        near, far = max(z - reach, 0.9), z + reach
        left, right = x - reach, x + reach
        bend = self.camera.curve * far
        side = self.w / self._f
        lowest = min(left / near, left / far) + min(bend, 0.0) + self._cx / self._f
        highest = max(right / near, right / far) + max(bend, 0.0) + self._cx / self._f
        return highest > 0 and lowest < side

    def flat(self, x: float, y: float, z: float, local: ArrayLike) -> Array:
        """Points of an upright card that faces the camera, (..., 2) metres around (x, y, z), to pixels."""
        scale = self.scale(z)
        out = np.array(local, dtype=np.float64)
        out *= (scale, -scale)
        out += self.point(x, y, z)
        return out

    # --- strokes ------------------------------------------------------------------------------------

    def _fixed(self, polygons: Sequence[Array] | Array) -> list[NDArray[np.int32]]:
        if isinstance(polygons, np.ndarray):
            return list(np.subtract(polygons * _FIXED, _TO_CENTRE).astype(np.int32))
        return [np.subtract(p * _FIXED, _TO_CENTRE).astype(np.int32) for p in polygons]

    def solid(self, polygon: Array, rgb: RGB, z: float, owner: int) -> None:
        """A surface: hides what is behind it, lamps included, and belongs to ``owner``."""
        fixed = self._fixed(polygon[None])
        cv2.fillPoly(self.color, fixed, (*rgb, depth_code(z)), shift=_SHIFT)
        cv2.fillPoly(self.emit, fixed, (0, 0, 0, 0), shift=_SHIFT)
        cv2.fillPoly(self.ids, fixed, (owner,), shift=_SHIFT)
        mark = self.marks.get(owner)
        if mark is not None:
            mark.outline.append(polygon)

    def paint(self, polygons: Sequence[Array] | Array, rgb: RGB, z: float) -> None:
        """Colour on a surface already there; the owner and the outline stay."""
        cv2.fillPoly(self.color, self._fixed(polygons), (*rgb, depth_code(z)), shift=_SHIFT)

    def daub(self, polygons: Array, tones: Array, z: float) -> None:
        """Many small strokes (N, K, 2) that may overlap, each in its own colour (N, 3), later ones on top."""
        code = depth_code(z)
        for fixed, tone in zip(self._fixed(polygons), tones.tolist(), strict=True):
            cv2.fillPoly(self.color, [fixed], (*tone, code), shift=_SHIFT)

    def shine(self, polygons: Sequence[Array] | Array, rgb: RGB, retro: float = 0.0) -> None:
        """Light sent out by a surface already there (sRGB code, 255 is far over white); retro 0..255."""
        cv2.fillPoly(self.emit, self._fixed(polygons), (*rgb, retro), shift=_SHIFT)

    def line(self, a: ArrayLike, b: ArrayLike, rgb: RGB, z: float, thick: float, *, owner: int = CLUTTER) -> None:
        """A bar from a to b, ``thick`` fine pixels wide."""
        (ax, ay), (bx, by) = np.asarray(a).tolist(), np.asarray(b).tolist()
        k = max(thick, 0.6) / 2 / (math.hypot(bx - ax, by - ay) + 1e-9)
        nx, ny = (ay - by) * k, (bx - ax) * k
        bar = np.array([(ax + nx, ay + ny), (bx + nx, by + ny), (bx - nx, by - ny), (ax - nx, ay - ny)])
        self.solid(bar, rgb, z, owner)

    def disc(self, centre: ArrayLike, radius: float, sides: int = 12) -> Array:
        """A round polygon in fine pixels, (sides, 2)."""
        return np.asarray(_ring(sides) * radius + np.asarray(centre))

    # --- objects ------------------------------------------------------------------------------------

    def open(self, category: str, light_color: str | None = None) -> int:
        """A number for a new object, or CLUTTER once all numbers are given out."""
        number = FIRST_OBJECT + len(self.marks)
        if number > LAST_OBJECT:
            return CLUTTER
        self.marks[number] = Mark(category, light_color)
        return number

    def close(self, owner: int) -> None:
        """Read the object's extent off the numbers while nothing nearer is painted yet."""
        mark = self.marks.get(owner)
        if mark is None or not mark.outline:
            return
        points = np.concatenate(mark.outline)
        mark.outline.clear()
        mark.low, mark.high = points.min(axis=0), points.max(axis=0)
        x0, y0 = np.clip(np.floor(mark.low) - 1, 0, (self.w, self.h)).astype(int)
        x1, y1 = np.clip(np.ceil(mark.high) + 2, 0, (self.w, self.h)).astype(int)
        if x1 <= x0 or y1 <= y0:
            return
        own = (self.ids[y0:y1, x0:x1] == owner).view(np.uint8)
        mark.pixels = cv2.countNonZero(own)
        if mark.pixels:
            x, y, w, h = cv2.boundingRect(own)
            mark.extent = (int(x0) + x, int(y0) + y, int(x0) + x + w, int(y0) + y + h)

    def light(self, position: ArrayLike, color: RGB, power: float, owner: int, kind: str) -> None:
        x, y, z = (float(v) for v in np.asarray(position))
        if z > 0.9:
            self.lights.append(Light(x, y, z, color, power, owner, kind))

    def seen(self, light: Light) -> bool:
        """Whether nothing nearer was painted over the lamp."""
        u, v = (int(t) for t in self.point(light.x, light.y, light.z))
        if not (0 <= u < self.w and 0 <= v < self.h):
            return False
        return bool((self.ids[max(v - 1, 0) : v + 2, max(u - 1, 0) : u + 2] == light.owner).any())
