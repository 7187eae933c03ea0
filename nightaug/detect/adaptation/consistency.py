"""Cluster consistency sampler (VLMCSHFG, METHODS section 2.2): which regions of a domain become nodes of the graph."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nightaug.detect.adaptation.clusters import APPROXIMATE_OVER, cluster
from nightaug.detect.adaptation.nodes import full_precision, zero_on_graph
from nightaug.detect.regions import RegionBatch


@dataclass(frozen=True)
class Sample:
    """What was kept of a domain's regions.

    Attributes:
        regions: the kept regions, objects first, then background.
        index: (Q,) int64, where they stood in the batch.
        loss: scalar, the cluster loss; gradient reaches the batch's quality, and nothing else.
        clustered: whether the objects were clustered; without, the loss is zero.
    """

    regions: RegionBatch
    index: Tensor
    loss: Tensor
    clustered: bool


@dataclass(frozen=True)
class ConsistencySampler:
    """Clusters the regions of objects and keeps the best one of each cluster.

    Attributes:
        limit: most objects kept of a domain.
        background: regions of background kept for each object kept.
        source_over: the source clusters with more objects than this only; its labels are true, so few need no help.
        target_over: the same for the target, which always clusters.
        approximate_over: see :func:`clusters.cluster`.
    """

    limit: int = 200
    background: float = 0.1
    source_over: int = 200
    target_over: int = 0
    approximate_over: int = APPROXIMATE_OVER

    def source(self, batch: RegionBatch, generator: torch.Generator) -> Sample:
        """Regions of labelled images; see :meth:`sample`."""
        return self.sample(batch, self.source_over, generator)

    def target(self, batch: RegionBatch, generator: torch.Generator) -> Sample:
        """Regions of unlabelled images; see :meth:`sample`."""
        return self.sample(batch, self.target_over, generator)

    def sample(self, batch: RegionBatch, cluster_over: int, generator: torch.Generator) -> Sample:
        """Keep the region of highest quality of each cluster, whatever its class, and a share of background.

        Args:
            batch: the domain's regions, labels below 0 for background. Empty batches give empty samples.
            cluster_over: cluster with more objects than this, otherwise all of them are candidates.
            generator: draws uniformly and without repetition where there are more candidates than places. The same
                state gives the same sample, on every device if it is one of the CPU.

        Raises:
            ConfigError: the set is so large that pynndescent is needed, and that is not installed.
        """
        objects = (batch.labels >= 0).nonzero()[:, 0]
        clustered = len(objects) > cluster_over
        if clustered:
            quality = batch.quality[objects]
            clusters = cluster(batch.features[objects], self.approximate_over)
            loss = cluster_loss(quality, clusters)
            candidates = objects[representatives(quality, clusters)]
        else:
            loss, candidates = zero_on_graph(batch.quality), objects
        kept = candidates[draw(len(candidates), self.limit, generator).to(candidates.device)]
        around = (batch.labels < 0).nonzero()[:, 0]
        share = math.ceil(self.background * len(kept) - 1e-9)
        around = around[draw(len(around), share, generator).to(around.device)]
        index = torch.cat((kept, around))
        return Sample(batch.select(index), index, loss, clustered)


def draw(count: int, limit: int, generator: torch.Generator) -> Tensor:
    """``limit`` of ``count`` numbers, uniformly and without repetition; all where there are not more.

    Returns:
        (min(count, limit),) int64, ascending, on the generator's device.
    """
    if count <= limit:
        return torch.arange(count, device=generator.device)
    return torch.randperm(count, generator=generator, device=generator.device)[:limit].sort().values


@torch.no_grad()
def representatives(quality: Tensor, clusters: Tensor) -> Tensor:
    """The node of highest quality in each cluster, the first one where several are as good.

    Args:
        quality: (P,).
        clusters: (P,) int64, cluster numbers from 0 without gaps.

    Returns:
        (clusters,) int64 positions in 0..P-1, in order of the cluster numbers.
    """
    count = len(quality)
    value = quality.detach().float().nan_to_num(nan=-torch.inf)
    best = torch.full_like(value, -torch.inf).scatter_reduce(0, clusters, value, "amax")
    own = torch.arange(count, device=quality.device)
    own = torch.where(value == best[clusters], own, count)
    first = torch.full_like(own, count).scatter_reduce(0, clusters, own, "amin")
    return first[first < count]


@torch.no_grad()
def ranking(quality: Tensor, overlap: Tensor) -> Tensor:
    """Area under the ROC curve of quality as a sign that a region's box fits: 1 tells all, 0.5 none.

    Args:
        quality: (P,).
        overlap: (P,) IoU of the regions' boxes with their objects'; those above the median count as fitting.

    Returns:
        Scalar fp32; 0.5 where there is nothing to tell apart.
    """
    if len(quality) == 0:
        return quality.new_tensor(0.5, dtype=torch.float32)
    value, fits = quality.float(), overlap > overlap.median()
    ordered = value.sort().values
    # The mean rank of each, from 1: ties count half.
    rank = (torch.searchsorted(ordered, value) + torch.searchsorted(ordered, value, right=True) + 1).float() / 2
    good = fits.sum().float()
    pairs = good * (len(value) - good)
    area = (torch.where(fits, rank, 0.0).sum() - good * (good + 1) / 2) / pairs.clamp(min=1)
    return torch.where(pairs > 0, area, 0.5)


def cluster_loss(quality: Tensor, clusters: Tensor) -> Tensor:
    """Mean over clusters of the unbiased variance of quality inside each (METHODS section 2.2, weight 1e-3).

    A constant quality minimises it: watch that quality still tells good regions from bad.

    Args:
        quality: (P,) in [0, 1], with gradient.
        clusters: (P,) int64 in 0..P-1. Clusters of one node have no variance and do not count.

    Returns:
        Scalar fp32, 0 (on the graph) where no cluster has two nodes.
    """
    if len(quality) == 0:
        return zero_on_graph(quality)
    with full_precision(quality):
        value = quality.float()
        zero = torch.zeros_like(value)
        size = zero.scatter_add(0, clusters, torch.ones_like(value))
        mean = zero.scatter_add(0, clusters, value) / size.clamp(min=1)
        squares = zero.scatter_add(0, clusters, (value - mean[clusters]).square())
        variance = squares / (size - 1).clamp(min=1)
        loss: Tensor = variance.sum() / (size > 1).sum().clamp(min=1)
    return loss
