"""Putting everything but traffic into a street: people, buildings, trees, lamps, signals, signs."""

from __future__ import annotations

import math

import numpy as np

from nightaug.data.scenes import traffic
from nightaug.data.scenes.canvas import Camera
from nightaug.data.scenes.layout import (
    CARS,
    CLOTHES,
    FRAME_STREAM,
    FRAMES_PER_DRIVE,
    VIEW,
    Rng,
    Scene,
    Thing,
    make_street,
    pick,
    stream,
)
from nightaug.data.scenes.traffic import clear


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
    traffic.traffic(scene, rng, rare)
    traffic.parked(scene, rng, rare)
    traffic.crossing_traffic(scene, rng, rare)
    traffic.side_streets(scene, rng, rare)
    traffic.cyclists(scene, rng, rare)
    _people(scene, rng)
    traffic.tram(scene, rng, rare)
    _buildings(scene, rng)
    _greenery(scene, rng)
    _posts(scene, rng)
    _signals(scene, rng)
    _signs(scene, rng)
    return scene


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
            )
        )


def _buildings(scene: Scene, rng: Rng) -> None:
    s = scene.street
    if s.scene == "highway":
        for side in (-1, 1):
            edge = (s.left - 14 if side < 0 else s.right + 5) - scene.shift
            kind = "barrier" if rng.random() < 0.75 else "rail"
            scene.things.append(
                Thing(
                    kind,
                    edge + (6 if side < 0 else 0),
                    3,
                    size=(0.4, float(rng.uniform(0.7, 1.1)), VIEW),
                    color=(150, 148, 142),
                    style=side,
                    key=VIEW + 30,
                )
            )
        if rng.random() < 0.25:
            scene.things.append(
                Thing("bridge", 0, float(rng.uniform(30, 130)), 5.2, size=(80, 1.6, 10), color=(128, 126, 120))
            )
        return
    for side in (-1, 1):
        plane = (s.left - s.sidewalk if side < 0 else s.right + s.sidewalk) - scene.shift
        z = 1.0
        while z < 150:
            length = float(rng.uniform(8, 24) if s.scene == "city street" else rng.uniform(9, 15))
            setback = float(abs(rng.normal(0, 0.6)) if s.scene == "city street" else rng.uniform(3, 8))
            tall = float(s.tall * rng.uniform(0.5, 1.5))
            if rng.random() < (0.9 if s.scene == "city street" else 0.75) and clear(
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
                        state="house" if s.scene == "residential" else ("shop" if rng.random() < 0.65 else "flat"),
                        phase=float(rng.random()),
                        key=z + length + 0.5,
                    )
                )
            z += length + (float(rng.uniform(0, 3)) if s.scene == "city street" else float(rng.uniform(2, 6)))


def _greenery(scene: Scene, rng: Rng) -> None:
    s = scene.street
    for side in (-1, 1):
        z = float(rng.uniform(8, 18))
        while z < 130:
            if rng.random() < s.trees * 0.75 and clear(scene, z, 5.0):
                off = float(rng.uniform(5, 12)) if s.scene == "highway" else float(rng.uniform(0.7, 1.3))
                edge = (s.left - 8 - off if s.scene == "highway" else s.left - off) if side < 0 else s.right + off
                green = (float(rng.uniform(38, 90)), float(rng.uniform(62, 100)), float(rng.uniform(22, 48)))
                height = float(rng.uniform(4.5, 10))
                scene.things.append(
                    Thing(
                        "tree",
                        edge - scene.shift,
                        z,
                        size=(height * 0.6, height, 1),
                        color=green,
                        style=int(s.weather == "snowy" or rng.random() < 0.12),
                        phase=float(rng.random()),
                    )
                )
            z += float(rng.uniform(6, 16))


