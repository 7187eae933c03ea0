"""What a detector's AP is lost by: objects it does not find, or boxes that are ill placed?

    python benchmarks/box_errors.py COMPARISON --arm SLUG --seed 0 [--category car] [--dev]

Of a finished row of ``nightaug compare``: AP (IoU 0.5 to 0.95), AP at one IoU down to 0.1, where nearly any box over an
object counts, and AP if every first detection that touches an object (IoU 0.1) had that object's box.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
IOUS = np.linspace(0.5, 0.95, 10)
TOUCHES = 0.1


class Found(NamedTuple):
    """A detection: its image, its box (x, y, width, height), and its score."""

    image: int
    box: Sequence[float]
    score: float


def overlaps(box: Sequence[float], others: Floats) -> Floats:
    """IoU of a box with (P, 4) others, all x, y, width, height."""
    left, top = np.maximum(box[0], others[:, 0]), np.maximum(box[1], others[:, 1])
    right = np.minimum(box[0] + box[2], others[:, 0] + others[:, 2])
    bottom = np.minimum(box[1] + box[3], others[:, 1] + others[:, 3])
    inside = np.clip(right - left, 0, None) * np.clip(bottom - top, 0, None)
    return np.asarray(inside / np.maximum(box[2] * box[3] + others[:, 2] * others[:, 3] - inside, 1e-9))


def precision_at(found: Sequence[Found], true: Mapping[int, Floats], least: float) -> float:
    """AP at one IoU, in per cent; detections best score first."""
    taken = {image: np.zeros(len(boxes), bool) for image, boxes in true.items()}
    hits = []
    for one in found:
        hit = False
        if one.image in true:
            share = np.where(taken[one.image], -1, overlaps(one.box, true[one.image]))
            hit = bool(share.max() >= least)
            taken[one.image][int(share.argmax())] |= hit
        hits.append(hit)
    right = np.cumsum(hits)
    recall = right / sum(len(boxes) for boxes in true.values())
    precision = np.maximum.accumulate((right / np.arange(1, len(hits) + 1))[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101))
    return 100 * float(np.mean(np.append(precision, 0)[np.minimum(at, len(precision))]))


def put_right(found: Sequence[Found], true: Mapping[int, Floats]) -> list[Found]:
    """The detections, the first one that touches an object with that object's box."""
    done: set[tuple[int, int]] = set()
    made = []
    for one in found:
        if one.image in true:
            share = overlaps(one.box, true[one.image])
            place = int(share.argmax())
            if share[place] >= TOUCHES and (one.image, place) not in done:
                done.add((one.image, place))
                made.append(one._replace(box=true[one.image][place].tolist()))
                continue
        made.append(one)
    return made


def errors(truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], category: str) -> dict[str, float]:
    """The figures of one class; crowds are left out of the truth, so a detection of one counts as false."""
    number = next(one["id"] for one in truth["categories"] if one["name"] == category)
    boxes: dict[int, list[Sequence[float]]] = {}
    for one in truth["annotations"]:
        if one["category_id"] == number and not one["iscrowd"]:
            boxes.setdefault(one["image_id"], []).append(one["bbox"])
    true = {image: np.array(some, float) for image, some in boxes.items()}
    found = [Found(d["image_id"], d["bbox"], d["score"]) for d in detections if d["category_id"] == number]
    found.sort(key=lambda one: -one.score)

    def mean(some: Sequence[Found]) -> float:
        return float(np.mean([precision_at(some, true, iou) for iou in IOUS]))

    figures = {"AP": mean(found)} | {f"AP{iou * 100:.0f}": precision_at(found, true, iou) for iou in (0.5, 0.3, 0.1)}
    return figures | {"AP, boxes put right": mean(put_right(found, true))}


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
    figures = errors(
        json.loads((given.comparison / truth).read_text()), json.loads((row / detections).read_text()), given.category
    )
    print(f"{given.arm}, seed {given.seed}, {given.category}: " + ", ".join(f"{k} {v:.1f}" for k, v in figures.items()))


if __name__ == "__main__":
    main()
