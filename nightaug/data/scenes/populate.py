"""Putting things into a street: traffic, parked cars, people, buildings, trees, lamps, signals, signs."""

from __future__ import annotations

import math

import numpy as np

from nightaug.data.scenes.canvas import RGB, Camera
from nightaug.data.scenes.layout import (
    CAR_ODDS,
    CARS,
    CLOTHES,
    FRAME_STREAM,
    FRAMES_PER_DRIVE,
    Rng,
    Scene,
    Thing,
    make_street,
    pick,
    stream,
)

#: Metres; what is farther is the horizon.
VIEW = 190.0

#: Share of one class among the vehicles in moving lanes at ``rare`` 1, after BDD100K's counts.
TRUCKS, BUSES, MOTORCYCLES = 0.036, 0.013, 0.008
#: Chance of a tram in a city frame, and people on bicycles or bicycles alone for each frame, at ``rare`` 1.
TRAMS, CYCLISTS, PARKED_BIKES = 0.035, 0.08, 0.07

TRUCK_PAINT: tuple[RGB, ...] = (
    (225, 225, 222), (210, 208, 200), (150, 62, 50), (70, 92, 136), (190, 160, 86), (110, 84, 62), (90, 130, 90),
)  # fmt: skip
BUS_PAINT: tuple[RGB, ...] = ((222, 224, 226), (70, 112, 160), (222, 164, 44), (164, 58, 54), (90, 150, 140))
TRAM_PAINT: tuple[RGB, ...] = ((196, 60, 50), (214, 210, 200), (60, 120, 90), (210, 180, 60))


