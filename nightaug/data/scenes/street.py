"""The street itself: ground, lane marks, buildings, trees, posts, and the own car's bonnet."""

from __future__ import annotations

import cv2
import numpy as np

from nightaug.data.scenes.canvas import (
    CLUTTER,
    GROUND,
    HOOD,
    LEAVES,
    NEAREST,
    RGB,
    WALL,
    Array,
    Canvas,
)
from nightaug.data.scenes.layout import Rng, Scene, Street, Thing

#: Distances (metres) at which long straight things are cut into pieces, so that bends stay bends.
STATIONS = np.array([1.2, 1.6, 2.2, 3, 4, 5.5, 7.5, 10, 13, 17, 22, 28, 36, 46, 60, 80, 110, 150, 220, 400], float)

WINDOW_LIGHT: tuple[RGB, ...] = (
    (150, 118, 66), (168, 140, 92), (120, 118, 110), (96, 112, 128), (178, 150, 88), (110, 80, 40),
)  # fmt: skip
FAR_LIGHTS: tuple[RGB, ...] = (
    (220, 200, 160), (230, 150, 70), (220, 30, 20), (230, 40, 24), (40, 210, 150), (230, 230, 235),
    (250, 190, 110), (70, 120, 240), (60, 210, 230),
)  # fmt: skip
NEON: tuple[RGB, ...] = (
    (235, 30, 24), (30, 225, 120), (40, 110, 240), (245, 190, 50), (240, 240, 240), (225, 40, 150),
    (20, 210, 190), (250, 120, 20),
)  # fmt: skip


def _strip(canvas: Canvas, x0: float, x1: float, z0: float = 1.2, z1: float = 400.0) -> Array:
    z = STATIONS[(z0 < STATIONS) & (z1 > STATIONS)]
    z = np.concatenate([[z0], z, [z1]])
    left = np.stack([np.full_like(z, x0), np.zeros_like(z), z], axis=1)
    right = np.stack([np.full_like(z, x1), np.zeros_like(z), z], axis=1)[::-1]
    return canvas.project(np.concatenate([left, right]))


def _bars(canvas: Canvas, boxes: list[tuple[float, float, float, float]]) -> Array:
    """Short marks (x0, x1, z0, z1) on the road, (M, 4, 2) fine pixels."""
    b = np.array(boxes, dtype=float).reshape(-1, 4)
    points = np.zeros((len(b), 4, 3))
    points[..., 0] = b[:, [0, 0, 1, 1]]
    points[..., 2] = np.maximum(b[:, [2, 3, 3, 2]], 1.3)
    return canvas.project(points)


def draw_ground(canvas: Canvas, scene: Scene, rng: Rng) -> None:
    """Road, kerbs, verge, lane marks and crossings; depth by row."""
    s = scene.street
    horizon = round(canvas.point(0, s.height, 1e9)[1])
    snow = s.weather == "snowy"
    verge: RGB = (186, 190, 196) if snow else ((104, 106, 70) if s.scene != "city street" else (112, 110, 106))
    corner = (canvas.w, canvas.h)
    cv2.rectangle(canvas.color, (0, horizon), corner, (*verge, 0), -1)
    canvas.ids[horizon:] = GROUND
    a = s.asphalt * (0.72 if s.weather == "rainy" else 1.0)
    road: RGB = (a * 1.0, a * 1.0, a * 1.03)
    pale: RGB = (a * 0.5 + 84, a * 0.5 + 82, a * 0.5 + 78)
    if snow:
        pale = (196, 200, 206)
    left, right = s.left - scene.shift, s.right - scene.shift
    far = 400.0
    if s.scene != "highway":
        canvas.paint([_strip(canvas, left - s.sidewalk, right + s.sidewalk)], pale, far)
        for c in scene.crossings:
            canvas.paint([_strip(canvas, -70, 70, max(c - 4.8, 1.3), c + 4.8)], road, far)
    else:
        canvas.paint([_strip(canvas, left - 14, left - 3)], road, far)
    canvas.paint([_strip(canvas, left, right)], road, far)
    if s.scene != "highway":
        kerb: RGB = (pale[0] * 0.78, pale[1] * 0.78, pale[2] * 0.78)
        for x in (left, right):
            canvas.paint([_strip(canvas, x - 0.14, x + 0.14)], kerb, far)
        for c in scene.crossings:
            canvas.paint([_strip(canvas, left - 0.2, right + 0.2, max(c - 4.8, 1.3), c + 4.8)], road, far)
    _marks(canvas, scene, rng, left, right)
    rows = np.arange(horizon, canvas.h) + 0.5 - canvas.camera.horizon * canvas.h
    z = canvas.camera.focal * canvas.w * canvas.camera.height / np.maximum(rows, 0.3)
    canvas.color[horizon:, :, 3] = np.clip(255.0 * np.sqrt(NEAREST / np.maximum(z, NEAREST)), 1, 255)[:, None]


