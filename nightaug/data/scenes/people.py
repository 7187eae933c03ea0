"""People on foot, bicycles and motorcycles, and the people on them: upright cards in perspective."""

from __future__ import annotations

import math

import numpy as np

from nightaug.data.scenes.canvas import RGB, Array, Canvas
from nightaug.data.scenes.layout import Thing
from nightaug.data.scenes.vehicles import HALOGEN, TAIL_GLOW, XENON

SKIN: tuple[RGB, ...] = (
    (224, 178, 148),
    (190, 138, 104),
    (132, 90, 66),
    (92, 62, 48),
    (208, 160, 128),
    (164, 116, 88),
)
TROUSERS: tuple[RGB, ...] = ((30, 34, 52), (26, 26, 28), (84, 78, 66), (58, 66, 84), (120, 114, 100))
WHEEL = np.stack([np.cos(np.arange(14) * math.tau / 14), np.sin(np.arange(14) * math.tau / 14)], axis=1)


class Card:
    """Strokes in metres on an upright plane at (x, z)."""

    def __init__(self, canvas: Canvas, thing: Thing, owner: int) -> None:
        self.canvas, self.thing, self.owner = canvas, thing, owner
        self.unit = canvas.scale(thing.z)

    def at(self, points: list[tuple[float, float]] | Array) -> Array:
        return self.canvas.flat(self.thing.x, self.thing.y, self.thing.z, points)

    def shape(self, points: list[tuple[float, float]] | Array, rgb: RGB) -> None:
        self.canvas.solid(self.at(points), rgb, self.thing.z, self.owner)

    def bar(self, a: tuple[float, float], b: tuple[float, float], thick: float, rgb: RGB) -> None:
        p = self.at([a, b])
        self.canvas.line(p[0], p[1], rgb, self.thing.z, thick * self.unit, owner=self.owner)

    def ring(self, x: float, y: float, radius: float, squeeze: float, rgb: RGB) -> None:
        """A wheel with spokes one can look through: the rim only, as a band of quads."""
        outer = WHEEL * np.array([squeeze, 1.0]) * radius + np.array([x, y])
        inner = WHEEL * np.array([squeeze, 1.0]) * radius * 0.78 + np.array([x, y])
        if radius * self.unit < 7 or squeeze < 0.3:
            self.shape(outer, rgb)
            return
        for k in range(14):
            j = (k + 1) % 14
            self.shape(np.array([outer[k], outer[j], inner[j], inner[k]]), rgb)
        self.bar((x - radius * squeeze * 0.8, y), (x + radius * squeeze * 0.8, y), 0.02, (90, 90, 92))
        self.bar((x, y - radius * 0.8), (x, y + radius * 0.8), 0.02, (90, 90, 92))

    def shine(self, points: list[tuple[float, float]] | Array, rgb: RGB, retro: float = 0.0) -> None:
        self.canvas.shine([self.at(points)], rgb, retro)

    def spot(self, x: float, y: float, radius: float) -> Array:
        return np.asarray(WHEEL[::2] * radius + np.array([x, y]))


