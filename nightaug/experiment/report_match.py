"""Hits, misses and false alarms of each arm on the same images, and which images to show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nightaug.detect.eval_arrays import as_boxes, assign, by_score
from nightaug.detect.truth import Truth

#: Overlap from which a detection counts as finding an object.
IOU = 0.5

Row = Mapping[str, Any]


class Outcome(NamedTuple):
    """What an arm did on an image: rows of its results, and annotations of the truth."""

    hits: list[Row]
    missed: list[Row]
    false: list[Row]


def outcomes(truth: Truth, results: Sequence[dict[str, Any]], score: float, iou: float = IOU) -> dict[int, Outcome]:
    """Image id -> what was hit, missed and made up there.

    As for AP: within a class, the surest detection first takes the free object it overlaps most. Crowds are ignored,
    and so are detections that lie in one of their class.

    Args:
        results: rows of a results file, in the truth's numbers; those under ``score`` are left out.
        iou: least overlap of a hit.
    """
    found: dict[int, Outcome] = {image["id"]: Outcome([], [], []) for image in truth.images}
    kept = [row for row in results if row["score"] >= score]
    true, detected = as_boxes(truth, truth.annotations), as_boxes(truth, kept)
    images = len(truth.images)
    order = by_score(detected, detected.label * images + detected.image, max(1, len(kept)))
    detected = detected.take(order)
    match = assign(
        detected, detected.label * images + detected.image, true, true.label * images + true.image, np.array([iou])
    )
    for at, taken, ignored in zip(order.tolist(), match.taken[0].tolist(), match.in_crowd[0].tolist(), strict=True):
        outcome = found[kept[at]["image_id"]]
        if taken >= 0:
            outcome.hits.append(kept[at])
        elif not ignored:
            outcome.false.append(kept[at])
    hit = set(match.taken[0].tolist())
    for at, row in enumerate(truth.annotations):
        if at not in hit and not row["iscrowd"]:
            found[row["image_id"]].missed.append(row)
    return found


class Shown(NamedTuple):
    """An image to show: its id, why it was chosen, and what each arm did on it."""

    image: int
    at_random: bool
    outcomes: dict[str, Outcome]


def choose(
    truth: Truth, arms: Mapping[str, Mapping[int, Outcome]], there: set[int], most: int = 5, random: int = 3
) -> list[Shown]:
    """Images to show: those where the arms' numbers of hits differ most, then some drawn at random.

    Which ones depends on the files only. Images without an object, or only with crowds, are not shown.

    Args:
        arms: arm -> image id -> outcome.
        there: ids of the images that can be shown.
        most, random: how many of each kind.
    """
    objects = Counter(row["image_id"] for row in truth.annotations if not row["iscrowd"])
    images = sorted(there & set(objects))
    difference = {}
    for image in images:
        hits = [len(found[image].hits) for found in arms.values()]
        difference[image] = max(hits, default=0) - min(hits, default=0)
    first = [image for image in sorted(images, key=lambda image: (-difference[image], image)) if difference[image]]
    first = first[:most]
    rest = [image for image in images if image not in first]
    drawn = sorted(np.random.default_rng(0).permutation(len(rest))[:random].tolist())
    chosen = [(image, False) for image in first] + [(rest[at], True) for at in drawn]
    return [
        Shown(image, by_chance, {name: found[image] for name, found in arms.items()}) for image, by_chance in chosen
    ]