def _marks(canvas: Canvas, scene: Scene, rng: Rng, left: float, right: float) -> None:
    s = scene.street
    worn = float(rng.uniform(0.55, 1.0))
    snow = 0.6 if s.weather == "snowy" else 1.0
    base = s.asphalt

    def mark(rgb: RGB) -> RGB:
        k = worn * snow
        return (base + (rgb[0] - base) * k, base + (rgb[1] - base) * k, base + (rgb[2] - base) * k)

    white, yellow = mark((222, 222, 218)), mark((214, 168, 52))
    wide = 0.13
    same_left = (s.lanes_left - 1) // 2
    dashes: list[tuple[float, float, float, float]] = []
    offset = float(rng.uniform(0, 9))
    for i in range(-s.lanes_left, s.lanes_right + 2):
        x = (i - 0.5) * s.lane - scene.shift
        median = s.oncoming and i == -same_left
        edge = i in (-s.lanes_left, s.lanes_right + 1)
        if median:
            canvas.paint([_strip(canvas, x - 0.22, x - 0.08), _strip(canvas, x + 0.08, x + 0.22)], yellow, 400)
        elif edge:
            if s.scene == "highway" or rng.random() < 0.35:
                color = yellow if i < 0 and s.scene == "highway" else white
                _mark(canvas, [_strip(canvas, x - wide / 2, x + wide / 2)], color)
        else:
            z = 1.5 + offset
            while z < 140:
                dashes.append((x - wide / 2, x + wide / 2, z - 9, z - 6))
                z += 9.0
    if dashes:
        _mark(canvas, _bars(canvas, dashes), white)
    for c in scene.crossings:
        # marks stop where streets cross
        clear = [_strip(canvas, left + 0.2, right - 0.2, max(c - 5, 1.3), c + 5)]
        canvas.paint(clear, (base, base, base * 1.03), 400)
        canvas.shine(clear, (0, 0, 0))
        _crosswalks(canvas, c, (left, right), rng, (white, yellow))
    for _ in range(int(rng.integers(0, 5))):
        x, z = float(rng.uniform(left, right)), float(rng.uniform(5, 30))
        k = float(rng.choice([0.72, 0.85, 1.15]))
        patch = _strip(canvas, x, x + float(rng.uniform(0.5, 3)), z, z + float(rng.uniform(1, 8)))
        canvas.paint([patch], (base * k, base * k, base * k), 400)


def _mark(canvas: Canvas, shapes: list[Array] | Array, ink: RGB) -> None:
    """Paint on the road; it holds glass beads, so that it lights up in the own headlights."""
    canvas.paint(shapes, ink, 400)
    if canvas.night:
        canvas.shine(shapes, (0, 0, 0), 42)


