"""Class prototypes: what the generator's encoder makes of each class of night object, as a moving mean.

The encoder is that of day2night (A2B). Its features of a translation (the anchor of L_supp) and of the day source (the
positive) can only be compared with prototypes from the same encoder, and it knows real night images from the identity
loss. B2A's encoder would know them too, but never sees a day source.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class Prototypes:
    """A vector per class, the exponential moving mean over steps of the class's mean feature in night boxes.

    The first step that shows a class sets its vector; a step that does not show it leaves it alone.

    Attributes:
        vectors: (K, C) float32.
        seen: bool (K,): which classes have a vector.
    """

    def __init__(self, classes: int, channels: int, momentum: float, device: torch.device | str = "cpu") -> None:
        self.momentum = momentum
        self.vectors = torch.zeros(classes, channels, device=device)
        self.seen = torch.zeros(classes, dtype=torch.bool, device=device)

    def known(self) -> Tensor:
        """(k, C): the vectors of the classes seen so far."""
        return self.vectors[self.seen]

    @torch.no_grad()
    def update(self, sums: Tensor) -> None:
        """Move towards the means of one step; ``sums`` (K, C + 1) from :func:`class_sums`, over all processes."""
        weight = sums[:, -1]
        shown = weight > 0
        mean = sums[:, :-1] / weight.clamp(min=1e-12)[:, None]
        kept = torch.where(self.seen, self.momentum, 0.0)[:, None]
        self.vectors = torch.where(shown[:, None], kept * self.vectors + (1 - kept) * mean, self.vectors)
        self.seen = self.seen | shown

    def state_dict(self) -> dict[str, Tensor]:
        return {"vectors": self.vectors.cpu(), "seen": self.seen.cpu()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.vectors = state["vectors"].to(self.vectors.device)
        self.seen = state["seen"].to(self.seen.device)


@torch.no_grad()
def class_sums(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Sums of features by class, and the sums of their weights, (K, C + 1) float32.

    A place counts for a class by the share of its pixels that the class covers, so that a lamp smaller than a place
    counts too.

    Args:
        features: (N, C, h, w).
        labels: uint8 (N, H, W) label maps.
        classes: K.
    """
    sums = []
    flat = features.float().transpose(0, 1).flatten(1)  # (C, N h w)
    size = (features.shape[2], features.shape[3])
    with torch.autocast(features.device.type, enabled=False):
        for number in range(1, classes + 1):
            share = F.adaptive_avg_pool2d((labels == number).float()[:, None], size)[:, 0].flatten()
            sums.append(torch.cat([flat @ share, share.sum()[None]]))
    return torch.stack(sums)
