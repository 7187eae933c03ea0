"""How often a CLIP names a labelled crop rightly, by the size of the object: read before trusting its embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightaug.clip.prompts import Prompts
from nightaug.clip.region_cache import RegionCache, regions_of
from nightaug.data.classes import canonical_class
from nightaug.data.frames import Frame

#: Edges of the size bins: square root of a box's area, pixels.
SIZE_EDGES: tuple[float, ...] = (0, 8, 16, 32, 64, 128, float("inf"))


def crop_accuracy(
    cache: RegionCache,
    frames: Sequence[Frame],
    prompts: Prompts,
    classes: Sequence[str],
    edges: Sequence[float] = SIZE_EDGES,
) -> dict[str, Any]:
    """Nearest text embedding against the label, over every embedded box of ``frames`` whose class is in ``classes``.

    Args:
        cache: filled for ``frames``.

    Returns:
        ``{"crops", "all": row, "by_size": [row], "by_class": {name: {"crops", "accuracy"}}, "by_time": {time: row}}``,
        a row being ``{"crops", "accuracy", "majority", "balanced", "classes"}``: the share named rightly, the share of
        the commonest class in that very row (what naming it always would reach), the mean of the classes' shares, and
        how many classes the row has (1/classes is what guessing reaches in the balanced one).
    """
    names = [canonical_class(name) for name in classes]
    text = prompts.embed(names).cpu().numpy()
    number = {name: i for i, name in enumerate(names)}
    label, guess, size, time = [], [], [], []
    for frame in frames:
        rows, mask = cache.lookup(frame)
        vectors = rows.astype(np.float32)
        vectors = vectors if vectors.ndim == 2 else vectors.mean(axis=1)
        boxes = regions_of(frame).boxes
        for i, box in enumerate(frame.boxes):
            own = number.get(canonical_class(box.category))
            if own is None or not mask[i]:
                continue
            label.append(own)
            guess.append(int(np.argmax(text @ vectors[i])))
            size.append(float(np.sqrt((boxes[i, 2] - boxes[i, 0]) * (boxes[i, 3] - boxes[i, 1]))))
            time.append(frame.timeofday or "undefined")
    truth, named = np.array(label, int), np.array(guess, int)
    sizes, times = np.array(size), np.array(time)
    bins = []
    for low, high in pairwise(edges):
        inside = (sizes >= low) & (sizes < high)
        if inside.any():
            bins.append({"from": low, "to": None if np.isinf(high) else high, **_row(truth[inside], named[inside])})
    return {
        "crops": len(truth),
        "all": _row(truth, named),
        "by_size": bins,
        "by_class": {
            name: {"crops": int((truth == i).sum()), "accuracy": float((named[truth == i] == i).mean())}
            for i, name in enumerate(names)
            if (truth == i).any()
        },
        "by_time": {str(each): _row(truth[times == each], named[times == each]) for each in np.unique(times)},
    }


def _row(truth: NDArray[np.int_], named: NDArray[np.int_]) -> dict[str, Any]:
    if not len(truth):
        return {"crops": 0, "accuracy": None, "majority": None, "balanced": None, "classes": 0}
    present = np.unique(truth)
    return {
        "crops": len(truth),
        "accuracy": float((truth == named).mean()),
        "majority": float(np.bincount(truth).max() / len(truth)),
        "balanced": float(np.mean([(named[truth == i] == i).mean() for i in present])),
        "classes": len(present),
    }


def accuracy_table(report: dict[str, Any]) -> str:
    """The report as a Markdown table, in percent."""
    lines = ["| crops | count | right | commonest class | mean over classes |", "|---|---|---|---|---|"]
    rows = [("all", report["all"])]
    rows += [(f"{row['from']:.0f} to {row['to']:.0f} px" if row["to"] else f"over {row['from']:.0f} px", row)
             for row in report["by_size"]]  # fmt: skip
    rows += list(report["by_time"].items())
    for title, row in rows:
        if row["crops"]:
            lines.append(
                f"| {title} | {row['crops']:,} | {100 * row['accuracy']:.1f} | {100 * row['majority']:.1f} "
                f"| {100 * row['balanced']:.1f} (of {row['classes']}) |"
            )
    return "\n".join(lines)