def _posts(scene: Scene, rng: Rng) -> None:
    s = scene.street
    for side in s.lamp_sides:
        z = float(rng.uniform(6, s.lamp_gap))
        edge = (s.left - 0.6 if side < 0 else s.right + 0.6) - scene.shift
        while z < VIEW:
            scene.things.append(
                Thing(
                    "lamp",
                    edge,
                    z,
                    size=(2.2, s.lamp_height, 1),
                    style=side,
                    on=bool(rng.random() < 0.92),
                    phase=float(rng.random()),
                )
            )
            z += s.lamp_gap * float(rng.uniform(0.9, 1.1))
    for _ in range(int(rng.poisson(3)) if s.scene != "highway" else 0):
        side = int(rng.choice([-1, 1]))
        edge = (s.left - 0.8 if side < 0 else s.right + 0.8) - scene.shift
        kind = str(rng.choice(["bin", "hydrant", "meter", "board"]))
        scene.things.append(
            Thing(
                kind,
                edge + side * float(rng.uniform(0, 0.8)),
                float(rng.uniform(7, 45)),
                color=pick(rng, CARS),
                color2=pick(rng, CLOTHES),
                on=bool(rng.random() < 0.5),
                phase=float(rng.random()),
            )
        )


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
        scene.things.append(Thing("mast", right, far, 6.15, size=(arm + 0.4, 0.15, 0), style=-1, key=far + 0.3))
        for x, z, y, turned in spots:
            if z < 6:
                continue
            scene.things.append(
                Thing(
                    "signal",
                    x,
                    z,
                    y + float(rng.uniform(-0.15, 0.15)),
                    size=(0.36, 1.02, 0.3),
                    style=turned + 2 * yellow,
                    state=state,
                    phase=float(rng.random()),
                )
            )


def _signs(scene: Scene, rng: Rng) -> None:
    s = scene.street
    right, left = s.right + 0.5 - scene.shift, s.left - 0.5 - scene.shift
    if s.scene == "highway":
        for _ in range(int(rng.integers(0, 3))):
            z, n = float(rng.uniform(28, 150)), int(rng.integers(1, 4))
            x0 = float(rng.uniform(left + 2, 2))
            scene.things.append(Thing("gantry", 0, z, 7.3, size=(right + 1.5, left - 1.5, 0), key=z + 0.2))
            for k in range(n):
                scene.things.append(
                    Thing(
                        "sign",
                        x0 + k * 5.2,
                        z,
                        5.1,
                        size=(float(rng.uniform(3.4, 4.8)), float(rng.uniform(1.8, 3)), 0),
                        state="guide",
                        phase=float(rng.random()),
                    )
                )
    else:
        for c in scene.crossings:
            for x in (right, left):
                if rng.random() < 0.55:
                    scene.things.append(
                        Thing(
                            "sign",
                            x + float(rng.normal(0, 0.2)),
                            c + float(rng.choice([-6.5, 6.5])),
                            float(rng.uniform(2.9, 5.4)),
                            size=(float(rng.uniform(0.9, 1.5)), 0.28, 0),
                            state="name",
                            phase=float(rng.random()),
                        )
                    )
    words = ["speed", "warning", "parking", "stop", "oneway", "blue", "works", "route"]
    odds = [0.2, 0.17, 0.27, 0.1, 0.09, 0.06, 0.06, 0.05]
    for _ in range(int(rng.poisson(3.9))):
        z = float(np.exp(rng.uniform(math.log(11), math.log(130))))
        word = str(rng.choice(words, p=odds))
        width, height = {
            "speed": (0.62, 0.78),
            "warning": (0.9, 0.9),
            "parking": (0.34, 0.5),
            "stop": (0.78, 0.78),
            "oneway": (0.95, 0.35),
            "blue": (0.6, 0.6),
            "works": (1.0, 1.0),
            "route": (0.6, 0.6),
        }[word]
        grow = float(rng.uniform(1.0, 1.5)) if s.scene == "highway" else 1.0
        x = right + float(rng.uniform(0, 0.6)) if rng.random() < 0.68 else left - float(rng.uniform(0, 0.6))
        scene.things.append(
            Thing(
                "sign",
                x,
                z,
                float(rng.uniform(1.9, 2.6)),
                size=(width * grow, height * grow, 0),
                state=word,
                phase=float(rng.random()),
            )
        )
