"""The proposals of a whole training set that look most like a class name to CLIP (LP-OVOD, METHODS section 4.4)."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nightaug.errors import ConfigError

#: Embeddings that are compared at once: 16,384 of 512 numbers are 32 MB.
BLOCK = 16_384

Images = Iterable[tuple[Path, NDArray[np.float32], NDArray[np.float32], NDArray[np.float16]]]


class PseudoLabel(NamedTuple):
    """A proposal that stands for a novel class: ``box`` xyxy in pixels of the original, ``objectness`` in [0, 1], and
    ``cosine`` of its embedding to the class name's."""

    path: Path
    box: tuple[float, float, float, float]
    objectness: float
    cosine: float


class _Block(NamedTuple):
    """Some proposals: ``clip`` fp32 (Q, E) unit length, and where each is found."""

    clip: NDArray[np.float32]
    labels: list[tuple[Path, NDArray[np.float32], float]]  # path, box (4,), objectness


def best_proposals(
    images: Images,
    text: NDArray[np.float32],
    most: int = 100,
    objectness: float = 0.5,
    approximate_over: int | None = None,
    block: int = BLOCK,
) -> list[list[PseudoLabel]]:
    """The proposals of highest cosine to each class' text embedding.

    Exact, in blocks: memory does not grow with the number of images, and one pass reads every embedding once, which is
    all that an index would save once it is built. Of equal ones the first is taken.

    Args:
        images: (path, boxes (Q, 4), objectness (Q,), embeddings (Q, E)) of each image, in a fixed order. Embeddings
            that are zero (too small a crop) never count.
        text: (K, E) unit length.
        most: of each class.
        objectness: least of those looked at.
        approximate_over: with more proposals than this, pynndescent finds them, for which all embeddings are held in
            memory; None never does that.
        block: embeddings compared at once.

    Returns:
        For each class at most ``most``, best first.

    Raises:
        ConfigError: pynndescent is needed and not installed.
    """
    best: list[list[PseudoLabel]] = [[] for _ in text]
    blocks = _blocks(images, objectness, block)
    if approximate_over is not None:
        held, count = [], 0
        for part in blocks:
            held.append(part)
            count += len(part.clip)
        if count > approximate_over:
            return _approximately(held, text, most)
        blocks = iter(held)
    for part in blocks:
        cosine = text.astype(np.float32) @ part.clip.T  # (K, Q)
        for number, row in enumerate(cosine):
            best[number] = _best([*best[number], *_labels(part, row, _top(row, most))], most)
    return best


def _blocks(images: Images, objectness: float, block: int) -> Iterator[_Block]:
    clips: list[NDArray[np.float32]] = []
    labels: list[tuple[Path, NDArray[np.float32], float]] = []
    for path, boxes, scores, clip in images:
        kept = np.flatnonzero(np.asarray(scores) >= objectness)
        rows = np.asarray(clip[kept], np.float32)
        length = np.linalg.norm(rows, axis=1)
        kept, rows, length = kept[length > 0], rows[length > 0], length[length > 0]
        if not len(kept):
            continue
        clips.append(rows / length[:, None])
        labels += [(Path(path), np.asarray(boxes[at], np.float32), float(scores[at])) for at in kept]
        if len(labels) >= block:
            yield _Block(np.concatenate(clips), labels)
            clips, labels = [], []
    if labels:
        yield _Block(np.concatenate(clips), labels)


def _top(row: NDArray[np.float32], most: int) -> NDArray[np.intp]:
    """Positions of the highest values, highest first; of equal ones the first."""
    if len(row) > most:
        least = np.partition(row, len(row) - most)[len(row) - most]
        candidates = np.flatnonzero(row >= least)
    else:
        candidates = np.arange(len(row))
    order: NDArray[np.intp] = candidates[np.argsort(-row[candidates], kind="stable")][:most]
    return order


def _labels(part: _Block, cosine: NDArray[np.float32], chosen: Iterable[int]) -> list[PseudoLabel]:
    found = []
    for at in chosen:
        path, box, score = part.labels[at]
        x1, y1, x2, y2 = map(float, box)
        found.append(PseudoLabel(path, (x1, y1, x2, y2), score, float(cosine[at])))
    return found


def _best(labels: Sequence[PseudoLabel], most: int) -> list[PseudoLabel]:
    return sorted(labels, key=lambda label: -label.cosine)[:most]  # stable: the earlier of equal ones stays in front


def _approximately(held: Sequence[_Block], text: NDArray[np.float32], most: int) -> list[list[PseudoLabel]]:
    whole = _Block(np.concatenate([part.clip for part in held]), [label for part in held for label in part.labels])
    index = _pynndescent().NNDescent(whole.clip, metric="cosine", random_state=0)
    found, _ = index.query(text.astype(np.float32), k=min(most, len(whole.clip)))
    best = []
    for name, near in zip(text, np.asarray(found), strict=True):
        chosen = sorted(near[near >= 0])
        cosine = np.zeros(len(whole.clip), np.float32)
        cosine[chosen] = whole.clip[chosen] @ name.astype(np.float32)
        best.append(_best(_labels(whole, cosine, chosen), most))
    return best


def _pynndescent() -> Any:
    try:
        return importlib.import_module("pynndescent")
    except ImportError as error:
        raise ConfigError(
            "approximate_over needs pynndescent: pip install 'nightaug[clip]', or leave that setting out"
        ) from error
