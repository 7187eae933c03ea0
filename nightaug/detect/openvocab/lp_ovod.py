"""LP-OVOD (Pham, Vu and Nguyen, WACV 2024): one learned vector a base class, and a second head that sees like CLIP.

The classifier's sigmoids do not compete, so that a region of an unlabelled class is not pressed into a base class.
Novel classes get vectors of their own by linear probing (:mod:`nightaug.detect.openvocab.probe`); at test time the
classifier's score and CLIP's are combined.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from nightaug.detect.adaptation.nodes import full_precision, one_hot
from nightaug.detect.detectors.base import across_processes
from nightaug.detect.detectors.region_head import START_SPREAD, Embedded, RegionHead
from nightaug.detect.openvocab.clip_space import ClipSpace, embedding_l1, embedding_width
from nightaug.detect.rcnn_settings import RCNNSettings
from nightaug.errors import ConfigError


def focal_loss(logits: Tensor, labels: Tensor, weights: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss (Lin et al., ICCV 2017), the sum over regions and classes over the weight of the positives.

    Args:
        logits: (P, K).
        labels: (P,) class numbers, -1 for background: no class at all.
        weights: (P,) at least 0.
        alpha, gamma: weight of the positives, and the exponent.

    Returns:
        Scalar fp32; 0 on the graph without regions. Several processes get the gradient of one.
    """
    with full_precision(logits):
        wanted = one_hot(labels, logits.shape[1])
        each = sigmoid_focal_loss(logits.float(), wanted, alpha, gamma, reduction="none").sum(1)
        positives = across_processes((weights * (labels >= 0)).sum()).clamp(min=1)
        total: Tensor = (each * weights).sum() / positives
        return total


def combine(score: Tensor, clip: Tensor, share: Tensor, objectness: Tensor) -> Tensor:
    """sqrt(score^(1 - share) clip^share objectness) (METHODS section 4.6).

    Args:
        score: (P, K) the classifier's, in [0, 1].
        clip: (P, K) CLIP's, in [0, 1].
        share: (K,) in [0, 1], what CLIP's counts: a for base classes, 1 - b for novel ones.
        objectness: (P,) in [0, 1].

    Returns:
        (P, K) fp32 in [0, 1].
    """
    return (score.pow(1 - share) * clip.pow(share) * objectness.float()[:, None]).sqrt()


def new_classifier(features: int, classes: int, prior: float) -> nn.Linear:
    """A linear layer whose sigmoids begin at ``prior`` (Lin et al., 2017, section 4.1)."""
    layer = nn.Linear(features, classes)
    if classes:  # torch warns of what has nothing to start
        nn.init.normal_(layer.weight, std=START_SPREAD)
        nn.init.constant_(layer.bias, -math.log((1 - prior) / prior))
    return layer


class LPOVODHead(RegionHead):
    """A sigmoid classifier of base classes, a distilled embedding, and where it was probed, novel classes.

    Before it is trained :meth:`set_classes` must have told it the classes.

    Args:
        settings: see :class:`~nightaug.detect.rcnn_settings.RCNNSettings`; ``settings.lp_ovod`` is this head's.
        classes: K, base and then novel.
        facts: ``embedding``: E; ``novel``: names of the novel classes, the last ones; absent: none.

    Attributes:
        classifier: F -> base classes.
        probe: F -> novel classes; None without any.

    Raises:
        ConfigError: the facts do not say how wide CLIP is.
    """

    class_losses = ("classification", "distillation")
    wants_embedded = True
    share: Tensor

    def __init__(self, settings: RCNNSettings, classes: int, facts: Mapping[str, Any]) -> None:
        super().__init__()
        own = self.settings = settings.lp_ovod
        novel = len(facts.get("novel", ()))
        assert novel < classes, f"expected base classes beside the {novel} novel ones, got {classes} in all"
        self.loss_weights = {"classification": own.classification, "distillation": own.distillation}
        self.space = ClipSpace(settings.box_features, embedding_width(facts), classes)
        self.classifier = new_classifier(settings.box_features, classes - novel, own.prior)
        self.probe = new_classifier(settings.box_features, novel, own.prior) if novel else None
        share = torch.tensor([own.a] * (classes - novel) + [1 - own.b] * novel)
        self.register_buffer("share", share, persistent=False)

    def losses(self, features: Tensor, labels: Tensor, weights: Tensor, embedded: Embedded | None) -> dict[str, Tensor]:
        """``{"classification": (), "distillation": ()}``: :func:`focal_loss`, and the mean absolute difference between
        the proposals' embeddings and CLIP's.

        Raises:
            ConfigError: the head was probed for novel classes: nothing here would teach those.
        """
        assert self.space.told, "set_classes before training"
        if self.probe is not None:
            raise ConfigError("a probed detector is not trained further: train its base run, and probe that again")
        own = self.settings
        seen, clip = embedded or (features[:0], self.space.text[:0])
        return {
            "classification": focal_loss(self.classifier(features), labels, weights, own.alpha, own.gamma),
            "distillation": embedding_l1(self.space(seen), clip) / self.space.text.shape[1],
        }

    def scores(self, features: Tensor, objectness: Tensor) -> Tensor:
        """(P, K) fp32: see :func:`combine`; CLIP's score is a softmax over all classes, base and novel."""
        logits = self.classifier(features)
        if self.probe is not None:
            logits = torch.cat((logits, self.probe(features)), 1)
        found = self.space(features)
        with full_precision(found):
            cosine = found @ self.space.text.T
            clip = (cosine / self.settings.temperature).softmax(1)
            return combine(logits.float().sigmoid(), clip, self.share, objectness)

    def set_classes(self, names: Sequence[str], text: Tensor) -> None:
        """Tell the head the text embeddings of its classes, once, before it is trained.

        Raises:
            ConfigError: text embeddings of another CLIP, or other classes than it has: each of its classes has learned
                weights.
        """
        assert len(names) == len(text), f"expected a text embedding for each of {len(names)} names, got {len(text)}"
        before = self.space.text
        other = len(text) != len(before)
        if text.shape == before.shape and bool(before.ne(0).any()):
            other = not torch.allclose(before, F.normalize(text.to(before), dim=1), atol=1e-3)
        if other:
            raise ConfigError(
                "an LP-OVOD detector knows only the classes it was trained and probed for: add new ones with "
                "nightaug openvocab probe, or use a ViLD detector"
            )
        self.space.set_text(text)
