"""Daylight: sky, sun and cast shadows, haze, rain and snow."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from nightaug.data.scenes.canvas import GROUND, LEAVES, SKY, WALL, Canvas
from nightaug.data.scenes.layout import DAY_STREAM, Rng, Scene, stream
from nightaug.data.scenes.light import (
    DISTANCE,
    F32,
    MAP_COLUMNS,
    MAP_ROWS,
    Pixels,
    decode,
    develop,
    emission,
    film,
    look_up,
    map_grid,
    mottle,
    table,
)

#: weather -> (sky light, sun light, haze distance in metres, cloud share).
WEATHER: dict[str, tuple[float, float, float, float]] = {
    "clear": (0.25, 0.95, 1500.0, 0.1),
    "partly cloudy": (0.34, 0.75, 1200.0, 0.55),
    "overcast": (0.72, 0.0, 900.0, 1.0),
    "rainy": (0.5, 0.0, 320.0, 1.0),
    "snowy": (0.7, 0.0, 260.0, 1.0),
    "foggy": (0.7, 0.0, 150.0, 1.0),
}
#: Surface -> how rough its texture is; what is not here is smooth.
ROUGH = {LEAVES: 4.5, GROUND: 1.0, WALL: 1.6}


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
    out = _lit(px, _sun_map(scene, of_drive, rng, sun_side), rng, sun=sun, ambient=ambient, warm=warm, cloud=cloud)
    if px.emit.any():
        out += emission(px.emit, 1.25)
    if weather == "rainy":
        _wet(out, sky, px.ids == GROUND)
    row = int(np.clip(scene.camera.horizon * h, 1, h) - 1)
    clear = table(px.code, np.exp(-DISTANCE / np.float32(haze)))
    veil = 1.0 - clear
    outside = px.ids == SKY
    glass = float(max(rng.normal(0.006, 0.01), 0.0))
    exposure = float(of_drive.uniform(0.85, 1.3)) * float(rng.uniform(0.92, 1.08))
    vivid = float(of_drive.uniform(1.15, 1.6))
    for k in range(3):
        out[k] *= clear
        out[k] += veil * (sky[k, row][None] * np.float32(0.92))
        np.copyto(out[k], sky[k], where=outside)
        # the dashboard mirrored in the windscreen
        out[k] += np.float32(glass)
    grey = out[0] * np.float32(0.3) + out[1] * np.float32(0.59) + out[2] * np.float32(0.11)
    out -= grey
    out *= np.float32(vivid)
    out += grey
    tint = np.array([0.97, 1.02, 0.985]) * np.exp(of_drive.normal(0, 0.025, 3))
    for k in range(3):
        out[k] *= np.float32(exposure * tint[k])
    # a soft shoulder: bright skies keep a little colour
    out *= (1.0 + out * np.float32(0.2)) / (1.0 + out * np.float32(0.3))
    picture = develop(out, film(float(of_drive.uniform(0.045, 0.1)), 0.0))
    if weather in ("rainy", "snowy"):
        _falling(picture, rng, weather, w)
    blur = float(rng.uniform(0.3, 0.5)) * w / 512
    picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), max(blur, 0.3)), np.float32)
    noise = rng.standard_normal((h, w), dtype=np.float32) * np.float32(rng.uniform(1.5, 3.0)) + np.float32(0.5)
    picture += cv2.merge([noise, noise, noise])
    return np.asarray(np.clip(picture, 0, 255), np.uint8)


def _lit(px: Pixels, ground: F32, rng: Rng, *, sun: float, ambient: float, warm: float, cloud: float) -> F32:
    h, w = px.code.shape
    rough = np.full(256, 0.35, np.float32)
    for surface, value in ROUGH.items():
        rough[surface] = value
    texture = mottle(rng, h, w, 1) * np.float32(0.045)
    texture += mottle(rng, h, w, 3) * np.float32(0.055)
    texture *= table(px.ids, rough)
    texture += np.float32(1.0)
    looked = look_up(ground, px)
    road = px.ids == GROUND
    np.multiply(texture, looked[1], out=texture, where=road)
    bright = np.clip(looked[0], 0, 1) * np.float32(sun)
    tint = (1.0 + warm, 1.0, 1.0 - warm)
    blue = (0.86, 0.97, 1.2) if cloud < 0.9 else (0.97, 1.0, 1.03)
    out = px.albedo
    for k in range(3):
        light = bright * np.float32(tint[k])
        light += np.float32(ambient * blue[k])
        light *= texture
        out[k] *= light
    return out


def _sky(canvas: Canvas, of_drive: Rng, rng: Rng, cloud: float) -> F32:
    h, w = canvas.height, canvas.width
    t = np.clip(np.arange(h) / max(canvas.camera.horizon * h, 1), 0, 1)[None, :, None]
    if cloud >= 0.9:
        level = float(of_drive.uniform(0.55, 1.1))
        top, low = np.array([0.78, 0.85, 0.93]) * level * 0.85, np.array([0.94, 0.96, 0.98]) * level
    else:
        deep = float(of_drive.uniform(0.0, 1.0))
        top = np.array([0.1 + 0.2 * deep, 0.28 + 0.22 * deep, 0.62 + 0.16 * deep])
        low = np.array([0.64, 0.78, 0.94]) * float(of_drive.uniform(0.85, 1.2))
    sky = (top[:, None, None] * (1 - t) + low[:, None, None] * t).astype(np.float32)
    sky = np.repeat(sky, w, axis=2)
    unit = max(w // 14, 2)
    puff = mottle(rng, h, w, unit) * np.float32(0.6)
    puff += mottle(rng, h, w, max(unit // 3, 1)) * np.float32(0.3)
    puff += mottle(rng, h, w, max(unit // 8, 1)) * np.float32(0.14)
    if cloud >= 0.9:
        sky *= 1.0 + np.float32(0.08) * puff
    else:
        cover = np.clip((puff - np.float32(1.1 - 1.5 * cloud)) * np.float32(1.1), 0, 1)
        sky += (np.float32(1.05) - sky) * cover
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
            rows = (z[:, 0] > thing.z) & (z[:, 0] < thing.z + thing.size[2])
            lit[rows] *= side * x[0] <= edge - thing.size[1] * reach
        elif thing.kind == "tree":
            away = x - np.float32(thing.x - side * thing.size[1] * reach * 0.6)
            d = (away**2 + (z - np.float32(thing.z)) ** 2) / np.float32((thing.size[0] * 0.5) ** 2)
            lit *= 1.0 - 0.85 * (d < 1)
    lit = cv2.GaussianBlur(lit, (3, 3), 0)
    surface = 1.0 + 0.05 * rng.standard_normal((MAP_ROWS, MAP_COLUMNS), dtype=np.float32)
    lanes = (x + np.float32(scene.shift)) / np.float32(s.lane)
    surface += np.float32(0.06) * np.cos((lanes - np.round(lanes)) * np.float32(4 * np.pi))
    return np.asarray(cv2.merge([lit, surface, np.zeros_like(lit)]), np.float32)


def _wet(out: F32, sky: F32, road: NDArray[np.bool_]) -> None:
    """Rain turns the road into a poor mirror of what is above it."""
    for k in range(3):
        mirror = cv2.blur(sky[k, ::-1], (3, max(sky.shape[1] // 12, 1)))
        np.copyto(out[k], out[k] * np.float32(0.75) + mirror * np.float32(0.17), where=road)


def _falling(picture: F32, rng: Rng, weather: str, width: int) -> None:
    h, w = picture.shape[:2]
    layer = np.zeros((h, w), np.uint8)
    spots = rng.random((60 if weather == "rainy" else 150, 2)) * (w, h)
    sizes = rng.exponential(1.0, len(spots))
    for (u, v), size in zip(spots.tolist(), sizes.tolist(), strict=True):
        if weather == "rainy":
            length = (0.008 + 0.012 * min(size, 3.0)) * width
            cv2.line(layer, (int(u), int(v)), (int(u + 0.15 * length), int(v + length)), 34, 1, cv2.LINE_AA)
        else:
            cv2.circle(layer, (int(u), int(v)), max(int(size * 0.0016 * width), 1), 110, -1, cv2.LINE_AA)
    cover = layer.astype(np.float32) / np.float32(255.0)
    picture += (np.float32(225.0) - picture) * cv2.merge([cover, cover, cover])
