"""RegionBatch: what a detector shows of its inner life to everything that adapts it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nightaug.images import Letterbox


@dataclass
class RegionBatch:
    """Regions (points or boxes) of a batch of images, seen by an FCOS and a YOLO alike.

    Attributes:
        features: (P, D), with gradient into the detector.
        boxes: (P, 4) xyxy in pixels of the network's input.
        labels: (P,) class numbers from 0; -1 for background.
        score: (P,) in [0, 1], the detector's best class score there; detached.
        quality: (P,) in [0, 1], with gradient: FCOS' centerness, YOLO's predicted class quality.
        image_index: (P,) which image of the batch.
        level: (P,) which pyramid level, 0 is the finest.
        pyramid: one (N, C, H, W) a level, for what works on maps.
        letterboxes: per image, how it was fitted into the network's input (None where the caller did not say).
        overlap: (P,) in [0, 1], IoU of the box predicted there with the object's, 0 for background; detached; None
            where the objects are not known.
    """

    features: Tensor
    boxes: Tensor
    labels: Tensor
    score: Tensor
    quality: Tensor
    image_index: Tensor
    level: Tensor
    pyramid: list[Tensor] = field(default_factory=list)
    letterboxes: list[Letterbox] | None = None
    overlap: Tensor | None = None

    def __post_init__(self) -> None:
        count = len(self.features)
        for name in ("boxes", "labels", "score", "quality", "image_index", "level"):
            if len(getattr(self, name)) != count:
                raise ValueError(f"expected {count} {name}, got {len(getattr(self, name))}")

    def __len__(self) -> int:
        return len(self.features)

    def select(self, keep: Tensor) -> RegionBatch:
        """The regions of a mask (P,) or of indices; the pyramid stays whole."""
        return RegionBatch(
            self.features[keep],
            self.boxes[keep],
            self.labels[keep],
            self.score[keep],
            self.quality[keep],
            self.image_index[keep],
            self.level[keep],
            self.pyramid,
            self.letterboxes,
            None if self.overlap is None else self.overlap[keep],
        )

    def original_boxes(self) -> Tensor:
        """(P, 4) xyxy in pixels of each region's own original image.

        Raises:
            ValueError: the batch does not know its letterboxes.
        """
        if self.letterboxes is None:
            raise ValueError("expected letterboxes, got None: this batch was made without them")
        boxes = torch.zeros_like(self.boxes, dtype=torch.float64, device="cpu")
        for number, box in enumerate(self.letterboxes):
            own = (self.image_index == number).cpu()
            boxes[own] = torch.from_numpy(box.to_original(self.boxes[own.to(self.boxes.device)].detach().cpu().numpy()))
        return boxes
