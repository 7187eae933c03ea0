"""What day and night lighting share: decoding the canvas, world coordinates of pixels, film.

Images are planes, (3, H, W) float32 linear light, 1 is white: numpy is several times faster on them than
on (H, W, 3) wherever one plane meets three.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from nightaug.data.scenes.canvas import NEAREST, SUPERSAMPLE, Canvas
from nightaug.data.scenes.layout import Rng

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

#: Columns and rows of a ground map, and half its width in metres; rows follow the depth code.
MAP_COLUMNS, MAP_ROWS, MAP_REACH = 128, 96, 32.0

_CODES = np.arange(256, dtype=np.float64)
LINEAR: F32 = ((_CODES / 255.0) ** 2.2).astype(np.float32)
DISTANCE: F32 = (NEAREST * (255.0 / np.maximum(_CODES, 1.0)) ** 2).astype(np.float32)
_STEPS = 4096


@dataclass
class Pixels:
    """The canvas at image size.

    Attributes:
        albedo: linear reflectance, (3, H, W).
        emit: emission codes and retro-reflection, (H, W, 4) uint8.
        code: depth code, (H, W) uint8; distance: metres; x: metres right of the camera.
        ids: whose surface it is, (H, W) uint8.
    """

    albedo: F32
    emit: U8
    code: U8
    distance: F32
    x: F32
    ids: U8


def table(plane: U8, values: F32) -> F32:
    """``values[plane]`` for a 256-entry table, (H, W)."""
    return np.asarray(cv2.LUT(plane, values), np.float32)


def decode(canvas: Canvas) -> Pixels:
    size = (canvas.width, canvas.height)
    color = cv2.resize(canvas.color, size, interpolation=cv2.INTER_AREA)
    emit = cv2.resize(canvas.emit, size, interpolation=cv2.INTER_AREA)
    planes = cv2.split(color)
    albedo = np.empty((3, canvas.height, canvas.width), np.float32)
    for k in range(3):
        albedo[k] = cv2.LUT(planes[k], LINEAR)
    # depth is not averaged over an edge: the mean of near and far is a place where nothing stands
    code = np.ascontiguousarray(canvas.color[::SUPERSAMPLE, ::SUPERSAMPLE, 3])
    distance = table(code, DISTANCE)
    cam = canvas.camera
    u = ((np.arange(canvas.width) + 0.5) / canvas.width - 0.5 - cam.yaw) / cam.focal
    x = u.astype(np.float32)[None, :] - np.float32(cam.curve) * distance
    x *= distance
    ids = np.ascontiguousarray(canvas.ids[::SUPERSAMPLE, ::SUPERSAMPLE])
    return Pixels(albedo, np.asarray(emit, np.uint8), code, distance, x, ids)


def emission(emit: U8, scale: float) -> F32:
    """Linear light sent out, (3, H, W)."""
    values = LINEAR * np.float32(scale)
    return np.stack([table(plane, values) for plane in cv2.split(emit)[:3]])


def map_grid() -> tuple[F32, F32]:
    """World x (1, columns) and z (rows, 1) of the cells of a ground map."""
    x = np.linspace(-MAP_REACH, MAP_REACH, MAP_COLUMNS, dtype=np.float32)[None, :]
    code = np.arange(MAP_ROWS, dtype=np.float64) * (255.0 / (MAP_ROWS - 1))
    z = NEAREST * (255.0 / np.maximum(code, 8.0)) ** 2
    return x, z.astype(np.float32)[:, None]


def look_up(ground: F32, pixels: Pixels) -> F32:
    """The value of a ground map (rows, columns, 3) at every pixel's place, (3, H, W)."""
    u = pixels.x + np.float32(MAP_REACH)
    u *= np.float32((MAP_COLUMNS - 1) / (2 * MAP_REACH))
    v = pixels.code * np.float32((MAP_ROWS - 1) / 255.0)
    out = cv2.remap(ground, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.stack(cv2.split(np.asarray(out, np.float32)))


def mottle(rng: Rng, height: int, width: int, grain: int) -> F32:
    """Smooth noise of about unit spread whose blobs are about ``grain`` pixels, (H, W)."""
    if grain <= 1:
        return rng.standard_normal((height, width), dtype=np.float32)
    small = rng.standard_normal((height // grain + 2, width // grain + 2), dtype=np.float32)
    small *= np.float32(1.3)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def film(contrast: float, toe: float) -> F32:
    """A film curve for :func:`develop`: sRGB-like, darker below and brighter above the middle."""
    v = (np.arange(_STEPS) / (_STEPS - 1)) ** (2 / 2.2)
    v = v - contrast * np.sin(2 * np.pi * v)
    return np.asarray(np.clip((v - toe) / (1 - toe), 0, 1) * 255.0, np.float32)


def develop(linear: F32, curve: F32) -> F32:
    """Linear planes (3, H, W) to film values 0..255, (H, W, 3), not rounded. Overwrites ``linear``."""
    np.clip(linear, 0.0, 1.0, out=linear)
    np.sqrt(linear, out=linear)
    linear *= np.float32(_STEPS - 1)
    index = linear.astype(np.uint16)
    return np.asarray(cv2.merge([curve[index[k]] for k in range(3)]), np.float32)
