"""Which frame is sample ``i`` of a training run: a pure function of (sources, seed, i).

So any number of worker processes, any split over training processes and a resume in the middle of an epoch all see
the same sequence, and two arms of a comparison draw exactly their shares.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nightaug.data.frames import Frame
from nightaug.errors import ConfigError

#: Length of the repeating pattern of sources; shares are exact to one part in this many.
_PERIOD = 2520


class Source(NamedTuple):
    """Frames that are drawn from with a weight.

    ``frames`` are labelled frames with ``path``; ``weight`` is relative to the other sources'; ``origins`` says which
    image a translated one was made from, where that is known; ``left_out`` counts images that are not in ``frames``
    because their own weight is 0.
    """

    name: str
    frames: Sequence[Frame]
    weight: float = 1.0
    origins: Mapping[Path, Path] | None = None
    left_out: int = 0


def repeats(frames: Sequence[Frame], share: float, classes: Sequence[str] | None = None) -> NDArray[np.float64]:
    """Repeat factors, max over an image's classes of max(1, sqrt(share / f)), f the share of images with the class.

    LVIS (Gupta et al., CVPR 2019), section 3.3.

    Args:
        classes: the ones that count; None counts all.

    Returns:
        (len(frames),), each at least 1.
    """
    wanted = None if classes is None else set(classes)
    kinds = [
        {
            box.category
            for box in frame.boxes
            if box.weight > 0 and not box.crowd and (wanted is None or box.category in wanted)
        }
        for frame in frames
    ]
    counts = Counter(kind for found in kinds for kind in found)
    factor = {kind: max(1.0, math.sqrt(share * len(frames) / count)) for kind, count in counts.items()}
    return np.array([max((factor[kind] for kind in found), default=1.0) for found in kinds])


class Mixture:
    """Draws frames of several sources in their shares; inside a source every frame comes once a pass.

    Args:
        sources: none may be empty.
        seed: of the order.
        balance: see :func:`repeats`; 0 draws every frame equally often.
        classes: the ones that balance is about.

    Raises:
        ConfigError: an empty source, no positive weight, or one so small that nothing would be drawn.
    """

    def __init__(
        self, sources: Sequence[Source], seed: int, balance: float = 0.0, classes: Sequence[str] | None = None
    ) -> None:
        sources = [source for source in sources if source.weight > 0]
        if not sources:
            raise ConfigError("there is no training data: name at least one source with a positive weight")
        for source in sources:
            if not source.frames:
                raise ConfigError(f"the training data '{source.name}' holds no labelled images")
        self.sources, self.seed = sources, seed
        total = sum(source.weight for source in sources)
        self._pattern = _pattern([source.weight / total for source in sources])
        # How many draws of its own source lie before each place of the pattern.
        self._rank = np.zeros(_PERIOD, np.int64)
        seen: Counter[int] = Counter()
        for place, number in enumerate(self._pattern):
            self._rank[place] = seen[int(number)]
            seen[int(number)] += 1
        self._share = seen
        for number, source in enumerate(sources):
            if not seen[number]:
                raise ConfigError(
                    f"the training data '{source.name}' would never be drawn: its weight {source.weight:g} is under "
                    f"1/{_PERIOD} of all weights; raise it, or leave it out"
                )
        self._pools = [_pool(source.frames, balance, seed, number, classes) for number, source in enumerate(sources)]
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        """Draws until every source has been seen once: an epoch."""
        return max(math.ceil(len(pool) * _PERIOD / self._share[number]) for number, pool in enumerate(self._pools))

    def draw(self, index: int) -> tuple[int, int]:
        """Source number and frame number of sample ``index``."""
        period, place = divmod(index, _PERIOD)
        number = int(self._pattern[place])
        epoch, at = divmod(period * self._share[number] + int(self._rank[place]), len(self._pools[number]))
        held = self._orders.get(number)
        if held is None or held[0] != epoch:
            order = np.random.default_rng([self.seed, 11, number, epoch]).permutation(self._pools[number])
            held = self._orders[number] = (epoch, order)
        return number, int(held[1][at])


def _pattern(shares: Sequence[float]) -> NDArray[np.int64]:
    """Source numbers in the order in which each is next due; equal shares alternate."""
    drawn = np.zeros(len(shares))
    pattern = np.zeros(_PERIOD, np.int64)
    for place in range(_PERIOD):
        due = int(np.argmax(np.asarray(shares) * (place + 1) - drawn))
        pattern[place] = due
        drawn[due] += 1
    return pattern


def _pool(
    frames: Sequence[Frame], balance: float, seed: int, number: int, classes: Sequence[str] | None
) -> NDArray[np.int64]:
    """Frame numbers, each as often as a pass draws it; parts of a repeat are settled once by chance."""
    if balance <= 0:
        return np.arange(len(frames))
    factors = repeats(frames, balance, classes)
    whole = np.floor(factors)
    extra = np.random.default_rng([seed, 12, number]).random(len(frames)) < factors - whole
    return np.repeat(np.arange(len(frames)), (whole + extra).astype(int))
