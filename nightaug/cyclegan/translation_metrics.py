"""Distances between sets of images: of patches, which need no weights, and of features that somebody extracted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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


# -- distances of features ---------------------------------------------------------------------------------------------

#: Subsets KID is averaged over, and their largest size (Binkowski et al., ICLR 2018).
KID_SUBSETS, KID_SIZE = 100, 1000
#: CMMD's kernel width and scale (Jayasumana et al., CVPR 2024, section 4).
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0
#: Rows of a kernel matrix in memory at once.
_ROWS = 2048


class Spread(NamedTuple):
    """A mean over subsets and their standard deviation."""

    mean: float
    spread: float


def _features(first: Tensor, second: Tensor, least: int) -> tuple[Tensor, Tensor]:
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"expected features (N, D) and (M, D), got {tuple(first.shape)} and {tuple(second.shape)}")
    if min(len(first), len(second)) < least:
        raise ValueError(f"expected at least {least} images in each set, got {len(first)} and {len(second)}")
    return first.double().cpu(), second.double().cpu()


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """FID of features (Heusel et al., NeurIPS 2017): |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    The trace of the root is the sum of the singular values of X1 X2^T, X the centred features over sqrt(n - 1): no root
    of a matrix is taken, and sets smaller than D are exact, too. As an estimate of the distance of two distributions
    FID is too high for small sets, the more the smaller; below D images the covariance is singular.

    Args:
        first, second: (N, D) and (M, D), N and M at least 2.

    Returns:
        0 for equal sets, lower is closer; in squared units of the features.

    Raises:
        ValueError: other shapes, or too few images.
    """
    a, b = _features(first, second, 2)
    means = a.mean(dim=0) - b.mean(dim=0)
    roots = []
    total = float(means @ means)
    for each in (a, b):
        centred = (each - each.mean(dim=0)) / (len(each) - 1) ** 0.5
        total += float((centred**2).sum())
        # R of X = QR has the same covariance and at most D rows.
        roots.append(torch.linalg.qr(centred, mode="r").R if len(centred) > centred.shape[1] else centred)
    total -= 2 * float(torch.linalg.svdvals(roots[0] @ roots[1].T).sum())
    return max(total, 0.0)


def kernel_distance(
    first: Tensor, second: Tensor, subsets: int = KID_SUBSETS, size: int | None = None, seed: int = 0
) -> Spread:
    """KID of features: the unbiased squared MMD under k(x, y) = (x . y / D + 1)^3, mean and spread over subsets.

    Source: Binkowski et al., ICLR 2018, section 4. Unbiased at any size: around 0 for sets of one distribution, and
    then often below it.

    Args:
        first, second: (N, D) and (M, D), N and M at least 4.
        subsets: drawn without repetition inside each.
        size: images in a subset; None takes 1000, at most half of the smaller set, so that the subsets differ.

    Raises:
        ValueError: other shapes, or too few images.
    """
    a, b = _features(first, second, 4)
    smaller = min(len(a), len(b))
    size = min(KID_SIZE, smaller // 2) if size is None else min(size, smaller)
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        x = a[torch.randperm(len(a), generator=generator)[:size]]
        y = b[torch.randperm(len(b), generator=generator)[:size]]
        within = 0.0
        for z in (x, y):
            kernel = (z @ z.T / z.shape[1] + 1) ** 3
            within += float(kernel.sum() - kernel.diagonal().sum()) / (size * (size - 1))
        values.append(within - 2 * float(((x @ y.T / x.shape[1] + 1) ** 3).mean()))
    found = torch.tensor(values, dtype=torch.float64)
    return Spread(float(found.mean()), float(found.std(correction=0)))


def clip_distance(first: Tensor, second: Tensor) -> float:
    """CMMD (Jayasumana et al., CVPR 2024): 1000 times the squared MMD of CLIP embeddings of unit length.

    The kernel is exp(-|x - y|^2 / (2 * 10^2)); the estimate is the biased one of least variance, as in the paper's
    implementation, so that small sets of one distribution are a little above 0.

    Args:
        first, second: (N, E) and (M, E), of any length; normalised here.

    Raises:
        ValueError: other shapes, or an empty set.
    """
    a, b = _features(first, second, 1)
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    value = _mean_kernel(a, a) + _mean_kernel(b, b) - 2 * _mean_kernel(a, b)
    return max(CMMD_SCALE * value, 0.0)


def _mean_kernel(a: Tensor, b: Tensor) -> float:
    total = 0.0
    for rows in torch.split(a, _ROWS):
        # 1 - k, as expm1: squared distances of embeddings are far below the kernel's width.
        total += float(torch.expm1((2 * rows @ b.T - 2) / (2 * CMMD_SIGMA**2)).sum())
    return total / (len(a) * len(b))


def structure_distance(first: Tensor, second: Tensor) -> Tensor:
    """How far what the images show is arranged otherwise: mean squared difference of their self-similarities.

    Source: Tumanyan et al. (Splice), CVPR 2022, equation 3: S_ij = cos(f_i, f_j) over the places of one image's feature
    map; the distance is |S1 - S2|^2 over the number of pairs.

    Args:
        first, second: (N, T, C) features of T places of each image, pairs in the same order.

    Returns:
        (N,), 0 for the same arrangement.

    Raises:
        ValueError: shapes that are not equal, or not three-dimensional.
    """
    if first.shape != second.shape or first.ndim != 3:
        raise ValueError(f"expected two (N, T, C), got {tuple(first.shape)} and {tuple(second.shape)}")
    maps = [F.normalize(each.float(), dim=2) for each in (first, second)]
    likeness = [each @ each.transpose(1, 2) for each in maps]
    return ((likeness[0] - likeness[1]) ** 2).mean(dim=(1, 2))