def _crosswalks(canvas: Canvas, crossing: float, kerbs: tuple[float, float], rng: Rng, inks: tuple[RGB, RGB]) -> None:
    """Zebra bars or two lines, before and after a crossing."""
    left, right = kerbs
    bars: list[tuple[float, float, float, float]] = []
    for near in (crossing - 8.2, crossing + 5.4):
        if near < 2:
            continue
        if rng.random() < 0.6:
            bars += [(x, x + 0.55, near, near + 2.6) for x in np.arange(left + 0.4, right - 0.5, 1.15).tolist()]
        else:
            bars += [(left, right, near, near + 0.3), (left, right, near + 2.2, near + 2.5)]
    if bars:
        _mark(canvas, _bars(canvas, bars), inks[int(rng.random() > 0.85)])


def draw_skyline(canvas: Canvas, scene: Scene, rng: Rng) -> None:
    """What closes the street at the horizon: hills and trees, or distant blocks with a few lights."""
    s = scene.street
    base = canvas.project((0, 0, 420.0))[1] + 2
    x = -0.05 * canvas.w
    night_lights: list[Array] = []
    while x < canvas.w * 1.05:
        if s.scene == "city street":
            w, h = canvas.w * float(rng.uniform(0.02, 0.07)), canvas.w * float(rng.uniform(0.01, 0.1))
            wall = s.walls[int(rng.integers(len(s.walls)))]
            tone: RGB = (wall[0] * 0.5 + 60, wall[1] * 0.5 + 64, wall[2] * 0.5 + 70)
            canvas.solid(np.array([(x, base), (x + w, base), (x + w, base - h), (x, base - h)]), tone, 300, WALL)
            for _ in range(int(h / 9)):
                u, v = x + float(rng.uniform(0.1, 0.8)) * w, base - float(rng.uniform(0.1, 0.95)) * h
                night_lights.append(np.array([(u, v), (u + 2.4, v), (u + 2.4, v + 2), (u, v + 2)]))
        else:
            w, h = canvas.w * float(rng.uniform(0.03, 0.1)), canvas.w * float(rng.uniform(0.006, 0.03))
            tone = (float(rng.uniform(56, 84)), float(rng.uniform(74, 94)), float(rng.uniform(56, 66)))
            top = [(x + w * t, base - h * (1 - (2 * t - 1) ** 2)) for t in np.linspace(0, 1, 7)]
            canvas.solid(np.array([*top, (x + w, base), (x, base)]), tone, 300, LEAVES)
            if rng.random() < 0.3:
                u, v = x + w / 2, base - 2
                night_lights.append(np.array([(u, v), (u + 2.4, v), (u + 2.4, v - 2), (u, v - 2)]))
        x += w * 0.8
    # the far end of a street at night is a heap of small lights nobody can name
    dots: list[list[Array]] = [[] for _ in FAR_LIGHTS]
    for _ in range(int(rng.integers(4, 30))):
        u = canvas.w * float(np.clip(rng.normal(0.5 + scene.camera.yaw, 0.13), 0, 1))
        v = base - canvas.w * float(abs(rng.normal(0.004, 0.014)))
        dot = canvas.disc((u, v), canvas.w * float(rng.uniform(0.0008, 0.0022)), 6)
        dots[int(rng.integers(len(FAR_LIGHTS)))].append(dot)
    for tone, same in zip(FAR_LIGHTS, dots, strict=True):
        if canvas.night and same:
            canvas.shine(same, tone)
    if canvas.night and night_lights:
        for k, light in enumerate(WINDOW_LIGHT[:3]):
            if night_lights[k::4]:
                canvas.shine(night_lights[k::4], light)


def _wall_points(plane: float, z0: float, length: float, along: Array, up: Array) -> Array:
    """Corners (M, 4, 3) of cells on a wall along the road; ``along`` 0..1 and ``up`` metres, (M, 2)."""
    z = z0 + along * length
    out = np.empty((len(along), 4, 3))
    out[..., 0] = plane
    out[:, :, 1] = up[:, [0, 0, 1, 1]]
    out[:, :, 2] = z[:, [0, 1, 1, 0]]
    return out


