"""Vision-language alignment by an orthogonal projection loss (VLMOE of VLMCSHFG, METHODS section 2.3).

The loss is that of Ranasinghe et al. (ICCV 2021), over the nodes of both domains and CLIP's embeddings of labelled
crops together: one class, one direction, and the classes at right angles.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nightaug.detect.adaptation.nodes import full_precision, zero_on_graph


def orthogonal_projection_loss(features: Tensor, labels: Tensor, gamma: float = 0.5, absolute: bool = False) -> Tensor:
    """1 - mean cosine of pairs of one class + gamma * mean cosine of pairs of two classes.

    Args:
        features: (P, D), normalised here; gradient flows into them.
        labels: (P,) class numbers. Nodes with a label below 0 (background) take no part.
        gamma: weight of the second mean.
        absolute: take the second mean over the cosines' sizes: its minimum is then orthogonality. Signed, as in the
            reference, it goes on pushing classes apart.

    Returns:
        Scalar fp32. A node is no pair with itself. A term without pairs is 0, and so its gradient.
    """
    with full_precision(features):
        known = labels >= 0
        unit = F.normalize(features.float(), dim=1)
        cosine = unit @ unit.T
        both = known[:, None] & known
        same = both & (labels[:, None] == labels)
        other = both & ~same
        same = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        apart = cosine.abs() if absolute else cosine
        together = torch.where(same, 1 - cosine, 0).sum() / same.sum().clamp(min=1)
        loss: Tensor = together + gamma * torch.where(other, apart, 0).sum() / other.sum().clamp(min=1)
    return loss


class VisionLanguageAlignment(nn.Module):
    """Projects nodes into CLIP's space and aligns them with CLIP's embeddings of the same classes.

    Args:
        width: D of the nodes (an FCOS has 256, a small YOLO 64).
        clip_width: E of CLIP's embeddings.
        gamma, absolute: see :func:`orthogonal_projection_loss`.
    """

    def __init__(self, width: int, clip_width: int, gamma: float = 0.5, absolute: bool = False) -> None:
        super().__init__()
        self.gamma, self.absolute = gamma, absolute
        self.project = nn.Linear(width, clip_width)

    def forward(self, nodes: Tensor, labels: Tensor, clip: Tensor, clip_labels: Tensor) -> Tensor:
        """The loss over nodes and embeddings together.

        Args:
            nodes: (P, D), of both domains, with gradient.
            labels: (P,) class numbers; background is below 0 and takes no part.
            clip: (Q, E) image embeddings of labelled crops; CLIP is frozen, no gradient goes there.
            clip_labels: (Q,) class numbers of the crops.

        Returns:
            Scalar fp32, with gradient into the projection and the nodes; 0 on their graph where no node takes part:
            what CLIP's embeddings are to each other nobody can change.
        """
        projected = self.project(nodes).float()
        loss = orthogonal_projection_loss(
            torch.cat((projected, clip.detach().float())), torch.cat((labels, clip_labels)), self.gamma, self.absolute
        )
        zero = zero_on_graph(projected)
        # A choice by value, not by `if`: that would wait for a GPU.
        return torch.where((labels >= 0).any(), loss, zero)
