"""Evaluation against pycocotools on the same made data, side by side in one process and on one thread.

taskset -c 0 python benchmarks/evaluate_speed.py

Data: --images images, 10 classes, at most 100 detections an image, some crowd boxes and tied scores. "twelve
numbers" is COCO's evaluation alone, equal to the last bit; "everything" adds AP by class, time of day, weather and
scene, curves and the confusion matrix. The last line is one draw of a bootstrap, against evaluating again. Times are
seconds of this process's CPU: all of it is computing on one thread, and another program on the core does not count.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import header

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from made_detections import made, pycocotools_evaluation

from nightaug.detect.average_precision import average_precision, match
from nightaug.detect.eval_coco import NUMBERS, coco_numbers
from nightaug.detect.evaluate import evaluate


def seconds(call: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """Median CPU time of a call, and what it gave."""
    times, value = [], None
    for _ in range(rounds):
        began = time.process_time()
        value = call()
        times.append(time.process_time() - began)
    return statistics.median(times), value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    header()
    truth, results = made(0, images=arguments.images, classes=11, boxes=25, detections=100)
    print(f"{arguments.images} images, {len(truth.annotations):,} boxes, {len(results):,} detections, 10 classes")
    # In turns, so that a busy moment of the machine falls on all of them.
    times: dict[str, list[float]] = {"pycocotools": [], "twelve numbers": [], "everything": []}
    calls: dict[str, Callable[[], Any]] = {
        "pycocotools": lambda: pycocotools_evaluation(truth, results),
        "twelve numbers": lambda: coco_numbers(truth, results),
        "everything": lambda: evaluate(truth, results),
    }
    values: dict[str, Any] = {}
    for _ in range(arguments.rounds):
        for name, call in calls.items():
            with contextlib.redirect_stdout(io.StringIO()):
                taken, values[name] = seconds(call, 1)
            times[name].append(taken)
    base = statistics.median(times["pycocotools"])
    for name, taken_all in times.items():
        median = statistics.median(taken_all)
        print(f"{name:>15}: {median:6.2f} s, {base / median:4.1f} x pycocotools (median of {arguments.rounds})")
    numbers = [values["twelve numbers"][0][name] for name in NUMBERS]
    same = numbers == [None if value == -1 else float(value) for value in values["pycocotools"].stats]
    print(f"the twelve numbers are {'equal to the last bit' if same else 'NOT EQUAL'}")
    once, matches = seconds(lambda: match(truth, results), arguments.rounds)
    drawn = np.random.default_rng(0).multinomial(arguments.images, [1 / arguments.images] * arguments.images)
    draw, _ = seconds(lambda: average_precision(matches, drawn), 50)
    print(f"a bootstrap draw: {draw * 1e3:.1f} ms after {once:.2f} s of matching, {base / draw:,.0f} x pycocotools")
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
