"""Tensors of others in networks of ours: which of them fit."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def fitting(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Which tensors of a file a network can take.

    Args:
        state: the file's.
        own: the network's.

    Returns:
        Those with a name and shape of the network, in its order, and the network's names without one; counts of
        batches, which nothing is computed with, are missed nowhere.
    """
    fits = {key: state[key] for key, value in own.items() if key in state and state[key].shape == value.shape}
    return fits, [key for key in own if key not in fits and not key.endswith("num_batches_tracked")]
