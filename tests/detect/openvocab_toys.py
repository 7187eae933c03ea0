"""A store of embeddings and text embeddings made up for tests: each class has a direction of its own."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from street import TINY_RCNN
from torch import Tensor

from nightaug import __version__
from nightaug.config import build, merge
from nightaug.data.formats import open_dataset
from nightaug.data.frames import Frame
from nightaug.detect.checkpoint import write_detector
from nightaug.detect.detectors import build_detector
from nightaug.detect.settings import DetectorSettings
from nightaug.detect.sources import labelled_frames

#: E of these tests.
WIDTH = 8
#: Which direction a class has; anything else has none of these.
DIRECTIONS = {"car": 0, "traffic light": 1, "bus": 2, "truck": 3}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def embed(names: Sequence[str]) -> Tensor:
    """Text embeddings (K, E)."""
    return torch.eye(WIDTH)[[DIRECTIONS[name] for name in names]]


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=seeded(seed)), dim=-1)


class ToyStore:
    """The labelled boxes of frames as proposals that CLIP knows, between boxes that look like nothing."""

    width = WIDTH

    def __init__(self, frames: Sequence[Frame], around: int = 12, width: int = 128, height: int = 64) -> None:
        self.images: dict[str, tuple[Any, Any, Any]] = {}
        self.facts: dict[str, Any] = {"clip_sha": "toy", "images_sha": "streets"}
        for number, frame in enumerate(frames):
            rng = np.random.default_rng(number)
            corner = rng.uniform(0, [width - 20, height - 20], (around, 2))
            other = np.concatenate([corner, corner + rng.uniform(6, 20, (around, 2))], 1)
            boxes = np.concatenate([np.array([box.xyxy for box in frame.boxes]).reshape(-1, 4), other])
            clip = rng.normal(0, 0.1, (len(boxes), WIDTH))
            clip[:, -1] += 1
            for at, box in enumerate(frame.boxes):
                clip[at] = 0.05 * rng.normal(size=WIDTH)
                clip[at, DIRECTIONS[box.category]] += 1
            scores = np.concatenate([np.full(len(frame.boxes), 0.9), rng.uniform(0.5, 0.8, around)])
            clip /= np.linalg.norm(clip, axis=1, keepdims=True)
            self.images[str(frame.path)] = boxes.astype(np.float32), scores.astype(np.float32), clip.astype(np.float16)

    def regions(self, path: str | Path) -> tuple[Any, Any]:
        boxes, _, clip = self.images[str(path)]
        return boxes, clip

    def scan(self) -> Iterator[tuple[Path, Any, Any, Any]]:
        for path, (boxes, scores, clip) in self.images.items():
            yield Path(path), boxes, scores, clip


def street_frames(streets: Path) -> list[Frame]:
    return list(labelled_frames(open_dataset(streets), "train", "all"))


def write_run(out: Path, head: str, classes: tuple[str, ...] = ("car",), **settings: Any) -> DetectorSettings:
    """An untrained detector with this region head, as a run folder."""
    own = build(DetectorSettings, TINY_RCNN, merge({"rcnn": {"head": head}, "classes": list(classes)}, settings))
    facts = {} if head == "softmax" else {"embedding": WIDTH, "clip_sha": "toy"}
    detector = build_detector(own, classes, facts=facts)
    if head != "softmax":
        detector.set_classes(classes, embed(classes))
    write_detector(out / "last.safetensors", detector, own, 7, __version__)
    return own


def interrupt_when(patch: pytest.MonkeyPatch, where: Any, name: str, at: int) -> None:
    """Ctrl-C in call number ``at`` (from 0) of a function or method."""
    real, calls = getattr(where, name), iter(range(10**9))

    def called(*args: Any, **options: Any) -> Any:
        if next(calls) == at:
            signal.raise_signal(signal.SIGINT)
        return real(*args, **options)

    patch.setattr(where, name, called)
