"""Uneven light on finished night images: broad shading that day has left is taken away, broad random light put on.

    python benchmarks/uneven_light.py TRANSLATED --out FOLDER [--amplitude 0.7] [--least 0.1] [--flat 0.3]

Copies a translated folder and changes its images; labels and manifest stay as they are. A trial of what relit images
lack (RESULTS.md, "Uneven light"), not a translator: `relight` has a gentler form of it, `dapple`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import zlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

GAMMA = 2.2
#: Light as linear values in 0..1 from which on a pixel is a lamp, which stays as it is; and the step of log light.
LAMP, STEP = 0.25, 1.0

Floats = NDArray[np.float32]


def uneven(image: NDArray[np.uint8], chance: np.random.Generator, flat: float, least: float, most: float) -> Floats:
    """An image (H, W, 3) in 0..255 with other light.

    Args:
        flat: least share of the broad shading that is taken away; up to all of it is.
        least, most: standard deviation of the random light, in log light, between these.
    """
    height, width = image.shape[:2]
    linear = (image.astype(np.float32) / 255) ** GAMMA + 2e-4
    light = np.log(linear.mean(2))
    broad = cv2.GaussianBlur(light, (0, 0), float(np.exp(chance.uniform(np.log(5), np.log(35)))))
    field = -chance.uniform(flat, 1.0) * (broad - broad.mean())
    for scale in np.exp(chance.uniform(np.log(12), np.log(150), 3)):
        shape = (max(2, int(height / scale) + 2), max(2, int(width / scale) + 2))
        spots = chance.standard_normal(shape).astype(np.float32)
        field = field + chance.uniform(least, most) * cv2.resize(spots, (width, height), interpolation=cv2.INTER_CUBIC)
    lamps = np.clip((light - np.log(LAMP)) / STEP, 0, 1)
    lit = linear * np.exp(field * (1 - lamps))[..., None]
    seen = 255 * np.clip(lit, 0, 1) ** (1 / GAMMA)
    return seen + chance.standard_normal(seen.shape) * chance.uniform(0, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("translated", type=Path, help="folder of nightaug translate")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--flat", type=float, default=0.3, help="least share of the shading that is taken away")
    parser.add_argument("--least", type=float, default=0.1, help="least of the random light, in log light")
    parser.add_argument("--amplitude", type=float, default=0.7, help="most of it")
    given = parser.parse_args()
    shutil.copytree(given.translated, given.out, symlinks=True)
    rows = [json.loads(line) for line in (given.out / "manifest.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows, 1):
        chance = np.random.default_rng(zlib.crc32(row["output"].encode()))
        image = np.asarray(Image.open(given.translated / row["output"]).convert("RGB"))
        seen = uneven(image, chance, given.flat, given.least, given.amplitude)
        Image.fromarray(np.clip(seen, 0, 255).astype(np.uint8)).save(given.out / row["output"], quality=92)
        if number % 100 == 0:
            print(f"{number:,} of {len(rows):,}", flush=True)


if __name__ == "__main__":
    main()
