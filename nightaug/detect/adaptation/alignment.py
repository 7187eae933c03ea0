"""Telling domains and classes apart: gradient reversal, discriminators, node classifier (METHODS section 2.7).

Gradient reversal is of Ganin and Lempitsky (ICML 2015), the pyramid discriminators are those of EPM (Hsu et al.,
ECCV 2020) without its centre-aware branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nightaug.detect.adaptation.nodes import full_precision, zero_on_graph

#: What the discriminators answer for the source; the target is the other.
SOURCE, TARGET = 1.0, 0.0


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return -ctx.scale * grads[0], None


def reverse_gradient(x: Tensor, scale: float = 0.02) -> Tensor:
    """``x`` itself, whose gradient comes back times ``-scale``: what helps the discriminator hurts the features."""
    reversed_: Tensor = _Reversal.apply(x, scale)  # type: ignore[no-untyped-call]
    return reversed_


def domain_loss(source: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of a discriminator, the mean over all logits of both domains.

    Args:
        source, target: logits of any shape.

    Returns:
        Scalar fp32; log 2 is "cannot tell". 0 on the graph where a domain has no logits: against one domain alone a
        discriminator learns a constant, and the features are pushed by it.
    """
    if source.numel() == 0 or target.numel() == 0:
        return zero_on_graph(source, target)
    with full_precision(source):
        logits = torch.cat((source.flatten(), target.flatten())).float()
        truth = torch.full_like(logits, TARGET)
        truth[: source.numel()] = SOURCE
        return F.binary_cross_entropy_with_logits(logits, truth)


class NodeDiscriminator(nn.Module):
    """Which domain a node is of, behind gradient reversal (loss weight 0.1).

    Args:
        width: of a node.
        scale: of the gradient reversal.
        layers: hidden ones.
    """

    def __init__(self, width: int = 256, scale: float = 0.02, layers: int = 3) -> None:
        super().__init__()
        self.scale = scale
        hidden: list[nn.Module] = []
        for _ in range(layers):
            hidden += [nn.Linear(width, width), nn.LayerNorm(width, elementwise_affine=False), nn.ReLU()]
        self.model = nn.Sequential(*hidden, nn.Linear(width, 1))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """The loss over nodes (P, width) and (Q, width); see :func:`domain_loss`."""
        logits = self.model(reverse_gradient(torch.cat((source, target)), self.scale))
        return domain_loss(logits[: len(source)], logits[len(source) :])


class PyramidDiscriminators(nn.Module):
    """Which domain each place of each pyramid level is of, behind gradient reversal (loss weight 1).

    Four times 3x3 conv - GroupNorm - ReLU and a logit conv per level, of the level's own width.

    Args:
        channels: of each level, finest first.
        scale: of the gradient reversal.
        layers: hidden ones of each.
    """

    def __init__(self, channels: Sequence[int], scale: float = 0.02, layers: int = 4) -> None:
        super().__init__()
        self.scale = scale
        self.levels = nn.ModuleList(_map_discriminator(width, layers) for width in channels)

    def forward(self, source: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """The loss of each level: the source's mean and the target's mean, added as in EPM.

        Args:
            source, target: per level (N, C, H, W); the domains' sizes may differ.

        Returns:
            (levels,) fp32; 2 log 2 is "cannot tell".
        """
        losses = []
        for model, ours, theirs in zip(self.levels, source, target, strict=True):
            if ours.numel() == 0 or theirs.numel() == 0:
                losses.append(zero_on_graph(ours, theirs))
                continue
            parts = []
            for maps, truth in ((ours, SOURCE), (theirs, TARGET)):
                logits = model(reverse_gradient(maps, self.scale))
                with full_precision(logits):
                    logits = logits.float()
                    parts.append(F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, truth)))
            losses.append(parts[0] + parts[1])
        return torch.stack(losses)


def _map_discriminator(width: int, layers: int) -> nn.Module:
    hidden: list[nn.Module] = []
    for _ in range(layers):
        # 8 channels a group at any width (32 groups at 256): alone, a channel of a 1-pixel map has no statistic.
        norm = nn.GroupNorm(width // 8 if width % 8 == 0 else 1, width)
        hidden += [nn.Conv2d(width, width, 3, padding=1), norm, nn.ReLU(True)]
    return nn.Sequential(*hidden, nn.Conv2d(width, 1, 3, padding=1))


class NodeClassifier(nn.Sequential):
    """Class of a node, background among them: (P, width) to logits (P, classes).

    Args:
        classes: K + 1.
        width: of a node.
        hidden: of the layer between.
    """

    def __init__(self, classes: int, width: int = 256, hidden: int = 512) -> None:
        super().__init__(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of nodes, (P, K + 1) and (P,) in 0..K (weight 1); scalar fp32, 0 on the graph without nodes."""
    if len(labels) == 0:
        return zero_on_graph(logits)
    with full_precision(logits):
        return F.cross_entropy(logits.float(), labels)
