"""What a two-stage detector makes of its regions: one protocol for a plain classifier and for open vocabularies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nightaug.detect.detectors.base import across_processes
from nightaug.detect.rcnn_settings import RCNNSettings
from nightaug.errors import ConfigError

#: Spread of a new classifier's weights (Ren et al., 2015, section 3.3).
START_SPREAD = 0.01


class Embedded(NamedTuple):
    """Precomputed proposals of a batch with CLIP's embedding of their crops."""

    features: Tensor  # (Q, F) region features of the detector, with gradient
    clip: Tensor  # (Q, E) unit length, fp32


class RegionHead(nn.Module):
    """What a two-stage detector makes of region features: class scores and classification losses.

    Attributes:
        loss_weights: a weight for every loss :meth:`losses` gives.
        class_losses: those of them that say what is there.
        wants_embedded: training needs precomputed proposals with embeddings.
    """

    loss_weights: Mapping[str, float]
    class_losses: tuple[str, ...]
    wants_embedded: bool = False

    def losses(self, features: Tensor, labels: Tensor, weights: Tensor, embedded: Embedded | None) -> dict[str, Tensor]:
        """Raw named losses of the regions of a batch, each ().

        Args:
            features: (P, F), with gradient; P may be 0.
            labels: (P,) class numbers, -1 for background.
            weights: (P,) at least 0; 0 is neither object nor background.
            embedded: where :attr:`wants_embedded`, perhaps with no rows; None otherwise.
        """
        raise NotImplementedError

    def scores(self, features: Tensor, objectness: Tensor) -> Tensor:
        """(P, K) fp32 in [0, 1].

        Args:
            features: (P, F).
            objectness: (P,) in [0, 1], of the proposal each region came from.
        """
        raise NotImplementedError

    def set_classes(self, names: Sequence[str], text: Tensor) -> None:
        """Look for other classes from now on.

        Args:
            names: K of them.
            text: (K, E) their embeddings, unit length.

        Raises:
            ConfigError: this head knows no other classes than those it was trained on.
        """
        raise ConfigError(
            "this detector knows only the classes it was trained on; other classes need one trained with "
            "nightaug openvocab train"
        )


class SoftmaxHead(RegionHead):
    """A linear classifier with a background class (Girshick, 2015), cross-entropy.

    Args:
        settings: see :class:`~nightaug.detect.rcnn_settings.RCNNSettings`.
        classes: K, how many there are.
        facts: not needed.

    Attributes:
        classifier: F -> K + 1, background last.
    """

    class_losses = ("classification",)

    def __init__(self, settings: RCNNSettings, classes: int, facts: Mapping[str, Any]) -> None:
        super().__init__()
        self.loss_weights = {"classification": settings.classification}
        self.classifier = nn.Linear(settings.box_features, classes + 1)
        nn.init.normal_(self.classifier.weight, std=START_SPREAD)
        nn.init.zeros_(self.classifier.bias)

    def losses(self, features: Tensor, labels: Tensor, weights: Tensor, embedded: Embedded | None) -> dict[str, Tensor]:
        """``{"classification": ()}``, the weighted mean of the cross-entropy."""
        logits = self.classifier(features).float()
        background = logits.shape[1] - 1
        wanted = torch.where(labels < 0, background, labels)
        each = cross_entropy(logits, wanted, reduction="none")
        return {"classification": (each * weights).sum() / across_processes(weights.sum()).clamp(min=1.0)}

    def scores(self, features: Tensor, objectness: Tensor) -> Tensor:
        """See :meth:`RegionHead.scores`: probabilities; objectness is not looked at."""
        scores: Tensor = self.classifier(features).float().softmax(dim=1)[:, :-1]
        return scores


class ObjectnessHead(RegionHead):
    """One class, "object", whose score is how well the region fits one: OLN has no classifier (Kim et al., 2022)."""

    class_losses = ()

    def __init__(self, settings: RCNNSettings, classes: int, facts: Mapping[str, Any]) -> None:
        super().__init__()
        assert classes == 1, f"expected one class, got {classes}"
        self.loss_weights = {}

    def losses(self, features: Tensor, labels: Tensor, weights: Tensor, embedded: Embedded | None) -> dict[str, Tensor]:
        """None."""
        return {}

    def scores(self, features: Tensor, objectness: Tensor) -> Tensor:
        """(P, 1): the objectness."""
        return objectness.float()[:, None]
