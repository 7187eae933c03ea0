"""Between grey levels and light: the sRGB curve as tables, and the sensor that exposes the night."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from nightaug.relight.scene import Scene

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

LUMA = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)  # Rec. 709, for linear light
LUMA.flags.writeable = False
_CODE = 4095  # steps of the tone table, even in the square root of light, where noise is even too


def to_linear(value: float) -> float:
    """sRGB grey level in [0, 255] to linear light in [0, 1] (IEC 61966-2-1)."""
    v = value / 255.0
    return v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4


@lru_cache(maxsize=1)
def _linear_table() -> F32:
    table: F32 = np.array([to_linear(v) for v in range(256)], dtype=np.float32)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=1)
def _tone_table() -> U8:
    """Square root of light in [0, 1], in ``_CODE`` steps, to an sRGB grey level."""
    x = (np.arange(_CODE + 1) / _CODE) ** 2
    v = np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.power(x, 1 / 2.4) - 0.055)
    table: U8 = np.clip(np.rint(v * 255), 0, 255).astype(np.uint8)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=1)
def _normal_table() -> F32:
    """A byte to a normal number: the 256 quantiles of N(0, 1), by inverting its distribution numerically."""
    grid = np.linspace(-4, 4, 8001)
    cdf = np.cumsum(np.exp(-(grid**2) / 2))
    table = np.interp((np.arange(256) + 0.5) / 256, cdf / cdf[-1], grid).astype(np.float32)
    table /= table.std()
    table.flags.writeable = False
    return table


def day_table(black: float, contrast: float) -> F32:
    """sRGB grey level to linear light with the day's haze taken off, float32 (256,), never raised."""
    table = _linear_table()
    clear = np.maximum(table - black, 0) / (1 - black)
    steep: F32 = np.minimum(clear**contrast, table).astype(np.float32)
    return steep


def day_black(small: U8, removed: float) -> float:
    """The lifted black of a hazy or washed-out day, linear: at night there is no bright air to lift it."""
    gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    return min(to_linear(float(np.percentile(gray, 1))) * removed, 0.25)


def _noise(rng: np.random.Generator, shape: tuple[int, ...]) -> F32:
    """Normal numbers, float32: 256 levels from one byte each, ten times faster than drawing normals."""
    raw = np.frombuffer(rng.bytes(int(np.prod(shape))), dtype=np.uint8).reshape(shape)
    return np.asarray(cv2.LUT(raw, _normal_table()), dtype=np.float32).reshape(shape)


def expose(night: F32, rng: np.random.Generator, scene: Scene, strength: float) -> U8:
    """Light on the sensor to an sRGB frame: black level, read and shot noise, tone curve.

    Noise of variance ``read**2 + shot * light`` is the same size everywhere once the square root is taken of
    ``light + read**2 / shot`` (Anscombe's transform), so it costs one addition.

    Args:
        night: float32 (H, W, 3), linear light; overwritten.
        rng: source of the noise.
        scene: ``black``, ``read``, ``shot``, ``chroma``.
        strength: in [0, 1], scales the noise and the black level.

    Returns:
        uint8 (H, W, 3).
    """
    h, w = night.shape[:2]
    floor = scene.read**2 / scene.shot
    cv2.add(night, (floor,) * 4, dst=night)
    cv2.sqrt(night, dst=night)
    sigma = 0.5 * scene.shot**0.5 * strength
    luma = _noise(rng, (h, w))
    coarse = _noise(rng, ((h + 1) // 2, (w + 1) // 2, 3))
    chroma: F32 = cv2.resize(coarse, (w, h), interpolation=cv2.INTER_LINEAR)
    cv2.scaleAdd(chroma.reshape(h, w, 3), sigma * scene.chroma, night, dst=night)
    cv2.scaleAdd(cv2.merge((luma, luma, luma)).reshape(h, w, 3), sigma, night, dst=night)
    code = cv2.multiply(night, (float(_CODE),) * 4, dtype=cv2.CV_16U).reshape(h, w, 3)
    table = _exposed_table(floor, scene.black * strength)
    return np.asarray(table.take(code, mode="clip"), dtype=np.uint8)


def _exposed_table(floor: float, black: float) -> U8:
    """Code of ``sqrt(light + floor)`` to a grey level: the offset back off, the black level on."""
    light = (np.arange(_CODE + 1) / _CODE) ** 2 * (1 + floor) - floor
    code = np.sqrt(np.clip(light * (1 - black) + black, 0, 1)) * _CODE
    return np.asarray(_tone_table()[np.rint(code).astype(np.int64)], dtype=np.uint8)