def draw_building(canvas: Canvas, thing: Thing, rng: Rng, lamps: Rng) -> None:
    """A house, block of flats or shop; ``lamps`` decides by night only, so it must not be ``rng``."""
    deep, tall, length = thing.size
    z0, z1, x = max(thing.z, 1.0), thing.z + thing.size[2], thing.x
    if z1 <= z0 + 0.2:
        return
    length = z1 - z0
    back = x + thing.style * deep
    c = thing.color
    lit: RGB = (c[0] * 0.92, c[1] * 0.92, c[2] * 0.92)
    house = thing.state == "house"
    if thing.z > 1.5:
        end = np.array([(x, 0, z0), (back, 0, z0), (back, tall, z0), (x, tall, z0)], float)
        if house:
            end = np.array([*end[:3], ((x + back) / 2, tall + 2.6, z0), end[3]])
        canvas.solid(canvas.project(end), (c[0] * 0.78, c[1] * 0.78, c[2] * 0.78), z0, WALL)
        _end_wall(canvas, thing, rng, lamps, z0)
    front = np.array([(x, 0, z0), (x, 0, z1), (x, tall, z1), (x, tall, z0)], float)
    canvas.solid(canvas.project(front), lit, (z0 + z1) / 2, WALL)
    if house:
        mid = (x + back) / 2
        roof = np.array([(x, tall, z0), (x, tall, z1), (mid, tall + 2.6, z1), (mid, tall + 2.6, z0)], float)
        canvas.solid(canvas.project(roof), (84, 72, 66), (z0 + z1) / 2, WALL)
    if z0 < 60 and not house:
        _bands(canvas, thing, z0, length)
    _windows(canvas, thing, rng, lamps, z0=z0, length=length, start=0.0 if thing.state != "shop" else 3.8)
    if thing.state == "shop":
        _shop(canvas, thing, rng, lamps, z0=z0, length=length)
    _facade_depth(canvas, canvas.project(front), x)


