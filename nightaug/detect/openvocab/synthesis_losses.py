"""The losses of the feature synthesizer (METHODS section 5.4): Wasserstein, its penalty, mode seeking, distillation."""

from __future__ import annotations

import torch
from torch import Tensor

from nightaug.detect.adaptation.nodes import zero_on_graph
from nightaug.detect.openvocab.clip_space import embedding_l1
from nightaug.detect.openvocab.wgan import Critic


def wasserstein(real: Tensor, fake: Tensor) -> Tensor:
    """mean(fake) - mean(real) of the critic's values, each (P,): which the critic lowers (Arjovsky et al., 2017)."""
    return _mean(fake) - _mean(real)


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, wanted: Tensor, share: Tensor) -> Tensor:
    """mean((|gradient of the critic| - 1)^2) between real and made features (Gulrajani et al., 2017, equation 3).

    Args:
        critic: its gradient with respect to the features alone is meant.
        real, fake: (P, F); no gradient goes there.
        wanted: (P, C) conditions.
        share: (P,) in [0, 1], uniform: of the real feature in each mixture.

    Returns:
        Scalar, with gradient into the critic; 0 on its graph without rows.
    """
    if not len(real):
        return zero_on_graph(critic.first.weight)
    mixed = (share[:, None] * real.detach() + (1 - share[:, None]) * fake.detach()).requires_grad_()
    value = critic(mixed, wanted).value
    (slope,) = torch.autograd.grad(value.sum(), mixed, create_graph=True)
    penalty: Tensor = (slope.norm(dim=1) - 1).square().mean()
    return penalty


def mode_seeking(first: Tensor, second: Tensor, noise_first: Tensor, noise_second: Tensor) -> Tensor:
    """1 / (mean|G(z1) - G(z2)| / mean|z1 - z2| + 1e-5): low where other noise makes other features (Mao et al., 2019).

    Args:
        first, second: (P, F) made for the same conditions, with gradient.
        noise_first, noise_second: (P, Z).

    Returns:
        Scalar; 0 on the graph without rows.
    """
    if not len(first):
        return zero_on_graph(first, second)
    apart = (first - second).abs().mean() / (noise_first - noise_second).abs().mean()
    return 1 / (apart + 1e-5)


def image_distillation(feature: Tensor, clip: Tensor) -> Tensor:
    """Mean L1 norm between the critic's features and CLIP's embeddings of the regions.

    Args:
        feature: (P, E) unit length, with gradient.
        clip: (P, E) unit length; a row of zeros (too small a crop) does not count.
    """
    return embedding_l1(feature, clip)


def similarity_distillation(feature: Tensor, clip: Tensor, text: Tensor) -> Tensor:
    """Mean L1 norm between the cosines to all class names, the critic's and CLIP's.

    Args:
        feature, clip: see :func:`image_distillation`.
        text: (K, E) unit length.
    """
    clip = clip.detach().float()
    known = clip.ne(0).any(1)
    norms = torch.where(known, ((feature.float() - clip) @ text.T).abs().sum(1), 0)
    return norms.sum() / known.sum().clamp(min=1)


def _mean(value: Tensor) -> Tensor:
    return value.mean() if len(value) else zero_on_graph(value)
