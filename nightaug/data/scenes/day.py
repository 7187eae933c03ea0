"""Daylight: sky, sun and cast shadows, haze, rain and snow."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from nightaug.data.scenes.canvas import GROUND, LEAVES, SKY, Canvas
from nightaug.data.scenes.layout import DAY_STREAM, Rng, Scene, stream
from nightaug.data.scenes.light import (
    F32,
    LINEAR,
    MAP_COLUMNS,
    MAP_ROWS,
    decode,
    develop,
    look_up,
    map_grid,
    mottle,
)

#: weather -> (sky light, sun light, haze distance in metres, cloud share).
WEATHER: dict[str, tuple[float, float, float, float]] = {
    "clear": (0.36, 0.95, 1500.0, 0.1),
    "partly cloudy": (0.46, 0.7, 1200.0, 0.55),
    "overcast": (0.85, 0.0, 800.0, 1.0),
    "rainy": (0.62, 0.0, 260.0, 1.0),
    "snowy": (0.8, 0.0, 220.0, 1.0),
    "foggy": (0.75, 0.0, 75.0, 1.0),
}


def light_by_day(canvas: Canvas, scene: Scene) -> NDArray[np.uint8]:
    """The canvas in daylight, (H, W, 3) RGB."""
    weather = scene.street.weather
    of_drive = stream(scene.street.number, DAY_STREAM)
    rng = stream(scene.seed + (1 << 32), DAY_STREAM)
    ambient, sun, haze, cloud = WEATHER[weather]
    sun_side = 1.0 if of_drive.random() < 0.5 else -1.0
    sun *= float(of_drive.uniform(0.7, 1.15))
    warm = float(of_drive.uniform(-0.06, 0.1))
    px = decode(canvas)
    h, w = canvas.height, canvas.width

    sky = _sky(canvas, of_drive, rng, cloud)
    ground = px.ids == GROUND
    grain = mottle(rng, h, w, 1) * 0.05 + mottle(rng, h, w, 3) * 0.05
    # things far away are small, so their texture is too fine to see
    rough = np.where(px.ids == LEAVES, 3.4, np.where(ground, 0.7, 0.75)).astype(np.float32)
    texture = 1.0 + grain * rough
    sun_map = _sun_map(scene, of_drive, rng, sun_side)
    looked = look_up(sun_map, px)
    bright = np.float32(sun) * np.clip(looked[..., 0], 0, 1)
    tint = np.array([1.0 + warm, 1.0, 1.0 - warm], np.float32)
    blue = np.array([0.9, 0.98, 1.12] if cloud < 0.9 else [0.97, 1.0, 1.03], np.float32)
    light = bright[..., None] * tint + np.float32(ambient) * blue
    light *= texture[..., None]
    light[ground] *= looked[..., 1][ground][:, None]
    out = px.albedo * light
    emit = cv2.LUT(np.ascontiguousarray(px.emit[..., :3]), LINEAR * np.float32(1.25))
    out += emit
    if weather == "rainy":
        _wet(out, sky, ground, px.x)
    veil = (1.0 - np.exp(-px.distance / np.float32(haze)))[..., None]
    horizon = sky[int(np.clip(scene.camera.horizon * h, 1, h) - 1)]
    out += (horizon[None] * 0.92 - out) * veil
    outside = px.ids == SKY
    out[outside] = sky[outside]
    _windscreen(out, px.ids, rng)
    exposure = float(of_drive.uniform(0.82, 1.25)) * float(rng.uniform(0.92, 1.08))
    film = develop(_tone(out * np.float32(exposure)))
    if weather in ("rainy", "snowy"):
        _falling(film, rng, weather, w)
    blur = float(rng.uniform(0.35, 0.6)) * w / 512
    film = np.asarray(cv2.GaussianBlur(film, (0, 0), max(blur, 0.3)), np.float32)
    film += rng.standard_normal((h, w, 1), dtype=np.float32) * np.float32(rng.uniform(1.0, 2.4))
    return np.asarray(np.clip(film + 0.5, 0, 255), np.uint8)


def _tone(linear: F32) -> F32:
    """A soft shoulder: bright skies keep a little colour."""
    return np.asarray(linear * (1.0 + linear * 0.22) / (1.0 + linear * 0.34), np.float32)


def _sky(canvas: Canvas, of_drive: Rng, rng: Rng, cloud: float) -> F32:
    h, w = canvas.height, canvas.width
    t = np.clip(np.arange(h, dtype=np.float32) / max(canvas.camera.horizon * h, 1), 0, 1)[:, None, None]
    if cloud >= 0.9:
        level = float(of_drive.uniform(0.6, 1.05))
        top, low = np.array([0.8, 0.86, 0.93]) * level * 0.85, np.array([0.94, 0.96, 0.98]) * level
    else:
        deep = float(of_drive.uniform(0.0, 1.0))
        top = np.array([0.12 + 0.2 * deep, 0.3 + 0.2 * deep, 0.66 + 0.12 * deep])
        low = np.array([0.62, 0.76, 0.92]) * float(of_drive.uniform(0.85, 1.1))
    sky = top.astype(np.float32) * (1 - t) + low.astype(np.float32) * t
    sky = np.repeat(sky, w, axis=1)
    unit = max(w // 14, 2)
    puff = (
        mottle(rng, h, w, unit) * 0.6
        + mottle(rng, h, w, max(unit // 3, 1)) * 0.3
        + mottle(rng, h, w, max(unit // 8, 1)) * 0.14
    )
    if cloud >= 0.9:
        sky *= 1.0 + 0.07 * puff[..., None]
    else:
        cover = np.clip((puff - (1.1 - 1.5 * cloud)) * 1.1, 0, 1)[..., None]
        sky += (np.float32(1.02) - sky) * cover
    return np.asarray(sky, np.float32)


def _sun_map(scene: Scene, of_drive: Rng, rng: Rng, side: float) -> F32:
    """What of the sun reaches each place (channel 0) and how the road's surface varies (channel 1)."""
    x, z = map_grid()
    s = scene.street
    lit = np.ones((MAP_ROWS, MAP_COLUMNS), np.float32)
    reach = float(of_drive.uniform(0.0, 1.3))
    edge = (s.right + s.sidewalk if side > 0 else -s.left + s.sidewalk) - side * scene.shift
    for thing in scene.things:
        if thing.kind == "building" and thing.style == side:
            inside = (z > thing.z) & (z < thing.z + thing.size[2]) & (side * x > edge - thing.size[1] * reach)
            lit[inside] = 0.0
        elif thing.kind == "tree":
            d = ((x - (thing.x - side * thing.size[1] * reach * 0.6)) ** 2 + (z - thing.z) ** 2) / (
                thing.size[0] * 0.5
            ) ** 2
            lit *= 1.0 - 0.85 * np.exp(-d * d)
    surface = 1.0 + 0.05 * rng.standard_normal((MAP_ROWS, MAP_COLUMNS), dtype=np.float32)
    lanes = (x + scene.shift) / s.lane
    track = np.cos((lanes - np.round(lanes)) * 4 * np.pi)
    surface += 0.05 * track
    third = np.zeros_like(lit)
    return np.asarray(np.stack([cv2.GaussianBlur(lit, (3, 3), 0), surface, third], axis=2), np.float32)


