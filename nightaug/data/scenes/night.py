"""Night: the same canvas lit by lamps only, seen by a small camera that has too little light."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from nightaug.data.scenes.canvas import GROUND, HOOD, SKY, Canvas, Light
from nightaug.data.scenes.glow import COARSE, glow, mirror, splat
from nightaug.data.scenes.layout import NIGHT_STREAM, Rng, Scene, stream
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

#: Linear light of the brightest emission code; white is 1.
LAMP_LEVEL = 3.2


def light_by_night(canvas: Canvas, scene: Scene) -> NDArray[np.uint8]:
    """The canvas by night, (H, W, 3) RGB."""
    of_drive = stream(scene.street.number, NIGHT_STREAM)
    rng = stream(scene.seed + (1 << 32), NIGHT_STREAM)
    weather = scene.street.weather
    wet = 1.0 if weather == "rainy" else (0.4 if of_drive.random() < 0.2 else 0.05)
    dirty = float(of_drive.random() ** 2)
    px = decode(canvas)
    seen = [light for light in canvas.lights if canvas.seen(light)]

    city = float(np.exp(of_drive.normal(math.log(0.0075), 0.5)))
    cast = [0.6 * c + 0.4 * w for c, w in zip(scene.street.lamp_color, (1.0, 0.97, 0.94), strict=True)]
    out = _surfaces(canvas, scene, px, of_drive, rng=rng, city=city, cast=cast)
    lamps = emission(px.emit, LAMP_LEVEL)
    out += lamps

    sky = _sky(canvas, of_drive, city)
    outside, ground, hood = px.ids == SKY, px.ids == GROUND, px.ids == HOOD
    hazy = weather in ("foggy", "snowy", "rainy")
    clear = table(px.code, np.exp(-DISTANCE / np.float32(150 if weather == "foggy" else 320)))
    points, streaks = splat(canvas, seen, wet)
    small = np.stack([cv2.resize(p, points.shape[1::-1], interpolation=cv2.INTER_AREA) for p in lamps], axis=2)
    mirrored = mirror(canvas, streaks, small, wet)
    for k in range(3):
        np.copyto(out[k], sky[:, k : k + 1], where=outside)
        if hazy:
            out[k] = out[k] * clear + (1 - clear) * np.float32(city * 1.3 * cast[k])
        np.add(out[k], mirrored[..., k], out=out[k], where=ground)
    if hood.any():
        _bonnet(canvas, out, hood, small, points)
    smear = mottle(rng, canvas.height, canvas.width, max(canvas.width // 9, 2)) + np.float32(1.0)
    smear *= np.float32(0.0022 * dirty)
    shine = glow(canvas, points, small, seen, dirty=dirty, weather=weather, rng=rng)
    for k in range(3):
        out[k] += shine[..., k]
        # grease and dust on the windscreen, lit from the street
        out[k] += smear
    return _camera(out, of_drive, rng, canvas.width)


def _surfaces(
    canvas: Canvas, scene: Scene, px: Pixels, of_drive: Rng, *, rng: Rng, city: float, cast: list[float]
) -> F32:
    """What lamps, sky glow and the own headlights make of every surface, (3, H, W)."""
    light = look_up(_lamp_map(scene, canvas.lights, of_drive), px)
    cam, h, w = canvas.camera, canvas.height, canvas.width
    rise = (cam.horizon * h - (np.arange(h) + 0.5)) / (cam.focal * w)
    above = rise.astype(np.float32)[:, None] * px.distance + np.float32(cam.height)
    # lamps shine down: a wall is dark over them
    low = np.clip(1.15 - above / np.float32(scene.street.lamp_height * 1.1), 0.1, 1.0)
    beam = _own_beam(canvas, px, of_drive)
    retro = np.ascontiguousarray(px.emit[..., 3]) * np.float32(6.0 / 255.0)
    retro += np.float32(1.0)
    retro *= beam
    grain = mottle(rng, h, w, 2) * np.float32(0.07) + np.float32(1.0)
    white = (1.0, 0.97, 0.9)
    out = px.albedo
    for k in range(3):
        light[k] *= low
        light[k] += np.float32(city * cast[k])
        light[k] *= grain
        light[k] += retro * np.float32(white[k])
        out[k] *= light[k]
    return out


def _lamp_map(scene: Scene, lights: list[Light], of_drive: Rng) -> F32:
    """Light that street lamps, windows and other cars throw on each place, (rows, columns, 3)."""
    x, z = map_grid()
    strength = float(np.exp(of_drive.normal(math.log(0.095), 0.65)))
    street = np.zeros((MAP_ROWS, MAP_COLUMNS), np.float32)
    out = np.zeros((MAP_ROWS, MAP_COLUMNS, 3), np.float32)
    for lamp in lights:
        px, pz = np.float32(lamp.x), np.float32(lamp.z)
        if lamp.kind == "street":
            spread = ((x - px) ** 2 + (z - pz) ** 2) / np.float32(lamp.y * lamp.y)
            street += np.float32(strength) / (1.0 + spread) ** np.float32(1.5)
            continue
        if lamp.kind == "shop":
            value = np.float32(0.06) / (1.0 + ((x - px) ** 2 + (z - pz) ** 2) / np.float32(5.0))
        elif lamp.kind == "head" and lamp.z < 60:
            ahead = np.maximum(pz - z, np.float32(0.0))
            along = np.where((ahead > 0) & (ahead < 22), np.exp(-ahead / 9), 0)
            value = np.float32(0.09) * np.exp(-(((x - px) / 1.8) ** 2)) * along
        elif lamp.kind == "tail" and lamp.z < 40:
            behind = np.maximum(pz - z, np.float32(0.0))
            along = np.where((behind > 0) & (behind < 7), np.exp(-behind / 2), 0)
            value = np.float32(0.03 * lamp.power) * np.exp(-(((x - px) / 1.1) ** 2)) * along
        else:
            continue
        for k in range(3):
            out[..., k] += value * np.float32(lamp.color[k])
    for k in range(3):
        out[..., k] += street * np.float32(scene.street.lamp_color[k])
    return out


def _own_beam(canvas: Canvas, px: Pixels, of_drive: Rng) -> F32:
    """The own headlights: wide and low, cut off just under the horizon, (H, W)."""
    cam, h, w = canvas.camera, canvas.height, canvas.width
    power = float(np.exp(of_drive.normal(math.log(0.34), 0.55)))
    aside = ((np.arange(w) + 0.5) / w - 0.5) / cam.focal
    down = ((np.arange(h) + 0.5) - cam.horizon * h) / (cam.focal * w)
    across = np.exp(-(np.abs(aside / 0.27) ** 2.2))
    below = 0.1 + 0.9 / (1.0 + np.exp(-(down + 0.012) / 0.009))
    near = np.clip((0.62 - down) / 0.3, 0.25, 1)
    beam = table(px.code, (power / (1.0 + (DISTANCE / 17.0) ** 2)).astype(np.float32))
    beam *= (below * near).astype(np.float32)[:, None]
    beam *= across.astype(np.float32)[None, :]
    return beam


def _sky(canvas: Canvas, of_drive: Rng, city: float) -> F32:
    """Sky glow by row, (H, 3)."""
    t = np.clip(np.arange(canvas.height) / max(canvas.camera.horizon * canvas.height, 1), 0, 1)[:, None]
    warm = float(of_drive.uniform(0, 1))
    color = np.array([0.5 + 0.5 * warm, 0.52 + 0.2 * warm, 0.62 - 0.2 * warm])
    level = city * (0.05 + 0.45 * t**2.5) * float(of_drive.uniform(0.3, 1.6))
    return np.asarray(level * color, np.float32)


def _bonnet(canvas: Canvas, out: F32, hood: NDArray[np.bool_], small: F32, points: F32) -> None:
    """Lamps ahead mirrored, squeezed, along the edge of the own bonnet."""
    top = int(np.flatnonzero(hood.any(axis=1))[0])
    for k in range(3):
        np.multiply(out[k], np.float32(0.35), out=out[k], where=hood)
    axis = int(canvas.camera.horizon * canvas.height / COARSE)
    band = (small[:axis] * np.float32(0.5) + points[:axis] * np.float32(0.9))[::-1]
    if band.shape[0] < 2:
        return
    deep = max(int(0.07 * canvas.height), 2)
    image = np.asarray(cv2.resize(band, (canvas.width, deep), interpolation=cv2.INTER_AREA), np.float32)
    image *= np.linspace(1, 0.1, deep, dtype=np.float32)[:, None, None] * np.float32(0.5)
    end = min(top + deep, canvas.height)
    for k in range(3):
        np.add(out[k, top:end], image[: end - top, :, k], out=out[k, top:end], where=hood[top:end])


def _camera(linear: F32, of_drive: Rng, rng: Rng, width: int) -> NDArray[np.uint8]:
    """Exposure, lens blur, sensor noise and its smearing, black level."""
    _, h, w = linear.shape
    gain = float(np.exp(of_drive.normal(0.0, 0.3))) * float(np.exp(rng.normal(0, 0.12)))
    if rng.random() < 0.12:
        gain *= float(rng.uniform(0.4, 0.65))
    # however dark the frame, a person who looks hard still finds what is labelled
    gain = min(max(gain, 0.42), 2.2)
    tint = np.array([1.0, 0.96, 0.93]) * np.exp(of_drive.normal(0, 0.04, 3)) * gain
    for k in range(3):
        linear[k] *= np.float32(tint[k])
    # a full well spills: the core of a red lamp turns pink, of a green one nearly white
    spill = np.max(linear, axis=0)
    spill -= np.float32(1.0)
    np.maximum(spill, np.float32(0.0), out=spill)
    spill *= np.float32(0.22)
    linear += spill
    linear *= np.float32(1.2) / (1.0 + linear * np.float32(0.2))
    picture = develop(linear, film(0.03, float(of_drive.uniform(0.0, 0.05))))
    if rng.random() < 0.2:
        length = max(int(rng.integers(3, 6) * width / 512), 1)
        kernel = np.full((1, length), 1.0 / length, np.float32)
        picture = np.asarray(cv2.filter2D(picture, -1, kernel), np.float32)
    level = float(rng.uniform(1.3, 4.4))
    fine = rng.standard_normal((h, w), dtype=np.float32) * np.float32(level)
    picture += cv2.merge([fine, fine, fine])
    coarse = rng.standard_normal((h // 2 + 1, w // 2 + 1, 3), dtype=np.float32) * np.float32(level * 0.5)
    picture += cv2.resize(coarse, (w, h), interpolation=cv2.INTER_LINEAR)
    blur = float(rng.uniform(0.4, 0.75)) * width / 512
    picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), max(blur, 0.3)), np.float32)
    picture += np.float32(rng.uniform(-2, 2.5) + 0.5)
    return np.asarray(np.clip(picture, 0, 255), np.uint8)
