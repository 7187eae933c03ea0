"""What a detector finds, as labels: detections that are kept while they are made, thresholds, sure and unsure boxes.

See :mod:`nightaug.detect.pseudo_labels`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from nightaug.boxes import clip, xywh_to_xyxy, xyxy_to_xywh
from nightaug.data.frames import Box, Frame
from nightaug.detect.adaptation.teacher import pseudo_targets
from nightaug.detect.average_precision import ClassMatches
from nightaug.detect.detectors.base import Detector, Found
from nightaug.detect.fusion import Boxes, fuse
from nightaug.detect.inference import Detections, decoders, detect_images
from nightaug.detect.predict_steps import file_state
from nightaug.devices import check_device, default_device
from nightaug.errors import Interrupted
from nightaug.images import image_size
from nightaug.runs import StopRequest, progress_bar

#: A class with fewer validation boxes, or fewer detections over its threshold, has no threshold one could trust.
LEAST_BOXES, LEAST_FOUND = 50, 10
#: A reason to leave an image out.
UNREADABLE = "unreadable image"
#: Detections of a class without a threshold are unsure from this score on.
NO_THRESHOLD = 0.1


class Threshold(NamedTuple):
    """From which score on a class' boxes are labels, and what that gave on the validation images."""

    score: float
    precision: float
    recall: float


class FoundRow(msgspec.Struct, gc=False):
    """A line of ``detections.jsonl``: what was found in one image file.

    Attributes:
        state: of the file when it was looked at; another one makes the row void.
        boxes: (P, 4) xyxy, pixels of the upright original; best first.
    """

    path: str
    state: str
    boxes: list[tuple[float, float, float, float]]
    scores: list[float]
    labels: list[int]
    unreadable: bool = False


def choose_threshold(found: ClassMatches, precision: float) -> Threshold | None:
    """The lowest score from which on at least ``precision`` of a class' detections are right at IoU 0.5.

    None where there are too few labels or detections to tell, or where no score is high enough.
    """
    boxes = int(found.boxes.sum())
    counted = ~found.ignored[0]
    hits, seen = np.cumsum(found.hit[0] & counted), np.cumsum(counted)
    right = hits / np.maximum(seen, 1)
    enough = np.flatnonzero((right >= precision) & (seen >= LEAST_FOUND))
    if boxes < LEAST_BOXES or not len(enough):
        return None
    at = int(enough[-1])
    return Threshold(float(found.score[at]), float(right[at]), float(hits[at] / boxes))


def too_few(found: Sequence[ClassMatches], classes: Sequence[str]) -> list[str]:
    """The classes with fewer labelled boxes than a threshold needs, whatever precision is asked for."""
    return [name for name, one in zip(classes, found, strict=True) if int(one.boxes.sum()) < LEAST_BOXES]


def detect_kept(
    detector: Detector, frames: Sequence[Frame], file: Path, batch: int, device: str | None, workers: int | None
) -> dict[str, FoundRow]:
    """Detections by image path, written to ``file`` as they are made; what an earlier call wrote is used again.

    Raises:
        Interrupted: stopped by Ctrl-C; what is done is kept.
        ConfigError: the device is not there.
    """
    device = device or default_device()
    check_device(device)
    rows = _read_rows(file)
    # As absolute paths, images are known again from any working folder.
    paths = [path_of(frame) for frame in frames if frame.path is not None]
    todo = [Path(path) for path in paths if (row := rows.get(path)) is None or row.state != file_state(Path(path))]
    if not todo:
        return rows
    detector = detector.to(device)
    done = len(frames) - len(todo)
    with (
        StopRequest().listen() as stop,
        open(file, "ab") as stream,
        progress_bar("detecting", len(frames), done) as progress,
    ):
        found_in = detect_images(detector, todo, batch=batch, device=device, workers=decoders(workers))
        for path, found in zip(todo, found_in, strict=True):
            row = _row(path, found)
            stream.write(msgspec.json.encode(row) + b"\n")
            rows[row.path] = row
            done += 1
            progress(done, "")
            if stop.requested:
                raise Interrupted(f"stopped after {done:,} of {len(frames):,} images; run again to go on")
    return rows


def fused_rows(kept: Sequence[Mapping[str, FoundRow]], classes: Sequence[Sequence[str]]) -> Mapping[str, FoundRow]:
    """What several detectors have found as one, in the class numbers of the first; that of one as it is.

    Args:
        kept: of each detector, by image path; all of them have looked at the same images.
        classes: of each detector.
    """
    if len(kept) == 1:
        return kept[0]
    numbers = [np.array([classes[0].index(name) for name in names], np.int64) for names in classes]
    rows = {}
    for path, first in kept[0].items():
        of_all = [of_one[path] for of_one in kept if path in of_one]
        if len(of_all) < len(kept):
            continue  # an earlier call was asked about this image, and stopped before a later detector saw it
        fused = fuse([_boxes(row, number) for row, number in zip(of_all, numbers, strict=True)])
        rows[path] = msgspec.structs.replace(
            first,
            boxes=[tuple(box) for box in fused.xyxy.round(2).tolist()],
            scores=fused.scores.round(5).tolist(),
            labels=fused.labels.tolist(),
            unreadable=any(row.unreadable for row in of_all),
        )
    return rows