def draw_pedestrian(canvas: Canvas, thing: Thing) -> None:
    owner = canvas.open("pedestrian")
    card = Card(canvas, thing, owner)
    h = thing.size[1]
    side = abs(math.sin(thing.heading)) > 0.5
    stride = (0.3 if side else 0.08) * math.sin(thing.phase * math.tau) * h / 1.75
    trousers = TROUSERS[thing.style % len(TROUSERS)]
    skin = SKIN[thing.style % len(SKIN)]
    coat = thing.color
    hip, neck = 0.5 * h, 0.84 * h
    wide = (0.13 if side else 0.2) * h / 1.7
    shade = (coat[0] * 0.7, coat[1] * 0.7, coat[2] * 0.7)
    dark = (trousers[0] * 0.8, trousers[1] * 0.8, trousers[2] * 0.8)
    gap = 0.0 if side else 0.09
    card.bar((-gap * 0.6, hip), (-gap - stride, 0.03), 0.15, dark)
    card.bar((gap * 0.6, hip), (gap + stride, 0.03), 0.15, trousers)
    for foot in (-gap - stride, gap + stride):
        card.shape([(foot - 0.09, 0), (foot + 0.11, 0), (foot + 0.08, 0.09), (foot - 0.08, 0.09)], (24, 22, 22))
    card.bar((-wide, neck - 0.06), (-wide - 0.05 + stride * 0.7, hip), 0.1, shade)
    long = hip - (0.25 if thing.style == 2 else 0.04) * h
    card.shape(
        [
            (-wide, long),
            (wide, long),
            (wide * 1.02, neck - 0.05),
            (wide * 0.6, neck),
            (-wide * 0.6, neck),
            (-wide * 1.02, neck - 0.05),
        ],
        coat,
    )
    card.bar((wide, neck - 0.06), (wide + 0.05 - stride * 0.7, hip), 0.1, shade)
    if thing.style == 4:
        card.shape(
            [(wide * 0.7, hip), (wide * 1.9, hip), (wide * 1.9, hip + 0.35), (wide * 0.7, hip + 0.35)],
            thing.color2,
        )
    card.shape(card.spot(0, h - 0.115, 0.118)[:], skin)
    if math.cos(thing.heading) > -0.2:
        card.shape([(-0.11, h - 0.13), (0.11, h - 0.13), (0.08, h), (-0.08, h)], (40, 30, 24))
    else:
        card.shape([(-0.1, h - 0.05), (0.1, h - 0.05), (0.06, h), (-0.06, h)], (40, 30, 24))
    if thing.state == "umbrella":
        card.shape(
            [(-0.55, h + 0.05), (0.55, h + 0.05), (0.3, h + 0.3), (0, h + 0.38), (-0.3, h + 0.3)],
            thing.color2,
        )
        card.bar((0.1, hip + 0.3), (0.05, h + 0.1), 0.03, (60, 60, 60))
    card.shine([(-gap - stride - 0.08, 0.02), (-gap - stride + 0.08, 0.02), (-gap - stride, 0.09)], (0, 0, 0), 60)
    if canvas.night:
        _rim(card, thing, wide=wide, low=long, neck=neck, h=h)
    if thing.style in (1, 5):
        card.shine([(-wide, hip + 0.2), (wide, hip + 0.2), (wide, hip + 0.25), (-wide, hip + 0.25)], (0, 0, 0), 90)
    canvas.close(owner)


def _rim(card: Card, thing: Thing, *, wide: float, low: float, neck: float, h: float) -> None:
    """Some street light on coat, shoulder and hair: people at night are dim, but one does find them."""
    c, level = thing.color, 6.0 + 5.0 * thing.phase
    coat: RGB = (level + c[0] * 0.045, level + c[1] * 0.045, level + c[2] * 0.045)
    card.shine([(-wide, low), (wide, low), (wide, neck - 0.05), (-wide, neck - 0.05)], coat)
    card.shine(card.spot(0, h - 0.115, 0.11), (level + 12, level + 9, level + 7))
    edge = level + 12.0 + 14.0 * ((thing.phase * 11) % 1)
    side = wide if (thing.phase * 5) % 1 < 0.5 else -wide
    rim = [(side * 0.7, low), (side, low), (side, neck - 0.06), (side * 0.7, neck)]
    card.shine(rim, (edge, edge * 0.95, edge * 0.85))


