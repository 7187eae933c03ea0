"""Lamps in the lens and in the wet: bloom, veil, star-shaped flare, mirror streaks.

All on coarse (h, w, 3) float32 images, blown up at the end.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from nightaug.data.scenes.canvas import SUPERSAMPLE, Canvas, Light
from nightaug.data.scenes.layout import Rng
from nightaug.data.scenes.light import F32

#: Glow is computed on an image this many times smaller.
COARSE = 4


def energy(lamp: Light) -> float:
    """How much a lamp glares: less with distance, but never as fast as its area."""
    return float(lamp.power * min((9.0 / max(lamp.z, 3.0)) ** 1.15, 1.3))


def splat(canvas: Canvas, seen: list[Light], wet: float) -> tuple[F32, F32]:
    """Lamps as points, and their mirror images as upright streaks."""
    h, w = canvas.height // COARSE + 1, canvas.width // COARSE + 1
    points, streaks = np.zeros((h, w, 3), np.float32), np.zeros((h, w, 3), np.float32)
    step = SUPERSAMPLE * COARSE
    for lamp in seen:
        if lamp.kind == "shop":
            continue
        value = np.array(lamp.color, np.float32) * np.float32(energy(lamp))
        u, v = (t / step - 0.5 for t in canvas.point(lamp.x, lamp.y, lamp.z))
        _add(points, u, v, value)
        # a low lamp ahead mirrors right below itself, a street lamp far below
        v1 = canvas.point(lamp.x, -lamp.y, lamp.z)[1] / step
        foot = canvas.point(lamp.x, 0.0, lamp.z)[1] / step
        long = max((v1 - foot) * (0.7 + wet), 2.0)
        value *= np.float32(1.2 / (8 + long))
        for k in range(8):
            _add(streaks, u, v1 + (k / 4.7 - 0.5) * long, value)
    return points, streaks


def _add(layer: F32, u: float, v: float, value: F32) -> None:
    h, w = layer.shape[:2]
    i, j = math.floor(u), math.floor(v)
    if 0 <= i < w - 1 and 0 <= j < h - 1:
        a, b = u - i, v - j
        weights = np.array(((1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b), np.float32)
        layer[j : j + 2, i : i + 2] += weights.reshape(2, 2, 1) * value


def mirror(canvas: Canvas, streaks: F32, small: F32, wet: float) -> F32:
    """Lamps and windows in the wet road, (H, W, 3)."""
    scale = canvas.width / 512
    layer = cv2.GaussianBlur(streaks, (0, 0), sigmaX=max(0.7 * scale, 0.4), sigmaY=max(3.2 * scale, 0.8))
    layer *= np.float32(4.0 * wet)
    if wet > 0.2:
        axis = int((canvas.camera.horizon + 0.05) * canvas.height / COARSE)
        rows = np.clip(2 * axis - np.arange(small.shape[0]), 0, small.shape[0] - 1)
        flipped = cv2.GaussianBlur(small[rows], (0, 0), sigmaX=max(0.8 * scale, 0.4), sigmaY=max(5 * scale, 1))
        layer += flipped * np.float32(0.35 * wet)
    return np.asarray(cv2.resize(layer, (canvas.width, canvas.height), interpolation=cv2.INTER_LINEAR), np.float32)


def glow(canvas: Canvas, points: F32, small: F32, seen: list[Light], *, dirty: float, weather: str, rng: Rng) -> F32:
    """Bloom, veil and star-shaped flare around lamps, (H, W, 3)."""
    scale = canvas.width / 512
    area = np.float32(scale * scale)
    wide = np.float32(0.55 + 0.7 * dirty + (0.9 if weather in ("foggy", "snowy", "rainy") else 0.0))
    source = points + np.maximum(small - np.float32(0.3), 0) * np.float32(0.25)
    core = cv2.GaussianBlur(source, (0, 0), max(0.7 * scale, 0.4)) * (np.float32(2.2) * area)
    core += cv2.GaussianBlur(source, (0, 0), 2.4 * scale) * (wide * area)
    veil = cv2.resize(source, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    veil = cv2.GaussianBlur(veil, (0, 0), 2.2 * scale) * (np.float32(1.0) * wide * area)
    core += cv2.resize(veil, (points.shape[1], points.shape[0]), interpolation=cv2.INTER_LINEAR)
    size = (canvas.width, canvas.height)
    layer = np.asarray(cv2.resize(core, size, interpolation=cv2.INTER_LINEAR), np.float32)
    strong = sorted((lamp for lamp in seen if lamp.kind in ("head", "street", "signal")), key=energy)[-8:]
    if dirty > 0.15 and strong:
        layer += _stars(canvas, strong, dirty, rng)
    return layer


def _stars(canvas: Canvas, strong: list[Light], dirty: float, rng: Rng) -> F32:
    """Streaks of light through every strong lamp, all in the directions of one dirty windscreen."""
    h, w = canvas.height // 2, canvas.width // 2
    layer = np.zeros((h, w, 3), np.uint8)
    angles = rng.uniform(0, math.pi) + np.arange(3) * math.pi / 3
    weights = rng.uniform(0.3, 1.0, 3)
    for lamp in strong:
        u, v = (t / (2 * SUPERSAMPLE) for t in canvas.point(lamp.x, lamp.y, lamp.z))
        force = energy(lamp)
        for angle, weight in zip(angles.tolist(), weights.tolist(), strict=True):
            reach = w * 0.012 * math.sqrt(force) * weight * (0.5 + 1.3 * dirty)
            for share, level in ((1.0, 26), (0.5, 70)):
                dx, dy = math.cos(angle) * reach * share, math.sin(angle) * reach * share
                a, b = (int((u - dx) * 8), int((v - dy) * 8)), (int((u + dx) * 8), int((v + dy) * 8))
                tone = (lamp.color[0] * level, lamp.color[1] * level, lamp.color[2] * level)
                cv2.line(layer, a, b, tone, 1, cv2.LINE_AA, 3)
    soft = cv2.GaussianBlur(layer, (0, 0), 0.8)
    soft = cv2.resize(soft, (canvas.width, canvas.height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(soft, np.float32) * np.float32(0.6 / 255)
