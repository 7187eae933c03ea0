"""How much of the night gap an arm recovers, with a paired bootstrap over test images and seeds.

A replicate draws the test images once, with replacement, and all arms and seeds are measured on that draw; it draws the
training seeds once, with replacement, and all arms use those. So what all arms share, easy images or a lucky seed,
cancels out of their differences. Of S seeds, S - 1 are drawn: the mean of S drawn ones has (S - 1) / S of the variance
that it should have, a third too little with three seeds (Rao and Wu, 1988). Intervals run from the 2.5% to the 97.5%
percentile of the replicates; at both ends the replicate further out is taken, nothing is interpolated.

The night gap recovered is a ratio, (arm - day) / (ceiling - day), and a ratio whose denominator may be 0 has no
interval. It is therefore only given where the interval of (ceiling - day) lies above 0; fewer than 2.5% of the
replicates then have a denominator of 0 or less. Those say nothing of a share: they count as minus infinity for the
lower end and as plus infinity for the upper end, so that they can only make the interval wider.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nightaug.detect.average_precision import Matches, average_precision

Floats = NDArray[np.float64]

#: Percentiles an interval runs between.
LOW, HIGH = 2.5, 97.5


class Samples(NamedTuple):
    """The AP of one arm, on the test images and on every draw of them.

    ``point`` (S, C) and ``drawn`` (S, R, C): S seeds, R replicates, C classes; fractions, nan where a class has no box.
    """

    seeds: tuple[int, ...]
    point: Floats
    drawn: Floats


class Estimate(NamedTuple):
    """A value with its 95% interval, and the replicates behind it."""

    value: float
    low: float
    high: float
    replicates: Floats

    def as_dict(self) -> dict[str, float | None]:
        """For JSON; null where nothing could be measured."""
        return {name: or_null(getattr(self, name)) for name in ("value", "low", "high")}


def or_null(value: float) -> float | None:
    """A number for JSON, which knows neither nan nor infinity."""
    return float(value) if np.isfinite(value) else None


def draw_images(images: int, replicates: int, seed: int) -> NDArray[np.int32]:
    """How often each image counts in each replicate: (R, n), every row sums to n."""
    rng = np.random.default_rng([seed, images])
    return np.stack([np.bincount(rng.integers(0, images, images), minlength=images) for _ in range(replicates)]).astype(
        np.int32
    )


def draw_seeds(seeds: int, replicates: int, seed: int) -> NDArray[np.int64]:
    """Positions of the training seeds each replicate uses: (R, S - 1), or (R, 1) of a single seed."""
    return np.random.default_rng([seed, seeds, 1]).integers(0, seeds, (replicates, max(1, seeds - 1)))


def drawn_ap(matches: Matches, draws: NDArray[np.int32], progress: Callable[[int], None] = lambda done: None) -> Floats:
    """The AP of every class on every draw of the images: (R, C)."""
    rows = []
    for number, weights in enumerate(draws, 1):
        rows.append(average_precision(matches, weights).ap)
        progress(number)
    return np.stack(rows)


def _class_mean(values: Floats) -> Floats:
    """Mean over the last axis without its nans; nan where all are."""
    known = np.isfinite(values)
    total, number = np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def means(arms: Sequence[Samples], classes: Sequence[int], seed: int) -> list[tuple[float, Floats]]:
    """The mean AP over ``classes`` and seeds of each arm, and its replicates (R,), paired.

    Only seeds that all the arms have are used.
    """
    common = [s for s in arms[0].seeds if all(s in arm.seeds for arm in arms)]
    assert common, "no seed in common"
    replicates = arms[0].drawn.shape[1]
    draws = draw_seeds(len(common), replicates, seed)
    result = []
    for arm in arms:
        at = [arm.seeds.index(s) for s in common]
        point = float(_class_mean(arm.point[at][:, classes]).mean())
        drawn = _class_mean(arm.drawn[at][:, :, classes])  # (S, R); draws.T is (S - 1, R)
        result.append((point, drawn[draws.T, np.arange(replicates)].mean(axis=0)))
    return result


def common_seeds(*arms: Samples) -> bool:
    """Whether the arms share a seed, and so can be compared."""
    return bool(set(arms[0].seeds).intersection(*(arm.seeds for arm in arms)))


def estimate(value: float, replicates: Floats) -> Estimate:
    """A value with the interval of its replicates; those that could not be measured (nan) are left out."""
    known = replicates[~np.isnan(replicates)]
    if not len(known):
        return Estimate(value, np.nan, np.nan, replicates)
    low = float(np.percentile(known, LOW, method="lower"))
    return Estimate(value, low, float(np.percentile(known, HIGH, method="higher")), replicates)


def difference(arm: Samples, day: Samples, classes: Sequence[int], seed: int) -> Estimate:
    """AP of ``arm`` less AP of ``day``, mean over ``classes``."""
    (value, drawn), (base, base_drawn) = means([arm, day], classes, seed)
    return estimate(value - base, drawn - base_drawn)


def recovered(arm: Samples, day: Samples, ceiling: Samples, classes: Sequence[int], seed: int) -> dict[str, Any]:
    """The night gap recovered: ``{"value", "low", "high"}``, or ``{"not_measurable": why}``."""
    (value, drawn), (base, base_drawn), (top, top_drawn) = means([arm, day, ceiling], classes, seed)
    gap = estimate(top - base, top_drawn - base_drawn)
    why = not_measurable(gap)
    if why:
        return {"not_measurable": why}
    over, under = drawn - base_drawn, gap.replicates
    known = ~np.isnan(under)
    over, under = over[known], under[known]
    sound = under > 0
    share = np.divide(over, under, where=sound, out=np.zeros_like(under))
    return {
        "value": float((value - base) / gap.value),
        "low": or_null(float(np.percentile(np.where(sound, share, -np.inf), LOW, method="lower"))),
        "high": or_null(float(np.percentile(np.where(sound, share, np.inf), HIGH, method="higher"))),
    }


def not_measurable(gap: Estimate) -> str:
    """Why there is no night gap to recover, empty where there is one."""
    if not np.isfinite([gap.value, gap.low, gap.high]).all():
        return "no class has boxes in enough draws of the test images"
    span = f"{100 * gap.value:z.1f} AP, {100 * gap.low:z.1f} to {100 * gap.high:z.1f}"
    if gap.high < 0:
        return f"the ceiling is below day only ({span})"
    if gap.low <= 0:
        return f"the ceiling is not clearly above day only ({span})"
    return ""
