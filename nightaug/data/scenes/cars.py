"""Cars: a body and a cabin in perspective when near, a simple outline when far."""

from __future__ import annotations

import math

import numpy as np

from nightaug.data.scenes.canvas import RGB, Canvas
from nightaug.data.scenes.layout import Thing
from nightaug.data.scenes.vehicles import (
    GLASS,
    HALOGEN,
    RED,
    TAIL_GLOW,
    TYRE,
    WHITE,
    XENON,
    Block,
    lamps,
    rect,
    shadow,
    wheels,
)

#: Width of a car, as a share of the image, under which it is drawn as an outline (512: 13 px). A share and
#: not pixels, so that a scene is the same at every size.
FAR = 13 / 512

#: Shapes of tail lamps on the rear of a body, in face coordinates.
TAIL_SHAPES = (
    (0.02, 0.2, 0.62, 0.84),
    (0.02, 0.26, 0.7, 0.86),
    (0.02, 0.12, 0.55, 0.96),
    (0.03, 0.15, 0.58, 0.82),
)

TAILS = tuple([rect(a, b, c, d), rect(1 - b, 1 - a, c, d)] for a, b, c, d in TAIL_SHAPES)


def draw_car(canvas: Canvas, thing: Thing) -> None:
    owner = canvas.open("car")
    shadow(canvas, thing)
    w, h, length = thing.size
    if canvas.camera.focal * w / thing.z < FAR:
        _far_car(canvas, thing, owner)
        canvas.close(owner)
        return
    half = length / 2
    waist = h * 0.6
    rear_low, rear_high, front_low, front_high = (
        (-0.36, -0.2, 0.26, 0.08),
        (-0.49, -0.43, 0.27, 0.12),
        (-0.49, -0.46, 0.36, 0.2),
        (-0.49, -0.38, 0.27, 0.1),
    )[thing.style]
    chassis = Block(canvas, thing, (0.0, w * 0.84, -half * 0.8, half * 0.8), (0.3, w * 0.84, -half * 0.86, half * 0.86))
    chassis.paint(TYRE, owner)
    body = Block(canvas, thing, (0.2, w * 0.97, -half, half), (waist, w, -half * 0.99, half * 0.96))
    cabin = Block(
        canvas,
        thing,
        (waist, w * 0.96, rear_low * length, front_low * length),
        (h, w * 0.76, rear_high * length, front_high * length),
    )
    body.paint(thing.color, owner)
    cabin.paint(thing.color, owner)
    tiny = body.span() < 22
    glass = (GLASS[0] + 26 * thing.phase, GLASS[1] + 30 * thing.phase, GLASS[2] + 34 * thing.phase)
    cabin.decal("rear", [rect(0.09, 0.91, 0.1, 0.86)], glass)
    cabin.decal("front", [rect(0.06, 0.94, 0.04, 0.92)], glass)
    panes = [rect(0.05, 0.46, 0.1, 0.88), rect(0.52, 0.95, 0.1, 0.88)]
    cabin.decal("left", panes, glass)
    cabin.decal("right", panes, glass)
    tail = TAILS[2 if thing.style in (1, 2) and thing.phase < 0.7 else int(thing.phase * 7) % 4]
    head = [rect(0.03, 0.25, 0.55, 0.8), rect(0.75, 0.97, 0.55, 0.8)]
    if not tiny:
        wheels(body, length, waist - 0.2, 0.32, (0.2, 0.8))
        body.decal(
            "rear",
            [rect(0.0, 1.0, 0.0, 0.2)],
            (thing.color[0] * 0.45, thing.color[1] * 0.45, thing.color[2] * 0.45),
        )
        body.decal("front", [rect(0.2, 0.8, 0.2, 0.62), rect(0.05, 0.95, 0.0, 0.14)], (24, 25, 28))
        for face in ("left", "right"):
            line = (thing.color[0] * 0.6, thing.color[1] * 0.6, thing.color[2] * 0.6)
            body.decal(face, [rect(0.495, 0.505, 0.15, 1.0), rect(0.1, 0.9, 0.06, 0.16)], line)
    body.decal("rear", tail, (138, 24, 24))
    body.decal("front", head, (196, 200, 204))
    plate = rect(0.38, 0.62, 0.36, 0.56)
    body.decal("rear", [plate], (206, 204, 190) if thing.phase < 0.6 else (220, 186, 70))
    body.shine("rear", [plate], (58, 55, 48) if thing.on and canvas.night else (0, 0, 0), 190)
    lamps(canvas, thing, body, owner, tail=tail, head=head)
    if thing.state == "brake" and thing.on and cabin.seen["rear"]:
        cabin.shine("rear", [rect(0.42, 0.58, 0.84, 0.93)], RED if canvas.night else (140, 10, 8))
    if canvas.night and not (tiny and thing.on):
        _gleam(body, cabin, thing)
    canvas.close(owner)


