"""Losses that keep the boxes of a day image true of its translation.

Each returns a raw float32 scalar; weights apply in :func:`nightaug.losses.weighted_total`. Where there is nothing to
measure (no box, no pixel outside) a loss is 0 and gives gradients of 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nightaug.cyclegan.label_maps import inside, outside

EPSILON = 1e-6


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """sum(values * mask) / sum(mask), 0 for an empty mask; ``mask`` may be weights >= 0."""
    mask = mask.to(values.dtype)
    return (values * mask).sum() / mask.sum().clamp(min=EPSILON)


def hallucination_outside(logits: Tensor, labels: Tensor) -> Tensor:
    """L_hl: the mean over pixels outside every box of (sum over classes of the class probability)^2 (Li et al., 2026).

    Args:
        logits: (N, C + 1, H, W) of the segmenting head on translated images, channel 0 background.
        labels: uint8 (N, H, W) label maps of the source images.

    Returns:
        Scalar () in [0, 1].
    """
    objects = F.softmax(logits.float(), dim=1)[:, 1:].sum(dim=1)
    return masked_mean(objects**2, outside(labels))


def invented(logits: Tensor, labels: Tensor) -> Tensor:
    """bool (N, H, W): in no box, and some class beats background; arguments as :func:`hallucination_outside`."""
    return (logits.argmax(dim=1) != 0) & outside(labels)


def weighted_l1(image: Tensor, target: Tensor, labels: Tensor, factor: float) -> Tensor:
    """Mean of |image - target|, counted ``factor`` times inside boxes; at 1 the plain L1 loss.

    The mean is over all pixels, so that outside nothing gets weaker.

    Args:
        image, target: (N, 3, H, W).
        labels: uint8 (N, H, W) label maps.
    """
    weight = 1 + (factor - 1) * inside(labels).float()
    return ((image.float() - target.float()).abs() * weight[:, None]).mean()


def normalised(features: Tensor) -> Tensor:
    """Each image's channels to mean 0 and deviation 1 over its places, (N, C, h, w) float32.

    What makes a whole image darker (a shift and a scale of its channels) falls out, for that is wanted; an object that
    looks otherwise against its surroundings stays.
    """
    features = features.float()
    variance, mean = torch.var_mean(features, (2, 3), correction=0, keepdim=True)
    return (features - mean) * (variance + EPSILON).rsqrt()


def object_consistency(translated: Sequence[Tensor], source: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Mean over levels of the mean over places in boxes of 1 - cosine(translated, source), after :func:`normalised`.

    Args:
        translated, source: feature maps of a frozen network, (N, C, h, w) a level, of both images.
        labels: uint8 (N, H, W) label maps of the source images. A place counts by the share of it that lies in boxes.

    Returns:
        Scalar () in [0, 2]; gradient reaches ``translated`` alone.
    """
    assert len(translated) == len(source) > 0, f"expected the same levels of both, got {len(translated)}, {len(source)}"
    boxes = inside(labels).float()[:, None]
    terms = []
    for there, before in zip(translated, source, strict=True):
        share = F.adaptive_avg_pool2d(boxes, (there.shape[2], there.shape[3]))[:, 0]
        similar = F.cosine_similarity(normalised(there), normalised(before.detach()), dim=1, eps=EPSILON)
        terms.append(masked_mean(1 - similar, share))
    return torch.stack(terms).mean()


def crop_consistency(translated: Tensor, source: Tensor, real: Tensor) -> Tensor:
    """Mean over boxes of 1 - cosine of their embeddings before and after translation.

    Args:
        translated, source: (P, E) embeddings of box crops.
        real: bool (P,): which rows are boxes and no filling.
    """
    similar = F.cosine_similarity(translated.float(), source.detach().float(), dim=1, eps=EPSILON)
    return masked_mean(1 - similar, real)