def _sitting(card: Card, thing: Thing, *, seat: float, side: bool, lean: float, helmet: bool) -> None:
    skin = SKIN[thing.style % len(SKIN)]
    trousers = TROUSERS[(thing.style + 1) % len(TROUSERS)]
    top = seat + 0.62
    shade = (thing.color2[0] * 0.72, thing.color2[1] * 0.72, thing.color2[2] * 0.72)
    if side:
        turn = math.copysign(1.0, math.sin(thing.heading))
        hand = (turn * 0.45, seat + 0.2)
        card.bar((-turn * 0.15, seat), (turn * 0.18, seat - 0.3), 0.16, trousers)
        card.bar((turn * 0.18, seat - 0.3), (turn * 0.05, seat - 0.7), 0.13, trousers)
        card.bar((-turn * 0.18, seat), (turn * lean, top), 0.3, thing.color2)
        card.bar((turn * lean, top - 0.05), hand, 0.1, shade)
        head = (turn * (lean + 0.08), top + 0.17)
    else:
        card.bar((-0.12, seat), (-0.19, seat - 0.55), 0.15, trousers)
        card.bar((0.12, seat), (0.19, seat - 0.55), 0.15, trousers)
        card.shape(
            [
                (-0.2, seat - 0.05),
                (0.2, seat - 0.05),
                (0.24, top - 0.08),
                (0.1, top),
                (-0.1, top),
                (-0.24, top - 0.08),
            ],
            thing.color2,
        )
        card.bar((-0.22, top - 0.1), (-0.3, seat + 0.2), 0.1, shade)
        card.bar((0.22, top - 0.1), (0.3, seat + 0.2), 0.1, shade)
        head = (0.0, top + 0.15)
    card.shape(card.spot(head[0], head[1], 0.125), skin)
    if helmet:
        card.shape(card.spot(head[0], head[1] + 0.04, 0.145), thing.color)
        card.shine(card.spot(head[0], head[1] + 0.06, 0.06), (0, 0, 0), 80)
    else:
        card.shape(
            [
                (head[0] - 0.11, head[1]),
                (head[0] + 0.11, head[1]),
                (head[0] + 0.07, head[1] + 0.13),
                (head[0] - 0.07, head[1] + 0.13),
            ],
            (40, 30, 24),
        )
    card.shine([(-0.2, seat + 0.28), (0.2, seat + 0.28), (0.2, seat + 0.34), (-0.2, seat + 0.34)], (0, 0, 0), 140)


def draw_bicycle(canvas: Canvas, thing: Thing) -> None:
    owner = canvas.open("bicycle")
    card = Card(canvas, thing, owner)
    squeeze = abs(math.sin(thing.heading))
    turn = math.copysign(1.0, math.sin(thing.heading))
    away = math.cos(thing.heading) > 0
    reach = 0.55 * squeeze * turn
    thin = max(squeeze, 0.12)
    frame = thing.color
    for x in (-reach, reach):
        card.ring(x, 0.34, 0.34, thin, (22, 22, 24))
    seat, bars = (-reach * 0.35, 0.92), (reach * 0.8, 1.0)
    for a, b in (
        (seat, (0.0, 0.34)),
        (seat, (-reach, 0.34)),
        ((-reach, 0.34), (0.0, 0.34)),
        ((seat[0], 0.8), (bars[0], 0.85)),
        ((0.0, 0.34), (bars[0], 0.85)),
        ((reach, 0.34), bars),
    ):
        card.bar(a, b, 0.06, frame)
    card.bar((seat[0] - 0.12, 0.93), (seat[0] + 0.12, 0.93), 0.07, (24, 24, 24))
    across = 0.28 * (1 - squeeze) + 0.1
    card.bar((bars[0] - across, 1.02), (bars[0] + across, 1.02), 0.05, (40, 40, 42))
    rear = card.spot(-reach, 0.62, 0.05)
    card.shine(rear, (205, 14, 10) if canvas.night and thing.on and away else (0, 0, 0), 230)
    if squeeze > 0.4:
        for x in (-reach, reach):
            card.shine(card.spot(x, 0.5, 0.05), (0, 0, 0), 255)
            card.shine(card.spot(x, 0.2, 0.05), (0, 0, 0), 255)
    front = not away or squeeze > 0.6
    if thing.on and front:
        card.shape(card.spot(reach, 0.86, 0.05), (200, 200, 190))
    if canvas.night and thing.on:
        spot = (-reach, 0.62) if away else (reach, 0.86)
        if front:
            card.shine(card.spot(reach, 0.86, 0.055), (235, 232, 225))
        where = (thing.x + spot[0], spot[1], thing.z)
        canvas.light(where, TAIL_GLOW if away else XENON, 0.45 if away else 0.7, owner, "tail" if away else "bike")
    canvas.close(owner)
    if thing.rider:
        rider = canvas.open("rider")
        _sitting(
            Card(canvas, thing, rider),
            thing,
            seat=0.95,
            side=squeeze > 0.5,
            lean=0.2,
            helmet=thing.style == 1,
        )
        canvas.close(rider)


