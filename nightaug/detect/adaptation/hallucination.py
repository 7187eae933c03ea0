"""Hallucinated features (HFG of VLMCSHFG, METHODS section 2.5): nodes for classes that one domain does not show.

A memory vector per domain and class, and a generator that turns memory and noise into nodes like the real ones.
Two domains everywhere: 0 is the source, 1 the target. Class numbers are those with background (0..K).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nightaug.detect.adaptation.nodes import full_precision, one_hot

#: The source's and the target's value of something.
Pair = tuple[Tensor, Tensor]


class MemoryBank(nn.Module):
    """What each domain's nodes of each class were like so far.

    Args:
        classes: K + 1, background among them.
        width: of a node.
        reference: update as the published code does: by the plain sum, which grows with the number of nodes, and by a
            cosine that may be negative, so that memory can overshoot. The default divides the sum by its weights and
            clamps the cosine to [0, 1].

    Buffers:
        memory: (2, classes, width) fp32. A class never seen is zero; having no direction, its first update replaces it.
    """

    memory: Tensor

    def __init__(self, classes: int, width: int = 256, reference: bool = False) -> None:
        super().__init__()
        self.reference = reference
        self.register_buffer("memory", torch.zeros(2, classes, width))

    @property
    def seen(self) -> Tensor:
        """(2, classes) bool: which domain has shown which class."""
        return self.memory.ne(0).any(2)

    @torch.no_grad()
    def update(self, domain: int, nodes: Tensor, labels: Tensor, probabilities: Tensor) -> None:
        """m * old + (1 - m) * new for every class among the nodes, m the cosine of old and new.

        Args:
            domain: 0 or 1.
            nodes: (P, width), real ones only: memory must not feed on what was made from it.
            labels: (P,) in 0..K.
            probabilities: (P, K + 1), the node classifier's; a node counts by that of its own label.
        """
        classes = self.memory.shape[1]
        with full_precision(nodes):
            trust = one_hot(labels, classes) * probabilities.detach().float()
            total = trust.sum(0)[:, None]
            # A product, not an indexed sum: the same on every run of a GPU.
            new = trust.T @ nodes.detach().float()
            if not self.reference:
                new = new / torch.where(total > 0, total, 1)
            old = self.memory[domain]
            keep = F.cosine_similarity(old, new, dim=1)[:, None]
            if not self.reference:
                keep = keep.clamp(0, 1)
            mixed = keep * old + (1 - keep) * new
            # One damaged step must not poison the memory of all later ones.
            good = (total > 0) & mixed.isfinite().all(1, keepdim=True)
            self.memory[domain] = torch.where(good, mixed, old)


class FeatureGenerator(nn.Module):
    """A U of fully connected layers with additive skips: memory + noise to a node, (P, width) to the same.

    Args:
        width: of a node.
        widths: of the way down; the way up mirrors it.
    """

    def __init__(self, width: int = 256, widths: Sequence[int] = (1024, 512, 256, 128, 64)) -> None:
        super().__init__()
        self.width = width
        self.down = nn.ModuleList(_layer(wide, narrow) for wide, narrow in pairwise((width, *widths)))
        self.up = nn.ModuleList(_layer(narrow, wide) for narrow, wide in pairwise(widths[::-1]))
        self.out = nn.Linear(widths[0], width)

    def forward(self, memory: Tensor, generator: torch.Generator) -> Tensor:
        """Nodes, one for each memory vector (P, width); the noise is the generator's next."""
        noise = torch.randn(memory.shape, generator=generator, device=generator.device)
        x = memory + noise.to(memory.device)
        skips = []
        for layer in self.down:
            x = layer(x)
            skips.append(x)
        for layer, skip in zip(self.up, skips[-2::-1], strict=True):
            x = layer(x) + skip
        made: Tensor = self.out(x)
        return made.float()


def _layer(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.SiLU())


