"""Images ``relight`` renders a second at 1280x720, one thread.

taskset -c 0 python benchmarks/relight_speed.py
"""

from __future__ import annotations

import argparse
import statistics
import time

import cv2
from common import header

from nightaug.data.scenes import render
from nightaug.relight import relight


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=30)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    header()
    seconds, boxes = [], 0
    for seed in range(arguments.images):
        image, frame = render(4 * seed, 1280, 720)
        boxes += len(frame.boxes)
        began = time.perf_counter()
        relight(image, frame.boxes, seed=seed)
        seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds[2:])
    mean = boxes / arguments.images
    print(f"1280x720, {mean:.0f} boxes an image: {1 / median:.1f} images/s, median of {len(seconds) - 2}")


if __name__ == "__main__":
    main()
