"""What every detector is to the rest of nightaug: an FCOS, a YOLO, or a stand-in of a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nightaug.detect.regions import RegionBatch
from nightaug.images import Letterbox


@dataclass
class Target:
    """The labels of one image of a batch.

    Attributes:
        boxes: (P, 4) xyxy in pixels of the network's input.
        labels: (P,) class numbers from 0.
        weights: (P,) in [0, 1]: how far each label is trusted. 0 makes the box a place that is neither object nor
            background (crowds, objects a translation has lost, objects cut off by the image's edge).
        image_weight: in [0, 1], for the whole image.
    """

    boxes: Tensor
    labels: Tensor
    weights: Tensor
    image_weight: float = 1.0

    def to(self, device: torch.device | str) -> Target:
        boxes, labels, weights = (
            value.to(device, non_blocking=True) for value in (self.boxes, self.labels, self.weights)
        )
        return Target(boxes, labels, weights, self.image_weight)


class Found(NamedTuple):
    """Detections of one image, best first."""

    boxes: Tensor  # (P, 4) xyxy, pixels of the network's input
    scores: Tensor  # (P,) in [0, 1]
    labels: Tensor  # (P,) class numbers from 0


@dataclass
class Forward:
    """One pass of a detector over a batch.

    Attributes:
        losses: raw named losses, each (), empty without targets.
        pyramid: feature maps (N, C, H, W), finest first.
        outputs: what the detector itself needs for :meth:`Detector.found` and the region methods.
    """

    losses: dict[str, Tensor]
    pyramid: list[Tensor]
    outputs: dict[str, Any]


class Detector(nn.Module):
    """Base of the adapters.

    Attributes:
        name: the settings' name of the architecture.
        classes: canonical class names, in the order of the class numbers.
        width, height: of the network's input, pixels.
        score, nms, max_detections: which detections are given.
        loss_weights: a weight for every loss :meth:`forward` gives.
        progress: share of the training steps that are done, in [0, 1]; some losses shift their weight with it.
        facts: what a weight file must hold beside settings and classes to build the same network again.
        loaded: a line on the pretrained weights it started from, or empty.
    """

    name: str
    classes: tuple[str, ...]
    width: int
    height: int
    score: float = 0.01
    nms: float = 0.6
    max_detections: int = 100
    loss_weights: Mapping[str, float]
    progress: float = 0.0
    facts: Mapping[str, Any] = MappingProxyType({})
    loaded: str = ""

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> Forward:
        """Run the network.

        Args:
            images: uint8 or float (N, 3, H, W) RGB, 0 to 255.
            targets: labels of each image; None gives no losses.
        """
        raise NotImplementedError

    def found(self, forward: Forward) -> list[Found]:
        """Detections of each image of a pass."""
        raise NotImplementedError

    def labelled_regions(
        self, forward: Forward, targets: Sequence[Target], letterboxes: list[Letterbox] | None = None
    ) -> RegionBatch:
        """Every region assigned to a labelled object: its label is the object's."""
        raise NotImplementedError

    def scored_regions(
        self, forward: Forward, foreground: float, background: float, letterboxes: list[Letterbox] | None = None
    ) -> RegionBatch:
        """Regions by score: over ``foreground`` with their best class, under ``background`` with label -1."""
        raise NotImplementedError
