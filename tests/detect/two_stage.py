"""A tiny Faster R-CNN, pictures and labels that its tests share."""

from __future__ import annotations

from typing import Any

import torch
from street import TINY_RCNN
from torch import Tensor

from nightaug.config import build
from nightaug.detect.detectors import Target, build_detector
from nightaug.detect.detectors.rcnn import RCNNDetector
from nightaug.detect.settings import DetectorSettings

CLASSES = ("car", "traffic light")
#: Of ``rcnn.rpn``: every anchor learns, no proposal is too small.
WHOLE = {"min_side": 0.0, "samples": 10**6, "foreground_share": 1.0}
BOXES = [[10.0, 10, 60, 50], [70, 8, 90, 30]]


def make(classes: tuple[str, ...] = CLASSES, **changes: Any) -> RCNNDetector:
    detector = build_detector(build(DetectorSettings, TINY_RCNN, changes), classes)
    assert isinstance(detector, RCNNDetector)
    return detector


def images(count: int = 2) -> Tensor:
    return torch.randint(0, 255, (count, 3, 64, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def target(boxes: list[list[float]], weights: list[float] | None = None, image: float = 1.0) -> Target:
    given = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Target(given, torch.arange(len(boxes)) % 2, torch.tensor(weights or [1.0] * len(boxes)), image)


def awake(detector: RCNNDetector) -> RCNNDetector:
    """With weights that make boxes and scores differ; a new detector's are nearly all alike."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer, scale in ((detector.rpn.cls_logits, 0.3), (detector.rpn.bbox_pred, 0.1), (detector.box, 0.3)):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * scale)
        for layer in (detector.head.classifier, detector.overlap):
            if layer is not None:
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * 0.3)
    return detector
