"""Optimiser and learning rate of detector training."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from nightaug.detect.settings import DetectorSettings


def learning_rate(settings: DetectorSettings, global_batch: int) -> float:
    """The full learning rate: as set, or by the global batch (linear for sgd, by the square root for adamw)."""
    if settings.learning_rate is not None:
        return settings.learning_rate
    share = global_batch / 16
    return 0.01 * share if settings.optimizer == "sgd" else 0.001 * math.sqrt(share)


def warmed_up(step: int, warmup: int) -> float:
    """From 0 to 1 over the first ``warmup`` steps, 1 afterwards."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def rate_factor(step: int, settings: DetectorSettings) -> float:
    """Learning rate of ``step`` (from 0) relative to the full one: a linear rise, then the schedule."""
    rise = warmed_up(step, settings.warmup)
    if settings.schedule == "constant":
        return rise
    if settings.schedule == "step":
        return float(rise * 0.1 ** sum(step >= drop * settings.steps for drop in settings.drops))
    span = max(settings.steps - settings.warmup, 1)
    done = min(max(step - settings.warmup, 0) / span, 1.0)
    # To a hundredth, not to 0: the last steps of a cosine to 0 would train nothing.
    return rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def _groups(network: nn.Module, settings: DetectorSettings, scale: float) -> list[dict[str, Any]]:
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                (decayed if parameter.ndim > 1 and name != "bias" else plain).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay, "scale": scale},
        {"params": plain, "weight_decay": 0.0, "scale": scale},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(
    network: nn.Module, settings: DetectorSettings, rate: float, head: nn.Module | None = None
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW; biases and normalisation are not decayed.

    ``head`` is what adapts the network; its groups' ``scale`` is its learning rate relative to the network's.
    """
    groups = _groups(network, settings, 1.0)
    if head is not None:
        groups += _groups(head, settings, settings.adaptation.rate)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=(settings.momentum, 0.999))
    return torch.optim.SGD(groups, lr=rate, momentum=settings.momentum, nesterov=settings.momentum > 0)
