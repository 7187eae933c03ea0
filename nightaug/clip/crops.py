"""Regions cut out of an image and scaled to a network's input, all of an image at once, on the image's device."""

from __future__ import annotations

import torch
from torch import Tensor

#: Raised when the same box would give other pixels: caches of embeddings are made anew then.
CROP_VERSION = 1


def grown(boxes: Tensor, factor: float, width: float, height: float) -> Tensor:
    """Boxes xyxy (P, 4) grown around their centres by ``factor`` and cut to the image."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * factor
    out = torch.cat([centre - half, centre + half], dim=1)
    limit = out.new_tensor([width, height, width, height])
    return out.clamp(min=0).minimum(limit)


def large_enough(boxes: Tensor, min_side: float, width: float, height: float) -> Tensor:
    """True (P,) where both sides of the box's part inside the image are at least ``min_side`` (and 1) pixels."""
    inside = grown(boxes, 1.0, width, height)
    sides = inside[:, 2:] - inside[:, :2]
    return boxes.isfinite().all(dim=1) & (sides >= max(min_side, 1.0)).all(dim=1)


def cut(image: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut boxes out of one image and stretch each to ``size``.

    Every output pixel is the mean of bilinear samples spread over its part of the box, about one a source pixel, so
    that large boxes shrink without aliasing.

    Args:
        image: (3, H, W), uint8, or float in [0, 1].
        boxes: xyxy (P, 4) in pixels of that image, inside it.
        size: height and width of the crops.

    Returns:
        float32 (P, 3, *size) in [0, 1].
    """
    from torchvision.ops import roi_align

    assert min(image.shape[-2:]) > 0, f"expected pixels, got {tuple(image.shape)}"  # roi_align would crash
    whole = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    out: Tensor = roi_align(whole[None], [boxes.to(whole)], size, sampling_ratio=-1, aligned=True)
    return out.clamp(0, 1)  # the kernel's weights add up to 1 only up to rounding
