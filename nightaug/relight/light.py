"""The small maps of a night: the light on the scene, the light on labelled objects, the glow of lamps."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from nightaug.data.frames import Box
from nightaug.relight.lamp_base import PEOPLE, TWO_TRACK, Corners, Lamp, pick
from nightaug.relight.scene import Scene
from nightaug.relight.settings import Range, RelightSettings
from nightaug.relight.tone import LUMA, to_linear

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]
Labels = list[tuple[Box, Corners]]

REFERENCE_SIDE = 1280.0  # pixels: the longer side that "reference pixels" refer to


def on_small(corners: Corners, small: tuple[int, ...], frame: tuple[int, int]) -> tuple[int, int, int, int]:
    fx, fy = small[1] / frame[0], small[0] / frame[1]
    x1, y1 = int(corners[0] * fx), int(corners[1] * fy)
    return x1, y1, max(math.ceil(corners[2] * fx), x1 + 1), max(math.ceil(corners[3] * fy), y1 + 1)


def solid_map(labels: Labels, small: tuple[int, ...], frame: tuple[int, int]) -> U8:
    """Where a labelled object surely stands, uint8 (h, w): 0 nowhere, 1 in its box, 2 if it fills the box."""
    mask = np.zeros(small, dtype=np.uint8)
    for box, corners in labels:
        if box.category == "traffic light":
            continue
        x1, y1, x2, y2 = on_small(corners, small, frame)
        dx, dy = int((x2 - x1) * 0.1), int((y2 - y1) * 0.1)
        part = mask[y1 + dy : y2 - dy, x1 + dx : x2 - dx]
        np.maximum(part, 2 if box.category == "traffic sign" else 1, out=part)
    return mask


def ramp(x: F32, low: float = 0.0, high: float = 1.0) -> F32:
    """0 up to ``low``, 1 from ``high`` on, smooth between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)


def night_light(
    small: U8,
    table: F32,
    *,
    sky: tuple[F32, F32, F32] | None,
    labels: Labels,
    frame: tuple[int, int],
    draws: F64,
    spill: F32,
    scene: Scene,
    settings: RelightSettings,
    strength: float,
) -> F32:
    """Night light over day light, float32 (h, w, 3) in [0, 1]."""
    h, w = small.shape[:2]
    lit: F32 = cv2.LUT(small, table)
    ground = np.ones((h, w), np.float32) if sky is None else 1 - np.maximum(sky[0], 0.9 * sky[1])
    ground = np.maximum(ground, 1e-3)

    # Even out sun and shade: divide by a power of the broad light, sky left out so that it does not bleed in.
    sigma = max(settings.shadow_scale * max(h, w), 0.5)
    weight = cv2.GaussianBlur(ground, (0, 0), sigma)[..., None]
    broad = cv2.GaussianBlur(lit * ground[..., None], (0, 0), sigma).reshape(h, w, 3) / weight + 1e-3
    broad_luma = (broad @ LUMA)[..., None]
    level = float(np.median(broad_luma))
    # Low sun leaves more than street lamps ever do: the further over, the more is taken.
    uneven = float(np.std(np.log(broad_luma[ground > 0.5]))) if bool((ground > 0.5).any()) else 0.0
    exponent = max(scene.flattening, 1 - settings.even_contrast / max(uneven, 1e-3))
    flat = (broad_luma / level) ** (-exponent) * (broad_luma / broad) ** scene.desaturation

    x = np.linspace(-1, 1, w, dtype=np.float32)[None, :]
    y = np.linspace(0, 1, h, dtype=np.float32)[:, None]
    # In logs, so that the cubic's overshoot never makes a black hole.
    patches = cv2.resize(np.log(scene.patches), (w, h), interpolation=cv2.INTER_CUBIC)
    ambient = np.exp(patches).reshape(h, w, 3)
    top = 1 - (1 - scene.ambient_top) * ramp(-y, -scene.horizon, -0.05)
    spread = 0.22 + 0.75 * np.clip(y - scene.horizon, 0, 1)
    pool = np.exp(-0.5 * ((x - scene.pool_x) / spread) ** 2)
    pool = pool * ramp(y, scene.horizon - 0.02, 0.74) * (1 - 0.7 * ramp(y, 0.78, 1.0))
    light = ambient * top[..., None] + (scene.pool * pool)[..., None] * np.array(settings.headlight_color, np.float32)
    light *= (1 - (1 - scene.bonnet) * ramp(y, 0.88, 1.0))[..., None]
    light *= (1 - scene.vignette * 0.5 * (x**2 + (2 * y - 1) ** 2))[..., None]
    light *= flat * (1 - _mirrored_sky(broad, y))[..., None]

    result = (lit * light) @ LUMA
    bare = result[ground > 0.5]
    median, high = (float(v) for v in np.percentile(bare if bare.size else result, (50, 97)))
    light *= min(to_linear(scene.median) / max(median, 1e-5), to_linear(settings.highlight_luma) / max(high, 1e-5))
    light *= _object_light(labels, draws, (h, w), frame, settings)[..., None]
    light += spill
    # The cap keeps the promise that nothing outside a lamp gets brighter than it was.
    np.clip(light, 1e-6, 1.0, out=light)
    return np.asarray(light**strength, dtype=np.float32)


def _mirrored_sky(broad: F32, y: F32) -> F32:
    """The sky mirrored in the own bonnet and windscreen, as the share of light to take away, (h, w)."""
    blue = np.clip(broad[..., 2] / np.maximum(broad[..., 0], 1e-4) - 1.1, 0, 1) * np.clip(broad[..., 2] / 0.1, 0, 1)
    return np.asarray(0.9 * np.minimum(2.5 * blue, 1) * ramp(y, 0.72, 0.85), dtype=np.float32)


