"""Region features in CLIP's space: the projection, the text embeddings beside it, and the distillation loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nightaug.detect.adaptation.nodes import full_precision
from nightaug.detect.detectors.base import across_processes
from nightaug.errors import ConfigError


def embedding_l1(found: Tensor, clip: Tensor) -> Tensor:
    """Mean over regions of the L1 norm of ``found - clip`` (ViLD, equation 4).

    Args:
        found: (Q, E), with gradient.
        clip: (Q, E), CLIP's embeddings; no gradient goes there. A row of zeros says that the crop was too small to be
            embedded: it does not count.

    Returns:
        Scalar fp32; 0 on the graph where no region counts. Several processes get the gradient of one.
    """
    with full_precision(found):
        clip = clip.detach().float()
        known = clip.ne(0).any(1)
        norms = torch.where(known, (found.float() - clip).abs().sum(1), 0)
        return norms.sum() / across_processes(known.sum().float()).clamp(min=1)


class ClipSpace(nn.Module):
    """A linear map into CLIP's space, and the classes that live there.

    Args:
        features: F, width of a region feature.
        width: E, width of CLIP's embeddings.
        classes: K.

    Attributes:
        project: F -> E.
        told: whether :meth:`set_text` was called since this object was made; loaded weights bring their text along.

    Buffers:
        text: (K, E) unit length; zero until it is set or loaded.
    """

    text: Tensor

    def __init__(self, features: int, width: int, classes: int) -> None:
        super().__init__()
        self.project = nn.Linear(features, width)
        self.register_buffer("text", torch.zeros(classes, width))
        self.told = False

    def forward(self, features: Tensor) -> Tensor:
        """(P, F) region features to (P, E) fp32 of unit length."""
        projected = self.project(features)
        with full_precision(projected):
            return F.normalize(projected.float(), dim=1)

    def set_text(self, text: Tensor) -> None:
        """Take over text embeddings (K, E); normalised here, on the device of the old ones.

        Raises:
            ConfigError: they are of another width: of another CLIP.
        """
        if text.ndim != 2 or text.shape[1] != self.text.shape[1]:
            raise ConfigError(
                f"the text embeddings are {text.shape[-1]} wide, this detector's {self.text.shape[1]}: use the CLIP it "
                "was trained with"
            )
        self.text = F.normalize(text.detach().float().to(self.text.device), dim=1).clone()
        self.told = True


def embedding_width(facts: Mapping[str, Any]) -> int:
    """E, from a detector's facts.

    Raises:
        ConfigError: they do not say it.
    """
    if "embedding" not in facts:
        raise ConfigError(
            "this detector learns from CLIP's embeddings: train it with nightaug openvocab train, not train-detector"
        )
    return int(facts["embedding"])
