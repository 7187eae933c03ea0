"""Finished night images made more like real ones, to learn what a translator lacks.

    python benchmarks/uneven_light.py TRANSLATED --out FOLDER [--amplitude 0.7] [--least 0.1] [--flat 0.3]
    python benchmarks/uneven_light.py TRANSLATED --out FOLDER --labels DATASET

Broad shading that day has left is taken away and broad random light put on, with noise. With ``--labels``, the dataset
that was translated, there is more contrast between neighbouring pixels, and roofs and ends of vehicles fade, too.
Copies a translated folder and changes its images; labels and manifest stay as they are. A trial (RESULTS.md, "Uneven
light" and "What relit cars lacked"), not a translator: `relight` has gentler forms, ``dapple``, ``detail``,
``roof_fade`` and ``side_fade``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

GAMMA = 2.2
#: Light as linear values in 0..1 from which on a pixel is a lamp, which stays as it is; and the step of log light.
LAMP, STEP = 0.25, 1.0

Floats = NDArray[np.floating[Any]]


def random_light(field: Floats, chance: np.random.Generator, least: float, most: float) -> Floats:
    """A field (H, W) of log light, and random light of three sizes on it, each of a deviation between two."""
    height, width = field.shape
    for scale in np.exp(chance.uniform(np.log(12), np.log(150), 3)):
        shape = (max(2, int(height / scale) + 2), max(2, int(width / scale) + 2))
        spots = chance.standard_normal(shape).astype(np.float32)
        field = field + chance.uniform(least, most) * cv2.resize(spots, (width, height), interpolation=cv2.INTER_CUBIC)
    return field


def seen(linear: Floats, light: Floats, change: Floats, chance: np.random.Generator, most: float = np.inf) -> Floats:
    """An image in 0..255 of linear light, changed by logs (H, W) but where lamps are, with noise.

    Args:
        light: log light, by which lamps are known.
        most: of the change.
    """
    lamps = np.clip((light - np.log(LAMP)) / STEP, 0, 1)
    lit = linear * np.exp(np.clip(change * (1 - lamps), -most, most))[..., None]
    shown = 255 * np.clip(lit, 0, 1) ** (1 / GAMMA)
    return np.asarray(shown + chance.standard_normal(shown.shape) * chance.uniform(0, 4))


def uneven(image: NDArray[np.uint8], chance: np.random.Generator, flat: float, least: float, most: float) -> Floats:
    """An image (H, W, 3) in 0..255 with other light.

    Args:
        flat: least share of the broad shading that is taken away; up to all of it is.
        least, most: standard deviation of the random light, in log light, between these.
    """
    linear = (image.astype(np.float32) / 255) ** GAMMA + 2e-4
    light = np.log(linear.mean(2))
    broad = cv2.GaussianBlur(light, (0, 0), float(np.exp(chance.uniform(np.log(5), np.log(35)))))
    field = -chance.uniform(flat, 1.0) * (broad - broad.mean())
    return seen(linear, light, random_light(field, chance, least, most), chance)


def faded(image: NDArray[np.uint8], chance: np.random.Generator, vehicles: list[list[float]]) -> Floats:
    """The same with steeper detail, and the light of vehicles fading to their roofs and ends.

    Args:
        vehicles: YOLO boxes (centre x, centre y, width, height), shares of the image.
    """
    height, width = image.shape[:2]
    linear = (image.astype(np.float32) / 255) ** GAMMA
    light = np.log(linear.mean(2) + 1.5e-3)
    fine = light - cv2.GaussianBlur(light, (0, 0), np.exp(chance.uniform(np.log(2.5), np.log(7))))
    field = chance.uniform(0.3, 1.0) * fine
    broad = cv2.GaussianBlur(light, (0, 0), float(np.exp(chance.uniform(np.log(8), np.log(35)))))
    field -= chance.uniform(0.3, 1) * (broad - broad.mean())
    field = random_light(field, chance, 0.1, 0.7)
    fade = np.zeros((height, width), np.float32)
    rows, columns = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
    for box in vehicles:
        x, y, w, h = box[0] * width, box[1] * height, box[2] * width, box[3] * height
        if max(w, h) < 10:
            continue
        top, edge = chance.uniform(0, 2.0), chance.uniform(0.4, 0.6)
        ramp = np.clip((edge - (rows - (y - h / 2)) / h) / (edge - 0.05), 0, 1)
        ramp = ramp * ramp * (3 - 2 * ramp) * (rows > y - 0.6 * h)
        across = np.abs(columns - x) / (w / 2)
        roof = top * ramp * np.clip((1.15 - across) / 0.15, 0, 1)
        ends = chance.uniform(0, 1.0) * np.clip((across - 0.55) / 0.45, 0, 1)
        ends = ends * (across < 1.12) * (np.abs(rows - y) < 0.55 * h)
        fade = np.maximum(fade, np.maximum(roof, ends))
    return seen(linear, light, field - fade, chance, most=3)


def vehicles_in(label: Path, classes: list[int]) -> list[list[float]]:
    """The YOLO boxes of some classes."""
    rows = [[float(word) for word in line.split()] for line in label.read_text().splitlines()]
    return [row[1:5] for row in rows if int(row[0]) in classes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("translated", type=Path, help="folder of nightaug translate")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--flat", type=float, default=0.3, help="least share of the shading that is taken away")
    parser.add_argument("--least", type=float, default=0.1, help="least of the random light, in log light")
    parser.add_argument("--amplitude", type=float, default=0.7, help="most of it")
    parser.add_argument("--labels", type=Path, help="the dataset that was translated: fade its vehicles as well")
    given = parser.parse_args()
    names = yaml.safe_load((given.labels / "dataset.yaml").read_text())["names"] if given.labels else {}
    classes = [number for number, name in names.items() if name in ("car", "truck", "bus")]
    shutil.copytree(given.translated, given.out, symlinks=True)
    rows = [json.loads(line) for line in (given.out / "manifest.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows, 1):
        chance = np.random.default_rng(zlib.crc32(row["output"].encode()))
        image = np.asarray(Image.open(given.translated / row["output"]).convert("RGB"))
        if given.labels:
            boxes = vehicles_in((given.labels / row["source"]).with_suffix(".txt"), classes)
            changed = faded(image, chance, boxes)
        else:
            changed = uneven(image, chance, given.flat, given.least, given.amplitude)
        Image.fromarray(np.clip(changed, 0, 255).astype(np.uint8)).save(given.out / row["output"], quality=92)
        if number % 100 == 0:
            print(f"{number:,} of {len(rows):,}", flush=True)


if __name__ == "__main__":
    main()
