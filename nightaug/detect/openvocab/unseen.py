"""The unseen classifier (METHODS section 5.3): a linear map from region features into the text embeddings' space.

Trained on real features of seen classes alone, it can be asked about unseen ones: that is what tells the generator
whether a feature it made for an unseen class shows that class.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nightaug.detect.adaptation.nodes import step_generator
from nightaug.errors import NightaugError


class UnseenClassifier(nn.Module):
    """(P, F) features to (P, K) logits: W f + b, dot with each class' embedding.

    Args:
        features: F.
        width: E, of the text embeddings.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(features, width)

    def forward(self, features: Tensor, text: Tensor) -> Tensor:
        """Logits of the classes of ``text`` (K, E)."""
        logits: Tensor = self.project(features) @ text.T
        return logits


def train_classifier(
    module: nn.Module,
    features: Tensor,
    labels: Tensor,
    *extra: Tensor,
    epochs: int,
    batch: int,
    rate: float,
    seed: int,
    stream: int,
    name: str,
) -> list[float]:
    """Train a small classifier by cross-entropy with Adam, in an order that only seed and stream decide.

    Args:
        module: called with features and ``extra``, gives logits (P, K).
        features: (P, F), any float type, on the module's device.
        labels: (P,) class numbers.
        stream: see :func:`~nightaug.detect.adaptation.nodes.step_generator`.
        name: of its settings, ``NAME_learning_rate`` is one of them.

    Returns:
        The mean loss of each epoch.

    Raises:
        NightaugError: the loss became NaN or infinite.
    """
    optimizer = torch.optim.Adam(module.parameters(), rate)
    means = []
    for epoch in range(epochs):
        order = torch.randperm(len(features), generator=step_generator(seed, epoch, stream)).to(features.device)
        total = torch.zeros((), device=features.device)
        for chosen in torch.split(order, batch):
            loss = F.cross_entropy(module(features[chosen].float(), *extra), labels[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.detach() * len(chosen)
        means.append(total.item() / max(len(features), 1))
        if not math.isfinite(means[-1]):
            raise NightaugError(
                f"cross-entropy of the {name} classifier became non-finite in epoch {epoch + 1}; nothing of it was "
                f"saved: begin a new --out with a lower --set {name}_learning_rate=..."
            )
    return means
