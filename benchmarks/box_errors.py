"""What a detector's AP is lost by: objects it does not find, or boxes that are ill placed?

    python benchmarks/box_errors.py COMPARISON --arm SLUG --seed 0 [--category car] [--dev]

Of a finished row of ``nightaug compare``: AP (IoU 0.5 to 0.95), AP at one IoU down to 0.1, where nearly any box over an
object counts, and AP if every first detection that touches an object (IoU 0.1) had that object's box.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nightaug.boxes import iou, xywh_to_xyxy
from nightaug.detect.average_precision import IOUS, average_precision, match
from nightaug.detect.truth import Truth

TOUCHES = 0.1


def put_right(truth: Truth, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The detections, best first; the first one that touches an object has that object's box."""
    boxes: dict[tuple[int, int], list[Any]] = {}
    for one in truth.annotations:
        if not one["iscrowd"]:
            boxes.setdefault((one["image_id"], one["category_id"]), []).append(one["bbox"])
    done: set[tuple[int, int, int]] = set()
    made = []
    for one in sorted(results, key=lambda result: -result["score"]):
        true = boxes.get(group := (one["image_id"], one["category_id"]), [])
        shares = iou(xywh_to_xyxy([one["bbox"]]), xywh_to_xyxy(true))[0] if true else np.zeros(1)
        place = int(shares.argmax())
        if shares[place] >= TOUCHES and (*group, place) not in done:
            done.add((*group, place))
            made.append({**one, "bbox": true[place]})
        else:
            made.append(one)
    return made


def errors(truth: Truth, results: Sequence[dict[str, Any]], category: str) -> dict[str, float]:
    """The figures of one class, in per cent."""
    place = truth.classes.index(category)
    own = [result for result in results if result["category_id"] == place + 1]

    def precision(found: Sequence[dict[str, Any]], ious: Any = IOUS) -> float:
        return 100 * float(average_precision(match(truth, found, np.atleast_1d(ious))).ap[place])

    figures = {"AP": precision(own)} | {f"AP{at * 100:.0f}": precision(own, at) for at in (0.5, 0.3, 0.1)}
    return figures | {"AP, boxes put right": precision(put_right(truth, own))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path)
    parser.add_argument("--arm", required=True, help="name of its folder in COMPARISON/runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--category", default="car")
    parser.add_argument("--dev", action="store_true", help="on dev, in place of the test images")
    given = parser.parse_args()
    truth, detections = ("dev_truth.json", "dev_detections.json") if given.dev else ("truth.json", "detections.json")
    row = given.comparison / "runs" / given.arm / f"seed{given.seed}"
    results = json.loads((row / detections).read_text())
    figures = errors(Truth.read(given.comparison / truth), results, given.category)
    print(f"{given.arm}, seed {given.seed}, {given.category}: " + ", ".join(f"{k} {v:.1f}" for k, v in figures.items()))


if __name__ == "__main__":
    main()
