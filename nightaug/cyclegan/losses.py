"""CycleGAN's losses (Zhu et al., ICCV 2017): least-squares adversarial, cycle, identity.

Every function returns a raw scalar in float32; weights apply in :func:`nightaug.losses.weighted_total`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def least_squares(logits: Tensor, real: bool) -> Tensor:
    """Mean of (logits - target)^2, target 1 for real and 0 for fake (Mao et al., 2017).

    Args:
        logits: (N, 1, h, w), any floating type.

    Returns:
        Scalar () >= 0.
    """
    logits = logits.float()
    return ((logits - 1) ** 2).mean() if real else (logits**2).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Half the sum of both least-squares terms: the discriminator learns at half the generator's pace."""
    return 0.5 * (least_squares(real_logits, True) + least_squares(fake_logits, False))


def l1(image: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of two (N, 3, H, W) batches, in float32: the cycle and the identity loss."""
    return F.l1_loss(image.float(), target.float())
