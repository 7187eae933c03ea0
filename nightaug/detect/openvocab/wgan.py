"""The conditional Wasserstein GAN that makes region features of a class from its text embedding (METHODS section 5.4).

Condition C is a class' text embedding, where asked for with the domain (day or night) behind it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nightaug.detect.openvocab.settings import VLDUSSettings

#: Domains a condition can name: day and night.
DOMAINS = 2


def condition(text: Tensor, labels: Tensor, domains: Tensor | None) -> Tensor:
    """What a feature is to be of: (P, E), or (P, E + 2) with domains.

    Args:
        text: (K, E) text embeddings of the classes.
        labels: (P,) class numbers.
        domains: (P,) 0 day, 1 night, -1 unknown; None leaves them out.
    """
    if domains is None:
        return text[labels]
    # A row of zeros where the domain is not known.
    return torch.cat((text[labels], (domains[:, None] == torch.arange(DOMAINS, device=domains.device)).to(text)), 1)


class Generator(nn.Module):
    """Noise and a condition to a region feature: one hidden layer, and a ReLU, as the features themselves have.

    Args:
        features: F.
        width: C, of a condition.
        settings: widths, slope, first weights.
    """

    def __init__(self, features: int, width: int, settings: VLDUSSettings) -> None:
        super().__init__()
        self.noise = settings.noise
        self.layers = nn.Sequential(
            nn.Linear(settings.noise + width, settings.generator),
            nn.LeakyReLU(settings.slope),
            nn.Linear(settings.generator, features),
            nn.ReLU(),
        )
        start(self, settings.start)

    def forward(self, noise: Tensor, wanted: Tensor) -> Tensor:
        """(P, noise) and (P, C) to (P, F), none negative."""
        made: Tensor = self.layers(torch.cat((noise, wanted), 1))
        return made


class Judged(NamedTuple):
    """``value`` (P,), higher is more real; ``feature`` (P, E) unit length, its hidden layer in CLIP's space."""

    value: Tensor
    feature: Tensor


class Critic(nn.Module):
    """How real a feature is for a condition, and what CLIP would say of it.

    Args:
        features: F.
        width: C, of a condition.
        clip: E, width of CLIP's embeddings; a linear map leads there where the hidden layer has another width.
        settings: widths, slope, first weights.
    """

    def __init__(self, features: int, width: int, clip: int, settings: VLDUSSettings) -> None:
        super().__init__()
        self.first = nn.Linear(features + width, settings.critic)
        self.second = nn.Linear(settings.critic, settings.critic_feature)
        self.last = nn.Linear(settings.critic_feature, 1)
        self.project = nn.Identity() if settings.critic_feature == clip else nn.Linear(settings.critic_feature, clip)
        self.slope = settings.slope
        start(self, settings.start)

    def forward(self, features: Tensor, wanted: Tensor) -> Judged:
        """Judge (P, F) features of (P, C) conditions."""
        hidden = F.leaky_relu(self.first(torch.cat((features, wanted), 1)), self.slope)
        seen = self.second(hidden)
        # Before its LeakyReLU: CLIP's embeddings are as often negative as positive.
        return Judged(self.last(F.leaky_relu(seen, self.slope))[:, 0], F.normalize(self.project(seen).float(), dim=1))


def start(module: nn.Module, spread: float) -> None:
    """Weights N(0, spread), biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=spread)
            nn.init.zeros_(layer.bias)