def make_scene(seed: int, rare: float) -> Scene:
    """The frame with this number, the same for day and night."""
    street = make_street(seed // FRAMES_PER_DRIVE)
    rng = stream(seed, FRAME_STREAM)
    bend = float(rng.normal(0, 0.0004 if street.scene == "highway" else 0.00012))
    camera = Camera(
        street.focal,
        street.horizon + float(rng.normal(0, 0.006)),
        street.height,
        float(rng.normal(0, 0.03)),
        bend,
    )
    crossings: list[float] = []
    if street.scene != "highway":
        z = float(rng.uniform(12, 60))
        while z < 150:
            crossings.append(z)
            z += float(rng.uniform(38, 75))
    scene = Scene(
        seed=seed,
        street=street,
        camera=camera,
        shift=float(rng.normal(0, 0.35)),
        crossings=crossings,
        signal=str(rng.choice(["red", "green", "yellow"], p=[0.42, 0.5, 0.08])),
        things=[],
    )
    _traffic(scene, rng, rare)
    _parked(scene, rng, rare)
    _crossing_traffic(scene, rng, rare)
    _side_streets(scene, rng, rare)
    _cyclists(scene, rng, rare)
    _people(scene, rng)
    _tram(scene, rng, rare)
    _buildings(scene, rng)
    _greenery(scene, rng)
    _posts(scene, rng)
    _signals(scene, rng)
    _signs(scene, rng)
    return scene


def vehicle(rng: Rng, x: float, z: float, heading: float, rare: float, on: bool, brake: bool) -> Thing:
    """A car, truck, bus or motorcycle by BDD100K's odds."""
    roll = rng.random()
    phase, state = float(rng.random()), "brake" if brake else ""
    if roll < TRUCKS * rare:
        style = int(rng.integers(3))
        length = float(rng.uniform(6, 8.5)) if style < 2 else float(rng.uniform(12, 16))
        size = (float(rng.uniform(2.2, 2.55)), float(rng.uniform(2.9, 3.9)), length)
        return Thing("truck", x, z, 0, heading, size, pick(rng, TRUCK_PAINT), pick(rng, CARS), style, on, state,
                     phase=phase)  # fmt: skip
    if roll < (TRUCKS + BUSES) * rare:
        size = (2.5, float(rng.uniform(2.9, 3.3)), float(rng.uniform(9, 12.5)))
        return Thing("bus", x, z, 0, heading, size, pick(rng, BUS_PAINT), pick(rng, CLOTHES), int(rng.integers(3)),
                     on, state, phase=phase)  # fmt: skip
    if roll < (TRUCKS + BUSES + MOTORCYCLES) * rare:
        side = x + float(rng.uniform(-0.8, 0.8))
        return Thing("motorcycle", side, z, 0, heading, (0.8, 1.15, 2.1), pick(rng, CARS), pick(rng, CLOTHES),
                     int(rng.integers(3)), on, state, rider=True, phase=phase)  # fmt: skip
    return car(rng, x, z, heading, on, brake)


def car(rng: Rng, x: float, z: float, heading: float, on: bool, brake: bool) -> Thing:
    style = int(rng.choice(4, p=[0.45, 0.33, 0.12, 0.10]))  # saloon, SUV, van, hatchback
    height = (1.45, 1.72, 1.95, 1.5)[style] * float(rng.uniform(0.96, 1.05))
    length = (4.6, 4.7, 5.1, 4.0)[style] * float(rng.uniform(0.95, 1.05))
    size = (float(rng.uniform(1.75, 1.98)), height, length)
    return Thing("car", x, z, 0, heading, size, pick(rng, CARS, CAR_ODDS), (20, 24, 28), style, on,
                 "brake" if brake else "", phase=float(rng.random()))  # fmt: skip


def _clear(scene: Scene, z: float, margin: float = 7.0) -> bool:
    return all(abs(z - c) > margin for c in scene.crossings)


def _traffic(scene: Scene, rng: Rng, rare: float) -> None:
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
            thing = vehicle(rng, x + float(rng.normal(0, 0.2)), z, heading, rare, True, brake)
            thing.z = thing.key = z + thing.size[2] / 2
            # an empty crossing in the middle of a red phase; the own lane keeps its distance
            if _clear(scene, thing.z, 5.5 + thing.size[2] / 2) or not waiting:
                scene.things.append(thing)
            pause = 2.2 if stop else 5.0
            z += thing.size[2] + pause + float(rng.exponential(6.5 / s.traffic if not stop else 3.0))


def _parked(scene: Scene, rng: Rng, rare: float) -> None:
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
            if rng.random() < full and _clear(scene, z + 2.5, 11.0):
                flip = oncoming and rng.random() < 0.9
                heading = (math.pi if flip else 0.0) + float(rng.normal(0, 0.02))
                px = x - scene.shift + float(rng.normal(0, 0.08))
                if rng.random() < 0.012 * rare:
                    thing = Thing("motorcycle", px, z, 0, heading, (0.8, 1.1, 2.1), pick(rng, CARS), pick(rng, CLOTHES),
                                  int(rng.integers(3)), phase=float(rng.random()))  # fmt: skip
                elif rng.random() < 0.012 * rare:
                    size = (2.3, float(rng.uniform(2.7, 3.4)), float(rng.uniform(6, 7.5)))
                    thing = Thing("truck", px, z, 0, heading, size, pick(rng, TRUCK_PAINT), pick(rng, CARS), 0,
                                  phase=float(rng.random()))  # fmt: skip
                else:
                    thing = car(rng, px, z, heading, bool(rng.random() < 0.06), False)
                thing.z = thing.key = z + thing.size[2] / 2
                scene.things.append(thing)
                z += max(thing.size[2] - 5.0, 0.0)
            z += float(rng.uniform(5.6, 6.8))


def _crossing_traffic(scene: Scene, rng: Rng, rare: float) -> None:
    s = scene.street
    for c in scene.crossings[:2]:
        if scene.signal == "green" and rng.random() < 0.7:
            continue
        for lane, heading in ((-1.8, math.pi / 2), (1.8, -math.pi / 2)):
            x = float(rng.uniform(s.left - 6, s.right))
            while x < s.right + 6:
                thing = vehicle(rng, x, c + lane, heading + float(rng.normal(0, 0.04)), rare, True, False)
                if rng.random() < 0.4 and c > 14:
                    thing.key = thing.z
                    scene.things.append(thing)
                x += thing.size[2] + float(rng.uniform(3, 18))


def _side_streets(scene: Scene, rng: Rng, rare: float) -> None:
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
                    rng, side * x - scene.shift, c + lane, heading, rare, on, on and rng.random() < 0.4
                )
                scene.things.append(thing)
                x += thing.size[2] + float(rng.uniform(1, 9))


def _cyclists(scene: Scene, rng: Rng, rare: float) -> None:
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
            )  # fmt: skip
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
                )  # fmt: skip
            )


def _people(scene: Scene, rng: Rng) -> None:
    s = scene.street
    mean = {"city street": 5.2, "residential": 2.0, "highway": 0.03}[s.scene]
    for _ in range(int(min(rng.gamma(0.8, mean / 0.8), 20))):
        where = rng.random()
        z = float(np.exp(rng.uniform(math.log(9), math.log(110))))
        if where < 0.3 and scene.crossings:
            z = scene.crossings[0] - 6.5 + float(rng.normal(0, 0.8))
            x, walk = float(rng.uniform(s.left, s.right)), float(rng.choice([-1, 1])) * math.pi / 2
        elif where < 0.36:
            x, walk = float(rng.uniform(s.left, s.right)), float(rng.uniform(-3, 3))
        else:
            side = rng.random() < 0.5
            off = float(rng.uniform(0.5, s.sidewalk - 0.4))
            x = s.left - off if side else s.right + off
            walk = float(rng.choice([0.0, math.pi, math.pi / 2, -math.pi / 2], p=[0.36, 0.36, 0.14, 0.14]))
        if z < 6:
            continue
        child = rng.random() < 0.08
        height = float(rng.uniform(1.1, 1.4) if child else rng.uniform(1.55, 1.9))
        umbrella = s.weather == "rainy" and rng.random() < 0.5
        scene.things.append(
            Thing(
                "pedestrian",
                x - scene.shift,
                z,
                0,
                walk,
                (0.55, height, 0.3),
                pick(rng, CLOTHES),
                pick(rng, CLOTHES),
                int(rng.integers(6)),
                state="umbrella" if umbrella else "",
                phase=float(rng.random()),
            )  # fmt: skip
        )


