"""Did it become night? A small classifier of image statistics, trained on the spot from day and real night images.

Copies of the day images under less light, at random strength and tint, are trained on as day: a dim copy of the day is
no night, and statistics of light alone would call it one (METHODS of the project, section 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from nightaug.images import ImageArray

Floats = NDArray[np.float64]

#: Width in pixels at which images are looked at: lamps and streets remain, noise and JPEG blocks do not.
_WIDTH = 160
#: Percentiles of brightness (the largest channel) that describe an image.
_PERCENTILES = (5, 25, 50, 75, 90, 97, 99.5)
#: Added before logarithms: a level of 4 in 255.
_FLOOR = 4 / 255
#: Weight decay of the logistic regression, per image.
_DECAY = 3e-3
_FOLDS = 5
#: Fewer images on a side than this are no training set.
LEAST = 10


def dim_copy(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    """The day image under less light: a gain of 0.05 to 0.6, a gamma of 1 to 2, a blue or yellow tint."""
    gain, gamma = np.exp(rng.uniform(np.log(0.05), np.log(0.6))), rng.uniform(1, 2)
    tint = np.exp(rng.uniform(-0.35, 0.35) * np.array([1.0, 0.0, -1.0]))
    levels = (np.arange(256)[:, None] / 255) ** gamma * gain * tint
    table = np.clip(levels * 255, 0, 255).round().astype(np.uint8)
    out = np.stack([table[:, channel][image[..., channel]] for channel in range(3)], axis=2)
    return np.asarray(out, np.uint8)


def statistics(image: ImageArray) -> Floats:
    """What the classifier sees of an image: (22,) numbers, most of which no change of exposure moves.

    Brightness is the largest channel. Logarithms of its percentiles over their median, and the median itself; the
    mean log brightness of the upper, middle and lower third over that of the image; the shares of pixels ten times as
    bright as the median, and of nearly white ones; the spread of log brightness as a whole, in the upper third and from
    pixel to pixel; colour (red over blue) of the upper third, of the lower and of the brightest pixels; saturation, its
    spread, and that of the brightest pixels.
    """
    height = max(8, round(image.shape[0] * _WIDTH / image.shape[1]))
    small = cv2.resize(image, (_WIDTH, height), interpolation=cv2.INTER_AREA).astype(np.float64) / 255
    bright = small.max(axis=2)
    log = np.log(bright + _FLOOR)
    ranks = np.log(np.percentile(bright, _PERCENTILES) + _FLOOR)
    middle = ranks[2]
    thirds = [part.mean() - log.mean() for part in np.array_split(log, 3, axis=0)]
    fine = log - cv2.GaussianBlur(log, (0, 0), 2)
    warm = np.log(small[..., 0] + _FLOOR) - np.log(small[..., 2] + _FLOOR)
    saturation = (bright - small.min(axis=2)) / (bright + _FLOOR)
    parts = np.array_split(warm, 3, axis=0)
    top = bright >= np.percentile(bright, 98)
    return np.array(
        [
            middle, *(np.delete(ranks, 2) - middle), *thirds,
            float((bright > 10 * (np.exp(middle) - _FLOOR) + _FLOOR).mean()), float((bright > 0.9).mean()),
            log.std(), log[: height // 3].std(), np.abs(fine).mean(), float(np.percentile(np.abs(fine), 98)),
            parts[0].mean(), parts[2].mean(), warm[top].mean(), saturation.mean(), saturation.std(),
            saturation[top].mean(),
        ]
    )  # fmt: skip


@dataclass(frozen=True)
class NightClassifier:
    """A logistic regression over standardised statistics and their squares.

    Attributes:
        accuracy: in five-fold cross-validation, mean over real day, dim day and night, in [0, 1]. An image and its dim
            copy are always in one fold.
        day, dim, night: share of each kind that the cross-validation got right.
        images: how many of (day, dim, night) it was trained on.
    """

    mean: Floats
    spread: Floats
    weights: Floats
    accuracy: float
    day: float
    dim: float
    night: float
    images: tuple[int, int, int]

    def __call__(self, rows: Floats | Sequence[Floats]) -> Floats:
        """Probability of night of each row of statistics: (N, 22) to (N,) in [0, 1]."""
        return _probability(_inputs(np.atleast_2d(np.asarray(rows, np.float64)), self.mean, self.spread), self.weights)


def train_night_classifier(
    day: Sequence[Floats], dim: Sequence[Floats], night: Sequence[Floats], seed: int = 0
) -> NightClassifier:
    """Train on statistics of day images, of a dim copy of each of them, and of real night images.

    Raises:
        ValueError: fewer than :data:`LEAST` images on a side, or not one dim copy for each day image.
    """
    if len(day) != len(dim) or min(len(day), len(night)) < LEAST:
        raise ValueError(f"expected {LEAST} day and night images and a dim copy for each, got {len(day)}, {len(night)}")
    rows = np.concatenate([np.asarray(part, np.float64) for part in (day, dim, night)])
    kind = np.repeat([0, 1, 2], [len(day), len(dim), len(night)])
    rng = np.random.default_rng(seed)
    own, other = rng.permutation(len(day)) % _FOLDS, rng.permutation(len(night)) % _FOLDS
    fold = np.concatenate([own, own, other])
    right = np.zeros(len(rows), bool)
    for number in range(_FOLDS):
        test = fold == number
        if not test.any():
            continue
        mean, spread, weights = _fit(rows[~test], kind[~test])
        said = _probability(_inputs(rows[test], mean, spread), weights) > 0.5
        right[test] = said == (kind[test] == 2)
    shares = [float(right[kind == number].mean()) for number in range(3)]
    mean, spread, weights = _fit(rows, kind)
    counts = (len(day), len(dim), len(night))
    return NightClassifier(mean, spread, weights, float(np.mean(shares)), shares[0], shares[1], shares[2], counts)


def _inputs(rows: Floats, mean: Floats, spread: Floats) -> Floats:
    # Cut off: one odd statistic must not outvote all the others.
    scaled = np.clip((rows - mean) / spread, -4, 4)
    return np.concatenate([scaled, scaled**2 / 4, np.ones((len(rows), 1))], axis=1)


def _probability(inputs: Floats, weights: Floats) -> Floats:
    out: Floats = 1 / (1 + np.exp(-np.clip(inputs @ weights, -40, 40)))
    return out


def _fit(rows: Floats, kind: NDArray[np.int_]) -> tuple[Floats, Floats, Floats]:
    """Newton's method on the regularised likelihood; each of the three kinds weighs a half, a half and one."""
    mean, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    inputs, truth = _inputs(rows, mean, spread), (kind == 2).astype(np.float64)
    counts = np.bincount(kind, minlength=3)
    share = (np.array([0.25, 0.25, 0.5]) / np.maximum(counts, 1))[kind] * len(rows)
    decay = np.full(inputs.shape[1], _DECAY * len(rows))
    decay[-1] = 1e-6
    weights = np.zeros(inputs.shape[1])
    for _ in range(30):
        said = _probability(inputs, weights)
        slope = inputs.T @ (share * (said - truth)) + decay * weights
        bend = (inputs * (share * said * (1 - said) + 1e-9)[:, None]).T @ inputs + np.diag(decay)
        step = np.linalg.solve(bend, slope)
        step *= min(1.0, 3.0 / max(float(np.abs(step).max()), 1e-9))  # far from the end Newton overshoots
        weights -= step
        if float(np.abs(step).max()) < 1e-6:
            break
    return mean, spread, weights
