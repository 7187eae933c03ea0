"""Where something could be: class-agnostic boxes of a trained detector, or of the labels, for many images.

Images are divided into parts; a process claims a part by a file lock, as :mod:`nightaug.clip.fill` does, and writes it
whole. So the work can be killed and gone on with, and shared by any number of processes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import nms

from nightaug.boxes import clip
from nightaug.clip.fill import claimed
from nightaug.clip.region_cache import GRAIN, box_keys
from nightaug.data.frames import Frame
from nightaug.data.upright import upright
from nightaug.detect.detectors import Detector, Forward, Found
from nightaug.detect.inference import Detections, detect_images
from nightaug.detect.openvocab.store import OFFSETS, write_arrays
from nightaug.errors import ImageError, Interrupted
from nightaug.images import atomic_open, image_size
from nightaug.runs import StopRequest, progress_bar

#: Images a part holds: what a kill -9 can cost.
PART = 128
_PARTS = "parts"


class Boxes(NamedTuple):
    """Proposals of one image: float32 (P, 4) xyxy in pixels of the original; objectness float32 (P,) in [0, 1]."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    unreadable: bool = False


class ProposalDetector(Detector):
    """A detector that says where something is, and not what.

    One class alone (class-agnostic training, OLN) gives its detections; a two-stage detector of several classes the
    proposals of its first stage, which the classes have not narrowed; any other detector what it found of any class.

    Args:
        detector: a trained one.
        min_score: least objectness, in [0, 1].
        overlap: of two proposals with a larger IoU the weaker one goes.
        most: best proposals of an image.
    """

    def __init__(self, detector: Detector, min_score: float = 0.0, overlap: float = 0.7, most: int = 300) -> None:
        super().__init__()
        self.detector = detector
        self.name, self.classes = detector.name, ("object",)
        self.width, self.height = detector.width, detector.height
        self.score, self.nms, self.max_detections = min_score, overlap, most
        # What the detector itself drops could not be given.
        detector.score, detector.nms, detector.max_detections = min_score, overlap, most

    @property
    def stage(self) -> str:
        """``detections`` or ``proposals``: which boxes of the detector these are."""
        return "proposals" if len(self.detector.classes) > 1 and hasattr(self.detector, "proposals") else "detections"

    def run(self, images: Tensor) -> Forward:
        """See :meth:`Detector.run`."""
        return self.detector.run(images)

    def found(self, forward: Forward) -> list[Found]:
        """The proposals of each image, best first; all labels are 0."""
        if self.stage == "proposals":
            pairs: list[tuple[Tensor, Tensor]] = self.detector.proposals(forward)  # type: ignore[operator]
        else:
            pairs = [(each.boxes, each.scores) for each in self.detector.found(forward)]
        return [self._best(boxes.float(), scores.float()) for boxes, scores in pairs]

    def _best(self, boxes: Tensor, scores: Tensor) -> Found:
        kept = scores >= self.score
        boxes, scores = boxes[kept], scores[kept].clamp(0, 1)
        kept = nms(boxes, scores, self.nms)[: self.max_detections]
        return Found(boxes[kept], scores[kept], torch.zeros(len(kept), dtype=torch.long, device=boxes.device))


def tidy(boxes: NDArray[np.floating], scores: NDArray[np.floating], min_side: float, most: int | None = None) -> Boxes:
    """Proposals as they are kept: small ones and doubles dropped, corners on 1/32 pixel, in the order of the cache.

    Args:
        boxes: (P, 4) xyxy, inside the image.
        scores: (P,).
        min_side: least width and height, pixels.
        most: only so many, the best.
    """
    keys = box_keys(boxes)
    large = ((keys[:, 2:] - keys[:, :2]) >= min_side * GRAIN).all(axis=1)
    keys, scores = keys[large], np.asarray(scores, np.float64)[large]
    order = np.argsort(-scores, kind="stable")[:most]
    keys, first = np.unique(keys[order], axis=0, return_index=True)  # the first of equal boxes is the best one
    return Boxes((keys / np.float32(GRAIN)).astype(np.float32), scores[order][first].astype(np.float32))


def labelled_boxes(frame: Frame, min_side: float, classes: frozenset[str] | None = None) -> Boxes:
    """The labels of a frame as proposals of objectness 1, cut to the image; crowds are none.

    Args:
        classes: canonical names; None takes every label.
    """
    frame = upright(frame)
    assert frame.path is not None, f"{frame.name}: the frame has no image file"
    try:
        width, height = image_size(frame.path)
    except ImageError:
        return Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), True)
    wanted = [box.xyxy for box in frame.boxes if not box.crowd and (classes is None or box.category in classes)]
    boxes = clip(wanted, width, height)
    return tidy(boxes, np.ones(len(boxes)), min_side)


