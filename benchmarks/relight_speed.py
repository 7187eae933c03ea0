"""Images ``relight`` renders a second of CPU time, one thread: what else runs on the machine counts little.

taskset -c 0 python benchmarks/relight_speed.py [--width 640 --height 384]
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
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=720)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    header()
    width, height = arguments.width, arguments.height
    seconds, boxes = [], 0
    for seed in range(arguments.images):
        image, frame = render(4 * seed, width, height)
        boxes += len(frame.boxes)
        began = time.process_time()
        relight(image, frame.boxes, seed=seed)
        seconds.append(time.process_time() - began)
    median = statistics.median(seconds[2:])
    mean = boxes / arguments.images
    print(f"{width}x{height}, {mean:.0f} boxes an image: {1 / median:.1f} images/s, median of {len(seconds) - 2}")


if __name__ == "__main__":
    main()
