"""Trees, lamp posts, traffic lights, signs, gantries, barriers and small things at the kerb."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from nightaug.data.scenes.canvas import CLUTTER, LEAVES, RGB, WALL, Array, Canvas
from nightaug.data.scenes.layout import Rng, Street, Thing
from nightaug.data.scenes.street import NEON

STEEL: RGB = (96, 98, 100)
SIGNAL_COLOR: dict[str, tuple[RGB, RGB]] = {
    "red": ((255, 26, 14), (1.0, 0.06, 0.03)),
    "yellow": ((255, 190, 20), (1.0, 0.62, 0.05)),
    "green": ((20, 255, 170), (0.05, 1.0, 0.55)),
}
OCTAGON = np.stack(
    [np.cos(np.arange(8) * math.pi / 4 + math.pi / 8), np.sin(np.arange(8) * math.pi / 4 + math.pi / 8)], 1
)


def post(canvas: Canvas, x: float, z: float, top: float, thick: float = 0.09) -> None:
    p = canvas.project([(x, 0, z), (x, top, z)])
    canvas.line(p[0], p[1], STEEL, z, thick * canvas.scale(z))


def draw_tree(canvas: Canvas, thing: Thing, rng: Rng) -> None:
    w, h, _ = thing.size
    unit = canvas.scale(thing.z)
    foot = np.array(canvas.point(thing.x, 0, thing.z))
    if not -w * unit < foot[0] < canvas.w + w * unit:
        return
    trunk: RGB = (66, 54, 44)
    canvas.line(foot, foot - np.array([0, h * 0.5 * unit]), trunk, thing.z, 0.28 * unit)
    heart = foot - np.array([0, h * 0.68 * unit])
    radius = w * 0.5 * unit
    if thing.style:  # bare in winter
        for _ in range(14):
            angle, reach = float(rng.uniform(0.15, math.pi - 0.15)), float(rng.uniform(0.4, 1.0))
            tip = heart + np.array([math.cos(angle) * reach, -math.sin(angle) * reach * 0.9]) * radius
            canvas.line(heart + np.array([0, radius * 0.5]), tip, trunk, thing.z, 0.07 * unit)
        return
    dark: RGB = (thing.color[0] * 0.5, thing.color[1] * 0.5, thing.color[2] * 0.5)
    for k in range(9):
        away = 0.0 if k == 0 else float(rng.uniform(0.45, 0.78))
        spot = heart + np.array([math.cos(k * 0.785) * away, -math.sin(k * 0.785) * away * 0.85]) * radius
        canvas.solid(canvas.disc(spot, radius * float(rng.uniform(0.3, 0.42) if k else 0.6), 11), dark, thing.z, LEAVES)
    count = int(np.clip(radius * 2.2, 10, 110))
    r, a = 0.95 * np.sqrt(rng.random(count)), rng.random(count) * math.tau
    sizes = radius * (0.05 + 0.11 * rng.random(count))
    up = np.sin(a) * r
    shade = 0.5 + 0.5 * rng.random(count) + 0.4 * up
    order = np.argsort(up)[::-1]
    centres = heart + np.stack([np.cos(a) * r * 0.95, -up * 0.82], axis=1) * radius
    shapes = canvas.disc((0, 0), 1.0, 7)[None] * sizes[:, None, None] + centres[:, None]
    tones = np.clip(shade[:, None] * np.array(thing.color), 0, 255)
    canvas.daub(shapes[order], tones[order], thing.z)


def draw_lamp(canvas: Canvas, thing: Thing, street: Street) -> None:
    arm, h, _ = thing.size
    z, tip = thing.z, thing.x - thing.style * arm
    post(canvas, thing.x, z, h, 0.16)
    p = canvas.project([(thing.x, h, z), (tip, h + 0.35, z)])
    canvas.line(p[0], p[1], STEEL, z, 0.1 * canvas.scale(z))
    head = canvas.flat(tip, h + 0.3, z, [(-0.4, 0), (0.4, 0), (0.4, 0.16), (-0.4, 0.16)])
    canvas.solid(head, (120, 122, 122), z, CLUTTER)
    if canvas.night and thing.on:
        c = street.lamp_color
        canvas.shine([head], (255 * c[0] ** 0.45, 255 * c[1] ** 0.45, 255 * c[2] ** 0.45))
        canvas.light((tip, h + 0.36, z), c, 9.0 + 8.0 * thing.phase, CLUTTER, "street")


def draw_mast(canvas: Canvas, thing: Thing) -> None:
    arm, thick, _ = thing.size
    post(canvas, thing.x, thing.z, thing.y + 0.4, 0.18)
    p = canvas.project([(thing.x, thing.y, thing.z), (thing.x + thing.style * arm, thing.y + 0.2, thing.z)])
    canvas.line(p[0], p[1], STEEL, thing.z, thick * canvas.scale(thing.z))


def draw_signal(canvas: Canvas, thing: Thing) -> None:
    """A traffic light that faces us, or (style bit 0) the cross street, where only a sliver shows."""
    turned, yellow = thing.style & 1, thing.style & 2
    w, h, _ = thing.size
    w *= 0.62 if turned else 1.0
    if thing.y < 4:
        post(canvas, thing.x, thing.z, thing.y + 0.3, 0.12)
    owner = canvas.open("traffic light", None if turned else thing.state)
    box: RGB = (196, 150, 30) if yellow else (26, 28, 28)

    def quad(x0: float, x1: float, y0: float, y1: float) -> Array:
        return canvas.flat(thing.x, thing.y, thing.z, [(x0, y0), (x1, y0), (x1, y1), (x0, y1)])

    canvas.solid(quad(-w / 2, w / 2, 0, h), box, thing.z, owner)
    canvas.paint([quad(-w * 0.4, w * 0.4, h * 0.03, h * 0.97)], (16, 17, 17), thing.z)
    radius = 0.13
    for row, name in enumerate(("green", "yellow", "red")):
        y = h * (0.18 + 0.32 * row)
        code, linear = SIGNAL_COLOR[name]
        if turned:
            shape = quad(w * 0.2, w * 0.48, y - 0.09, y + 0.09)
            if name == ("green" if thing.state == "red" else "red"):
                level = 0.7 if canvas.night else 0.55
                canvas.shine([shape], (code[0] * level, code[1] * level, code[2] * level))
            continue
        centre = canvas.flat(thing.x, thing.y, thing.z, [(0.0, y)])[0]
        disc = canvas.disc(centre, radius * canvas.scale(thing.z), 10)
        if name != thing.state:
            canvas.paint([disc], (40 + code[0] * 0.08, 36 + code[1] * 0.08, 36 + code[2] * 0.08), thing.z)
            continue
        canvas.shine([disc], code)
        canvas.light((thing.x, thing.y + y, thing.z), linear, 2.6, owner, "signal")
    if canvas.night and yellow:
        canvas.shine([quad(-w / 2, -w * 0.4, 0, h), quad(w * 0.4, w / 2, 0, h)], (14, 11, 3))
    canvas.close(owner)


#: Sign -> outline (board, octagon or diamond), paint, ink, and what is written on it as rectangles in shares
#: of the board (left, right, bottom, top; the middle is 0).
Marks = tuple[tuple[float, float, float, float], ...]
SIGNS: dict[str, tuple[str, RGB, RGB, Marks]] = {
    "stop": (
        "octagon",
        (186, 26, 30),
        (232, 228, 222),
        tuple((-0.36 + 0.19 * k, -0.23 + 0.19 * k, -0.13, 0.13) for k in range(4)),
    ),
    "warning": (
        "diamond",
        (234, 184, 24),
        (30, 30, 30),
        ((-0.08, 0.08, -0.02, 0.26), (-0.05, 0.05, -0.25, -0.1)),
    ),
    "works": (
        "diamond",
        (236, 112, 24),
        (30, 30, 30),
        ((-0.2, 0.2, -0.14, -0.04), (-0.16, 0.16, 0.05, 0.14)),
    ),
    "speed": (
        "board",
        (226, 226, 220),
        (30, 30, 30),
        ((-0.28, 0.28, 0.2, 0.32), (-0.3, -0.05, -0.34, 0.1), (0.06, 0.3, -0.34, 0.1)),
    ),
    "parking": ("board", (226, 226, 220), (186, 30, 34), ((-0.3, 0.3, 0.0, 0.36), (-0.34, 0.34, -0.3, -0.2))),
    "oneway": (
        "board",
        (24, 24, 26),
        (226, 226, 222),
        ((-0.4, 0.18, -0.12, 0.12), (0.18, 0.28, -0.3, 0.3), (0.28, 0.4, -0.14, 0.14)),
    ),
    "blue": ("board", (30, 72, 160), (226, 228, 232), ((-0.2, 0.0, -0.3, 0.32), (0.0, 0.2, 0.0, 0.32))),
    "route": ("octagon", (222, 222, 216), (40, 60, 140), ((-0.26, 0.26, -0.3, 0.14),)),
    "name": (
        "board",
        (18, 104, 62),
        (224, 230, 224),
        tuple((-0.4 + 0.14 * k, -0.3 + 0.14 * k, -0.24, 0.24) for k in range(6)),
    ),
    "guide": (
        "board",
        (16, 104, 66),
        (226, 232, 226),
        tuple((-0.42 + 0.13 * k, -0.33 + 0.13 * k, 0.08, 0.3) for k in range(6))
        + tuple((-0.4 + 0.13 * k, -0.31 + 0.13 * k, -0.32, -0.1) for k in range(4)),
    ),
}
OUTLINES: dict[str, Array] = {
    "board": np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]),
    "diamond": np.array([(0, -0.5), (0.5, 0), (0, 0.5), (-0.5, 0)]),
    "octagon": OCTAGON * 0.53,
}


def draw_sign(canvas: Canvas, thing: Thing) -> None:
    w, h, _ = thing.size
    x, y, z = thing.x, thing.y, thing.z
    if thing.state != "guide":
        post(canvas, x, z, y + h * 0.5, 0.08)
    owner = canvas.open("traffic sign")
    outline, rgb, ink, marks = SIGNS[thing.state]
    if thing.state == "parking" and thing.phase > 0.65:
        ink = (30, 120, 66)
    size = np.array([w, h])
    board = canvas.flat(x, y + h / 2, z, OUTLINES[outline] * size)
    faded = 1.0 - 0.18 * thing.phase
    paint: RGB = (rgb[0] * faded, rgb[1] * faded, rgb[2] * faded)
    canvas.solid(board, paint, z, owner)
    if thing.state in ("guide", "name"):
        canvas.paint([board], ink, z)
        canvas.paint([canvas.flat(x, y + h / 2, z, OUTLINES[outline] * size * 0.93)], paint, z)
    # a share of the image and not pixels: the same scene at every size
    if canvas.camera.focal * w / z > 3.5 / 512:
        m = np.array(marks)
        corners = np.stack([m[:, [0, 2]], m[:, [1, 2]], m[:, [1, 3]], m[:, [0, 3]]], axis=1)
        canvas.paint(canvas.flat(x, y + h / 2, z, corners * size), ink, z)
    # sheeting throws headlights back; a lit guide sign also shines a little by itself
    glow: RGB = (6, 34, 22) if thing.state == "guide" and canvas.night and thing.phase < 0.5 else (0, 0, 0)
    canvas.shine([board], glow, 255.0 if thing.state != "parking" else 170.0)
    canvas.close(owner)


def draw_gantry(canvas: Canvas, thing: Thing) -> None:
    right, left, _ = thing.size
    for x in (right, left):
        post(canvas, x, thing.z, thing.y, 0.3)
    for y in (thing.y, thing.y - 1.4):
        p = canvas.project([(left, y, thing.z), (right, y, thing.z)])
        canvas.line(p[0], p[1], STEEL, thing.z, 0.2 * canvas.scale(thing.z))


def draw_barrier(canvas: Canvas, thing: Thing) -> None:
    z = np.array([2.5, 4, 6, 9, 14, 22, 36, 60, 110, 170], float)
    low, high = (0.0, thing.size[1]) if thing.kind == "barrier" else (0.45, 0.75)
    for a, b in zip(z[:-1][::-1], z[1:][::-1], strict=True):
        quad = canvas.project([(thing.x, low, a), (thing.x, low, b), (thing.x, high, b), (thing.x, high, a)])
        canvas.solid(quad, thing.color, math.sqrt(a * b), WALL)
        if thing.kind == "rail":
            post(canvas, thing.x, a, 0.75, 0.12)
    for k in range(10):
        at = canvas.project((thing.x, high, 6.0 + k * 9))
        dot = canvas.disc(at, max(0.05 * canvas.scale(6.0 + k * 9), 0.7), 6)
        canvas.shine([dot], (0, 0, 0), 255)


def draw_bridge(canvas: Canvas, thing: Thing) -> None:
    w, h, deep = thing.size
    z, y = thing.z, thing.y
    under = canvas.project([(-w, y, z), (w, y, z), (w, y, z + deep), (-w, y, z + deep)])
    canvas.solid(under, (50, 50, 48), z + deep / 2, WALL)
    face = canvas.project([(-w, y, z), (w, y, z), (w, y + h, z), (-w, y + h, z)])
    canvas.solid(face, thing.color, z, WALL)
    for x in (-16.0, 16.0):
        leg = canvas.project([(x - 0.7, 0, z), (x + 0.7, 0, z), (x + 0.7, y, z), (x - 0.7, y, z)])
        canvas.solid(leg, (104, 102, 98), z, WALL)


def draw_clutter(canvas: Canvas, thing: Thing) -> None:
    """Bins, hydrants, meters and advertising boards: things at the kerb that are no class at all."""
    x, z = thing.x, thing.z

    def quad(w: float, y0: float, y1: float) -> Array:
        return canvas.flat(x, 0.0, z, [(-w / 2, y0), (w / 2, y0), (w / 2, y1), (-w / 2, y1)])

    if thing.kind == "bin":
        canvas.solid(quad(0.6, 0, 0.95), (50, 60, 56), z, CLUTTER)
        canvas.paint([quad(0.66, 0.85, 1.0)], (34, 38, 38), z)
    elif thing.kind == "hydrant":
        canvas.solid(quad(0.28, 0, 0.65), (170, 50, 40) if thing.phase < 0.5 else (200, 190, 60), z, CLUTTER)
        canvas.solid(quad(0.44, 0.36, 0.5), (160, 46, 40), z, CLUTTER)
    elif thing.kind == "meter":
        post(canvas, x, z, 1.1, 0.07)
        canvas.solid(quad(0.2, 1.05, 1.4), (80, 84, 90), z, CLUTTER)
    else:
        canvas.solid(quad(1.3, 0.3, 2.3), (60, 62, 66), z, CLUTTER)
        canvas.paint([quad(1.15, 0.42, 2.18)], thing.color2, z)
        canvas.paint([quad(0.7, 1.3, 1.9)], NEON[int(thing.phase * len(NEON))], z)
        if canvas.night and thing.on:
            c, n = thing.color2, NEON[int(thing.phase * len(NEON))]
            canvas.shine([quad(1.15, 0.42, 2.18)], (c[0] * 0.45 + 30, c[1] * 0.45 + 30, c[2] * 0.45 + 30))
            canvas.shine([quad(0.7, 1.3, 1.9)], (n[0] * 0.8, n[1] * 0.8, n[2] * 0.8))


def draw_wires(canvas: Canvas, street: Street, left: float, right: float, rng: Rng) -> None:
    """Overhead lines; thin, dark, and in front of the sky only."""
    for _ in range(int(rng.integers(2, 6))):
        x, y = float(rng.choice([left, right])) + float(rng.normal(0, 0.5)), float(rng.uniform(7, 9))
        if rng.random() < 0.35:
            z = float(rng.uniform(14, 50))
            ends = canvas.project([(left - 3, y, z), (right + 3, y, z)])
            t = np.linspace(0, 1, 9)[:, None]
            sag = np.array([0, 0.5 * canvas.scale(z)]) * (t * (1 - t) * 4)
            path = ends[0] * (1 - t) + ends[1] * t + sag
        else:
            z_run = np.array([4, 6, 9, 14, 22, 36, 60, 100], float)
            path = canvas.project(np.stack([np.full(8, x), y - 0.4 * np.sin(np.arange(8)), z_run], axis=1))
        for a, b in pairwise(path):
            canvas.line(a, b, (36, 38, 40), 60, 1.0)
