"""What day and night lighting share: decoding the canvas, world coordinates of pixels, film."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from nightaug.data.scenes.canvas import NEAREST, SUPERSAMPLE, Canvas
from nightaug.data.scenes.layout import Rng

F32 = NDArray[np.float32]

#: Columns and rows of a ground map, and half its width in metres; rows follow the depth code.
MAP_COLUMNS, MAP_ROWS, MAP_REACH = 128, 128, 32.0

_CODES = np.arange(256, dtype=np.float64)
LINEAR: F32 = ((_CODES / 255.0) ** 2.2).astype(np.float32)
DISTANCE: F32 = (NEAREST * (255.0 / np.maximum(_CODES, 1.0)) ** 2).astype(np.float32)
_STEPS = 4096
_FILM: F32 = ((np.arange(_STEPS) / (_STEPS - 1)) ** (2 / 2.2) * 255.0).astype(np.float32)


@dataclass
class Pixels:
    """The canvas at image size: linear reflectance (H,W,3), emission code (H,W,4), depth, place, owner."""

    albedo: F32
    emit: NDArray[np.uint8]
    code: NDArray[np.uint8]
    distance: F32
    x: F32
    ids: NDArray[np.uint8]


def decode(canvas: Canvas) -> Pixels:
    size = (canvas.width, canvas.height)
    color = cv2.resize(canvas.color, size, interpolation=cv2.INTER_AREA)
    emit = cv2.resize(canvas.emit, size, interpolation=cv2.INTER_AREA)
    albedo = cv2.LUT(np.ascontiguousarray(color[..., :3]), LINEAR)
    # depth is not averaged over an edge: the mean of near and far is a place where nothing stands
    code = np.ascontiguousarray(canvas.color[::SUPERSAMPLE, ::SUPERSAMPLE, 3])
    distance = cv2.LUT(code, DISTANCE)
    cam = canvas.camera
    u = ((np.arange(canvas.width) + 0.5) / canvas.width - 0.5 - cam.yaw) / cam.focal
    x = u.astype(np.float32)[None, :] * distance
    if cam.curve:
        x -= np.float32(cam.curve) * distance * distance
    return Pixels(
        np.asarray(albedo, np.float32), np.asarray(emit, np.uint8), code, np.asarray(distance, np.float32), x,
        np.ascontiguousarray(canvas.ids[::SUPERSAMPLE, ::SUPERSAMPLE]),
    )  # fmt: skip


def map_grid() -> tuple[F32, F32]:
    """World x (1, columns) and z (rows, 1) of the cells of a ground map."""
    x = np.linspace(-MAP_REACH, MAP_REACH, MAP_COLUMNS, dtype=np.float32)[None, :]
    code = np.arange(MAP_ROWS, dtype=np.float64) * (255.0 / (MAP_ROWS - 1))
    z = NEAREST * (255.0 / np.maximum(code, 8.0)) ** 2
    return x, z.astype(np.float32)[:, None]


def look_up(ground: F32, pixels: Pixels) -> F32:
    """The ground map's value at every pixel's place, (H,W) or (H,W,3)."""
    u = (pixels.x + np.float32(MAP_REACH)) * np.float32((MAP_COLUMNS - 1) / (2 * MAP_REACH))
    v = pixels.code.astype(np.float32) * np.float32((MAP_ROWS - 1) / 255.0)
    out = cv2.remap(ground, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(out, np.float32)


def mottle(rng: Rng, height: int, width: int, grain: int) -> F32:
    """Smooth noise of unit spread whose blobs are about ``grain`` pixels, (H, W)."""
    h, w = max(height // grain, 2) + 1, max(width // grain, 2) + 1
    small = rng.standard_normal((h, w), dtype=np.float32)
    return np.asarray(
        cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32
    ) * np.float32(1.3)


def develop(linear: F32) -> F32:
    """Linear light, 1 is white, to sRGB-like values 0..255 (float, not rounded)."""
    index = np.sqrt(np.clip(linear, 0.0, 1.0)) * np.float32(_STEPS - 1)
    return np.asarray(_FILM[index.astype(np.uint16)], np.float32)