def _gleam(body: Block, cabin: Block, thing: Thing) -> None:
    """Street lamps mirrored in paint and glass: what gives a dark parked car away."""
    level = 32 + 42 * thing.phase
    tone = (level, level * 0.92, level * 0.8)
    cabin.shine("rear", [rect(0.1, 0.9, 0.93, 1.0)], tone)
    cabin.shine("front", [rect(0.1, 0.9, 0.93, 1.0), rect(0.2, 0.3, 0.3, 0.4)], tone)
    for face in ("left", "right"):
        cabin.shine(face, [rect(0.06, 0.94, 0.93, 1.0)], tone)
        body.shine(face, [rect(0.1, 0.9, 0.9, 0.96)], (tone[0] * 0.8, tone[1] * 0.8, tone[2] * 0.8))


def _far_car(canvas: Canvas, thing: Thing, owner: int) -> None:
    """A car too small on any screen for wheels and panes: an outline, a window, two lamps."""
    w, h, length = thing.size
    c = math.cos(thing.heading)
    waist, rgb = h * 0.6, thing.color
    side: RGB = (rgb[0] * 0.78, rgb[1] * 0.78, rgb[2] * 0.78)
    if abs(c) < 0.7:
        z = thing.z - w / 2
        half, turn = length / 2, math.copysign(1.0, math.sin(thing.heading))
        outline = np.array(
            [
                (-half, 0.05),
                (half, 0.05),
                (half, waist * 0.95),
                (0.27 * length * turn, waist),
                (0.1 * length * turn, h),
                (-0.2 * length * turn, h),
                (-0.36 * length * turn, waist),
                (-half, waist),
            ]
        )
        if turn < 0:
            outline = outline[[0, 1, 7, 6, 5, 4, 3, 2]]
        canvas.solid(canvas.flat(thing.x, 0, z, outline), side, z, owner)
        pane = [
            (-0.3 * length * turn, waist),
            (0.22 * length * turn, waist),
            (0.08 * length * turn, h * 0.95),
            (-0.19 * length * turn, h * 0.95),
        ]
        canvas.paint([canvas.flat(thing.x, 0, z, pane)], GLASS, z)
        if canvas.night:
            edge = canvas.flat(
                thing.x, 0, z, [(-half, waist - 0.1), (half, waist - 0.1), (half, waist), (-half, waist)]
            )
            canvas.shine([edge], (34, 32, 28))
        if canvas.night and thing.on:
            for at, code, glow, power in (
                (half * turn, WHITE, XENON, 2.5),
                (-half * turn, RED, TAIL_GLOW, 0.7),
            ):
                lamp = [(at - 0.16, 0.55), (at + 0.16, 0.55), (at + 0.16, 0.8), (at - 0.16, 0.8)]
                canvas.shine([canvas.flat(thing.x, 0, z, lamp)], code)
                canvas.light((thing.x + at * 0.97, 0.67, z), glow, power, owner, "beam" if power > 1 else "tail")
        return
    near, back = thing.z - length / 2, thing.z + length / 2
    edge_x = thing.x - math.copysign(w / 2, thing.x)
    flank = [(edge_x, 0.1, near), (edge_x, 0.1, back), (edge_x, waist, back), (edge_x, waist, near)]
    canvas.solid(canvas.project(flank), side, thing.z, owner)
    outline = np.array([(-w / 2, 0.05), (w / 2, 0.05), (w / 2, waist), (w * 0.4, h), (-w * 0.4, h), (-w / 2, waist)])
    canvas.solid(canvas.flat(thing.x, 0, near, outline), rgb, near, owner)
    pane = [(-w * 0.4, waist), (w * 0.4, waist), (w * 0.34, h * 0.95), (-w * 0.34, h * 0.95)]
    lower = [(-w / 2, 0.05), (w / 2, 0.05), (w / 2, 0.3), (-w / 2, 0.3)]
    canvas.paint(canvas.flat(thing.x, 0, near, np.array([pane, lower])), GLASS, near)
    low, high = waist * 0.68, waist * 0.92
    corners = np.array([[(k, low), (j, low), (j, high), (k, high)] for k, j in ((-w / 2, -0.3 * w), (0.3 * w, w / 2))])
    eyes = canvas.flat(thing.x, 0, near, corners)
    canvas.paint(eyes, (138, 24, 24) if c > 0 else (196, 200, 204), near)
    brake = thing.state == "brake"
    if canvas.night and not thing.on:
        top = [(-w * 0.38, h * 0.93), (w * 0.38, h * 0.93), (w * 0.38, h), (-w * 0.38, h)]
        canvas.shine([canvas.flat(thing.x, 0, near, top)], (44, 41, 36))
        canvas.shine(eyes, (0, 0, 0), 150)
    elif thing.on and (canvas.night or (brake and c > 0)):
        code = (WHITE if c < 0 else (RED if brake else (205.0, 14.0, 10.0))) if canvas.night else (150.0, 12.0, 8.0)
        canvas.shine(eyes, code, 60)
        glow = TAIL_GLOW if c > 0 else (XENON if thing.phase < 0.55 else HALOGEN)
        power = (2.4 if brake else 0.9) if c > 0 else 7.0 + 10.0 * thing.phase
        for s in (-0.4, 0.4):
            canvas.light((thing.x + s * w, waist * 0.8, near), glow, power, owner, "tail" if c > 0 else "head")
