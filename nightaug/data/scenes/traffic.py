"""Putting traffic into a street: lanes, parked cars, cross and side streets, cyclists, a tram."""

from __future__ import annotations

import math

from nightaug.data.scenes.canvas import RGB
from nightaug.data.scenes.layout import CAR_ODDS, CARS, CLOTHES, VIEW, Rng, Scene, Thing, pick

#: Share of one class among the vehicles in moving lanes at ``rare`` 1, after BDD100K's counts.
TRUCKS, BUSES, MOTORCYCLES = 0.036, 0.013, 0.008
#: Chance of a tram in a city frame, and people on bicycles or bicycles alone for each frame, at ``rare`` 1.
TRAMS, CYCLISTS, PARKED_BIKES = 0.025, 0.08, 0.07

TRUCK_PAINT: tuple[RGB, ...] = (
    (225, 225, 222),
    (210, 208, 200),
    (150, 62, 50),
    (70, 92, 136),
    (190, 160, 86),
    (110, 84, 62),
    (90, 130, 90),
)
BUS_PAINT: tuple[RGB, ...] = ((222, 224, 226), (70, 112, 160), (222, 164, 44), (164, 58, 54), (90, 150, 140))
TRAM_PAINT: tuple[RGB, ...] = ((196, 60, 50), (214, 210, 200), (60, 120, 90), (210, 180, 60))


def vehicle(rng: Rng, x: float, z: float, heading: float, *, rare: float, on: bool, brake: bool) -> Thing:
    """A car, truck, bus or motorcycle by BDD100K's odds."""
    roll = rng.random()
    phase, state = float(rng.random()), "brake" if brake else ""
    if roll < TRUCKS * rare:
        style = int(rng.integers(3))
        length = float(rng.uniform(6, 8.5)) if style < 2 else float(rng.uniform(12, 16))
        size = (float(rng.uniform(2.2, 2.55)), float(rng.uniform(2.9, 3.9)), length)
        return Thing(
            "truck",
            x,
            z,
            0,
            heading,
            size,
            pick(rng, TRUCK_PAINT),
            pick(rng, CARS),
            style,
            on,
            state,
            phase=phase,
        )
    if roll < (TRUCKS + BUSES) * rare:
        size = (2.5, float(rng.uniform(2.9, 3.3)), float(rng.uniform(9, 12.5)))
        return Thing(
            "bus",
            x,
            z,
            0,
            heading,
            size,
            pick(rng, BUS_PAINT),
            pick(rng, CLOTHES),
            int(rng.integers(3)),
            on,
            state,
            phase=phase,
        )
    if roll < (TRUCKS + BUSES + MOTORCYCLES) * rare:
        side = x + float(rng.uniform(-0.8, 0.8))
        return Thing(
            "motorcycle",
            side,
            z,
            0,
            heading,
            (0.8, 1.15, 2.1),
            pick(rng, CARS),
            pick(rng, CLOTHES),
            int(rng.integers(3)),
            on,
            state,
            rider=True,
            phase=phase,
        )
    return car(rng, x, z, heading, on=on, brake=brake)


def car(rng: Rng, x: float, z: float, heading: float, *, on: bool, brake: bool) -> Thing:
    style = int(rng.choice(4, p=[0.45, 0.33, 0.12, 0.10]))  # saloon, SUV, van, hatchback
    height = (1.45, 1.72, 1.95, 1.5)[style] * float(rng.uniform(0.96, 1.05))
    length = (4.6, 4.7, 5.1, 4.0)[style] * float(rng.uniform(0.95, 1.05))
    size = (float(rng.uniform(1.75, 1.98)), height, length)
    return Thing(
        "car",
        x,
        z,
        0,
        heading,
        size,
        pick(rng, CARS, CAR_ODDS),
        (20, 24, 28),
        style,
        on,
        "brake" if brake else "",
        phase=float(rng.random()),
    )


def clear(scene: Scene, z: float, margin: float = 7.0) -> bool:
    return all(abs(z - c) > margin for c in scene.crossings)