def _wet(out: F32, sky: F32, ground: NDArray[np.bool_], x: F32) -> None:
    """Rain turns the road into a poor mirror of what is above it."""
    h = out.shape[0]
    mirror = np.asarray(cv2.GaussianBlur(sky[::-1], (0, 0), sigmaX=1.5, sigmaY=h / 24), np.float32)
    gloss = np.float32(0.17)
    out[ground] = out[ground] * 0.75 + mirror[ground] * gloss


def _windscreen(out: F32, ids: NDArray[np.uint8], rng: Rng) -> None:
    """The dashboard mirrored in the glass: a weak veil over the lower half."""
    h = out.shape[0]
    strength = float(max(rng.normal(0.012, 0.015), 0.0))
    rise = np.clip(np.linspace(-0.2, 1.0, h, dtype=np.float32), 0, 1)[:, None, None]
    out += np.float32(strength) * rise * np.array([0.95, 1.0, 1.05], np.float32)
    del ids


def _falling(film: F32, rng: Rng, weather: str, width: int) -> None:
    h, w = film.shape[:2]
    layer = np.zeros((h, w), np.uint8)
    count = 60 if weather == "rainy" else 150
    for _ in range(count):
        u, v = float(rng.random() * w), float(rng.random() * h)
        if weather == "rainy":
            length = float(rng.uniform(0.01, 0.04)) * width
            cv2.line(layer, (int(u), int(v)), (int(u + 0.15 * length), int(v + length)), 34, 1, cv2.LINE_AA)
        else:
            size = max(int(rng.exponential(0.0016) * width), 1)
            cv2.circle(layer, (int(u), int(v)), size, 120, -1, cv2.LINE_AA)
    film += (np.float32(225.0) - film) * (layer.astype(np.float32) / 255.0)[..., None]
