"""Differentiable augmentation for GANs on small sets (Zhao et al., NeurIPS 2020).

Applied to real and generated images alike before the discriminator, with gradient, so that the
discriminator cannot memorise a small set and the generator does not learn the augmentation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def _uniform(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(images.shape[0], 1, 1, 1, generator=generator).to(images.device, images.dtype)


def color(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random brightness (+-0.5), saturation (0 to 2) and contrast (0.5 to 1.5) per image."""
    images = images + (_uniform(images, generator) - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = (images - grey) * (_uniform(images, generator) * 2) + grey
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * (_uniform(images, generator) + 0.5) + mean


def translation(images: Tensor, generator: torch.Generator, share: float = 0.125) -> Tensor:
    """Random shift by up to ``share`` of each side, zeros moved in."""
    n, _, height, width = images.shape
    reach_y, reach_x = int(height * share), int(width * share)
    padded = F.pad(images, (reach_x, reach_x, reach_y, reach_y))
    tops = torch.randint(0, 2 * reach_y + 1, (n,), generator=generator).tolist()
    lefts = torch.randint(0, 2 * reach_x + 1, (n,), generator=generator).tolist()
    return torch.stack([padded[i, :, tops[i] : tops[i] + height, lefts[i] : lefts[i] + width] for i in range(n)])


def cutout(images: Tensor, generator: torch.Generator, share: float = 0.5) -> Tensor:
    """A random square of ``share`` of the sides set to 0."""
    n, _, height, width = images.shape
    side_y, side_x = int(height * share), int(width * share)
    mask = torch.ones(n, 1, height, width, device=images.device, dtype=images.dtype)
    tops = torch.randint(0, height - side_y + 1, (n,), generator=generator).tolist()
    lefts = torch.randint(0, width - side_x + 1, (n,), generator=generator).tolist()
    for i in range(n):
        mask[i, :, tops[i] : tops[i] + side_y, lefts[i] : lefts[i] + side_x] = 0
    return images * mask


AUGMENTATIONS = {"color": color, "translation": translation, "cutout": cutout}


def augment(images: Tensor, names: Sequence[str], generator: torch.Generator) -> Tensor:
    """Apply the named augmentations in order, (N, 3, H, W) in [-1, 1] to the same shape.

    Args:
        generator: CPU random generator; the only source of chance here.
    """
    for name in names:
        images = AUGMENTATIONS[name](images, generator)
    return images