def draw_motorcycle(canvas: Canvas, thing: Thing) -> None:
    owner = canvas.open("motorcycle")
    card = Card(canvas, thing, owner)
    squeeze = abs(math.sin(thing.heading))
    turn = math.copysign(1.0, math.sin(thing.heading))
    away = math.cos(thing.heading) > 0
    if squeeze > 0.5:
        for x in (-0.7, 0.7):
            card.shape(WHEEL * 0.32 + np.array([x, 0.32]), (20, 20, 22))
            card.shape(WHEEL * 0.17 + np.array([x, 0.32]), (110, 110, 114))
        card.shape([(-0.5 * turn, 0.3), (0.45 * turn, 0.3), (0.5 * turn, 0.6), (-0.3 * turn, 0.6)], (58, 58, 62))
        card.shape(
            [
                (-0.9 * turn, 0.66),
                (-0.8 * turn, 0.82),
                (-0.1 * turn, 0.76),
                (0.15 * turn, 0.95),
                (0.5 * turn, 0.9),
                (0.62 * turn, 0.66),
                (0.3 * turn, 0.55),
                (-0.4 * turn, 0.55),
            ],
            thing.color,
        )
        card.bar((0.7 * turn, 0.32), (0.45 * turn, 1.05), 0.08, (130, 130, 132))
        card.bar((0.45 * turn, 1.05), (0.28 * turn, 1.1), 0.06, (30, 30, 32))
        card.shine(
            card.spot(-0.86 * turn, 0.74, 0.06),
            (215, 14, 10) if canvas.night and thing.on else (0, 0, 0),
            230,
        )
        card.shine(card.spot(0.7, 0.45, 0.05), (0, 0, 0), 240)
        card.shape(card.spot(0.6 * turn, 0.85, 0.09), (220, 220, 214))
        if canvas.night and thing.on:
            card.shine(card.spot(0.6 * turn, 0.85, 0.08), (250, 245, 232))
            canvas.light((thing.x + 0.6 * turn, 0.85, thing.z), XENON, 2.0, owner, "beam")
    else:
        card.shape([(-0.09, 0), (0.09, 0), (0.09, 0.62), (-0.09, 0.62)], (20, 20, 22))
        card.shape([(-0.2, 0.45), (0.2, 0.45), (0.22, 0.75), (0.12, 0.98), (-0.12, 0.98), (-0.22, 0.75)], thing.color)
        card.bar((-0.38, 1.04), (0.38, 1.04), 0.06, (40, 40, 42))
        for s in (-1.0, 1.0):
            card.shape(card.spot(0.36 * s, 1.15, 0.075), (30, 32, 36))
        lamp = card.spot(0, 0.72 if away else 0.86, 0.1)
        card.shape(lamp, (150, 26, 24) if away else (214, 214, 208))
        if thing.on and canvas.night:
            card.shine(lamp, (225, 16, 12) if away else (255, 246, 228))
            color = TAIL_GLOW if away else (HALOGEN if thing.phase < 0.5 else XENON)
            canvas.light(
                (thing.x, 0.72 if away else 0.86, thing.z),
                color,
                0.9 if away else 8.0,
                owner,
                "tail" if away else "head1",
            )
        else:
            card.shine(lamp, (0, 0, 0), 150)
            if canvas.night:
                card.shine([(-0.2, 0.88), (0.2, 0.88), (0.1, 0.99), (-0.1, 0.99)], (30, 28, 26))
        if away:
            plate = [(-0.1, 0.5), (0.1, 0.5), (0.1, 0.62), (-0.1, 0.62)]
            card.shape(plate, (210, 208, 196))
            card.shine(plate, (0, 0, 0), 190)
    canvas.close(owner)
    if thing.rider:
        rider = canvas.open("rider")
        _sitting(Card(canvas, thing, rider), thing, seat=0.82, side=squeeze > 0.5, lean=0.12, helmet=True)
        canvas.close(rider)
