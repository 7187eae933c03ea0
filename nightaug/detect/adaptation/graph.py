"""Nodes of the graph and what they tell each other (SIGMA: Li, Liu and Yuan, CVPR 2022; METHODS section 2.4)."""

from __future__ import annotations

import math

from torch import Tensor, nn


class NodeProjection(nn.Sequential):
    """Region features to nodes: linear - LayerNorm - ReLU - linear - LayerNorm, (P, D) to (P, width).

    The norms have no weights, so that all nodes are of one size whatever the detector's features are.

    Args:
        inputs: D of the detector's features.
        width: of a node.
    """

    def __init__(self, inputs: int, width: int = 256) -> None:
        super().__init__(
            nn.Linear(inputs, width),
            nn.LayerNorm(width, elementwise_affine=False),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.LayerNorm(width, elementwise_affine=False),
        )


class GraphAttention(nn.Module):
    """One layer of attention with a skip and a norm: with its own nodes inside a domain, with the other's across.

    Args:
        width: of a node.
    """

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm = nn.LayerNorm(width)

    def forward(self, nodes: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """What nodes (P, width) become by attending to context (Q, width).

        Returns:
            The nodes (P, width) and the attention (P, Q) fp32, rows summing to 1. With Q = 0 nodes see only themselves.
        """
        scores = self.query(nodes) @ self.key(context).T / math.sqrt(nodes.shape[1])
        attention = scores.float().softmax(1)
        told = self.out(attention.to(scores.dtype) @ self.value(context))
        return self.norm(nodes + told), attention
