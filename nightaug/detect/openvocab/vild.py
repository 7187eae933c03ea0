"""ViLD (Gu, Lin, Kuo and Cui, ICLR 2022): a region head that classifies by text embeddings and learns to see like CLIP.

One embedding a region, for both losses. The text loss sees base classes and background; the image loss sees every
precomputed proposal, whatever it shows, and through it the region embeddings of classes nobody labelled come to lie
where CLIP's text embeddings of their names are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nightaug.detect.adaptation.nodes import full_precision
from nightaug.detect.detectors.base import across_processes
from nightaug.detect.detectors.region_head import Embedded, RegionHead
from nightaug.detect.openvocab.clip_space import ClipSpace, embedding_l1, embedding_width
from nightaug.detect.rcnn_settings import RCNNSettings


def text_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy over background and classes, the weighted mean over regions (ViLD, equation 2).

    Args:
        logits: (P, K + 1) cosines over the temperature, background last.
        labels: (P,) class numbers, -1 background.
        weights: (P,) at least 0.

    Returns:
        Scalar fp32; 0 on the graph where no region counts. Several processes get the gradient of one.
    """
    with full_precision(logits):
        wanted = torch.where(labels < 0, logits.shape[1] - 1, labels)
        each = F.cross_entropy(logits.float(), wanted, reduction="none")
        return (each * weights).sum() / across_processes(weights.sum()).clamp(min=1)


class ViLDHead(RegionHead):
    """Classes by cosine to their text embeddings, against one learned embedding of background.

    Before it is trained :meth:`set_classes` must have told it the classes.

    Args:
        settings: see :class:`~nightaug.detect.rcnn_settings.RCNNSettings`; ``settings.vild`` is this head's.
        classes: K.
        facts: ``embedding``: E.

    Raises:
        ConfigError: the facts do not say how wide CLIP is.
    """

    class_losses = ("text", "image")
    wants_embedded = True
    rivals: Tensor

    def __init__(self, settings: RCNNSettings, classes: int, facts: Mapping[str, Any]) -> None:
        super().__init__()
        self.temperature = settings.vild.temperature
        self.objectness = settings.vild.objectness
        self.loss_weights = {"text": settings.vild.text, "image": settings.vild.image}
        self.space = ClipSpace(settings.box_features, embedding_width(facts), classes)
        self.background = nn.Parameter(F.normalize(torch.randn(embedding_width(facts)), dim=0))
        self.register_buffer("rivals", torch.zeros(0, embedding_width(facts)), persistent=False)

    def logits(self, features: Tensor) -> Tensor:
        """(P, K + 1) fp32: cosines over the temperature, background last."""
        return self._compare(features, self.space.text)

    def losses(self, features: Tensor, labels: Tensor, weights: Tensor, embedded: Embedded | None) -> dict[str, Tensor]:
        """``{"text": (), "image": ()}``: :func:`text_loss`, with the rivals beside the classes where a region has a
        label, and the L1 norm to CLIP's embeddings of the proposals.
        """
        assert self.space.told, "set_classes before training"
        seen, clip = embedded or (features[:0], self.space.text[:0])
        logits = self._compare(features, torch.cat((self.space.text, self.rivals)))
        rival = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
        rival[len(self.space.text) : -1] = True
        logits = logits.masked_fill((labels < 0)[:, None] & rival, -torch.inf)
        return {"text": text_loss(logits, labels, weights), "image": embedding_l1(self.space(seen), clip)}

    def scores(self, features: Tensor, objectness: Tensor) -> Tensor:
        """(P, K) fp32: the softmax, without background's column; the root of it times objectness if so set."""
        shares = self.logits(features).softmax(1)[:, :-1]
        return (shares * objectness.float()[:, None]).sqrt() if self.objectness else shares

    def set_classes(self, names: Sequence[str], text: Tensor) -> None:
        """Look for these classes from now on: any number of any names.

        Raises:
            ConfigError: text embeddings of another CLIP.
        """
        assert len(names) == len(text), f"expected a text embedding for each of {len(names)} names, got {len(text)}"
        self.space.set_text(text)

    def set_rivals(self, text: Tensor) -> None:
        """Let the classes compete with these text embeddings (R, E), too, while training."""
        self.rivals = F.normalize(text.detach().float().to(self.space.text.device), dim=1)

    def _compare(self, features: Tensor, text: Tensor) -> Tensor:
        """(P, len(text) + 1) fp32: cosines to texts of unit length and to background, over the temperature."""
        found = self.space(features)
        with full_precision(found):
            known = torch.cat((text, F.normalize(self.background.float(), dim=0)[None]))
            cosine: Tensor = found @ known.T
            return cosine / self.temperature