def _tram(scene: Scene, rng: Rng, rare: float) -> None:
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
    scene.things.append(Thing("train", x, z, 0, heading, size, paint, second, int(rng.integers(2)), True,
                              phase=float(rng.random())))  # fmt: skip


def _overlaps(t: Thing, x: float, z: float, heading: float, size: tuple[float, float, float]) -> bool:
    along = abs(math.cos(heading)) > 0.5
    half_x, half_z = (size[0] / 2, size[2] / 2) if along else (size[2] / 2, size[0] / 2)
    return abs(t.x - x) < half_x + 1.3 and abs(t.z - z) < half_z + 3.5


def _buildings(scene: Scene, rng: Rng) -> None:
    s = scene.street
    if s.scene == "highway":
        for side in (-1, 1):
            edge = (s.left - 14 if side < 0 else s.right + 5) - scene.shift
            kind = "barrier" if rng.random() < 0.75 else "rail"
            scene.things.append(Thing(kind, edge + (6 if side < 0 else 0), 3, size=(0.4, float(rng.uniform(0.7, 1.1)), VIEW),
                                      color=(150, 148, 142), style=side, key=VIEW + 30))  # fmt: skip
        if rng.random() < 0.25:
            scene.things.append(Thing("bridge", 0, float(rng.uniform(30, 130)), 5.2, size=(80, 1.6, 10),
                                      color=(128, 126, 120)))  # fmt: skip
        return
    for side in (-1, 1):
        plane = (s.left - s.sidewalk if side < 0 else s.right + s.sidewalk) - scene.shift
        z = 1.0
        while z < 150:
            length = float(rng.uniform(8, 24) if s.scene == "city street" else rng.uniform(9, 15))
            setback = float(abs(rng.normal(0, 0.6)) if s.scene == "city street" else rng.uniform(3, 8))
            tall = float(s.tall * rng.uniform(0.5, 1.5))
            if rng.random() < (0.9 if s.scene == "city street" else 0.75) and _clear(
                scene, z + length / 2, length / 2 + 6
            ):
                wall = s.walls[int(rng.integers(len(s.walls)))]
                scene.things.append(
                    Thing(
                        "building",
                        plane + side * setback,
                        z,
                        size=(12, tall, length),
                        color=wall,
                        color2=pick(rng, CLOTHES),
                        style=side,
                        on=bool(rng.random() < 0.65),
                        state="house"
                        if s.scene == "residential"
                        else ("shop" if rng.random() < 0.65 else "flat"),
                        phase=float(rng.random()),
                        key=z + length + 0.5,
                    )  # fmt: skip
                )
            z += length + (float(rng.uniform(0, 3)) if s.scene == "city street" else float(rng.uniform(2, 6)))


def _greenery(scene: Scene, rng: Rng) -> None:
    s = scene.street
    for side in (-1, 1):
        z = float(rng.uniform(8, 18))
        while z < 130:
            if rng.random() < s.trees * 0.75 and _clear(scene, z, 5.0):
                off = float(rng.uniform(5, 12)) if s.scene == "highway" else float(rng.uniform(0.7, 1.3))
                edge = (
                    (s.left - 8 - off if s.scene == "highway" else s.left - off)
                    if side < 0
                    else s.right + off
                )
                green = (float(rng.uniform(38, 90)), float(rng.uniform(62, 100)), float(rng.uniform(22, 48)))
                height = float(rng.uniform(4.5, 10))
                scene.things.append(Thing("tree", edge - scene.shift, z, size=(height * 0.6, height, 1), color=green,
                                          style=int(s.weather == "snowy" or rng.random() < 0.12),
                                          phase=float(rng.random())))  # fmt: skip
            z += float(rng.uniform(6, 16))


