"""AP and recall of seen and unseen classes from one list of detections (METHODS section 5.6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightaug.detect.average_precision import Matches, average_precision, match
from nightaug.detect.truth import Truth

#: Detections of an image that count, of all classes together: the best ones.
LIMIT = 100
#: What is given of every group of classes, fractions 0 to 1: COCO's AP, AP at IoU 0.5, and the share of boxes found at
#: IoU 0.5 with :data:`LIMIT` detections an image; means over the classes that have boxes.
MEASURES = ("AP", "AP50", "recall_100")


def best_of_each_image(rows: Sequence[dict[str, Any]], limit: int = LIMIT) -> list[dict[str, Any]]:
    """At most ``limit`` detections of an image, the best by score (ties as given), in the order given."""
    scores = np.array([row["score"] for row in rows], np.float64)
    images = np.array([row["image_id"] for row in rows], np.int64)
    order = np.lexsort((-scores, images))
    ordered = images[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(rows) else np.zeros(0, np.int64)
    rank = np.arange(len(rows)) - np.repeat(starts, np.diff(np.r_[starts, len(rows)]))
    kept = np.sort(order[rank < limit])
    return [rows[at] for at in kept]


def class_measures(matches: Matches, inside: NDArray[np.bool_] | None = None) -> dict[str, NDArray[np.float64]]:
    """Every measure of every class, (K,), nan for a class without boxes.

    Args:
        inside: (n_images,) the images that count; None: all.
    """
    weights = np.ones(matches.n_images) if inside is None else inside.astype(np.float64)
    found = average_precision(matches, weights)
    recall = []
    for each in matches.per_class:
        boxes = float(each.boxes @ weights)
        recall.append(float(weights[each.image][each.hit[0]].sum()) / boxes if boxes else float("nan"))
    return {"AP": found.ap, "AP50": found.ap50, "recall_100": np.array(recall, np.float64)}


def group_means(
    measures: Mapping[str, NDArray[np.float64]], groups: Mapping[str, NDArray[np.bool_]]
) -> dict[str, dict[str, float | None]]:
    """Group -> measure -> mean over the group's classes with boxes; None where none has any."""
    result: dict[str, dict[str, float | None]] = {}
    for name, members in groups.items():
        result[name] = {}
        for key, values in measures.items():
            known = values[members & ~np.isnan(values)]
            result[name][key] = float(known.mean()) if len(known) else None
    return result


def harmonic(seen: float | None, unseen: float | None) -> float | None:
    """Harmonic mean, 0 where one is 0; None where one is not known."""
    if seen is None or unseen is None:
        return None
    return 2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0


def summary(
    measures: Mapping[str, NDArray[np.float64]], groups: Mapping[str, NDArray[np.bool_]]
) -> dict[str, dict[str, float | None]]:
    """``seen``, ``unseen`` and ``all`` of :func:`group_means`, and ``HM``, seen's and unseen's harmonic mean."""
    means = group_means(measures, groups)
    both = {key: harmonic(means["seen"][key], means["unseen"][key]) for key in MEASURES}
    return {**means, "HM": both}


def shuffled(rows: Sequence[dict[str, Any]], seed: int, number: int) -> list[dict[str, Any]]:
    """The same boxes and scores with the class names dealt anew among them."""
    dealt = np.random.default_rng([seed, 29, number]).permutation([row["category_id"] for row in rows])
    return [{**row, "category_id": int(category)} for row, category in zip(rows, dealt, strict=True)]


def chance(
    truth: Truth,
    rows: Sequence[dict[str, Any]],
    groups: Mapping[str, NDArray[np.bool_]],
    times: int,
    seed: int,
) -> dict[str, dict[str, float | None]]:
    """Mean AP50 of each group, and its standard deviation, where every box has the class of another one.

    What a detector reaches that finds objects and does not know what they are.
    """
    values: dict[str, list[float]] = {}
    for number in range(times):
        found = class_measures(match(truth, shuffled(rows, seed, number)))
        for name, means in summary(found, groups).items():
            if (value := means["AP50"]) is not None:
                values.setdefault(name, []).append(value)
    return {
        name: {
            "AP50": float(np.mean(values[name])) if name in values else None,
            "deviation": float(np.std(values[name])) if name in values else None,
        }
        for name in (*groups, "HM")
    }