def traffic(scene: Scene, rng: Rng, rare: float) -> None:
    s = scene.street
    same_left = (s.lanes_left - 1) // 2
    lanes = [(float(i), s.oncoming and i < -same_left) for i in range(-s.lanes_left, s.lanes_right + 1)]
    if s.scene == "highway" and rng.random() < 0.6:
        first = -(s.lanes_left + 1.8)
        lanes += [(first - k, True) for k in range(int(rng.integers(1, 4)))]
    waiting = bool(scene.crossings) and scene.signal == "red"
    for index, oncoming in lanes:
        x = index * s.lane - scene.shift
        z = float(rng.uniform(5.5, 40.0)) if index else float(rng.uniform(7.0, 60.0))
        for _ in range(11):
            if z > VIEW:
                break
            stop = waiting and not oncoming and any(0 < c - z < 45 for c in scene.crossings)
            brake = stop or bool(rng.random() < 0.2)
            heading = (math.pi if oncoming else 0.0) + float(rng.normal(0, 0.03))
            thing = vehicle(rng, x + float(rng.normal(0, 0.2)), z, heading, rare=rare, on=True, brake=brake)
            thing.z = thing.key = z + thing.size[2] / 2
            # an empty crossing in the middle of a red phase; the own lane keeps its distance
            if clear(scene, thing.z, 5.5 + thing.size[2] / 2) or not waiting:
                scene.things.append(thing)
            pause = 2.2 if stop else 5.0
            z += thing.size[2] + pause + float(rng.exponential(6.5 / s.traffic if not stop else 3.0))


def parked(scene: Scene, rng: Rng, rare: float) -> None:
    s = scene.street
    for x, used, oncoming in (
        (s.left + 1.15, s.parked_left, s.oncoming),
        (s.right - 1.15, s.parked_right, False),
    ):
        if not used:
            continue
        full = float(rng.uniform(0.35, 0.95))
        z = float(rng.uniform(4.0, 12.0))
        while z < 145:
            if rng.random() < full and clear(scene, z + 2.5, 11.0):
                flip = oncoming and rng.random() < 0.9
                heading = (math.pi if flip else 0.0) + float(rng.normal(0, 0.02))
                px = x - scene.shift + float(rng.normal(0, 0.08))
                if rng.random() < 0.012 * rare:
                    thing = Thing(
                        "motorcycle",
                        px,
                        z,
                        0,
                        heading,
                        (0.8, 1.1, 2.1),
                        pick(rng, CARS),
                        pick(rng, CLOTHES),
                        int(rng.integers(3)),
                        phase=float(rng.random()),
                    )
                elif rng.random() < 0.012 * rare:
                    size = (2.3, float(rng.uniform(2.7, 3.4)), float(rng.uniform(6, 7.5)))
                    thing = Thing(
                        "truck",
                        px,
                        z,
                        0,
                        heading,
                        size,
                        pick(rng, TRUCK_PAINT),
                        pick(rng, CARS),
                        0,
                        phase=float(rng.random()),
                    )
                else:
                    thing = car(rng, px, z, heading, on=bool(rng.random() < 0.06), brake=False)
                thing.z = thing.key = z + thing.size[2] / 2
                scene.things.append(thing)
                z += max(thing.size[2] - 5.0, 0.0)
            z += float(rng.uniform(5.6, 6.8))


def crossing_traffic(scene: Scene, rng: Rng, rare: float) -> None:
    s = scene.street
    for c in scene.crossings[:2]:
        if scene.signal == "green" and rng.random() < 0.7:
            continue
        for lane, heading in ((-1.8, math.pi / 2), (1.8, -math.pi / 2)):
            x = float(rng.uniform(s.left - 6, s.right))
            while x < s.right + 6:
                thing = vehicle(rng, x, c + lane, heading + float(rng.normal(0, 0.04)), rare=rare, on=True, brake=False)
                if rng.random() < 0.4 and c > 14:
                    thing.key = thing.z
                    scene.things.append(thing)
                x += thing.size[2] + float(rng.uniform(3, 18))


