"""Matching the nodes of two domains (SIGMA: Li, Liu and Yuan, CVPR 2022; METHODS section 2.6)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nightaug.detect.adaptation.nodes import full_precision, zero_on_graph

#: Values of the hidden layer over all pairs that are held at once (4 bytes each); beyond, rows go in chunks that
#: the backward pass computes again. On a CPU that is twice as fast as holding all: the layer is cheap to compute and
#: 100 MB of it, for 220 nodes a side, are not to write and read.
CHUNK_VALUES = 2**22


class Affinity(nn.Module):
    """How well each node of the source fits each of the target: an MLP over every pair's two projections.

    Args:
        width: of a node.
        hidden: of the MLP.
        chunk_values: see :data:`CHUNK_VALUES`.
    """

    def __init__(self, width: int = 256, hidden: int = 512, chunk_values: int = CHUNK_VALUES) -> None:
        super().__init__()
        self.chunk_values = chunk_values
        self.source = nn.Linear(width, width, bias=False)
        self.target = nn.Linear(width, width, bias=False)
        self.pair = nn.Linear(2 * width, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """(P, width) and (Q, width) to (P, Q) fp32."""
        left, right = self.pair.weight.chunk(2, 1)
        # A linear layer over two vectors side by side is the sum of two layers: P + Q products instead of P * Q.
        mine = F.linear(self.source(source), left)
        theirs = F.linear(self.target(target), right, self.pair.bias)
        rows = max(1, self.chunk_values // max(1, theirs.numel()))
        if len(mine) <= rows:
            return self._scores(mine, theirs)
        parts = [mine[start : start + rows] for start in range(0, len(mine), rows)]
        # Nothing in it is random, and keeping the state of a GPU's generator would wait for the GPU.
        scores = [
            checkpoint(self._scores, part, theirs, use_reentrant=False, preserve_rng_state=False) for part in parts
        ]
        return torch.cat(scores)

    def _scores(self, mine: Tensor, theirs: Tensor) -> Tensor:
        hidden = (mine[:, None] + theirs).relu_()
        scores: Tensor = self.out(hidden)[..., 0]
        return scores.float()


class Matching(NamedTuple):
    """Attributes: affinity (P, Q), raw; assignment (P, Q) in [0, 1]. Both fp32."""

    affinity: Tensor
    assignment: Tensor


class GraphMatching(nn.Module):
    """Affinity, InstanceNorm over its map, and Sinkhorn with slack: who belongs to whom.

    Args:
        width: of a node.
        rounds: of Sinkhorn.
    """

    def __init__(self, width: int = 256, rounds: int = 20) -> None:
        super().__init__()
        self.rounds = rounds
        self.affinity = Affinity(width)

    def forward(self, source: Tensor, target: Tensor) -> Matching:
        """(P, width) and (Q, width); either may be empty."""
        affinity = self.affinity(source, target)
        return Matching(affinity, assignment(affinity, self.rounds))


def assignment(affinity: Tensor, rounds: int = 20) -> Tensor:
    """(P, Q) affinities to assignments in [0, 1] that sum to at most about 1 over rows and columns, fp32."""
    return sinkhorn(normalize_map(affinity), rounds).exp()


def normalize_map(affinity: Tensor, eps: float = 1e-5) -> Tensor:
    """InstanceNorm over one map (P, Q): mean 0, variance 1; a constant map becomes 0. Any size, also empty; fp32."""
    if affinity.numel() == 0:
        return affinity.float()
    with full_precision(affinity):
        affinity = affinity.float()
        return (affinity - affinity.mean()) * (affinity.var(correction=0) + eps).rsqrt()


def sinkhorn(scores: Tensor, rounds: int = 20) -> Tensor:
    """Sinkhorn normalisation in the log domain with a slack row and column (as in RPM-Net: Yew and Lee, CVPR 2020).

    Slack takes what fits nobody: each node may leave its weight there, and slack itself is not normalised.

    Args:
        scores: (P, Q), log of the unnormalised assignments; either side may be empty.
        rounds: of normalising rows, then columns.

    Returns:
        (P, Q) fp32, logarithms of the assignments without slack.
    """
    with full_precision(scores):
        padded = F.pad(scores.float(), (0, 1, 0, 1))
        count, other = scores.shape
        # What has been taken off every row and column so far, instead of a new matrix each round.
        rows, columns = padded.new_zeros(count), padded.new_zeros(other)
        for _ in range(rounds):
            rows = (padded[:-1] - F.pad(columns, (0, 1))).logsumexp(1)
            columns = (padded[:, :-1] - F.pad(rows, (0, 1))[:, None]).logsumexp(0)
        return padded[:-1, :-1] - rows[:, None] - columns


def one_to_one_loss(assigned: Tensor, source_labels: Tensor, target_labels: Tensor) -> Tensor:
    """Each source node's best partner of its class is pulled to 1, all of other classes to 0 (weight 0.1).

    Sum of squares over the number of nodes with a partner, plus sum of squares over their detached sum. A node whose
    class the other domain lacks is left out, where the reference would pull a wrong class to 1.

    Args:
        assigned: (P, Q) in [0, 1], of :func:`assignment`.
        source_labels: (P,).
        target_labels: (Q,).

    Returns:
        Scalar fp32. A sum over nothing is 0, on the graph.
    """
    if assigned.numel() == 0:
        return zero_on_graph(assigned)
    with full_precision(assigned):
        assigned = assigned.float()
        same = source_labels[:, None] == target_labels
        partner = same.any(1).float()
        best = assigned.masked_fill(~same, -1).argmax(1, keepdim=True)
        missing = (1 - assigned.gather(1, best)[:, 0]).square() * partner
        wrong = assigned.masked_fill(same, 0)
        tiny = torch.finfo(wrong.dtype).tiny
        return missing.sum() / partner.sum().clamp(min=1) + wrong.square().sum() / wrong.sum().detach().clamp(min=tiny)


def many_to_many_loss(affinity: Tensor, source_labels: Tensor, target_labels: Tensor) -> Tensor:
    """Mean squared error of sigmoid affinity (P, Q) against 1 for pairs of one class and 0 for others; scalar fp32."""
    if affinity.numel() == 0:
        return zero_on_graph(affinity)
    with full_precision(affinity):
        same = (source_labels[:, None] == target_labels).float()
        return F.mse_loss(affinity.float().sigmoid(), same)


def structure_loss(assigned: Tensor, source_attention: Tensor, target_attention: Tensor) -> Tensor:
    """Matched nodes should have matching neighbours: L1 mean of E_s @ M - M @ E_t (weight 1).

    Args:
        assigned: M, (P, Q), with gradient.
        source_attention: E_s, (P, P), of the attention inside the source; no gradient goes there.
        target_attention: E_t, (Q, Q).

    Returns:
        Scalar fp32; 0 on the graph where a side is empty.
    """
    if assigned.numel() == 0:
        return zero_on_graph(assigned)
    with full_precision(assigned):
        assigned = assigned.float()
        difference = source_attention.detach().float() @ assigned - assigned @ target_attention.detach().float()
        return difference.abs().mean()
