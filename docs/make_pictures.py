"""The pictures of the README and the docs, all made from the sample world (no photographs).

python docs/make_pictures.py DEMO      # DEMO: the folder `make demo` made
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from nightaug import Translator
from nightaug.data.formats import open_dataset
from nightaug.data.frames import Box
from nightaug.data.scenes import render
from nightaug.images import ImageArray, read_image, write_image

PICTURES = Path(__file__).parent / "pictures"
COLORS = {"car": (80, 255, 120), "traffic light": (255, 220, 60), "traffic sign": (80, 220, 255)}


def with_boxes(image: ImageArray, boxes: list[Box]) -> ImageArray:
    out = image.copy()
    for box in boxes:
        corners = [round(v) for v in box.xyxy]
        cv2.rectangle(out, corners[:2], corners[2:], COLORS.get(box.category, (255, 120, 220)), 1)
    return out


def sheet(rows: list[list[ImageArray]]) -> ImageArray:
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def main() -> None:
    seeds = (0, 12, 20, 40)
    world = [[render(seed, 512, 288, time)[0] for seed in seeds] for time in ("daytime", "night")]
    write_image(PICTURES / "sample-world.jpg", sheet(world), quality=88)

    relight = Translator.load("relight")
    day, night = [], []
    for seed in (16, 28, 44):
        image, frame = render(seed, 640, 360, "daytime")
        day.append(with_boxes(image, frame.boxes))
        night.append(with_boxes(relight(image, frame.boxes, seed), frame.boxes))
    write_image(PICTURES / "relight.jpg", sheet([day, night]), quality=88)

    demo = Path(sys.argv[1])
    gan = Translator.load(demo / "translator")
    frames = [frame for frame in open_dataset(demo / "dataset").frames("test", "A") if frame.path]
    chosen = frames[:: max(1, len(frames) // 4)][:4]
    images = [read_image(frame.path) for frame in chosen if frame.path]
    write_image(PICTURES / "cyclegan-demo.jpg", sheet([images, [gan(image) for image in images]]), quality=88)


if __name__ == "__main__":
    main()