def side_streets(scene: Scene, rng: Rng, rare: float) -> None:
    """Cars that wait or stand in the streets to the left and right, seen past the corner houses."""
    s = scene.street
    for c in scene.crossings:
        if c < 14:
            continue
        for side in (-1, 1):
            edge = (s.right if side > 0 else -s.left) + s.sidewalk
            x = edge + float(rng.uniform(1, 8))
            for _ in range(int(rng.integers(0, 4))):
                lane, heading = (2.6, -math.pi / 2) if rng.random() < 0.5 else (-2.6, math.pi / 2)
                on = bool(rng.random() < 0.4)
                thing = vehicle(
                    rng,
                    side * x - scene.shift,
                    c + lane,
                    heading,
                    rare=rare,
                    on=on,
                    brake=on and rng.random() < 0.4,
                )
                scene.things.append(thing)
                x += thing.size[2] + float(rng.uniform(1, 9))


def cyclists(scene: Scene, rng: Rng, rare: float) -> None:
    s = scene.street
    if s.scene == "highway":
        return
    for _ in range(int(rng.poisson(CYCLISTS * rare * 1.5))):
        z = float(rng.uniform(8, 55))
        if scene.crossings and rng.random() < 0.35 and scene.crossings[0] > 14:
            z = scene.crossings[0] + float(rng.uniform(-4, 4))
            x, heading = float(rng.uniform(-6, 6)), float(rng.choice([-1, 1])) * math.pi / 2
        else:
            inner = 2.6 if s.parked_right else 0.9
            x, heading = s.right - inner, float(rng.choice([0.0, math.pi], p=[0.75, 0.25]))
        scene.things.append(
            Thing(
                "bicycle",
                x - scene.shift,
                z,
                0,
                heading + float(rng.normal(0, 0.1)),
                (0.6, 1.05, 1.75),
                pick(rng, CARS),
                pick(rng, CLOTHES),
                int(rng.integers(3)),
                bool(rng.random() < 0.75),
                rider=True,
                phase=float(rng.random()),
            )
        )
    for _ in range(int(rng.poisson(PARKED_BIKES * rare * 1.5))):
        side = float(rng.choice([-1, 1]))
        x = (s.right + 0.9 if side > 0 else s.left - 0.9) - scene.shift
        z0 = float(rng.uniform(7, 40))
        for k in range(int(rng.integers(1, 4))):
            heading = float(rng.uniform(0.2, 1.5)) * float(rng.choice([-1, 1]))
            scene.things.append(
                Thing(
                    "bicycle",
                    x + float(rng.normal(0, 0.3)),
                    z0 + 1.3 * k,
                    0,
                    heading,
                    (0.6, 1.05, 1.75),
                    pick(rng, CARS),
                    style=int(rng.integers(3)),
                    phase=float(rng.random()),
                )
            )


def tram(scene: Scene, rng: Rng, rare: float) -> None:
    s = scene.street
    if s.scene == "highway" or rng.random() >= TRAMS * rare:
        return
    paint, second = pick(rng, TRAM_PAINT), pick(rng, TRAM_PAINT)
    size = (2.65, 3.5, float(rng.uniform(22, 34)))
    if scene.crossings and rng.random() < 0.3 and scene.crossings[0] > 24:
        x, z, heading = float(rng.uniform(-8, 8)), scene.crossings[0], math.pi / 2
    else:
        lane = -max(s.lanes_left, 1) - (0.2 if s.parked_left else 0.0)
        heading = math.pi if s.oncoming else 0.0
        x, z = lane * s.lane - scene.shift, float(rng.uniform(9, 45)) + size[2] / 2
    keep = [t for t in scene.things if t.kind == "pedestrian" or not _overlaps(t, x, z, heading, size)]
    scene.things[:] = keep
    scene.things.append(
        Thing(
            "train",
            x,
            z,
            0,
            heading,
            size,
            paint,
            second,
            int(rng.integers(2)),
            True,
            phase=float(rng.random()),
        )
    )


def _overlaps(t: Thing, x: float, z: float, heading: float, size: tuple[float, float, float]) -> bool:
    along = abs(math.cos(heading)) > 0.5
    half_x, half_z = (size[0] / 2, size[2] / 2) if along else (size[2] / 2, size[0] / 2)
    return abs(t.x - x) < half_x + 1.3 and abs(t.z - z) < half_z + 3.5
