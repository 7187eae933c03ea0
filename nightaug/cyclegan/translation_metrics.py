"""Distances between sets of images that need no downloaded weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def _patches(images: Sequence[Tensor], side: int, per_image: int, generator: torch.Generator) -> Tensor:
    """Random square patches of each (3, H, W), (P, 3 * side * side)."""
    out = []
    for image in images:
        _, height, width = image.shape
        tops = torch.randint(0, height - side + 1, (per_image,), generator=generator).tolist()
        lefts = torch.randint(0, width - side + 1, (per_image,), generator=generator).tolist()
        out += [image[:, y : y + side, x : x + side].reshape(-1) for y, x in zip(tops, lefts, strict=True)]
    return torch.stack(out)


def _laplacian_pyramid(image: Tensor, levels: int) -> list[Tensor]:
    """(3, H, W) to ``levels`` band-pass images, each half the size of the one before; the last is low-pass."""
    bands = []
    for _ in range(levels - 1):
        small = F.avg_pool2d(image[None], 2)[0]
        back = F.interpolate(small[None], image.shape[1:], mode="bilinear", align_corners=False)[0]
        bands.append(image - back)
        image = small
    return [*bands, image]


def sliced_wasserstein(
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    levels: int = 4,
    side: int = 7,
    per_image: int = 64,
    projections: int = 128,
    seed: int = 0,
) -> float:
    """Sliced Wasserstein distance of image patches over a Laplacian pyramid (Karras et al., ICLR 2018, section 5).

    Unlike theirs the patches keep their mean and spread: a dim copy of the day must not score as night.

    Args:
        first, second: images (3, H, W) in [-1, 1], sides at least ``side * 2 ** (levels - 1)`` pixels.
        levels: pyramid levels, each at half the size of the one before.
        side: patch side, pixels.
        per_image: patches drawn from each image and level.
        projections: random directions.

    Returns:
        Mean over levels and directions of the 1-Wasserstein distance; 0 for equal sets, lower is closer.

    Raises:
        ValueError: a set is empty or an image is too small.
    """
    if not first or not second:
        raise ValueError("expected at least one image in each set")
    least = side * 2 ** (levels - 1)
    smallest = min(min(image.shape[1:]) for image in [*first, *second])
    if smallest < least:
        raise ValueError(f"expected sides of at least {least} px, got {smallest}")
    generator = torch.Generator().manual_seed(seed)
    pyramids = [[_laplacian_pyramid(image.float(), levels) for image in images] for images in (first, second)]
    quantiles = torch.linspace(0, 1, 512)
    total = 0.0
    for level in range(levels):
        directions = F.normalize(torch.randn(3 * side * side, projections, generator=generator), dim=0)
        projected = [
            torch.quantile(
                _patches([pyramid[level] for pyramid in group], side, per_image, generator) @ directions,
                quantiles,
                dim=0,
            )
            for group in pyramids
        ]
        total += float((projected[0] - projected[1]).abs().mean())
    return total / levels
