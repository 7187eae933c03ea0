"""What stands where: a drive (street, weather, camera) and a frame of it, as plain data, by seed alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from nightaug.data.scenes.canvas import RGB, Camera

#: Consecutive seeds that belong to one drive.
FRAMES_PER_DRIVE = 4

#: Metres; what is farther is the horizon.
VIEW = 190.0

Rng = np.random.Generator

#: Streams of randomness that must not touch each other: layout never depends on the time of day.
DRIVE_STREAM, FRAME_STREAM, DAY_STREAM, NIGHT_STREAM = 11, 12, 13, 14


def stream(seed: int, which: int) -> Rng:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([which, seed])))


@dataclass
class Thing:
    """One thing in the street.

    Attributes:
        kind: which drawing function paints it.
        x, z: metres right of and ahead of the camera; y: metres up, of its lower edge.
        heading: radians, 0 drives away from us, pi comes towards us, pi/2 to the right.
        size: width, height, length in metres.
        color, color2: sRGB 0..255.
        style: a whole number the drawing function reads as it likes.
        on: engine running (lamps on by night), shop open, and the like.
        state: a word (signal colour, sign type).
        rider: a person sits on it.
        phase: a free number in [0, 1) (stride, dirt, window pattern).
        key: painting order; larger is painted earlier.
    """

    kind: str
    x: float
    z: float
    y: float = 0.0
    heading: float = 0.0
    size: tuple[float, float, float] = (1.0, 1.0, 1.0)
    color: RGB = (128.0, 128.0, 128.0)
    color2: RGB = (60.0, 60.0, 60.0)
    style: int = 0
    on: bool = False
    state: str = ""
    rider: bool = False
    phase: float = 0.0
    key: float = field(default=-1.0)

    def __post_init__(self) -> None:
        if self.key < 0:
            self.key = self.z


@dataclass
class Street:
    """What a drive keeps from frame to frame. Lengths in metres."""

    number: int
    scene: str
    weather: str
    focal: float
    horizon: float
    height: float
    hood: str
    hood_top: float
    lane: float
    lanes_left: int
    lanes_right: int
    oncoming: bool
    parked_left: bool
    parked_right: bool
    sidewalk: float
    traffic: float
    trees: float
    tall: float
    lamp_gap: float
    lamp_height: float
    lamp_color: RGB
    lamp_sides: tuple[int, ...]
    wires: bool
    asphalt: float
    walls: list[RGB]

    @property
    def left(self) -> float:
        """x of the left kerb, before the own car's place in its lane is taken off."""
        return -(self.lanes_left + 0.5) * self.lane - (2.3 if self.parked_left else 0.4)

    @property
    def right(self) -> float:
        return (self.lanes_right + 0.5) * self.lane + (2.3 if self.parked_right else 0.4)


@dataclass
class Scene:
    """A frame of a drive: the camera and all things, not sorted."""

    seed: int
    street: Street
    camera: Camera
    shift: float
    crossings: list[float]
    signal: str
    things: list[Thing]


WALLS: tuple[RGB, ...] = (
    (128, 88, 74), (150, 116, 98), (176, 158, 134), (120, 112, 106), (190, 184, 172), (92, 80, 74),
    (160, 146, 124), (108, 116, 122), (204, 196, 180), (118, 68, 60), (88, 94, 100), (178, 166, 150),
)  # fmt: skip
CARS: tuple[RGB, ...] = (
    (22, 23, 26), (30, 32, 38), (48, 50, 54), (92, 95, 100), (140, 143, 147), (186, 188, 190),
    (226, 227, 226), (235, 234, 230), (104, 30, 32), (134, 44, 40),
    (34, 44, 74), (54, 72, 104),
    (86, 82, 70), (52, 66, 58), (206, 160, 56), (160, 150, 132),
)  # fmt: skip
CAR_ODDS = np.array([13, 9, 8, 9, 12, 10, 12, 7, 4, 3, 4, 4, 2, 2, 4, 3], dtype=float)
CLOTHES: tuple[RGB, ...] = (
    (28, 28, 32), (44, 46, 60), (70, 72, 78), (110, 108, 104), (150, 40, 44), (40, 70, 120), (196, 190, 180),
    (230, 226, 220), (120, 96, 60), (52, 84, 62), (206, 120, 40), (190, 70, 120),
)  # fmt: skip
LAMPS: tuple[RGB, ...] = ((1.0, 0.62, 0.24), (1.0, 0.70, 0.36), (0.92, 0.96, 1.0), (1.0, 0.94, 0.82))
#: Where street lamps stand: both sides, one, or none, as along many a motorway.
LAMP_SIDES: tuple[tuple[int, ...], ...] = ((-1, 1), (-1,), (1,), ())


def pick(rng: Rng, items: tuple[RGB, ...], odds: np.ndarray | None = None) -> RGB:
    p = None if odds is None else odds / odds.sum()
    r, g, b = items[int(rng.choice(len(items), p=p))]
    jitter = rng.uniform(0.9, 1.1)
    return (min(r * jitter, 250.0), min(g * jitter, 250.0), min(b * jitter, 250.0))


def make_street(number: int) -> Street:
    """The drive with this number."""
    rng = stream(number, DRIVE_STREAM)
    scene = str(rng.choice(["city street", "residential", "highway"], p=[0.62, 0.14, 0.24]))
    weather = str(
        rng.choice(
            ["clear", "partly cloudy", "overcast", "rainy", "snowy", "foggy"],
            p=[0.5, 0.14, 0.16, 0.1, 0.07, 0.03],
        )
    )
    highway, city = scene == "highway", scene == "city street"
    hood = str(rng.choice(["none", "hood", "dash"], p=[0.3, 0.5, 0.2]))
    oncoming = bool(not highway and rng.random() < 0.78)
    if highway:
        left, right = int(rng.integers(1, 4)), int(rng.integers(0, 3))
    elif city:
        left, right = int(rng.integers(1, 4)), int(rng.integers(0, 2))
    else:
        left, right = 1, 0
    return Street(
        number=number,
        scene=scene,
        weather=weather,
        focal=float(rng.uniform(0.82, 1.12)),
        horizon=float(np.clip(rng.normal(0.5, 0.045), 0.4, 0.6)),
        height=float(rng.uniform(1.2, 1.6)),
        hood=hood,
        hood_top=float(rng.uniform(0.87, 0.96) if hood == "hood" else rng.uniform(0.8, 0.92)),
        lane=float(rng.uniform(3.1, 3.7)),
        lanes_left=left,
        lanes_right=right,
        oncoming=oncoming,
        parked_left=bool(not highway and rng.random() < 0.6),
        parked_right=bool(not highway and rng.random() < 0.7),
        sidewalk=float(rng.uniform(2.5, 5.0)),
        traffic=float(rng.uniform(0.3, 1.0)),
        trees=float(rng.uniform(0.0, 0.8) if city else rng.uniform(0.4, 1.0)),
        tall=float(rng.uniform(7, 30) if city else rng.uniform(5, 9)),
        lamp_gap=float(rng.uniform(22, 42)),
        lamp_height=float(rng.uniform(6.5, 9.5) + (2 if highway else 0)),
        lamp_color=LAMPS[int(rng.integers(len(LAMPS)))],
        lamp_sides=LAMP_SIDES[int(rng.choice(4, p=[0.2, 0.2, 0.2, 0.4] if highway else [0.58, 0.17, 0.17, 0.08]))],
        wires=bool(rng.random() < 0.4),
        asphalt=float(rng.uniform(62, 112)),
        walls=[pick(rng, WALLS) for _ in range(6)],
    )
