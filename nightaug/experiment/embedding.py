"""What a training did to the features of day and night objects: a picture of them before and after, and two numbers.

The labels of night images are used here to look, never to train.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nightaug.data.frames import Frame
from nightaug.data.upright import upright
from nightaug.detect.adaptation.nodes import step_generator
from nightaug.detect.checkpoint import load_detector
from nightaug.detect.dataset import MIN_SIDE, frame_arrays, to_tensor
from nightaug.detect.detectors import Detector, Target
from nightaug.detect.sources import spread
from nightaug.devices import default_device
from nightaug.errors import DatasetError, ImageError
from nightaug.images import atomic_write_text, letterbox, read_image

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Images a pass of the detector, and most images read of a domain (spread over all that have objects).
BATCH, FRAMES = 8, 150
#: Folds of the cross-validation, weight of the ridge, and regions of a class in a domain below which it is not judged.
FOLDS, RIDGE, LEAST = 5, 0.1, 5
#: The use of chance, for :func:`step_generator`.
_STREAM = 21


class Regions(NamedTuple):
    """Regions of labelled objects: ``groups`` names the drive of each (its image, where drives are not known)."""

    features: NDArray[np.float32]  # (P, D)
    labels: Ints  # (P,) numbers of the wanted classes, from 0
    groups: NDArray[np.str_]  # (P,)


def region_points(
    detector: Detector,
    frames: Sequence[Frame],
    classes: Sequence[str],
    most: int = 400,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> tuple[NDArray[np.float32], Ints]:
    """A detector's features of the regions that belong to labelled objects.

    Args:
        detector: put on ``device``, run in evaluation mode, left in the mode it was in.
        frames: labelled, with paths; those that cannot be read are left out.
        classes: wanted ones; the detector's others and those it does not know are left out.
        most: regions at most, as many of each class as there are up to an equal share.
        seed: of the choice among them.

    Returns:
        Features (P, D) and class numbers (P,) in the order of ``classes``; P may be 0.
    """
    found = labelled_regions(detector, frames, classes, most, seed, device)
    return found.features, found.labels


@torch.no_grad()
def labelled_regions(
    detector: Detector,
    frames: Sequence[Frame],
    classes: Sequence[str],
    most: int = 400,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Regions:
    """As :func:`region_points`, with the drive of each region."""
    places = {name: number for number, name in enumerate(classes)}
    number_of = torch.tensor([places.get(name, -1) for name in detector.classes], device=device)
    wanted = {name: number for number, name in enumerate(detector.classes) if name in places}
    shown = [frame for frame in frames if frame.path and any(box.category in wanted for box in frame.boxes)]
    groups = [frame.video or frame.name for frame in shown]
    training = detector.training
    detector.to(device).eval()
    pool: tuple[Tensor, ...] = (torch.zeros(0, 0), torch.zeros(0).long(), torch.zeros(0).long(), torch.zeros(0))
    try:
        for start in range(0, len(shown), BATCH):
            images, targets, index = _inputs(detector, shown, range(start, min(start + BATCH, len(shown))), wanted)
            if not index:
                continue
            targets = [target.to(device) for target in targets]
            found = detector.labelled_regions(detector(torch.stack(images).to(device), targets), targets)
            labels = number_of[found.labels].cpu()
            known = labels >= 0
            # Keys decide who stays: the same objects before and after, where the assignment is one of places.
            keys = torch.rand(len(labels), generator=step_generator(seed, start, _STREAM))
            image = torch.tensor(index)[found.image_index.cpu()]
            new = (found.features.float().cpu()[known], labels[known], image[known], keys[known])
            pool = new if len(pool[0]) == 0 else tuple(torch.cat(pair) for pair in zip(pool, new, strict=True))
            kept = _ranks(pool[1], pool[3]) < most
            pool = tuple(part[kept] for part in pool)
    finally:
        detector.train(training)
    chosen = balanced(pool[1], pool[3], most)
    drives = np.array([groups[number] for number in pool[2][chosen].tolist()], dtype=np.str_)
    return Regions(pool[0][chosen].numpy(), pool[1][chosen].numpy(), drives)


def _inputs(
    detector: Detector, frames: Sequence[Frame], which: range, wanted: dict[str, int]
) -> tuple[list[Tensor], list[Target], list[int]]:
    """Network inputs, their labels and numbers, of the frames that can be read."""
    images, targets, index = [], [], []
    for number in which:
        frame = upright(frames[number])
        assert frame.path is not None
        try:
            image, fitted = letterbox(read_image(frame.path), detector.width, detector.height)
        except ImageError:
            continue
        boxes, labels, weights = frame_arrays(frame, wanted)
        boxes = fitted.to_network(boxes)
        solid = (boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE).all(axis=1)
        images.append(to_tensor(image))
        targets.append(
            Target(
                torch.from_numpy(boxes.astype(np.float32)),
                torch.from_numpy(labels),
                torch.from_numpy(np.where(solid, weights, 0.0).astype(np.float32)),
            )
        )
        index.append(number)
    return images, targets, index


def _ranks(labels: Tensor, keys: Tensor) -> Tensor:
    """(P,) place of each region among those of its class, by its key, from 0."""
    order = torch.from_numpy(np.lexsort((keys.numpy(), labels.numpy())))
    ordered = labels[order]
    first = torch.searchsorted(ordered, ordered)  # where each one's class begins
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order)) - first
    return ranks


def balanced(labels: Tensor, keys: Tensor, most: int) -> Tensor:
    """Indices of at most ``most`` regions, the same number of each class as far as there are so many, by class."""
    ranks = _ranks(labels, keys)
    # Round by round one of every class: the k-th of each comes before anyone's k+1-th.
    chosen = np.lexsort((labels.numpy(), ranks.numpy()))[:most]
    return torch.from_numpy(chosen[np.lexsort((ranks.numpy()[chosen], labels.numpy()[chosen]))])


# -- the numbers ---------------------------------------------------------------------------------------------------


def _deviation(found: Floats) -> Floats:
    """Standard deviations to divide by; infinity for features that do not vary, which then say nothing."""
    return np.where(found > 1e-6 * max(float(found.max(initial=0)), 1e-12), found, np.inf)


class _Linear:
    """Ridge regression of (P, K) targets on standardised features, each region with its weight."""

    def __init__(self, x: Floats, y: Floats, weight: Floats) -> None:
        weight = weight / weight.sum()
        self.mean = weight @ x
        self.deviation = _deviation(np.sqrt(weight @ (x - self.mean) ** 2))
        self.centre = weight @ y
        z = self._standard(x)
        square = (z * weight[:, None]).T @ z + RIDGE * np.eye(z.shape[1])
        self.slope = np.linalg.solve(square, (z * weight[:, None]).T @ (y - self.centre))

    def _standard(self, x: Floats) -> Floats:
        # What lies far outside the features learned from must not decide alone.
        return np.asarray(np.clip((x - self.mean) / self.deviation, -10, 10), np.float64)

    def __call__(self, x: Floats) -> Floats:
        return np.asarray(self._standard(x) @ self.slope + self.centre, np.float64)


def _cells(*columns: Ints) -> Floats:
    """A weight for each row such that every combination of values counts the same in all."""
    _, cell, count = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True, return_counts=True)
    return 1.0 / count[cell.reshape(-1)]


def _shared(day: Ints, night: Ints) -> Ints:
    """Classes with enough regions in both domains."""
    common = [value for value in np.unique(day) if min((day == value).sum(), (night == value).sum()) >= LEAST]
    return np.array(common, np.int64)


def domain_separation(day: Regions, night: Regions, seed: int = 0) -> float | None:
    """How well a linear classifier tells the domain of a region: balanced accuracy, 0.5 is "cannot tell".

    Five-fold cross-validation in which a drive (or image) is never on both sides. Every class counts the same in both
    domains, so that the domains' mixture of classes tells nothing.

    Returns:
        In [0, 1]; None with fewer than two drives, or without classes that both domains have.
    """
    shared = _shared(day.labels, night.labels)
    own = [np.isin(domain.labels, shared) for domain in (day, night)]
    names = [domain.groups[keep] for domain, keep in zip((day, night), own, strict=True)]
    folds = min(FOLDS, *(len(np.unique(group)) for group in names))
    if len(shared) == 0 or folds < 2:
        return None
    x = np.concatenate([domain.features[keep] for domain, keep in zip((day, night), own, strict=True)]).astype(float)
    labels = np.concatenate([domain.labels[keep] for domain, keep in zip((day, night), own, strict=True)])
    truth = np.concatenate([np.zeros(len(names[0]), np.int64), np.ones(len(names[1]), np.int64)])
    fold = _folds(names[0], names[1], folds, seed)
    right = np.zeros(len(x), bool)
    for number in range(folds):
        test = fold == number
        if len(np.unique(truth[~test])) < 2:
            return None
        fit = _Linear(x[~test], truth[~test, None] * 2.0 - 1, _cells(truth[~test], labels[~test]))
        right[test] = (fit(x[test])[:, 0] > 0) == (truth[test] == 1)
    return float(np.average(right, weights=_cells(truth, labels)))


def _folds(day: NDArray[np.str_], night: NDArray[np.str_], folds: int, seed: int) -> Ints:
    """The fold of each region: whole drives, dealt out in turn, those of both domains first."""
    names = np.unique(np.concatenate([day, night]))
    names = names[np.random.default_rng([seed, 7]).permutation(len(names))]
    kind = 2 * ~np.isin(names, day) + 1 * ~np.isin(names, night)
    names = names[np.argsort(kind, kind="stable")]
    fold = {name: at % folds for at, name in enumerate(names)}
    return np.array([fold[name] for name in np.concatenate([day, night])], np.int64)


def class_separation(day: Regions, night: Regions) -> tuple[float | None, float | None]:
    """How well a linear classifier trained on day regions names the class of night regions, and the share by guessing.

    Returns:
        Mean recall over the classes both domains have, in [0, 1], and 1 / number of classes learned; None, None with
        fewer than two of them.
    """
    learned = np.array([value for value in np.unique(day.labels) if (day.labels == value).sum() >= LEAST], np.int64)
    shared = _shared(day.labels, night.labels)
    if len(learned) < 2 or len(shared) == 0:
        return None, None
    source, target = np.isin(day.labels, learned), np.isin(night.labels, shared)
    labels, truth = day.labels[source], night.labels[target]
    one_hot = (labels[:, None] == learned).astype(np.float64)
    fit = _Linear(day.features[source].astype(float), one_hot, _cells(labels))
    named = learned[fit(night.features[target].astype(float)).argmax(axis=1)]
    return float(np.average(named == truth, weights=_cells(truth))), 1 / len(learned)


def plane(features: Floats) -> tuple[Floats, Floats]:
    """Principal components: (P, D) to points (P, 2), and the share of the variance (2,) each axis shows.

    Every feature is standardised first; an axis points to where its largest loading is positive.
    """
    x = np.asarray(features, np.float64)
    x = (x - x.mean(axis=0)) / _deviation(x.std(axis=0))
    left, values, axes = np.linalg.svd(x, full_matrices=False)
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    points, share = np.zeros((len(x), 2)), np.zeros(2)
    count = min(2, len(values))
    points[:, :count] = (left * values * signs)[:, :count]
    share[:count] = (values**2 / max(float((values**2).sum()), 1e-12))[:count]
    return points, share


def write_embedding(
    path: str | os.PathLike[str],
    before: str | os.PathLike[str],
    after: str | os.PathLike[str],
    day: Sequence[Frame],
    night: Sequence[Frame],
    classes: Sequence[str],
    cpu: bool = False,
) -> None:
    """Write what a training did to a detector's features, for the report.

    ``{"classes": [...], "before": {...}, "after": {...}}``, each with ``points`` [x, y, class number, 0 day or 1
    night], ``variance`` of the two axes, ``domain_separation`` (see :func:`domain_separation`), ``class_separation``
    and ``chance`` (see :func:`class_separation`), null where they cannot be measured.

    Args:
        path: the JSON file.
        before, after: run folders (their last weights) or weight files.
        day, night: labelled frames, of drives that took no part in the training.
        classes: wanted ones.
        cpu: do not use a GPU.

    Raises:
        CheckpointError: no detector there.
        DatasetError: a domain shows no object of the classes.
    """
    device = "cpu" if cpu else default_device()
    content: dict[str, Any] = {"classes": list(classes)}
    for key, run in (("before", before), ("after", after)):
        detector = load_detector(run, device, "last")
        found = [labelled_regions(detector, _shown(frames, classes), classes, device=device) for frames in (day, night)]
        for name, regions in zip(("day", "night"), found, strict=True):
            if len(regions.labels) == 0:
                raise DatasetError(
                    f"the {name} images show no object of the classes {', '.join(classes)}: nothing to embed"
                )
        content[key] = _described(*found)
    atomic_write_text(path, json.dumps(content) + "\n")


def _shown(frames: Sequence[Frame], classes: Sequence[str]) -> list[Frame]:
    """At most :data:`FRAMES` frames with objects, evenly over all of them."""
    known = set(classes)
    return spread([frame for frame in frames if any(box.category in known for box in frame.boxes)], FRAMES)


def _described(day: Regions, night: Regions) -> dict[str, Any]:
    points, share = plane(np.concatenate([day.features, night.features]).astype(np.float64))
    # Night lies to the right and above in the mean, so that before and after can be compared by eye.
    apart = points[len(day.labels) :].mean(axis=0) - points[: len(day.labels)].mean(axis=0)
    points = points * np.where(apart < 0, -1.0, 1.0)
    labels = np.concatenate([day.labels, night.labels]).tolist()
    domains = [0] * len(day.labels) + [1] * len(night.labels)
    domain = domain_separation(day, night)
    recall, chance = class_separation(day, night)
    return {
        "points": [
            [round(x, 3) + 0.0, round(y, 3) + 0.0, label, side]
            for (x, y), label, side in zip(points.tolist(), labels, domains, strict=True)
        ],
        "variance": [round(value, 4) for value in share.tolist()],
        "domain_separation": _rounded(domain),
        "class_separation": _rounded(recall),
        "chance": _rounded(chance),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
