"""``relight``: one day photograph into night, in linear light.

    night = day * light(x, y) outside the sky, a dark sky in it, + lamps + their glow, + sensor noise

Light, sky and glow are smooth, so they are made small (320 px) and enlarged; only the multiplication, the
lamps' cores, the noise and the tone curve run at full size. That keeps 1280x720 on one core over 5 frames/s.
The ideas are the film maker's "day for night" (under-expose, tint, darken the sky) and, for the noise, the
usual read + shot model of a sensor (Foi et al., IEEE TIP 2008).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from nightaug.data.frames import Box
from nightaug.errors import ConfigError
from nightaug.relight.finish import finish
from nightaug.relight.lamp_base import DRAWS, Lamp, usable
from nightaug.relight.lamps import find_lamps
from nightaug.relight.light import REFERENCE_SIDE, glow_and_spill, lamp_map, night_light, solid_map
from nightaug.relight.scene import Scene
from nightaug.relight.settings import RelightSettings
from nightaug.relight.sky import sky_alpha, sky_maps
from nightaug.relight.stray import limit_stray
from nightaug.relight.street import street_lights
from nightaug.relight.tone import day_black, day_table, expose, to_linear

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

_DEFAULTS = RelightSettings()


def relight(
    image: U8,
    boxes: Sequence[Box] | None = None,
    *,
    seed: int = 0,
    strength: float = 1.0,
    settings: RelightSettings = _DEFAULTS,
) -> U8:
    """Render a day photograph as night, lamps lit where the boxes are.

    Pixels outside boxes (and the glow around them) only get darker, up to noise of a few grey levels, so no
    object appears that the labels do not know; ``settings`` may ask for street lights, which are of no class.
    Sizes do not change, so every box still holds.

    Args:
        image: uint8 (H, W, 3) RGB, any size from 1x1.
        boxes: labels in pixels of ``image``; crowds, NaN, inverted, outside ones are passed over. Without
            boxes no lamp is lit. ``light_color`` decides a signal's colour where it is set.
        seed: any integer; equal calls give equal bytes, other seeds other nights.
        strength: in [0, 1]: 0 gives a copy of the input, 1 full night; between, light falls evenly in stops.
        settings: constants and the ranges that each image draws from.

    Returns:
        uint8 (H, W, 3) RGB, a new array.

    Raises:
        ValueError: ``image`` has another type or shape, or is empty; ``strength`` is outside [0, 1].
        ConfigError: ``boxes`` are something else, such as an array of corners, which names no classes.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"expected uint8 (H, W, 3), got {got}")
    if image.size == 0:
        raise ValueError(f"expected uint8 (H, W, 3) with at least one pixel, got {image.shape}")
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"expected strength in [0, 1], got {strength}")
    labels = list(boxes) if boxes is not None else []
    other = next((type(box).__name__ for box in labels if not isinstance(box, Box)), None)
    if other is not None:
        raise ConfigError(
            f"expected boxes as nightaug.data.frames.Box(x1, y1, x2, y2, category), got {other}: "
            "what is lit depends on the class"
        )
    if strength == 0.0:
        return image.copy()
    image = np.ascontiguousarray(image)
    height, width = image.shape[:2]
    scene_seed, lamp_seed, noise_seed, street_seed, finish_seed = np.random.SeedSequence(seed % 2**64).spawn(5)
    good = usable(labels, width, height)
    draws = np.random.default_rng(lamp_seed).random((len(good), DRAWS))
    scene = Scene.draw(np.random.default_rng(scene_seed), settings)

    scale = min(1.0, settings.work_side / max(height, width))
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    table = day_table(day_black(small, settings.haze_removed) * strength, 1 + (scene.contrast - 1) * strength)
    sky = sky_maps(small, solid_map(good, small.shape[:2], (width, height)))
    lamps = find_lamps(image, good, draws, settings)
    core = None if sky is None else sky[0]
    lamps += street_lights(good, (width, height), core, scene, np.random.default_rng(street_seed), settings)
    glow, spill = glow_and_spill(lamp_map(lamps, small.shape[:2], (width, height)), scene, settings)
    light = night_light(
        small,
        table,
        sky=sky,
        labels=good,
        frame=(width, height),
        draws=draws,
        spill=spill,
        scene=scene,
        settings=settings,
        strength=strength,
    )

    alpha = None if sky is None else sky_alpha(np.asarray(cv2.extractChannel(image, 2), dtype=np.uint8), sky)
    blur = scene.softness * strength * max(height, width) / REFERENCE_SIDE
    if blur > 0.3:
        side = 3 if blur < 0.8 else 5
        image = np.asarray(cv2.GaussianBlur(image, (side, side), blur), dtype=np.uint8)
    night = np.asarray(cv2.LUT(image, table), dtype=np.float32)
    cv2.multiply(night, cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR), dst=night)
    if alpha is not None:
        _darken_sky(night, alpha, scene, strength)
    if settings.stray_light:
        limit_stray(night, alpha, good, size, settings, strength)
    if lamps:
        cv2.scaleAdd(cv2.resize(glow, (width, height), interpolation=cv2.INTER_LINEAR), strength, night, dst=night)
        for lamp in lamps:
            _draw_core(night, lamp, strength)
    if settings.finishes:
        by_day = np.asarray(cv2.LUT(image, table), dtype=np.float32)
        finish(night, by_day, good, draws, np.random.default_rng(finish_seed), settings, strength)
    return expose(night, np.random.Generator(np.random.SFC64(noise_seed)), scene, strength)


def _darken_sky(night: F32, alpha: F32, scene: Scene, strength: float) -> None:
    """Put the night sky where ``alpha`` says, in place: ``night * (1 - alpha) + sky * alpha``."""
    h, w = alpha.shape
    alpha = alpha * np.float32(strength)
    cv2.multiply(night, cv2.merge((1 - alpha,) * 3).reshape(h, w, 3), dst=night)
    rows = np.linspace(0, 1, h, dtype=np.float32)[:, None] / max(scene.horizon, 0.05)
    level = to_linear(scene.sky) * (1 + (scene.sky_glow - 1) * np.minimum(rows, 1) ** 2)
    lit = alpha * level
    cv2.add(night, cv2.merge([lit * float(c) for c in scene.sky_color]).reshape(h, w, 3), dst=night)


def _draw_core(night: F32, lamp: Lamp, strength: float) -> None:
    """Add the lamp itself, its own shape or a soft ellipse, kept inside its box, in place."""
    color = np.array(lamp.color, dtype=np.float32) * np.float32(lamp.power * strength)
    if lamp.shape is not None:
        left, top = lamp.origin
        rows, columns = lamp.shape.shape
        night[top : top + rows, left : left + columns] += lamp.shape[..., None] * color
        return
    x1, x2 = (
        max(math.floor(lamp.x - 2 * lamp.rx), lamp.bounds[0]),
        min(math.ceil(lamp.x + 2 * lamp.rx), lamp.bounds[2]),
    )
    y1, y2 = (
        max(math.floor(lamp.y - 2 * lamp.ry), lamp.bounds[1]),
        min(math.ceil(lamp.y + 2 * lamp.ry), lamp.bounds[3]),
    )
    if x1 >= x2 or y1 >= y2:
        return
    dx = ((np.arange(x1, x2) + 0.5 - lamp.x) / lamp.rx) ** 2
    dy = ((np.arange(y1, y2) + 0.5 - lamp.y) / lamp.ry) ** 2
    disc = np.exp(-((dy[:, None] + dx[None, :]) ** 2))
    night[y1:y2, x1:x2] += disc[..., None].astype(np.float32) * color
