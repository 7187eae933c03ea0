"""Scenes of the sample world a second, one process, one thread.

taskset -c 0 python benchmarks/scenes_speed.py
"""

from __future__ import annotations

import argparse
import statistics
import time

import cv2
from common import header

from nightaug.data.scenes import WORLD_VERSION, render


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=60)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    header()
    for width, height in ((512, 288), (1280, 720)):
        for timeofday in ("daytime", "night"):
            seconds = []
            for seed in range(arguments.scenes):
                began = time.perf_counter()
                render(4 * seed, width, height, timeofday)
                seconds.append(time.perf_counter() - began)
            median = statistics.median(seconds[2:])
            what = f"world {WORLD_VERSION} {width}x{height} {timeofday:>7}"
            print(f"{what}: {1 / median:5.1f} scenes/s (median of {len(seconds) - 2})")


if __name__ == "__main__":
    main()