def detected_boxes(
    detector: ProposalDetector,
    paths: Sequence[Path],
    min_side: float,
    *,
    batch: int = 8,
    device: str | torch.device = "cpu",
    precision: str = "auto",
    workers: int = 0,
) -> Iterator[Boxes]:
    """The proposals of image files in their order, in pixels of the originals and cut to them."""
    found: Detections
    for found in detect_images(detector, paths, batch=batch, device=device, precision=precision, workers=workers):
        boxes, scores, _ = tidy(found.boxes, found.scores, min_side, detector.max_detections)
        yield Boxes(boxes, scores, found.unreadable)


# -- all images, part after part -------------------------------------------------------------------------------------


class Collected(NamedTuple):
    """What :func:`collect` did: images this process looked at, and those of all that could not be read."""

    images: int
    unreadable: int


def collect(
    out: Path,
    names: Sequence[str],
    look: Callable[[Sequence[int]], Iterator[Boxes]],
    stop: StopRequest,
    part: int = PART,
) -> Collected:
    """Find the proposals of all images that are not there yet, and write the arrays of the store.

    Can be killed and called again, by several processes at once, which divide the parts. Returns when all is there.

    Args:
        out: the store's folder.
        names: of the images.
        look: proposals of images, by their numbers, in order.
        stop: a Ctrl-C; the part at hand is given up.

    Raises:
        Interrupted: stopped; finished parts are kept.
    """
    folder, locks = out / _PARTS, out / "locks"
    if (out / OFFSETS).exists():
        return Collected(0, 0)
    folder.mkdir(parents=True, exist_ok=True)
    ranges = [range(first, min(first + part, len(names))) for first in range(0, len(names), part)]
    files = [folder / f"{number:06d}.npz" for number in range(len(ranges))]
    left = deque(number for number in range(len(ranges)) if _counts(files[number], ranges[number]) is None)
    looked, before = 0, sum(map(len, ranges)) - sum(len(ranges[number]) for number in left)
    tried = 0
    with progress_bar("proposals", len(names), before) as show:
        while left:
            number = left.popleft()
            with claimed(locks / f"proposals-{number:06d}") as mine:
                if (out / OFFSETS).exists():  # others have made it all, and cleared the parts away
                    break
                if mine:
                    tried = 0
                    if _counts(files[number], ranges[number]) is None:  # nobody was faster
                        _write_part(files[number], look(ranges[number]), stop)
                        looked += len(ranges[number])
                    before += len(ranges[number])
                    show(before, "")
                    continue
            left.append(number)
            tried += 1
            if stop.requested:
                raise Interrupted("stopped; finished proposals are kept, run the same command again to go on")
            if tried >= len(left):
                time.sleep(0.2)
    return Collected(looked, _join(out, names, files, ranges))


def _write_part(file: Path, found: Iterator[Boxes], stop: StopRequest) -> None:
    images = []
    for each in found:
        if stop.requested:
            raise Interrupted("stopped; finished proposals are kept, run the same command again to go on")
        images.append(each)
    arrays: dict[str, Any] = {
        "counts": np.array([len(each.boxes) for each in images], np.int64),
        "boxes": np.concatenate([np.zeros((0, 4), np.float32), *(each.boxes for each in images)]),
        "scores": np.concatenate([np.zeros(0, np.float32), *(each.scores for each in images)]),
        "unreadable": np.array([each.unreadable for each in images], bool),
    }
    with atomic_open(file, "wb") as stream:
        np.savez(stream, **arrays)


def _counts(file: Path, numbers: range) -> NDArray[np.int64] | None:
    """Proposals of each image of a part; None where there is no whole part: it is then made (again)."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            counts: NDArray[np.int64] = arrays["counts"]
            whole = len(counts) == len(numbers) and len(arrays["scores"]) == counts.sum()
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, BadZipFile):
        return None
    return counts if whole else None


def _join(out: Path, names: Sequence[str], files: Sequence[Path], ranges: Sequence[range]) -> int:
    """Make the store's arrays of all parts, once; the number of unreadable images."""
    unreadable = 0
    while True:
        with claimed(out / "locks" / "join") as mine:
            if (out / OFFSETS).exists():
                return unreadable
            if mine:
                counts = [_counts(file, numbers) for file, numbers in zip(files, ranges, strict=True)]
                whole = [each for each in counts if each is not None]
                assert len(whole) == len(counts), "a part has vanished"

                def parts() -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
                    nonlocal unreadable
                    for file in files:
                        with np.load(file, allow_pickle=False) as arrays:
                            unreadable += int(arrays["unreadable"].sum())
                            yield arrays["boxes"], arrays["scores"]

                write_arrays(out, names, np.concatenate([np.zeros(0, np.int64), *whole]), parts())
                for file in files:
                    file.unlink(missing_ok=True)
                return unreadable
        time.sleep(0.2)