class Completed(NamedTuple):
    """Nodes of both domains, real ones first and hallucinated ones behind.

    Attributes:
        nodes: per domain (P, width).
        labels: per domain (P,) in 0..K.
        real: per domain (P,) bool.
    """

    nodes: Pair
    labels: Pair
    real: Pair


class Hallucination(nn.Module):
    """Memory, generator, their loss, and the completion of classes that one domain lacks.

    Args:
        classes: K + 1, background among them.
        width: of a node.
        reference: see :class:`MemoryBank`.
        at_least: nodes a class must have in a domain for the generator to learn from them.
    """

    def __init__(self, classes: int, width: int = 256, reference: bool = False, at_least: int = 10) -> None:
        super().__init__()
        self.classes, self.at_least = classes, at_least
        self.bank = MemoryBank(classes, width, reference)
        self.generator = FeatureGenerator(width)
        self.stand_in = nn.Linear(width, width)

    def loss(self, nodes: Pair, labels: Pair, generator: torch.Generator) -> Tensor:
        """How unlike the real nodes of its class and domain each generated one is; see :func:`hallucination_kl`.

        Args:
            nodes: per domain (P, width), real ones, after the bank's update; no gradient goes there.
            labels: per domain (P,) in 0..K.
            generator: of the noise.

        Returns:
            Scalar fp32, with gradient into the feature generator only.
        """
        groups = torch.cat((labels[0], labels[1] + self.classes))
        made = self.generator(self.bank.memory.flatten(0, 1)[groups], generator)
        return hallucination_kl(made, torch.cat(nodes), groups, 2 * self.classes, self.at_least)

    def complete(self, nodes: Pair, labels: Pair, generator: torch.Generator) -> Completed:
        """Give each domain as many nodes of each class it lacks as the other has of it.

        They come from the domain's own memory of the class, or the other's where it has never shown the class. A class
        that is in nobody's memory yet stays missing.

        Args:
            nodes: per domain (P, width).
            labels: per domain (P,) in 0..K.
            generator: of the noise.
        """
        present = [one_hot(own, self.classes).sum(0) > 0 for own in labels]
        seen, memory = self.bank.seen, self.bank.memory
        all_nodes, all_labels, real = [], [], []
        for domain in (0, 1):
            other = 1 - domain
            known = torch.where(seen[domain][:, None], memory[domain], memory[other])
            lacking = present[other] & ~present[domain] & seen.any(0)
            wanted = labels[other][lacking[labels[other]]]
            made = self.stand_in(self.generator(known[wanted], generator))
            all_nodes.append(torch.cat((nodes[domain], made.to(nodes[domain].dtype))))
            all_labels.append(torch.cat((labels[domain], wanted)))
            real.append(torch.arange(len(all_labels[-1]), device=wanted.device) < len(labels[domain]))
        return Completed((all_nodes[0], all_nodes[1]), (all_labels[0], all_labels[1]), (real[0], real[1]))


def hallucination_kl(generated: Tensor, nodes: Tensor, groups: Tensor, count: int, at_least: int = 10) -> Tensor:
    """KL(softmax(generated) || softmax(nodes)), the mean of each group, and of these the mean (METHODS section 2.5).

    Args:
        generated: (P, D), with gradient.
        nodes: (P, D), row by row of the same group; no gradient goes there.
        groups: (P,) in 0..count-1: class and domain.
        count: of groups there can be.
        at_least: groups with fewer rows do not count.

    Returns:
        Scalar fp32; 0 on the graph where no group counts.
    """
    with full_precision(nodes):
        ours, theirs = generated.float().log_softmax(1), nodes.detach().float().log_softmax(1)
        rows = (ours.exp() * (ours - theirs)).sum(1)
        member = one_hot(groups, count)
        size = member.sum(0)
        counts = (size >= at_least).float()
        # The weight of a row: its share in its group's mean, times that group's share in the mean of groups.
        weight = member @ (counts / size.clamp(min=1)) / counts.sum().clamp(min=1)
        return (weight * rows).sum()
