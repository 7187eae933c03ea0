"""The judge: a detector that took no part in the translation, asked what it sees before and after."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from nightaug.boxes import area, iou
from nightaug.data.classes import canonical_class
from nightaug.data.frames import Frame
from nightaug.detect.average_precision import match
from nightaug.detect.checkpoint import find_detector, load_detector
from nightaug.detect.eval_curves import best_score, curves
from nightaug.detect.inference import look, to_original
from nightaug.detect.predict_steps import Eyes
from nightaug.detect.truth import Truth
from nightaug.images import ImageArray
from nightaug.runs import file_sha256

#: Least score of the detections that are kept; an object seen less surely is not seen.
FLOOR = 0.05
#: A detection and a label, or two detections, that overlap by this IoU are of one object.
SAME = 0.5
#: A detection is explained by a box that it overlaps by this IoU ...
_TOUCHING = 0.3
#: ... or where this share of the smaller of the two lies in the other: a part of an object, a group of them.
_CONTAINED = 0.6
#: Threshold where too few labels are there to choose one, and the least that is ever chosen.
SCORE, _LEAST_SCORE = 0.3, 0.1
#: Labelled boxes needed to choose the threshold by.
_ENOUGH = 30


class Detected(msgspec.Struct, gc=False):
    """Detections of one image: ``boxes`` xyxy in its pixels, ``scores`` in [0, 1], ``labels`` class names."""

    boxes: list[tuple[float, float, float, float]]
    scores: list[float]
    labels: list[str]

    def array(self) -> NDArray[np.float64]:
        """The boxes as (P, 4)."""
        return np.array(self.boxes, np.float64).reshape(-1, 4)


class Look(NamedTuple):
    """What a network makes of an image: ``vector`` (D,), and ``places`` (T, C) of its feature map."""

    vector: Tensor
    places: Tensor | None


class Judge:
    """A trained detector with its device.

    Args:
        path: a train-detector run or its weight file.

    Raises:
        CheckpointError: no usable detector.
    """

    def __init__(self, path: Path, device: str = "cpu", precision: str = "auto") -> None:
        file = find_detector(path)
        self.eyes = Eyes(load_detector(file, device), device, precision)
        self.sha = file_sha256(file)
        self.classes = tuple(canonical_class(name) for name in self.eyes.detector.classes)
        self.name = f"{self.eyes.detector.name} of {path.absolute().name}"

    @torch.inference_mode()
    def __call__(self, images: Sequence[ImageArray]) -> list[tuple[Detected, Look]]:
        """Detections and features of some images.

        The features are means over the place of two middle levels of the pyramid, side by side, and the
        last but one level's own places.

        Raises:
            NightaugError: the device has not enough memory for so many at once.
        """
        if not images:
            return []
        eyes = self.eyes
        inputs = [eyes.fit(image) for image in images]
        forward = look(eyes.detector, torch.stack([given.tensor for given in inputs]), eyes.device, eyes.precision)
        levels = [level.float() for level in forward.pyramid[1:3]]
        vectors = torch.cat([level.mean(dim=(2, 3)) for level in levels], dim=1).cpu()
        places = levels[-1].flatten(2).transpose(1, 2).cpu()
        out = []
        for number, (found, given) in enumerate(zip(eyes.detector.found(forward), inputs, strict=True)):
            one = to_original(found, given.letterbox)
            good = (one.scores >= FLOOR) & np.isfinite(one.boxes).all(axis=1)
            boxes = [tuple(box) for box in one.boxes[good].round(2).tolist()]
            labels = [self.classes[label] for label in one.labels[good]]
            detected = Detected(boxes, one.scores[good].round(4).tolist(), labels)
            out.append((detected, Look(vectors[number], places[number])))
        return out


class Finding(NamedTuple):
    """What was found of labelled boxes: ``score`` (P,), 0 where nothing was; ``at`` (P,) its detection, else -1."""

    score: NDArray[np.float64]
    at: NDArray[np.int64]


def find_boxes(boxes: ArrayLike, classes: Sequence[str], detected: Detected) -> Finding:
    """The best score of the detections of each box's class that overlap it by an IoU of 0.5 or more."""
    count = len(classes)
    score, at = np.zeros(count), np.full(count, -1, np.int64)
    if not count or not detected.boxes:
        return Finding(score, at)
    fits = iou(boxes, detected.array()) >= SAME
    fits &= np.array(classes)[:, None] == np.array(detected.labels)[None]
    scores = np.where(fits, np.array(detected.scores)[None], 0.0)
    best = scores.argmax(axis=1)
    score = scores[np.arange(count), best]
    return Finding(score, np.where(score > 0, best, -1))


def _explained(detections: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """True (P,) where a detection (P, 4) belongs to one of the boxes (Q, 4), of whatever class."""
    if not len(detections) or not len(boxes):
        return np.zeros(len(detections), bool)
    ratio = iou(detections, boxes)
    areas = area(detections)[:, None] + area(boxes)[None]
    shared = areas * ratio / (1 + ratio)  # IoU = shared / (sum of areas - shared)
    smaller = np.minimum(area(detections)[:, None], area(boxes)[None])
    inside = np.divide(shared, smaller, out=np.zeros_like(shared), where=smaller > 0)
    return np.asarray(((ratio >= _TOUCHING) | (inside >= _CONTAINED)).any(axis=1), np.bool_)


def false_detections(detected: Detected, boxes: ArrayLike, score: float, classes: Collection[str]) -> NDArray[np.int64]:
    """Numbers of the detections of ``classes`` from ``score`` on that no labelled box explains, of whatever class.

    A box explains a detection that overlaps it by an IoU of 0.3 or more, or of which (or of the box) 60 % lie
    in the other.
    """
    sure = np.array(detected.scores) >= score
    sure &= np.array([label in classes for label in detected.labels], bool)
    known = np.asarray(boxes, np.float64).reshape(-1, 4)
    return np.flatnonzero(sure & ~_explained(detected.array(), known))


def new_detections(at: NDArray[np.int64], after: Detected, before: Detected, score: float) -> NDArray[np.int64]:
    """Of the detections ``at`` of the translation, those whose place showed nothing to the judge by day.

    By day half of the threshold is enough, and any class: 0.29 that became 0.31 is no invention.
    """
    seen = before.array()[np.array(before.scores, np.float64) >= score / 2]
    return at[~_explained(after.array()[at], seen)]


def best_threshold(frames: Sequence[Frame], detected: Sequence[Detected], classes: Sequence[str]) -> float | None:
    """The score at which the mean F1 of the classes is highest, at least 0.1; None with too few labels to tell.

    Args:
        frames: labelled, with their images; boxes in the pixels of the detections.
    """
    if not classes:
        return None
    truth = Truth.from_frames(frames, classes)
    if sum(truth.boxes().values()) < _ENOUGH:
        return None
    numbers = {name: number for number, name in enumerate(classes, 1)}
    place = {str(frame.path): image for image, frame in truth.frames.items()}
    results = []
    for frame, found in zip(frames, detected, strict=True):
        image = place.get(str(frame.path))
        for (x1, y1, x2, y2), score, label in zip(found.boxes, found.scores, found.labels, strict=True):
            if image is not None and label in numbers:
                box = [x1, y1, x2 - x1, y2 - y1]
                results.append({"image_id": image, "category_id": numbers[label], "bbox": box, "score": score})
    return max(best_score(curves(match(truth, results))), _LEAST_SCORE)
