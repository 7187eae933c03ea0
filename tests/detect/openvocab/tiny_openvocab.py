"""Small parts that the open-vocabulary tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from street import TINY_RCNN

from nightaug import __version__
from nightaug.clip.tiny import TinySettings, build_tiny, write_tiny
from nightaug.config import build, merge
from nightaug.detect.checkpoint import write_detector
from nightaug.detect.detectors import Detector, build_detector
from nightaug.detect.settings import DetectorSettings

#: A Faster R-CNN that trains in a test, and gives everything it finds.
SETTINGS: dict[str, Any] = merge(
    TINY_RCNN, {"score": 0.0, "max_detections": 20, "rcnn": {"embedded": 16, "canonical": 64}}
)
#: Width of the tiny CLIP.
EMBEDDING = 32
CLIP = TinySettings(size=32, width=8, embed=EMBEDDING, text_width=32, context_length=24, steps=4, batch=8, warmup=1)


def write_tiny_clip(folder: Path) -> Path:
    torch.manual_seed(0)
    write_tiny(folder, build_tiny(CLIP), CLIP)
    return folder


def rcnn(classes: tuple[str, ...] = ("object",), facts: dict[str, Any] | None = None, **options: Any) -> Detector:
    """An untrained detector; ``options`` are of ``rcnn``."""
    settings = build(DetectorSettings, merge(SETTINGS, {"rcnn": options}))
    return build_detector(settings, classes, facts=facts).eval()


def write_detector_file(
    file: Path,
    classes: tuple[str, ...] = ("object",),
    facts: dict[str, Any] | None = None,
    detector: Detector | None = None,
    **options: Any,
) -> Path:
    """A weight file of an untrained detector, or of the one given; ``options`` are of ``rcnn``."""
    settings = build(DetectorSettings, merge(SETTINGS, {"rcnn": options}))
    detector = detector or rcnn(classes, facts, **options)
    write_detector(file, detector, settings, 0, __version__)
    return file
