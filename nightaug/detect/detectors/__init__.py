"""Adapters: each turns a detector into named losses, detections and a RegionBatch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nightaug.detect.detectors.base import Detector, Forward, Found, Target
from nightaug.detect.settings import DetectorSettings
from nightaug.errors import ConfigError

__all__ = ["Detector", "Forward", "Found", "Target", "build_detector", "detector_kind"]

FCOS_NAMES = ("fcos-resnet18", "fcos-resnet50", "fcos-resnet101", "fcos-mobilenet")


def detector_kind(name: str) -> str:
    """``"fcos"`` or ``"yolo"``.

    Raises:
        ConfigError: the name is neither.
    """
    if name in FCOS_NAMES:
        return "fcos"
    if name.lower().startswith("yolo") or name.endswith((".yaml", ".yml", ".pt")):
        return "yolo"
    raise ConfigError(
        f"unknown detector '{name}' (there are: {', '.join(FCOS_NAMES)}, yolo11n, yolov8n, yolo26n, yolov5nu and "
        "their sizes s, m, l, x, or a YOLO .yaml or .pt file)"
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
    if detector_kind(settings.detector) == "fcos":
        from nightaug.detect.detectors.fcos import FCOSDetector

        return FCOSDetector(settings, classes, pretrained)
    from nightaug.detect.detectors.yolo import YOLODetector

    return YOLODetector(settings, classes, pretrained, facts)
