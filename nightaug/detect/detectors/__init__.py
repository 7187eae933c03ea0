"""Adapters: each turns a detector into named losses, detections and a RegionBatch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nightaug.detect.detectors.base import Detector, Forward, Found, Target
from nightaug.detect.settings import DetectorSettings
from nightaug.errors import ConfigError

__all__ = ["Detector", "Forward", "Found", "Target", "build_detector", "detector_kind"]

RCNN_NAMES = ("faster-rcnn-resnet18", "faster-rcnn-resnet50", "faster-rcnn-resnet101")
FCOS_NAMES = ("fcos-resnet18", "fcos-resnet50", "fcos-resnet101", "fcos-mobilenet")


def detector_kind(name: str) -> str:
    """``"fcos"``, ``"rcnn"`` or ``"yolo"``.

    Raises:
        ConfigError: the name is none of them.
    """
    if name in FCOS_NAMES:
        return "fcos"
    if name in RCNN_NAMES:
        return "rcnn"
    if name.lower().startswith("yolo") or name.endswith((".yaml", ".yml", ".pt")):
        return "yolo"
    raise ConfigError(
        f"unknown detector '{name}' (there are: {', '.join(FCOS_NAMES + RCNN_NAMES)}, yolo11n, yolov8n, "
        "yolo26n, yolov5nu and their sizes s, m, l, x, or a YOLO .yaml or .pt file)"
    )


def build_detector(
    settings: DetectorSettings,
    classes: tuple[str, ...],
    pretrained: bool = True,
    facts: Mapping[str, Any] | None = None,
) -> Detector:
    """A new detector as the settings say; its random weights depend on ``settings.seed`` only.

    Args:
        pretrained: load ``settings.pretrained``; False where a checkpoint replaces all weights anyway.

        facts: of the weight file it is built for, see :class:`Detector`; None builds from the settings alone.

    Raises:
        ConfigError: unknown detector, or its extra is not installed.
        CheckpointError: the pretrained weights cannot be had.
    """
    if not classes:
        raise ConfigError("a detector needs at least one class")
    kind = detector_kind(settings.detector)
    if kind == "fcos":
        from nightaug.detect.detectors.fcos import FCOSDetector

        return FCOSDetector(settings, classes, pretrained)
    if kind == "rcnn":
        from nightaug.detect.detectors.rcnn import RCNNDetector

        return RCNNDetector(settings, classes, pretrained, facts)
    from nightaug.detect.detectors.yolo import YOLODetector

    return YOLODetector(settings, classes, pretrained, facts)