def _object_light(
    labels: Labels, draws: F64, size: tuple[int, int], frame: tuple[int, int], settings: RelightSettings
) -> F32:
    """How much more (or less) light labelled objects get than what is around them, float32 (h, w)."""
    logs = np.zeros(size, np.float32)
    spans: dict[str, Range] = dict.fromkeys(TWO_TRACK, settings.vehicle_light)
    spans.update(dict.fromkeys(PEOPLE, settings.person_light))
    spans |= {"traffic sign": settings.sign_light, "traffic light": settings.signal_light}
    for (box, corners), u in zip(labels, draws, strict=True):
        span = spans.get(box.category)
        if span is None:
            continue
        if box.category == "traffic sign":
            # Signs in the headlights are a hundred times as bright as those beside them.
            log = pick(u[8], (math.log(max(span[0], 1e-3)), math.log(max(span[1], 1e-3))))
        else:
            log = math.log(max(pick(u[8], span), 1e-3))
        x1, y1, x2, y2 = on_small(corners, size, frame)
        part = logs[y1:y2, x1:x2]
        # A box is not the object: light fades to its corners, or its rectangle shows.
        change = np.full(part.shape, log, np.float32)
        if box.category != "traffic sign":
            change *= _window(x2 - x1)[None, : part.shape[1]] * _window(y2 - y1)[: part.shape[0], None]
        # Where labels overlap the stronger change counts once; two cars do not light each other twice.
        np.copyto(part, change, where=np.abs(part) < np.abs(change))
    return np.asarray(np.exp(cv2.GaussianBlur(logs, (0, 0), 0.7)).reshape(size), dtype=np.float32)


def _window(n: int) -> F32:
    """1 in the middle of ``n`` pixels, falling to a third at their ends."""
    t = (np.arange(n, dtype=np.float32) + 0.5) / n * 2 - 1
    return np.asarray(np.exp(-1.1 * t**4), dtype=np.float32)


def lamp_map(lamps: list[Lamp], size: tuple[int, int], frame: tuple[int, int]) -> F32:
    """Lamps as light on the small map, float32 (h, w, 3); each keeps its total light whatever its size."""
    h, w = size
    fx, fy = w / frame[0], h / frame[1]
    out = np.zeros((h, w, 3), np.float32)
    for lamp in lamps:
        rx, ry = max(lamp.rx * fx, 0.4), max(lamp.ry * fy, 0.4)
        area = math.pi * lamp.rx * lamp.ry if lamp.shape is None else float(lamp.shape.sum())
        total = lamp.power * area * fx * fy
        cx, cy = lamp.x * fx - 0.5, lamp.y * fy - 0.5
        x1, x2 = max(math.floor(cx - 2 * rx), 0), min(math.ceil(cx + 2 * rx) + 1, w)
        y1, y2 = max(math.floor(cy - 2 * ry), 0), min(math.ceil(cy + 2 * ry) + 1, h)
        gx = np.exp(-(((np.arange(x1, x2) - cx) / rx) ** 2))
        gy = np.exp(-(((np.arange(y1, y2) - cy) / ry) ** 2))
        spot = gy[:, None] * gx[None, :]
        weight = float(spot.sum())
        if weight > 0:
            out[y1:y2, x1:x2] += ((total / weight) * spot)[..., None] * np.array(lamp.color)
    return out


def glow_and_spill(lamps: F32, scene: Scene, settings: RelightSettings) -> tuple[F32, F32]:
    """What the lens and the air make of the lamps, and what they light.

    Args:
        lamps: float32 (h, w, 3), what :func:`lamp_map` gave.
        scene: ``glow``, ``spill``, ``wet``.
        settings: widths and weights of the glow.

    Returns:
        Glow to add to the picture, and light to add to the scene, both float32 (h, w, 3).
    """
    h, w = lamps.shape[:2]
    unit = max(h, w) / REFERENCE_SIDE
    glow = np.zeros_like(lamps)
    wide = lamps
    for sigma, weight in zip(settings.glow_sigmas, settings.glow_weights, strict=True):
        wide = cv2.GaussianBlur(lamps, (0, 0), max(sigma * unit, 0.5)).reshape(h, w, 3)
        glow += (scene.glow * weight) * wide
    middle = cv2.GaussianBlur(lamps, (0, 0), max(settings.glow_sigmas[1] * 1.5 * unit, 0.5)).reshape(h, w, 3)
    if scene.wet > 0:
        # A wet road draws a lamp out downwards: average over the rows above, so nothing climbs up.
        rows = max(round(settings.wet_length * unit), 2)  # of one row the weights would be 0 / 0
        kernel = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
        kernel /= kernel.sum()
        # Lamps over the horizon hang too high to be mirrored in the road ahead.
        low = lamps * (np.arange(h) > scene.horizon * h)[:, None, None].astype(np.float32)
        soft = cv2.GaussianBlur(low, (0, 0), max(settings.glow_sigmas[0] * 1.6 * unit, 0.5))
        glow += scene.wet * cv2.filter2D(
            soft, -1, kernel, anchor=(0, rows - 1), borderType=cv2.BORDER_CONSTANT
        ).reshape(h, w, 3)
    return glow, np.asarray(scene.spill * (middle + 0.5 * wide), dtype=np.float32)
