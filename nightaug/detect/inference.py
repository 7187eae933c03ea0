"""A detector over many images: letterbox, batches, mixed precision, boxes back in pixels of the originals."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nightaug.detect.dataset import StillImages, make_loader
from nightaug.detect.detectors import Detector, Forward, Found
from nightaug.detect.truth import Truth
from nightaug.errors import NightaugError
from nightaug.images import Letterbox
from nightaug.runs import resolve_precision

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("auto", "fp32", *_TYPES)


class Detections(NamedTuple):
    """Detections of one image, best first, in pixels of the original."""

    boxes: NDArray[np.float64]  # (P, 4) xyxy
    scores: NDArray[np.float64]  # (P,)
    labels: NDArray[np.int64]  # (P,) class numbers from 0
    unreadable: bool = False


def to_original(found: Found, letterbox: Letterbox, unreadable: bool = False) -> Detections:
    """Detections of a network input in pixels of its original; boxes wholly in the padding are left out."""
    if unreadable:
        return Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64), True)
    boxes = letterbox.to_original(found.boxes.double().cpu().numpy())
    solid = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(axis=1)
    scores = found.scores.double().cpu().numpy()
    return Detections(boxes[solid], scores[solid], found.labels.cpu().numpy()[solid])


def decoders(workers: int | None) -> int:
    """How many processes or threads decode images: as many as asked for; None: all cores but one, at most four."""
    return workers if workers is not None else min(4, (os.cpu_count() or 1) - 1)


@contextmanager
def _in_memory(device: torch.device, count: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise NightaugError(
            f"{device} has not enough memory for {count} images at once; use a smaller batch"
        ) from error


def look(detector: Detector, images: Tensor, device: torch.device, precision: str) -> Forward:
    """A forward pass over network inputs, uint8 (N, 3, H, W), in ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        NightaugError: the device has not enough memory for so many at once.
    """
    kind = _TYPES.get(precision, torch.bfloat16)
    with _in_memory(device, len(images)), torch.autocast(device.type, dtype=kind, enabled=precision in _TYPES):
        seen: Forward = detector(images.to(device))
    return seen


def find(detector: Detector, images: Tensor, device: torch.device, precision: str) -> list[Found]:
    """Detections of network inputs; see :func:`look`."""
    with _in_memory(device, len(images)):
        return detector.found(look(detector, images, device, precision))


@torch.inference_mode()
def detect_images(
    detector: Detector,
    paths: Sequence[str | os.PathLike[str]],
    *,
    batch: int = 8,
    device: str | torch.device = "cpu",
    precision: str = "auto",
    workers: int = 0,
) -> Iterator[Detections]:
    """Detections of image files, one by one in their order."""
    device = torch.device(device)
    precision = resolve_precision(precision, device.type == "cpu")
    training = detector.training
    detector.eval()
    images = StillImages([Path(path) for path in paths], detector.width, detector.height)
    try:
        for group in make_loader(images, range(len(paths)), batch, workers, device.type == "cuda", drop_last=False):
            for found, box in zip(find(detector, group.images, device, precision), group.letterboxes, strict=True):
                yield to_original(found, box, unreadable=box.width == 0)
    finally:
        detector.train(training)


def detect_frames(
    detector: Detector,
    truth: Truth,
    *,
    batch: int = 8,
    device: str | torch.device | None = None,
    precision: str = "auto",
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """COCO results of a detector on a truth's images, in the truth's class numbers (by name).

    Args:
        device: where the detector is; None takes it from its weights.
        progress: called with (done, total).

    Returns:
        A list of ``{"image_id", "category_id", "bbox" [x, y, w, h] in pixels of the original, "score"}``.
    """
    if device is None:
        device = next(detector.parameters()).device
    ids = {name: number + 1 for number, name in enumerate(truth.classes)}
    category = [ids.get(name) for name in detector.classes]
    numbers = [image["id"] for image in truth.images]
    paths = [truth.frames[number].path for number in numbers]
    results: list[dict[str, Any]] = []
    stream = detect_images(
        detector, [Path(p or "") for p in paths], batch=batch, device=device, precision=precision, workers=workers
    )
    for done, (number, found) in enumerate(zip(numbers, stream, strict=True), 1):
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
            if category[label] is not None:
                x1, y1, x2, y2 = (round(float(value), 3) for value in box)
                results.append(
                    {
                        "image_id": number,
                        "category_id": category[label],
                        "bbox": [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)],
                        "score": round(float(score), 6),
                    }
                )
        if progress is not None:
            progress(done, len(numbers))
    return results
