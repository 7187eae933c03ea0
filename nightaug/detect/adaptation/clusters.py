"""First-neighbour clustering (FINCH's first partition: Sarfraz, Sharma and Stiefelhagen, CVPR 2019).

Every node is linked to its nearest other node by cosine; clusters are the connected components of those links, so there
is nothing to tune. Neighbours are found in blocks of rows, components by pointer jumping: all of it stays on the
nodes' device, and nothing waits for it.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nightaug.detect.adaptation.nodes import full_precision
from nightaug.errors import ConfigError

#: From this many nodes on, neighbours are approximate (METHODS section 2: over 70,000).
APPROXIMATE_OVER = 70_000

#: Bytes one block of distances may take.
BLOCK_BYTES = 64 * 2**20

#: Neighbours pynndescent is asked for: with 2 it misses many of the true first ones, with 15 one in ten thousand.
NEIGHBOURS = 15


@torch.no_grad()
def cluster(features: Tensor, approximate_over: int = APPROXIMATE_OVER) -> Tensor:
    """Clusters of nodes by first neighbours.

    Args:
        features: (P, D), finite; any float type, computed in fp32. Rows of zeros are as far from all others as
            rows at a right angle.
        approximate_over: from more nodes than this on, neighbours come from pynndescent, on the CPU.

    Returns:
        (P,) int64 cluster numbers from 0, numbered by first appearance. The same nodes give the same numbers.

    Raises:
        ConfigError: pynndescent is needed and not installed.
    """
    if len(features) < 2:
        return torch.zeros(len(features), dtype=torch.long, device=features.device)
    if len(features) > approximate_over:
        return components(approximate_neighbours(features))
    return components(first_neighbours(features))


@torch.no_grad()
def first_neighbours(features: Tensor, block_bytes: int = BLOCK_BYTES) -> Tensor:
    """The nearest other node of every node by cosine distance; the first one where several are as near.

    Args:
        features: (P, D) with P of at least 2.
        block_bytes: memory of one block of distances.

    Returns:
        (P,) int64.
    """
    count = len(features)
    assert count > 1, "a single node has no neighbour"
    with full_precision(features):
        unit = F.normalize(features.float(), dim=1)
        rows = max(1, min(count, block_bytes // (4 * count)))
        one = torch.ones((), device=features.device)
        nearest = torch.empty(count, dtype=torch.long, device=features.device)
        buffer = torch.empty(rows, count, device=features.device)
        for start in range(0, count, rows):
            stop = min(start + rows, count)
            distance = buffer[: stop - start]
            torch.mm(unit[start:stop], unit.T, out=distance)
            # The distance itself, not the similarity: 1 - s rounds and the clip cuts, which makes ties that the
            # reference breaks by order, and argmin does the same.
            torch.sub(one, distance, out=distance)
            distance.clamp_(0, 2)
            distance.diagonal(start).fill_(torch.inf)
            nearest[start:stop] = distance.argmin(1)
    return nearest


@torch.no_grad()
def approximate_neighbours(features: Tensor, neighbours: int = NEIGHBOURS, seed: int = 0) -> Tensor:
    """As :func:`first_neighbours`, approximately, by nearest-neighbour descent on the CPU.

    Args:
        features: (P, D) with P of at least 2.
        neighbours: how many are looked for; the more, the surer is the first.
        seed: of the search; the same seed gives the same neighbours.

    Raises:
        ConfigError: pynndescent is not installed.
    """
    assert len(features) > 1, "a single node has no neighbour"
    descent = _pynndescent()
    found, _ = descent.NNDescent(
        features.detach().float().cpu().numpy(),
        metric="cosine",
        n_neighbors=min(neighbours, len(features)),
        random_state=seed,
    ).neighbor_graph
    order = torch.as_tensor(found, dtype=torch.long)
    # Nearest first, the node itself among them, though among duplicates not always in front; -1 where it found none.
    own = torch.arange(len(order))[:, None]
    other = (order != own) & (order >= 0)
    first = torch.gather(order, 1, other.int().argmax(1, keepdim=True))[:, 0]
    return torch.where(other.any(1), first, own[:, 0]).to(features.device)


@torch.no_grad()
def components(links: Tensor) -> Tensor:
    """Connected components where every node has one link, by pointer jumping.

    Following the links from any node ends in a cycle, and each component has exactly one: its smallest node names
    the component. Each of log2(P) rounds doubles how far every node has looked.

    Args:
        links: (P,) int64, the node each node is linked to (itself: a component of its own, if nobody links to it).

    Returns:
        (P,) int64 component numbers from 0, numbered by first appearance.
    """
    count = len(links)
    own = torch.arange(count, device=links.device)
    reached, smallest = links, torch.minimum(own, links)
    # `smallest` is the least of the first 2^k nodes on the way, `reached` the node after 2^k links: once that is
    # on the cycle, what was smallest on the way from there is smallest on the cycle.
    for _ in range(max(1, count).bit_length()):
        smallest = torch.minimum(smallest, smallest[reached])
        reached = reached[reached]
    return _by_appearance(smallest[reached])


def _by_appearance(names: Tensor) -> Tensor:
    """(P,) numbers in 0..P-1, renamed 0, 1, ... in the order they first appear."""
    own = torch.arange(len(names), device=names.device)
    first = torch.full_like(own, len(names)).scatter_reduce(0, names, own, "amin")[names]
    rank = (first == own).cumsum(0) - 1
    return rank[first]


def _pynndescent() -> Any:
    """The module.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("pynndescent")
    except ImportError as error:
        raise ConfigError(
            "clustering this many regions needs pynndescent: pip install 'nightaug[clip]', or raise the size from "
            "which neighbours are approximate"
        ) from error
