"""Night: the same canvas lit by lamps only, seen by a small camera that has too little light."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from nightaug.data.scenes.canvas import GROUND, HOOD, SKY, SUPERSAMPLE, Canvas, Light
from nightaug.data.scenes.layout import NIGHT_STREAM, Rng, Scene, stream
from nightaug.data.scenes.light import (
    F32,
    LINEAR,
    MAP_COLUMNS,
    MAP_ROWS,
    Pixels,
    decode,
    develop,
    look_up,
    map_grid,
    mottle,
)

#: Glow is computed on an image this many times smaller.
COARSE = 4


def light_by_night(canvas: Canvas, scene: Scene) -> NDArray[np.uint8]:
    """The canvas by night, (H, W, 3) RGB."""
    of_drive = stream(scene.street.number, NIGHT_STREAM)
    rng = stream(scene.seed + (1 << 32), NIGHT_STREAM)
    weather = scene.street.weather
    wet = 1.0 if weather == "rainy" else (0.35 if of_drive.random() < 0.2 else 0.06)
    dirty = float(of_drive.random() ** 2)
    px = decode(canvas)
    seen = [light for light in canvas.lights if canvas.seen(light)]

    city = float(np.exp(of_drive.normal(math.log(0.017), 0.45)))
    cast = np.array(scene.street.lamp_color, np.float32) * 0.6 + np.array([0.4, 0.38, 0.36], np.float32)
    light = look_up(_lamp_map(scene, canvas.lights, of_drive), px)
    high = np.clip(1.15 - _height(canvas, px) / np.float32(scene.street.lamp_height * 1.1), 0.12, 1.0)
    light *= high[..., None]
    light += np.float32(city) * cast
    beam = _own_beam(canvas, px, of_drive)
    light += beam[..., None] * np.array([1.0, 0.97, 0.9], np.float32)
    light *= (1.0 + 0.06 * mottle(rng, canvas.height, canvas.width, 2))[..., None]
    retro = px.emit[..., 3].astype(np.float32) * np.float32(5.0 / 255.0)
    light += (retro * beam)[..., None]
    out = px.albedo * light
    emit = np.asarray(cv2.LUT(np.ascontiguousarray(px.emit[..., :3]), LINEAR * np.float32(2.6)), np.float32)
    out += emit

    ground = px.ids == GROUND
    outside = px.ids == SKY
    out[outside] = _sky(canvas, of_drive, city)[outside]
    if weather in ("foggy", "snowy", "rainy"):
        veil = (1 - np.exp(-px.distance / np.float32(90 if weather == "foggy" else 320)))[..., None]
        out += (np.float32(city * 1.6) * cast - out) * veil * np.float32(0.8)
    points, streaks = _splat(canvas, seen, wet)
    small = cv2.resize(emit, (points.shape[1], points.shape[0]), interpolation=cv2.INTER_AREA)
    out[ground] += _mirror(canvas, streaks, small, wet)[ground]
    _bonnet(canvas, out, px, small, points)
    out += _glow(canvas, points, small, seen, dirty, weather, rng)
    return _camera(out, of_drive, rng, canvas.width)


def _height(canvas: Canvas, px: Pixels) -> F32:
    """Metres above the road at every pixel."""
    cam, h, w = canvas.camera, canvas.height, canvas.width
    rise = (cam.horizon * h - (np.arange(h) + 0.5)) / (cam.focal * w)
    return np.asarray(rise.astype(np.float32)[:, None] * px.distance + np.float32(cam.height), np.float32)


def _lamp_map(scene: Scene, lights: list[Light], of_drive: Rng) -> F32:
    """Light that street lamps, windows and other cars throw on each place of the ground, (rows, columns, 3)."""
    x, z = map_grid()
    out = np.zeros((MAP_ROWS, MAP_COLUMNS, 3), np.float32)
    strength = float(np.exp(of_drive.normal(math.log(0.13), 0.5)))
    for lamp in lights:
        if lamp.kind == "street":
            d = (x - lamp.x) ** 2 + (z - lamp.z) ** 2
            spread = d / np.float32(lamp.y * lamp.y)
            value = np.float32(strength) / (1.0 + spread) ** 1.5
        elif lamp.kind == "shop":
            value = 0.09 / (1.0 + ((x - lamp.x) ** 2 + (z - lamp.z) ** 2) / 5.0)
        elif lamp.kind == "head" and lamp.z < 70:
            ahead = np.maximum(lamp.z - z, 0.0)
            value = (
                0.12
                * np.exp(-(((x - lamp.x) / 1.8) ** 2))
                * ((ahead > 0) & (ahead < 22))
                * np.exp(-ahead / 9.0)
            )
        elif lamp.kind == "tail" and lamp.z < 45:
            behind = np.maximum(lamp.z - z, 0.0)
            value = (
                0.045
                * lamp.power
                * np.exp(-(((x - lamp.x) / 1.1) ** 2))
                * ((behind > 0) & (behind < 7))
                * np.exp(-behind / 2)
            )
        else:
            continue
        out += value[..., None].astype(np.float32) * np.array(lamp.color, np.float32)
    return out


def _own_beam(canvas: Canvas, px: Pixels, of_drive: Rng) -> F32:
    """The own headlights: wide and low, cut off just under the horizon, (H, W)."""
    cam, h, w = canvas.camera, canvas.height, canvas.width
    power = float(np.exp(of_drive.normal(math.log(0.17), 0.5)))
    aside = ((np.arange(w) + 0.5) / w - 0.5) / cam.focal
    down = ((np.arange(h) + 0.5) - cam.horizon * h) / (cam.focal * w)
    across = np.exp(-(np.abs(aside / 0.36) ** 2.4))
    below = 0.1 + 0.9 / (1.0 + np.exp(-(down + 0.012) / 0.009))
    reach = 1.0 / (1.0 + (px.distance / 17.0) ** 2)
    near = np.clip((0.62 - down) / 0.3, 0.25, 1)
    return np.asarray(power * reach * (below * near)[:, None] * across[None, :], np.float32)


def _sky(canvas: Canvas, of_drive: Rng, city: float) -> F32:
    t = np.clip(np.arange(canvas.height) / max(canvas.camera.horizon * canvas.height, 1), 0, 1)[:, None, None]
    warm = float(of_drive.uniform(0, 1))
    color = np.array([0.5 + 0.5 * warm, 0.52 + 0.2 * warm, 0.62 - 0.2 * warm])
    level = city * (0.05 + 0.42 * t**2.5) * float(of_drive.uniform(0.3, 1.5))
    return np.repeat((level * color).astype(np.float32), canvas.width, axis=1)


def _energy(lamp: Light) -> float:
    """How much a lamp glares: less with distance, but never as fast as its area."""
    return float(lamp.power * min((9.0 / max(lamp.z, 3.0)) ** 1.15, 1.3))


def _splat(canvas: Canvas, seen: list[Light], wet: float) -> tuple[F32, F32]:
    """Lamps as points, and their mirror images as upright streaks, both on the coarse image."""
    h, w = canvas.height // COARSE + 1, canvas.width // COARSE + 1
    points, streaks = np.zeros((h, w, 3), np.float32), np.zeros((h, w, 3), np.float32)
    step = SUPERSAMPLE * COARSE
    for lamp in seen:
        if lamp.kind == "shop":
            continue
        value = np.array(lamp.color, np.float32) * np.float32(_energy(lamp))
        u, v = canvas.project((lamp.x, lamp.y, lamp.z)) / step - 0.5
        _add(points, float(u), float(v), value)
        # a low lamp ahead mirrors right below itself, a street lamp far below
        v1 = float(canvas.project((lamp.x, -lamp.y, lamp.z))[1]) / step
        foot = float(canvas.project((lamp.x, 0.0, lamp.z))[1]) / step
        long = max((v1 - foot) * (0.7 + wet), 2.0)
        for k in np.linspace(-0.5, 1.0, 8):
            _add(streaks, float(u), v1 + float(k) * long, value * np.float32(1.2 / (8 + long)))
    return points, streaks


def _add(layer: F32, u: float, v: float, value: F32) -> None:
    h, w = layer.shape[:2]
    i, j = math.floor(u), math.floor(v)
    if 0 <= i < w - 1 and 0 <= j < h - 1:
        a, b = np.float32(u - i), np.float32(v - j)
        layer[j, i] += value * (1 - a) * (1 - b)
        layer[j, i + 1] += value * a * (1 - b)
        layer[j + 1, i] += value * (1 - a) * b
        layer[j + 1, i + 1] += value * a * b


def _mirror(canvas: Canvas, streaks: F32, small: F32, wet: float) -> F32:
    """Lamps and windows in the wet road, (H, W, 3)."""
    scale = canvas.width / 512
    layer = cv2.GaussianBlur(streaks, (0, 0), sigmaX=max(0.7 * scale, 0.4), sigmaY=max(3.2 * scale, 0.8))
    layer = layer * np.float32(5.0 * wet)
    if wet > 0.2:
        axis = int((canvas.camera.horizon + 0.05) * canvas.height / COARSE)
        rows = np.clip(2 * axis - np.arange(small.shape[0]), 0, small.shape[0] - 1)
        flipped = cv2.GaussianBlur(
            small[rows], (0, 0), sigmaX=max(0.8 * scale, 0.4), sigmaY=max(5 * scale, 1)
        )
        layer += flipped * np.float32(0.35 * wet)
    return np.asarray(
        cv2.resize(layer, (canvas.width, canvas.height), interpolation=cv2.INTER_LINEAR), np.float32
    )


def _bonnet(canvas: Canvas, out: F32, px: Pixels, small: F32, points: F32) -> None:
    """Lamps ahead mirrored, squeezed, along the edge of the own bonnet."""
    hood = px.ids == HOOD
    rows = np.flatnonzero(hood.any(axis=1))
    out[hood] *= 0.35
    if not len(rows):
        return
    axis = int(canvas.camera.horizon * canvas.height / COARSE)
    band = (small[:axis] * np.float32(0.5) + points[:axis] * np.float32(0.8))[::-1]
    if band.shape[0] < 2:
        return
    deep = max(int(0.07 * canvas.height), 2)
    top = int(rows[0])
    image = cv2.resize(
        band, (canvas.width, deep), interpolation=cv2.INTER_AREA if deep < band.shape[0] else cv2.INTER_LINEAR
    )
    image *= np.linspace(1, 0.1, deep, dtype=np.float32)[:, None, None] * np.float32(0.5)
    end = min(top + deep, canvas.height)
    piece = image[: end - top]
    mask = hood[top:end]
    out[top:end][mask] += piece[mask]


def _glow(
    canvas: Canvas, points: F32, small: F32, seen: list[Light], dirty: float, weather: str, rng: Rng
) -> F32:  # fmt: skip
    """Bloom, veil and star-shaped flare around lamps, (H, W, 3)."""
    scale = canvas.width / 512
    wide = 1.0 + 0.8 * dirty + (1.2 if weather in ("foggy", "snowy", "rainy") else 0.0)
    source = points + np.maximum(small - 0.35, 0) * np.float32(0.25)
    core = cv2.GaussianBlur(source, (0, 0), max(0.75 * scale, 0.4)) * np.float32(1.1 * scale * scale)
    halo = cv2.GaussianBlur(source, (0, 0), 2.6 * scale) * np.float32(1.1 * wide * scale * scale)
    veil = cv2.resize(source, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    veil = cv2.GaussianBlur(veil, (0, 0), 2.6 * scale) * np.float32(1.6 * wide * scale * scale)
    veil = cv2.resize(veil, (points.shape[1], points.shape[0]), interpolation=cv2.INTER_LINEAR)
    layer = core + halo + veil
    layer = np.asarray(
        cv2.resize(layer, (canvas.width, canvas.height), interpolation=cv2.INTER_LINEAR), np.float32
    )
    strong = sorted((lamp for lamp in seen if lamp.kind in ("head", "street", "signal")), key=_energy)[-8:]
    if dirty > 0.15 and strong:
        layer += _stars(canvas, strong, dirty, rng)
    return layer


def _stars(canvas: Canvas, strong: list[Light], dirty: float, rng: Rng) -> F32:
    h, w = canvas.height // 2, canvas.width // 2
    layer = np.zeros((h, w, 3), np.uint8)
    angles = rng.uniform(0, math.pi) + np.arange(3) * math.pi / 3
    weights = rng.uniform(0.3, 1.0, 3)
    for lamp in strong:
        u, v = canvas.project((lamp.x, lamp.y, lamp.z)) / (2 * SUPERSAMPLE)
        energy = _energy(lamp)
        for angle, weight in zip(angles, weights, strict=True):
            reach = w * 0.012 * math.sqrt(energy) * float(weight) * (0.5 + 1.3 * dirty)
            for share, level in ((1.0, 26), (0.5, 70)):
                d = np.array([math.cos(angle), math.sin(angle)]) * reach * share
                a, b = (int((u - d[0]) * 8), int((v - d[1]) * 8)), (int((u + d[0]) * 8), int((v + d[1]) * 8))
                tone = tuple(float(c) * level for c in lamp.color)
                if max(abs(a[0]), abs(a[1]), abs(b[0]), abs(b[1])) < 30000:
                    cv2.line(layer, a, b, tone, 1, cv2.LINE_AA, 3)
    soft = cv2.GaussianBlur(layer, (0, 0), 0.8)
    soft = cv2.resize(soft, (canvas.width, canvas.height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(soft.astype(np.float32) * np.float32(0.6 / 255), np.float32)


def _camera(linear: F32, of_drive: Rng, rng: Rng, width: int) -> NDArray[np.uint8]:
    """Exposure, lens blur, sensor noise and its smearing, black level."""
    h, w = linear.shape[:2]
    gain = float(np.exp(of_drive.normal(0.0, 0.35))) * float(np.exp(rng.normal(0, 0.12)))
    if rng.random() < 0.12:
        gain *= float(rng.uniform(0.35, 0.6))
    tint = np.array([1.0, 0.96, 0.9], np.float32) * np.exp(of_drive.normal(0, 0.05, 3)).astype(np.float32)
    exposed = linear * (np.float32(gain) * tint)
    exposed = exposed / (1.0 + exposed * 0.3) * np.float32(1.25)
    film = develop(np.asarray(exposed, np.float32))
    if rng.random() < 0.2:
        length = max(int(rng.integers(3, 6) * width / 512), 1)
        kernel = np.full((1, length), 1.0 / length, np.float32)
        film = np.asarray(cv2.filter2D(film, -1, kernel), np.float32)
    level = float(rng.uniform(2.0, 6.5))
    film += rng.standard_normal((h, w, 1), dtype=np.float32) * np.float32(level)
    coarse = rng.standard_normal((h // 3 + 1, w // 3 + 1, 3), dtype=np.float32) * np.float32(level * 0.7)
    film += cv2.resize(coarse, (w, h), interpolation=cv2.INTER_LINEAR)
    blur = float(rng.uniform(0.6, 1.0)) * width / 512
    film = np.asarray(cv2.GaussianBlur(film, (0, 0), max(blur, 0.3)), np.float32)
    return np.asarray(np.clip(film + np.float32(rng.uniform(-3, 2)) + 0.5, 0, 255), np.uint8)
