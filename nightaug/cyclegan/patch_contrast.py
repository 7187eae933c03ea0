"""Contrast of places: the patch-contrastive objective (CUT, Park et al., ECCV 2020) and L_supp (Li et al., 2026).

Both are InfoNCE: a place of the translation should be more like the same place of its source than like other places.
At most a fixed number of places is drawn an image, so that memory does not grow with the crop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Places(NamedTuple):
    """Places of a feature map: ``at`` (N, S) into h * w, and ``real`` bool (N, S), False for filling."""

    at: Tensor
    real: Tensor


def draw_places(mask: Tensor, count: int, generator: torch.Generator) -> Places:
    """At most ``count`` places of each image where the mask holds, uniformly and without repetition.

    Args:
        mask: bool (N, h, w).
        generator: CPU random generator; the same numbers are drawn whatever the mask says.
    """
    flat = mask.flatten(1)
    # The best of random keys: fixed shapes, so that nothing waits for a GPU to count.
    keys = torch.rand(flat.shape, generator=generator).to(mask.device)
    keys = torch.where(flat, keys, keys - 2)
    best, index = keys.topk(min(count, flat.shape[1]), dim=1)
    return Places(index, best >= 0)


def gathered(features: Tensor, at: Tensor) -> Tensor:
    """(N, C, h, w) and (N, S) to the vectors there, (N, S, C)."""
    flat = features.flatten(2).transpose(1, 2)
    return flat.gather(1, at[..., None].expand(-1, -1, flat.shape[2]))


def at_places(features: Tensor, at: Tensor) -> Tensor:
    """(N, C, h, w) and (N, S) to the unit vectors there, float32 (N, S, C)."""
    return F.normalize(gathered(features, at).float(), dim=2)


def info_nce(anchor: Tensor, positive: Tensor, negatives: Tensor, usable: Tensor, temperature: float) -> Tensor:
    """-log( exp(a.p / t) / (exp(a.p / t) + sum_j exp(a.n_j / t)) ) for every anchor, (N, S).

    Args:
        anchor, positive: (N, S, C) unit vectors.
        negatives: (N, M, C) unit vectors.
        usable: bool (N, S, M): which negatives an anchor has.
    """
    with torch.autocast(anchor.device.type, enabled=False):  # bf16 cosines over 0.07 would be off by a tenth
        same = (anchor * positive).sum(dim=2, keepdim=True)
        others = (anchor @ negatives.transpose(1, 2)).masked_fill(~usable, float("-inf"))
    logits = torch.cat([same, others], dim=2) / temperature
    return logits.logsumexp(dim=2) - logits[..., 0]


class PatchProjection(nn.Module):
    """Per layer an MLP of two layers, (N, S, C) to unit vectors (N, S, width)."""

    def __init__(self, channels: Mapping[int, int], width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {
                str(layer): nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width))
                for layer, inputs in channels.items()
            }
        )

    def forward(self, layer: int, features: Tensor) -> Tensor:
        return F.normalize(self.heads[str(layer)](features).float(), dim=2)


def patch_nce(
    translated: Mapping[int, Tensor],
    source: Mapping[int, Tensor],
    projection: PatchProjection,
    places: int,
    temperature: float,
    generator: torch.Generator,
) -> Tensor:
    """PatchNCE, averaged over layers and places; negatives are the other places of the same source image.

    Args:
        translated, source: encoder features (N, C, h, w) by layer; the source's get no gradient (nor do the projections
            through them), as published.
    """
    terms = []
    for layer, there in translated.items():
        everywhere = torch.ones(there.shape[0], *there.shape[2:], dtype=torch.bool, device=there.device)
        at = draw_places(everywhere, places, generator).at
        anchor = projection(layer, gathered(there, at))
        with torch.no_grad():
            positive = projection(layer, gathered(source[layer], at))
        others = ~torch.eye(at.shape[1], dtype=torch.bool, device=there.device)
        terms.append(info_nce(anchor, positive, positive, others.expand(len(at), -1, -1), temperature).mean())
    return torch.stack(terms).mean()


def suppression(
    translated: Tensor,
    source: Tensor,
    invented: Tensor,
    prototypes: Tensor,
    places: int,
    temperature: float,
    generator: torch.Generator,
) -> Tensor:
    """L_supp: what was invented goes back to what the source shows there, away from what night objects look like.

    InfoNCE with the translation's feature as anchor, the source's at the same place as positive, and as negatives the
    source's at other places and all class prototypes (Li, Tan and Tan, AAAI 2026).

    Args:
        translated, source: encoder features (N, C, h, w); gradient reaches ``translated`` alone.
        invented: bool (N, H, W) pixels outside boxes where some class beats background; a place counts if one of its
            pixels does.
        prototypes: (K, C) of the classes that have one; no rows are no negatives.
        places: at most, an image: anchors, and other places.

    Returns:
        Scalar () >= 0: the mean over anchors, 0 without any.
    """
    size = translated.shape[2:]
    marked = F.adaptive_max_pool2d(invented[:, None].float(), size)[:, 0] > 0
    anchors = draw_places(marked, places, generator)
    others = draw_places(torch.ones_like(marked), places, generator)
    source = source.detach()
    negatives = at_places(source, others.at)
    usable = others.at[:, None] != anchors.at[..., None]  # (N, S, M): a place is no negative of itself
    if len(prototypes):
        shared = F.normalize(prototypes.detach().float(), dim=1).expand(len(source), -1, -1)
        negatives = torch.cat([negatives, shared], dim=1)
        usable = torch.cat([usable, usable.new_ones(*usable.shape[:2], len(prototypes))], dim=2)
    terms = info_nce(at_places(translated, anchors.at), at_places(source, anchors.at), negatives, usable, temperature)
    real = anchors.real.float()
    return (terms * real).sum() / real.sum().clamp(min=1)


def by_layer(images: Mapping[str, Tensor], name: str, layers: Sequence[int]) -> dict[int, Tensor]:
    """The features ``name/layer`` among a forward pass's results."""
    return {layer: images[f"{name}/{layer}"] for layer in layers}