def _posts(scene: Scene, rng: Rng) -> None:
    s = scene.street
    for side in (-1, 1):
        z = float(rng.uniform(6, s.lamp_gap))
        edge = (s.left - 0.6 if side < 0 else s.right + 0.6) - scene.shift
        while z < VIEW:
            scene.things.append(Thing("lamp", edge, z, size=(2.2, s.lamp_height, 1), style=side,
                                      on=bool(rng.random() < 0.92), phase=float(rng.random())))  # fmt: skip
            z += s.lamp_gap * float(rng.uniform(0.9, 1.1))
    for _ in range(int(rng.poisson(3)) if s.scene != "highway" else 0):
        side = int(rng.choice([-1, 1]))
        edge = (s.left - 0.8 if side < 0 else s.right + 0.8) - scene.shift
        kind = str(rng.choice(["bin", "hydrant", "meter", "board"]))
        scene.things.append(Thing(kind, edge + side * float(rng.uniform(0, 0.8)), float(rng.uniform(7, 45)),
                                  color=pick(rng, CARS), color2=pick(rng, CLOTHES), on=bool(rng.random() < 0.5),
                                  phase=float(rng.random())))  # fmt: skip


def _signals(scene: Scene, rng: Rng) -> None:
    s = scene.street
    for n, c in enumerate(scene.crossings):
        if rng.random() > (0.9 if s.scene == "city street" else 0.45):
            continue
        state = scene.signal if n == 0 or rng.random() < 0.6 else str(rng.choice(["red", "green"]))
        yellow = int(rng.random() < 0.5)
        far = c + float(rng.uniform(5.5, 8))
        arm = float(rng.uniform(3, 6.5))
        right, left = s.right + 0.7 - scene.shift, s.left - 0.7 - scene.shift
        spots = [(right - arm, far, 5.2, 0)]
        if rng.random() < 0.65:
            spots.append((right - arm * 0.45, far, 5.2, 0))
        if rng.random() < 0.75:
            spots.append((right, far, 2.9, 0))
        if rng.random() < 0.7:
            spots.append((left, far, 2.9, 0))
        if rng.random() < 0.3:
            spots.append((left + 0.3, c - 6.5, 2.9, 1))
        scene.things.append(
            Thing("mast", right, far, 6.15, size=(arm + 0.4, 0.15, 0), style=-1, key=far + 0.3)
        )
        for x, z, y, turned in spots:
            if z < 6:
                continue
            scene.things.append(Thing("signal", x, z, y + float(rng.uniform(-0.15, 0.15)), size=(0.36, 1.02, 0.3),
                                      style=turned + 2 * yellow, state=state, phase=float(rng.random())))  # fmt: skip


def _signs(scene: Scene, rng: Rng) -> None:
    s = scene.street
    right, left = s.right + 0.5 - scene.shift, s.left - 0.5 - scene.shift
    if s.scene == "highway":
        for _ in range(int(rng.integers(0, 3))):
            z, n = float(rng.uniform(28, 150)), int(rng.integers(1, 4))
            x0 = float(rng.uniform(left + 2, 2))
            scene.things.append(Thing("gantry", 0, z, 7.3, size=(right + 1.5, left - 1.5, 0), key=z + 0.2))
            for k in range(n):
                scene.things.append(Thing("sign", x0 + k * 5.2, z, 5.1, size=(float(rng.uniform(3.4, 4.8)),
                                          float(rng.uniform(1.8, 3)), 0), state="guide", phase=float(rng.random())))  # fmt: skip
    else:
        for c in scene.crossings:
            for x in (right, left):
                if rng.random() < 0.55:
                    scene.things.append(Thing("sign", x + float(rng.normal(0, 0.2)), c + float(rng.choice([-6.5, 6.5])),
                                              float(rng.uniform(2.9, 5.4)), size=(float(rng.uniform(0.9, 1.5)), 0.28, 0),
                                              state="name", phase=float(rng.random())))  # fmt: skip
    words = ["speed", "warning", "parking", "stop", "oneway", "blue", "works", "route"]
    odds = [0.2, 0.17, 0.27, 0.1, 0.09, 0.06, 0.06, 0.05]
    for _ in range(int(rng.poisson(3.9))):
        z = float(np.exp(rng.uniform(math.log(11), math.log(130))))
        word = str(rng.choice(words, p=odds))
        width, height = {
            "speed": (0.62, 0.78), "warning": (0.9, 0.9), "parking": (0.34, 0.5), "stop": (0.78, 0.78),
            "oneway": (0.95, 0.35), "blue": (0.6, 0.6), "works": (1.0, 1.0), "route": (0.6, 0.6),
        }[word]  # fmt: skip
        grow = float(rng.uniform(1.0, 1.5)) if s.scene == "highway" else 1.0
        x = right + float(rng.uniform(0, 0.6)) if rng.random() < 0.68 else left - float(rng.uniform(0, 0.6))
        scene.things.append(Thing("sign", x, z, float(rng.uniform(1.9, 2.6)), size=(width * grow, height * grow, 0),
                                  state=word, phase=float(rng.random())))  # fmt: skip
