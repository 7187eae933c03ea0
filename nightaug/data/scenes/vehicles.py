"""Trucks, buses and trams as a few boxes in perspective; cars share the parts."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from nightaug.data.scenes.canvas import RGB, Array, Canvas
from nightaug.data.scenes.layout import Thing

#: Corners of a box in the order bottom rear-left, rear-right, front-right, front-left, then the top.
FACES: dict[str, tuple[int, int, int, int]] = {
    "top": (4, 5, 6, 7),
    "left": (3, 0, 4, 7),
    "right": (1, 2, 6, 5),
    "front": (2, 3, 7, 6),
    "rear": (0, 1, 5, 4),
}
#: How much light a face gets from the sky, before any lamp or sun.
SHADE = {"top": 1.12, "left": 0.74, "right": 0.82, "front": 0.86, "rear": 0.9}

RED: RGB = (255, 26, 16)
DIM_RED: RGB = (150, 10, 8)
WHITE: RGB = (255, 250, 235)
AMBER: RGB = (255, 150, 30)
GLASS: RGB = (34, 40, 46)
TYRE: RGB = (18, 18, 19)
RIM: RGB = (120, 122, 126)

TAIL_GLOW: RGB = (1.0, 0.07, 0.03)
XENON: RGB = (0.92, 0.96, 1.0)
HALOGEN: RGB = (1.0, 0.86, 0.62)

CIRCLE = np.stack([np.cos(np.arange(10) * 0.62832), np.sin(np.arange(10) * 0.62832)], axis=1)


@lru_cache(maxsize=1024)
def rect(s0: float, s1: float, t0: float, t1: float) -> Array:
    """A rectangle in face coordinates: s from left to right, t from bottom to top, both 0..1."""
    return np.array([(s0, t0), (s1, t0), (s1, t1), (s0, t1)], dtype=float)


class Block:
    """One box or wedge of a vehicle, placed in the world."""

    def __init__(
        self,
        canvas: Canvas,
        thing: Thing,
        low: tuple[float, float, float, float],
        high: tuple[float, float, float, float],
    ) -> None:
        """``low`` and ``high``: height, width, rear end and front end (metres along the vehicle)."""
        self.canvas = canvas
        (y0, w0, a0, b0), (y1, w1, a1, b1) = low, high
        c, s = math.cos(thing.heading), math.sin(thing.heading)
        across = np.array((-w0, w0, w0, -w0, -w1, w1, w1, -w1)) / 2
        along = np.array((a0, a0, b0, b0, a1, a1, b1, b1))
        self.world = np.empty((8, 3))
        self.world[:, 0] = thing.x + across * c + along * s
        self.world[:4, 1] = thing.y + y0
        self.world[4:, 1] = thing.y + y1
        self.world[:, 2] = thing.z - across * s + along * c
        self.screen = canvas.project(self.world)
        self.seen: dict[str, bool] = {}
        self.depth: dict[str, float] = {}
        p, deep = self.screen.tolist(), self.world[:, 2].tolist()
        for name, (i, j, k, m) in FACES.items():
            # twice the signed area, from the diagonals
            area = (p[k][0] - p[i][0]) * (p[m][1] - p[j][1]) - (p[m][0] - p[j][0]) * (p[k][1] - p[i][1])
            self.seen[name] = area < -1.0
            self.depth[name] = (deep[i] + deep[j] + deep[k] + deep[m]) / 4

    def paint(self, rgb: RGB, owner: int, skip: tuple[str, ...] = ()) -> None:
        for name, index in FACES.items():
            if self.seen[name] and name not in skip:
                k = SHADE[name]
                shaded = (min(rgb[0] * k, 255), min(rgb[1] * k, 255), min(rgb[2] * k, 255))
                self.canvas.solid(self.screen[list(index)], shaded, self.depth[name], owner)

    def spot(self, face: str, st: Array) -> Array:
        """Face coordinates (..., 2) to world metres (..., 3)."""
        i, j, k, m = FACES[face]
        a, b, c, d = self.world[i], self.world[j], self.world[k], self.world[m]
        s, t = st[..., :1], st[..., 1:]
        low = a + (b - a) * s
        return np.asarray(low + (d + (c - d) * s - low) * t)

    def decal(self, face: str, shapes: list[Array], rgb: RGB) -> None:
        if self.seen[face] and shapes:
            k = SHADE[face]
            flat = self.canvas.project(self.spot(face, np.array(shapes)))
            self.canvas.paint(flat, (rgb[0] * k, rgb[1] * k, rgb[2] * k), self.depth[face])

    def shine(self, face: str, shapes: list[Array], rgb: RGB, retro: float = 0.0) -> None:
        if self.seen[face] and shapes:
            self.canvas.shine(self.canvas.project(self.spot(face, np.array(shapes))), rgb, retro)

    def span(self) -> float:
        """The larger side of the block on screen, fine pixels."""
        return float(np.ptp(self.screen, axis=0).max())


def wheels(block: Block, length: float, height: float, radius: float, ends: tuple[float, ...]) -> None:
    for face in ("left", "right"):
        if not block.seen[face]:
            continue
        tyre, rim = [], []
        for along in ends:
            s = along if face == "right" else 1 - along
            st = np.stack([s + CIRCLE[:, 0] * radius / length, (radius + CIRCLE[:, 1] * radius) / height], axis=1)
            tyre.append(st)
            rim.append(np.array([s, radius / height]) + (st - np.array([s, radius / height])) * 0.55)
        block.decal(face, tyre, TYRE)
        block.decal(face, rim, RIM)


def shadow(canvas: Canvas, thing: Thing) -> None:
    """The dark patch under a vehicle; part of the ground, not of the object."""
    w, length = thing.size[0] / 2 + 0.12, thing.size[2] / 2 + 0.15
    c, s = math.cos(thing.heading), math.sin(thing.heading)
    local = np.array([(-w, -length), (w, -length), (w, length), (-w, length)])
    world = np.stack(
        [
            thing.x + local[:, 0] * c + local[:, 1] * s,
            np.zeros(4),
            thing.z - local[:, 0] * s + local[:, 1] * c,
        ],
        axis=1,
    )
    canvas.paint([canvas.project(world)], (26, 27, 29), float(world[:, 2].mean()))


def lamps(canvas: Canvas, thing: Thing, block: Block, owner: int, *, tail: list[Array], head: list[Array]) -> None:
    """Lit tail lamps, headlights and their glow; parked vehicles keep the reflectors."""
    brake = thing.state == "brake"
    red = RED if brake else (205.0, 14.0, 10.0)
    if block.seen["rear"]:
        if thing.on and (canvas.night or brake):
            block.shine("rear", tail, red if canvas.night else (150, 12, 8), 60)
            for st in tail[:2]:
                canvas.light(block.spot("rear", st.mean(axis=0)), TAIL_GLOW, 2.4 if brake else 0.9, owner, "tail")
        else:
            block.shine("rear", tail, (0, 0, 0), 150)
    if block.seen["front"]:
        if thing.on and canvas.night:
            block.shine("front", head, (255, 250, 240))
            color = XENON if thing.phase < 0.55 else HALOGEN
            facing = math.cos(thing.heading - math.pi)
            for st in head[:2]:
                canvas.light(
                    block.spot("front", st.mean(axis=0)),
                    color,
                    7.0 + 10.0 * max(facing, 0.0) * thing.phase,
                    owner,
                    "head",
                )
        elif thing.on and thing.phase < 0.3:
            block.shine("front", head, (120, 118, 110))
        else:
            block.shine("front", head, (0, 0, 0), 70)
    if thing.on and canvas.night and abs(math.sin(thing.heading)) > 0.8:
        side = "left" if block.seen["left"] else "right"
        nose, stern = (rect(0.0, 0.03, 0.55, 0.75), rect(0.97, 1.0, 0.55, 0.8))
        if side == "right":
            nose, stern = rect(0.97, 1.0, 0.55, 0.75), rect(0.0, 0.03, 0.55, 0.8)
        block.shine(side, [nose], (250, 240, 215))
        block.shine(side, [stern], (190, 12, 10))
        canvas.light(block.spot(side, nose.mean(axis=0)), XENON, 2.5, owner, "beam")
        canvas.light(block.spot(side, stern.mean(axis=0)), TAIL_GLOW, 0.7, owner, "tail")


def draw_truck(canvas: Canvas, thing: Thing) -> None:
    owner = canvas.open("truck")
    shadow(canvas, thing)
    w, h, length = thing.size
    half = length / 2
    chassis = Block(canvas, thing, (0.0, w * 0.8, -half * 0.94, half * 0.9), (0.85, w * 0.8, -half * 0.94, half * 0.9))
    chassis.paint((22, 22, 24), owner)
    nose = half - (2.1 if thing.style < 2 else 2.4)
    box = Block(canvas, thing, (0.8, w, -half, nose - 0.25), (h, w, -half, nose - 0.25))
    cab = Block(canvas, thing, (0.45, w * 0.95, nose, half), (h * 0.78, w * 0.88, nose + 0.1, half - 0.35))
    for block, rgb in (
        ((box, thing.color), (cab, thing.color2))
        if math.cos(thing.heading) < 0
        else ((cab, thing.color2), (box, thing.color))
    ):
        block.paint(rgb, owner)
    wheels(chassis, length * 0.94, 0.85, 0.48, (0.1, 0.2, 0.86) if thing.style == 2 else (0.16, 0.84))
    chassis.decal("rear", [rect(0.0, 0.22, 0.0, 0.75), rect(0.78, 1.0, 0.0, 0.75)], TYRE)
    dark = (thing.color[0] * 0.7, thing.color[1] * 0.7, thing.color[2] * 0.7)
    box.decal(
        "rear",
        [rect(0.49, 0.51, 0.02, 0.98), rect(0.04, 0.06, 0.04, 0.96), rect(0.94, 0.96, 0.04, 0.96)],
        dark,
    )
    if thing.phase < 0.5:
        stripe = (thing.color2[0] * 0.5 + 60, thing.color2[1] * 0.5 + 40, thing.color2[2] * 0.5 + 30)
        for face in ("left", "right"):
            box.decal(face, [rect(0.12, 0.88, 0.35, 0.75)], stripe)
    cab.decal("front", [rect(0.06, 0.94, 0.5, 0.92)], GLASS)
    cab.decal("front", [rect(0.2, 0.8, 0.12, 0.42)], (40, 40, 44))
    for face in ("left", "right"):
        cab.decal(face, [rect(0.25, 0.85, 0.5, 0.88)], GLASS)
    tail = [rect(0.03, 0.17, 0.0, 0.045), rect(0.83, 0.97, 0.0, 0.045)]
    head = [rect(0.03, 0.2, 0.16, 0.28), rect(0.8, 0.97, 0.16, 0.28)]
    box.decal("rear", tail, (150, 24, 24))
    cab.decal("front", head, (200, 202, 204))
    tape = [rect(i / 8, i / 8 + 0.07, 0.05, 0.08) for i in range(8)]
    box.decal("rear", tape, (200, 40, 36))
    box.shine("rear", tape, (0, 0, 0), 200)
    for face in ("left", "right"):
        box.shine(face, [rect(i / 9 + 0.02, i / 9 + 0.07, 0.02, 0.05) for i in range(9)], (0, 0, 0), 230)
    lamps(canvas, thing, box, owner, tail=tail, head=[])
    lamps(canvas, thing, cab, owner, tail=[], head=head)
    if canvas.night and not thing.on:
        edge = 34 + 30 * thing.phase
        for face in ("rear", "left", "right"):
            box.shine(face, [rect(0.02, 0.98, 0.97, 1.0)], (edge, edge * 0.93, edge * 0.82))
    if canvas.night and thing.on:
        marks = [rect(s, s + 0.035, 0.955, 0.985) for s in (0.03, 0.44, 0.49, 0.54, 0.93)]
        box.shine("rear", marks, (170, 14, 10))
        cab.shine("front", [rect(s, s + 0.05, 0.95, 0.99) for s in (0.05, 0.47, 0.9)], (190, 110, 20))
        for face in ("left", "right"):
            box.shine(face, [rect(s, s + 0.01, 0.9, 0.94) for s in (0.03, 0.5, 0.96)], (170, 90, 16))
    canvas.close(owner)


def draw_bus(canvas: Canvas, thing: Thing) -> None:
    owner = canvas.open("bus")
    shadow(canvas, thing)
    w, h, length = thing.size
    half = length / 2
    under = Block(canvas, thing, (0.0, w * 0.9, -half * 0.95, half * 0.95), (0.5, w * 0.9, -half * 0.95, half * 0.95))
    under.paint(TYRE, owner)
    body = Block(canvas, thing, (0.3, w, -half, half), (h, w * 0.96, -half * 0.995, half * 0.99))
    body.paint(thing.color, owner)
    wheels(body, length, h - 0.3, 0.48, (0.22, 0.8))
    second = (thing.color2[0] * 0.6 + 40, thing.color2[1] * 0.6 + 40, thing.color2[2] * 0.6 + 40)
    cabin = (92.0, 88.0, 72.0) if thing.phase < 0.6 else (70.0, 84.0, 92.0)
    for face in ("left", "right"):
        body.decal(face, [rect(0.0, 1.0, 0.26, 0.38)], second)
        panes = [rect(0.03 + i * 0.119, 0.03 + i * 0.119 + 0.105, 0.45, 0.84) for i in range(8)]
        body.decal(face, panes, GLASS)
        if canvas.night:
            body.shine(face, panes, cabin if thing.on else (12, 12, 12))
    rear_glass, front_glass = [rect(0.12, 0.88, 0.55, 0.84)], [rect(0.05, 0.95, 0.34, 0.84)]
    body.decal("rear", rear_glass, GLASS)
    body.decal("rear", [rect(0.15, 0.85, 0.12, 0.4)], second)
    body.decal("front", front_glass, GLASS)
    sign = [rect(0.15, 0.85, 0.87, 0.97)]
    body.decal("front", sign, (20, 20, 18))
    body.decal("rear", [rect(0.3, 0.7, 0.87, 0.95)], (20, 20, 18))
    tail = [rect(0.03, 0.12, 0.2, 0.4), rect(0.88, 0.97, 0.2, 0.4)]
    head = [rect(0.05, 0.2, 0.12, 0.22), rect(0.8, 0.95, 0.12, 0.22)]
    body.decal("rear", tail, (150, 26, 24))
    body.decal("front", head, (200, 202, 200))
    if canvas.night:
        inside = (cabin[0] * 0.6, cabin[1] * 0.6, cabin[2] * 0.6)
        body.shine("rear", rear_glass, inside if thing.on else (8, 8, 8))
        body.shine("front", front_glass, inside if thing.on else (8, 8, 8))
    if thing.on:
        board = [rect(0.2 + k * 0.09, 0.26 + k * 0.09, 0.89, 0.95) for k in range(6)]
        body.shine("front", board, (220, 130, 20) if canvas.night else (130, 70, 10))
        body.shine("rear", [rect(0.33, 0.66, 0.89, 0.94)], (200, 110, 18) if canvas.night else (0, 0, 0))
        if canvas.night:
            body.shine("rear", [rect(s, s + 0.04, 0.97, 0.995) for s in (0.04, 0.92)], (170, 14, 10))
    lamps(canvas, thing, body, owner, tail=tail, head=head)
    canvas.close(owner)


def draw_train(canvas: Canvas, thing: Thing) -> None:
    owner = canvas.open("train")
    shadow(canvas, thing)
    w, h, length = thing.size
    half = length / 2
    cars = 3
    order = range(cars) if math.cos(thing.heading) < -0.5 else range(cars - 1, -1, -1)
    for k in order:
        a, b = -half + length * k / cars + 0.2, -half + length * (k + 1) / cars - 0.2
        first, last = k == 0, k == cars - 1
        under = Block(canvas, thing, (0.0, w * 0.86, a, b), (0.5, w * 0.86, a, b))
        under.paint((30, 30, 32), owner)
        body = Block(
            canvas,
            thing,
            (0.3, w, a, b),
            (h, w * 0.9, a + (0.7 if first else 0.0), b - (0.7 if last else 0.0)),
        )
        body.paint(thing.color, owner)
        for face in ("left", "right"):
            body.decal(face, [rect(0, 1, 0.0, 0.16), rect(0, 1, 0.9, 1.0)], thing.color2)
            panes = [rect(0.05 + i * 0.155, 0.05 + i * 0.155 + 0.12, 0.42, 0.8) for i in range(6)]
            body.decal(face, [rect(0.02, 0.98, 0.4, 0.82)], (30, 34, 38))
            body.decal(face, [rect(0.36, 0.46, 0.05, 0.82)], (70, 74, 80))
            if canvas.night:
                body.shine(face, panes, (96, 94, 82))
        for face, end, red in (("front", last, False), ("rear", first, True)):
            if not end or not body.seen[face]:
                continue
            body.decal(face, [rect(0.1, 0.9, 0.42, 0.84)], GLASS)
            body.decal(face, [rect(0.0, 1.0, 0.0, 0.14)], thing.color2)
            eyes = [rect(0.08, 0.2, 0.2, 0.28), rect(0.8, 0.92, 0.2, 0.28), rect(0.45, 0.55, 0.89, 0.96)]
            body.decal(face, eyes, (150, 26, 24) if red else (220, 220, 214))
            if canvas.night:
                body.shine(face, [rect(0.12, 0.88, 0.46, 0.8)], (60, 58, 50))
                body.shine(face, eyes[: 2 if red else 3], (210, 14, 10) if red else (255, 250, 236))
                for eye in eyes[: 2 if red else 3]:
                    canvas.light(
                        body.spot(face, eye.mean(axis=0)),
                        TAIL_GLOW if red else XENON,
                        1.0 if red else 9.0,
                        owner,
                        "tail" if red else "head",
                    )
            else:
                body.shine(face, eyes[2:], (150, 148, 140))
            body.shine(face, [rect(0.25, 0.75, 0.87, 0.88)], (0, 0, 0))
    canvas.close(owner)