def _end_wall(canvas: Canvas, thing: Thing, rng: Rng, lamps: Rng, z0: float) -> None:
    """Windows in the wall that faces us, some houses have none there."""
    deep, tall, _ = thing.size
    columns, rows = int(deep / 3.2), int((tall - 1.0) / 3.3)
    if z0 > 90 or columns < 1 or rows < 1:
        return
    blank = rng.random() < 0.25
    i, j = (t.ravel() for t in np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij"))
    points = np.empty((len(i), 4, 3))
    out = (i + 0.5) / columns * deep
    points[..., 0] = thing.x + thing.style * np.stack([out - 0.6, out + 0.6, out + 0.6, out - 0.6], axis=1)
    low = 1.1 + j * 3.3
    points[..., 1] = np.stack([low, low, low + 1.6, low + 1.6], axis=1)
    points[..., 2] = z0
    draw = lamps.random(len(i))
    if blank:
        return
    quads = canvas.project(points)
    canvas.paint(quads, (52, 60, 68), z0)
    if canvas.night and (draw < 0.13).any():
        tone = WINDOW_LIGHT[int(draw[0] * len(WINDOW_LIGHT))]
        canvas.shine(quads[draw < 0.13], (tone[0] * 0.8, tone[1] * 0.8, tone[2] * 0.8))


def _bands(canvas: Canvas, thing: Thing, z0: float, length: float) -> None:
    """Cornice, storey lines and the joints of the wall: the texture that makes a wall a wall."""
    tall, c = thing.size[1], thing.color
    storey = 3.1 + 0.5 * ((thing.phase * 7) % 1)
    low = np.array([tall - 0.45, *np.arange(3.4, tall - 1.0, storey)])
    along = np.tile([0.0, 1.0], (len(low), 1))
    up = np.stack([low, low + np.where(np.arange(len(low)) == 0, 0.45, 0.16)], axis=1)
    quads = canvas.project(_wall_points(thing.x, z0, length, along, up))
    k = 1.25 if thing.phase < 0.5 else 0.68
    canvas.paint(quads, (min(c[0] * k, 240), min(c[1] * k, 240), min(c[2] * k, 240)), z0 + length / 2)


def _facade_depth(canvas: Canvas, front: Array, x: float) -> None:
    """A long wall runs away from us: give each column of it its own depth, lamps need it."""
    a, b = (int(np.clip(v, 0, canvas.w)) for v in (front[:, 0].min(), front[:, 0].max() + 1))
    top, bottom = (int(np.clip(v, 0, canvas.h)) for v in (front[:, 1].min(), front[:, 1].max() + 1))
    if b - a < 8 or bottom <= top:
        return
    away = np.arange(a, b) + 0.5 - canvas.project((0, 0, 1e5))[0] + canvas.camera.curve * 1e5 * canvas.scale(1.0)
    depth = canvas.scale(1.0) * abs(x) / np.maximum(np.abs(away), 1.0)
    codes = np.clip(255.0 * np.sqrt(NEAREST / np.maximum(depth, NEAREST)), 1, 255).astype(np.uint8)
    wall = canvas.ids[top:bottom, a:b] == WALL
    np.copyto(canvas.color[top:bottom, a:b, 3], codes[None, :], where=wall)


def _windows(canvas: Canvas, thing: Thing, rng: Rng, lamps: Rng, *, z0: float, length: float, start: float) -> None:
    tall = thing.size[1]
    bay, storey = 1.6 + 1.8 * thing.phase, 3.1 + 0.5 * ((thing.phase * 7) % 1)
    columns, rows = int(length / bay), int((tall - start - 0.8) / storey)
    if columns < 1 or rows < 1 or z0 > 125:
        return
    if z0 > 60:
        columns, rows = max(columns // 2, 1), max(rows // 2, 1)
        bay, storey = length / columns, (tall - start - 0.8) / rows
    i, j = (t.ravel() for t in np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij"))
    share = 0.42 + 0.2 * ((thing.phase * 13) % 1)
    a = (i + 0.5 - share / 2) / columns
    along = np.stack([a, a + share / columns], axis=1)
    low = start + 0.9 + j * storey
    up = np.stack([low, low + storey * 0.52], axis=1)
    quads = canvas.project(_wall_points(thing.x, z0, length, along, up))
    z = z0 + length / 2
    glass: RGB = (46 + 40 * thing.phase, 54 + 40 * thing.phase, 62 + 40 * thing.phase)
    draw = rng.random(len(quads))
    keep = np.abs(quads[:, 0, 0] - canvas.w / 2) < canvas.w
    canvas.paint(quads[keep], glass, z)
    bright = keep & (draw < 0.25)
    if bright.any():
        canvas.paint(quads[bright], (130, 146, 160), z)
    if canvas.night:
        share_lit = 0.34 * lamps.random() ** 1.6 + 0.03
        for k in range(3):
            chosen = keep & (draw > 1 - share_lit * (k + 1) / 3) & (draw <= 1 - share_lit * k / 3)
            if chosen.any():
                tone = WINDOW_LIGHT[int(lamps.integers(len(WINDOW_LIGHT)))]
                dim = float(lamps.uniform(0.35, 1.0))
                canvas.shine(quads[chosen], (tone[0] * dim, tone[1] * dim, tone[2] * dim))


def _shop(canvas: Canvas, thing: Thing, rng: Rng, lamps: Rng, *, z0: float, length: float) -> None:
    """Ground floor: show windows, a name board, and round or square lights that could pass for signals."""
    z = z0 + length / 2
    count = max(int(length / 4.5), 1)
    edges = np.arange(count) / count
    along = np.stack([edges + 0.08 / count, edges + 0.92 / count], axis=1)
    glass = canvas.project(_wall_points(thing.x, z0, length, along, np.tile([0.5, 2.7], (count, 1))))
    board = canvas.project(_wall_points(thing.x, z0, length, along, np.tile([2.95, 3.65], (count, 1))))
    canvas.paint(glass, (40, 44, 48), z)
    for k in range(count):
        c = NEON[int(rng.integers(len(NEON)))] if rng.random() < 0.6 else thing.color2
        canvas.paint([board[k]], (c[0] * 0.7 + 20, c[1] * 0.7 + 20, c[2] * 0.7 + 20), z)
        open_now = thing.on and rng.random() < 0.7
        tone = WINDOW_LIGHT[int(rng.integers(len(WINDOW_LIGHT)))]
        level, neon = float(rng.uniform(0.5, 1.25)), NEON[int(rng.integers(len(NEON)))]
        spot_y, spot_s = float(rng.uniform(2.2, 4.6)), float(rng.uniform(0.1, 0.9))
        round_light, radius = bool(rng.random() < 0.3), float(rng.uniform(0.12, 0.3))
        spot_z = z0 + (k + spot_s) / count * length
        out = thing.x - thing.style * 0.5
        if round_light and spot_z > 4:
            body = canvas.disc(canvas.project((out, spot_y, spot_z)), radius * canvas.scale(spot_z), 10)
            canvas.solid(body, (neon[0] * 0.6 + 40, neon[1] * 0.6 + 40, neon[2] * 0.6 + 40), spot_z, CLUTTER)
            if canvas.night and thing.on:
                canvas.shine([body], neon)
                linear = ((neon[0] / 255) ** 2, (neon[1] / 255) ** 2, (neon[2] / 255) ** 2)
                canvas.light((out, spot_y, spot_z), linear, 0.8, CLUTTER, "neon")
        if canvas.night and open_now:
            canvas.shine([glass[k]], (tone[0] * level, tone[1] * level, tone[2] * level))
            if lamps.random() < 0.6:
                u = np.linspace(0.05, 0.95, 6)
                bits = [_inset(board[k], float(t), float(t) + 0.1, 0.25, 0.75) for t in u[:-1]]
                canvas.shine(bits, (neon[0] * 0.8, neon[1] * 0.8, neon[2] * 0.8))
            spill = (tone[0] / 255, tone[1] / 255, tone[2] / 255)
            canvas.light((thing.x - thing.style * 1.2, 1.5, z0 + (k + 0.5) / count * length), spill, 1.0, WALL, "shop")


def _inset(quad: Array, s0: float, s1: float, t0: float, t1: float) -> Array:
    a, b, c, d = quad
    return np.array([(a * (1 - s) + b * s) * (1 - t) + (d * (1 - s) + c * s) * t
                     for s, t in ((s0, t0), (s1, t0), (s1, t1), (s0, t1))])  # fmt: skip


def draw_hood(canvas: Canvas, street: Street, rng: Rng) -> None:
    if street.hood == "none":
        return
    top, w, h = street.hood_top * canvas.h, canvas.w, canvas.h
    tone = float(rng.choice([22, 34, 60, 130], p=[0.4, 0.3, 0.2, 0.1]))
    if street.hood == "hood":
        t = np.linspace(-0.1, 1.1, 25)
        edge = np.stack([t * w, top + (t - 0.5) ** 2 * 0.16 * h], axis=1)
    else:
        edge = np.array([(-5.0, top), (w * 0.3, top - 0.012 * h), (w * 0.7, top - 0.012 * h), (w + 5.0, top)])
        tone *= 0.6
    shape = np.concatenate([edge, [(w + 9.0, h + 9.0), (-9.0, h + 9.0)]])
    canvas.solid(shape, (tone, tone, tone * 1.04), 3.0, HOOD)
    inner = edge + np.array([0, 0.02 * h])
    sheen = np.concatenate([edge, inner[::-1]])
    canvas.paint([sheen], (min(tone * 1.9, 235), min(tone * 1.9, 235), min(tone * 2.0, 240)), 3.0)