def _boxes(row: FoundRow, numbers: NDArray[np.int64]) -> Boxes:
    xyxy = np.array(row.boxes, np.float64).reshape(-1, 4)
    return Boxes(xyxy, np.array(row.scores, np.float64), numbers[np.array(row.labels, np.int64)])


def fused_results(results: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """COCO results of several detectors on the same images as one detector's; those of one as they are."""
    if len(results) == 1:
        return results[0]
    by_image: dict[int, list[list[dict[str, Any]]]] = {}
    for which, of_one in enumerate(results):
        for result in of_one:
            by_image.setdefault(result["image_id"], [[] for _ in results])[which].append(result)
    fused = []
    for image, found in by_image.items():
        boxes = fuse([_result_boxes(of_one) for of_one in found])
        for box, score, label in zip(xyxy_to_xywh(boxes.xyxy), boxes.scores, boxes.labels, strict=True):
            fused.append({"image_id": image, "category_id": int(label), "bbox": box.tolist(), "score": float(score)})
    return fused


def _result_boxes(results: Sequence[Mapping[str, Any]]) -> Boxes:
    return Boxes(
        xywh_to_xyxy([one["bbox"] for one in results]),
        np.array([one["score"] for one in results], np.float64),
        np.array([one["category_id"] for one in results], np.int64),
    )


def path_of(frame: Frame) -> str:
    """By what the row of a frame's image is found."""
    assert frame.path is not None
    return os.path.abspath(frame.path)


def _read_rows(file: Path) -> dict[str, FoundRow]:
    """The rows that are there; a last line torn by a crash is cut off."""
    if not file.exists():
        return {}
    rows: dict[str, FoundRow] = {}
    decoder = msgspec.json.Decoder(FoundRow)
    at = 0
    with open(file, "r+b") as stream:
        for line in stream:
            try:
                row = decoder.decode(line)
            except (ValueError, RecursionError):
                break
            if not line.endswith(b"\n"):
                break
            rows[row.path] = row
            at += len(line)
        stream.truncate(at)
    return rows


def _row(path: Path, found: Detections) -> FoundRow:
    boxes = [tuple(round(float(value), 2) for value in box) for box in found.boxes]
    scores = [round(float(value), 5) for value in found.scores]
    labels = [int(label) for label in found.labels]
    return FoundRow(str(path), file_state(path), boxes, scores, labels, found.unreadable)  # type: ignore[arg-type]


class Labelled(NamedTuple):
    """``frames`` with their pseudo labels; ``sure`` labels by class, ``unsure`` boxes, images left out by reason."""

    frames: list[Frame]
    sure: Counter[str]
    unsure: int
    left_out: Counter[str]


def label_frames(
    frames: Sequence[Frame],
    rows: Mapping[str, FoundRow],
    classes: Sequence[str],
    chosen: Mapping[str, Threshold | None],
    unsure: float,
) -> Labelled:
    """Frames with their pseudo labels; unsure boxes are crowds. An image in which nothing is sure is left out.

    Args:
        rows: by the image, see :func:`path_of`.
        classes: of the detector, in its order.
        chosen: the threshold of each; a class of None has no labels, only unsure boxes.
        unsure: boxes are unsure from this share of their threshold on.
    """
    # No score is over 2: a class without a threshold has no labels.
    known = [one.score if (one := chosen[name]) is not None else None for name in classes]
    limits = torch.tensor([2.0 if one is None else one for one in known])
    shares = torch.tensor([NO_THRESHOLD / 2 if one is None else unsure for one in known])
    made = Labelled([], Counter(), 0, Counter())
    crowds = 0
    taken: set[str] = set()
    for frame in frames:
        row = rows[path_of(frame)]
        if row.unreadable:
            made.left_out[UNREADABLE] += 1
            continue
        found = Found(
            torch.tensor(row.boxes, dtype=torch.float64).reshape(-1, 4),
            torch.tensor(row.scores, dtype=torch.float64),
            torch.tensor(row.labels, dtype=torch.long),
        )
        target = pseudo_targets([found], limits, shares)[0]
        if not target.image_weight:
            made.left_out["nothing sure in it"] += 1
            continue
        assert frame.path is not None
        width, height = image_size(frame.path)
        boxes = []
        for (x1, y1, x2, y2), label, weight in zip(
            clip(target.boxes.numpy(), width, height).tolist(), target.labels.tolist(), target.weights.tolist(),
            strict=True,
        ):  # fmt: skip
            boxes.append(Box(x1, y1, x2, y2, classes[label], crowd=weight == 0))
            if weight:
                made.sure[classes[label]] += 1
            crowds += weight == 0
        made.frames.append(Frame(_free(frame.path.name, taken), boxes, width, height, frame.timeofday, path=frame.path))
    return made._replace(unsure=crowds)


def _free(name: str, taken: set[str]) -> str:
    """A file name that no other image has; folders of a dataset may hold images of one name."""
    stem, suffix = os.path.splitext(name)
    number, free = 1, name
    while free.lower() in taken:
        number += 1
        free = f"{stem}-{number}{suffix}"
    taken.add(free.lower())
    return free
