"""What the parts of the night head share: numbers of classes with background, a zero on the graph, fp32 losses."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def with_background(labels: Tensor, classes: int) -> Tensor:
    """(P,) class numbers from 0 with -1 for background, to 0..classes with ``classes`` for background."""
    return torch.where(labels < 0, classes, labels)


def zero_on_graph(*tensors: Tensor) -> Tensor:
    """Scalar fp32 zero that hangs on the graph of every tensor; all its gradients are exactly zero.

    So that a loss with nothing to say can still be summed, backpropagated, and awaited by a gradient reduction.
    """
    # An empty slice, not 0 * sum: 0 * inf would be nan.
    return torch.stack([tensor.flatten()[:0].float().sum() for tensor in tensors]).sum()


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """(P,) class numbers from 0 to (P, classes) fp32; what is no class has a row of zeros."""
    # torch's own checks the numbers, for which it waits for a GPU.
    return (labels[:, None] == torch.arange(classes, device=labels.device)).float()


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """No autocast on the tensor's device: losses are fp32 whatever the training runs in."""
    context: AbstractContextManager[object] = torch.autocast(tensor.device.type, enabled=False)
    return context


def step_generator(seed: int, step: int, stream: int = 0) -> torch.Generator:
    """A generator for one step and one use, the same after a resume; its draws are made on the CPU for every device.

    Args:
        seed: of the run.
        step: of the training, from 0.
        stream: which use inside the step, below 1009: uses with the same number draw the same.
    """
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 1009 + stream)
