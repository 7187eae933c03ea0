"""One scene: paint it, light it, read the boxes off."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from nightaug.data.classes import DAY, NIGHT
from nightaug.data.frames import Box, Frame
from nightaug.data.scenes import cars, furniture, people, street, vehicles
from nightaug.data.scenes.canvas import SUPERSAMPLE, Canvas
from nightaug.data.scenes.day import light_by_day
from nightaug.data.scenes.layout import (
    FRAME_STREAM,
    FRAMES_PER_DRIVE,
    NIGHT_STREAM,
    Rng,
    Scene,
    Thing,
    stream,
)
from nightaug.data.scenes.night import light_by_night
from nightaug.data.scenes.populate import make_scene

#: Written into every result measured on this world; two versions are two different rulers.
WORLD_VERSION = "1.0"

MIN_WIDTH, MIN_HEIGHT, MAX_WIDTH, MAX_HEIGHT = 64, 36, 1280, 720
MAX_SEED = (1 << 62) - 1

#: Kinds that may be skipped where they stand out of view.
MOVABLE = frozenset({"car", "truck", "bus", "train", "pedestrian", "bicycle", "motorcycle", "sign", "signal"})

#: Objects with less than this share of their painted pixels in view carry no label.
MIN_VISIBLE = 0.2
#: Under this share in view an object counts as occluded.
OCCLUDED_BELOW = 0.88
#: The shorter and longer side a labelled object needs, as shares of the image width (512: 2.5 and 4 px).
MIN_SHORT, MIN_LONG = 2.4 / 512, 3.9 / 512


def check_size(width: int, height: int) -> None:
    if not (MIN_WIDTH <= width <= MAX_WIDTH and MIN_HEIGHT <= height <= MAX_HEIGHT):
        raise ValueError(
            f"expected a size from {MIN_WIDTH}x{MIN_HEIGHT} to {MAX_WIDTH}x{MAX_HEIGHT}, got {width}x{height}"
        )


def render(
    seed: int, width: int = 512, height: int = 288, timeofday: str = DAY, *, rare: float = 2.0
) -> tuple[NDArray[np.uint8], Frame]:
    """A street scene and its labels.

    Args:
        seed: 0 .. 2**62 - 1. The same seed is the same scene at any size and time of day; four
            consecutive seeds (``4 * d`` .. ``4 * d + 3``) are frames of one drive ``d``.
        width, height: pixels, 64x36 to 1280x720.
        timeofday: ``"daytime"`` or ``"night"``. Boxes do not depend on it.
        rare: factor on BDD100K's frequency of trucks, buses, trains, bicycles, riders and motorcycles.

    Returns:
        Image (H, W, 3) uint8 RGB, and a frame with boxes in pixels, xyxy, right and bottom exclusive,
        exact to half a pixel: the object's whole extent inside the image, hidden parts included.

    Raises:
        ValueError: an argument out of range.
    """
    check_size(width, height)
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"expected a seed in 0..2**62-1, got {seed}")
    if timeofday not in (DAY, NIGHT):
        raise ValueError(f"expected timeofday {DAY!r} or {NIGHT!r}, got {timeofday!r}")
    if not 0.0 <= rare <= 5.0:
        raise ValueError(f"expected rare in 0..5, got {rare}")
    scene = make_scene(seed, rare)
    canvas = paint(scene, width, height, timeofday == NIGHT)
    image = light_by_night(canvas, scene) if timeofday == NIGHT else light_by_day(canvas, scene)
    return image, read_frame(canvas, scene, timeofday)


def drive_name(drive: int) -> str:
    """Eight hex digits, like the first half of a BDD100K name."""
    return f"{(drive * 0x9E3779B1 + 0x5EED) % (1 << 32):08x}"


def frame_name(seed: int) -> str:
    tail = (seed * 0x85EBCA77 + 0x1234567) % (1 << 32)
    return f"{drive_name(seed // FRAMES_PER_DRIVE)}-{tail:08x}.jpg"


def paint(scene: Scene, width: int, height: int, night: bool) -> Canvas:
    """All of the scene on a canvas, back to front."""
    canvas = Canvas(width, height, scene.camera, night)
    s = scene.street
    left, right = s.left - scene.shift, s.right - scene.shift

    def own(which: int) -> Rng:
        # every part has its own stream, so that what one part draws never moves another
        return stream(scene.seed + (which << 40) % (1 << 62), FRAME_STREAM)

    street.draw_ground(canvas, scene, own(1))
    street.draw_skyline(canvas, scene, own(2))
    if s.wires:
        furniture.draw_wires(canvas, s, left, right, own(3))
    trees = own(5)
    for thing in sorted(scene.things, key=lambda t: -t.key):
        if thing.z < 2.6 and thing.kind not in ("building", "barrier", "rail"):
            continue
        if thing.kind in MOVABLE and not canvas.in_view(thing.x, thing.z, max(thing.size[0], thing.size[2]) / 2 + 1.0):
            continue
        _draw(canvas, scene, thing, trees)
    street.draw_hood(canvas, s, stream(s.number + (6 << 40), FRAME_STREAM))
    return canvas


def _draw(canvas: Canvas, scene: Scene, thing: Thing, trees: Rng) -> None:
    plain = {
        "car": cars.draw_car,
        "truck": vehicles.draw_truck,
        "bus": vehicles.draw_bus,
        "train": vehicles.draw_train,
        "pedestrian": people.draw_pedestrian,
        "bicycle": people.draw_bicycle,
        "motorcycle": people.draw_motorcycle,
        "mast": furniture.draw_mast,
        "signal": furniture.draw_signal,
        "sign": furniture.draw_sign,
        "gantry": furniture.draw_gantry,
        "barrier": furniture.draw_barrier,
        "rail": furniture.draw_barrier,
        "bridge": furniture.draw_bridge,
    }
    if thing.kind in plain:
        plain[thing.kind](canvas, thing)
    elif thing.kind == "building":
        # the streams hang on the building, not on what was drawn before it
        number = int(thing.phase * (1 << 40))
        street.draw_building(canvas, thing, stream(number, FRAME_STREAM), stream(number, NIGHT_STREAM))
    elif thing.kind == "tree":
        furniture.draw_tree(canvas, thing, trees)
    elif thing.kind == "lamp":
        furniture.draw_lamp(canvas, thing, scene.street)
    else:
        furniture.draw_clutter(canvas, thing)


def read_frame(canvas: Canvas, scene: Scene, timeofday: str) -> Frame:
    """The labels: what is in view enough, with extents from the painted object numbers."""
    counts = cv2.calcHist([canvas.ids], [0], None, [256], [0, 256]).ravel()
    boxes: list[Box] = []
    for owner, mark in canvas.marks.items():
        if mark.extent is None or mark.pixels == 0:
            continue
        x1, y1, x2, y2 = (v / SUPERSAMPLE for v in mark.extent)
        short, long = sorted((x2 - x1, y2 - y1))
        visible = float(counts[owner]) / mark.pixels
        if visible < MIN_VISIBLE or short < MIN_SHORT * canvas.width or long < MIN_LONG * canvas.width:
            continue
        whole = np.maximum(mark.high - mark.low, 1e-6)
        inside = (x2 - x1) * (y2 - y1) * SUPERSAMPLE**2 / float(whole[0] * whole[1])
        if inside < 0.12:
            continue
        out = mark.low[0] < -1 or mark.low[1] < -1 or mark.high[0] > canvas.w + 1 or mark.high[1] > canvas.h + 1
        boxes.append(
            Box(
                x1,
                y1,
                x2,
                y2,
                mark.category,
                mark.light_color,
                visible < OCCLUDED_BELOW,
                bool(out),
                id=str(owner),
            )
        )
    drive = drive_name(scene.street.number)
    return Frame(
        name=frame_name(scene.seed),
        boxes=boxes,
        width=canvas.width,
        height=canvas.height,
        timeofday=timeofday,
        weather=scene.street.weather,
        scene=scene.street.scene,
        video=drive,
    )
