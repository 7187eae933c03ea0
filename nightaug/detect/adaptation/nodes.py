"""What the parts of the night head share: numbers of classes with background, a zero on the graph, fp32 losses."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
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
    """(P,) class numbers from 0 to (P, classes) fp32."""
    return F.one_hot(labels, classes).float()


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """No autocast on the tensor's device: losses are fp32 whatever the training runs in."""
    context: AbstractContextManager[object] = torch.autocast(tensor.device.type, enabled=False)
    return context
