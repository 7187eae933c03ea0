"""The one place where loss weights apply."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nightaug.errors import ConfigError


def weighted_total(parts: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum of ``weights[name] * parts[name]`` over all parts.

    Args:
        parts: named raw losses, each a scalar tensor ().
        weights: a weight for every part; 0 switches a part off without touching its value.

    Returns:
        Scalar tensor ().

    Raises:
        ConfigError: a part has no weight, or a weight has no part.
    """
    missing = sorted(set(parts) - set(weights))
    unknown = sorted(set(weights) - set(parts))
    if missing or unknown:
        said = [f"no weight for {', '.join(missing)}"] if missing else []
        said += [f"no loss named {', '.join(unknown)}"] if unknown else []
        raise ConfigError(f"loss weights do not fit the losses: {'; '.join(said)}")
    if not parts:
        raise ConfigError("no losses to sum")
    # A weight of 0 is left out, not multiplied: 0 * inf would be nan.
    kept = [weights[name] * value for name, value in parts.items() if weights[name] != 0]
    return torch.stack(kept).sum() if kept else torch.zeros((), device=next(iter(parts.values())).device)
