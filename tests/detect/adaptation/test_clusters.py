from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from nightaug.detect.adaptation import clusters
from nightaug.detect.adaptation.clusters import approximate_neighbours, cluster, components, first_neighbours
from nightaug.errors import ConfigError

GOLDEN = Path(__file__).parents[2] / "golden"


def blobs(count: int, width: int = 16, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(max(1, count // 20), width, generator=draw)
    near = centres[torch.randint(len(centres), (count,), generator=draw)]
    return near + 0.3 * torch.randn(count, width, generator=draw)


def scipys(links: Tensor) -> Tensor:
    """Components as scipy finds them; it numbers by first appearance, too."""
    count = len(links)
    graph = coo_matrix((np.ones(count), (np.arange(count), links.numpy())), (count, count))
    return torch.from_numpy(connected_components(graph, directed=False)[1]).long()


@pytest.mark.parametrize("count", [12, 257])
@pytest.mark.parametrize("block_bytes", [clusters.BLOCK_BYTES, 4096])
def test_labels_are_the_reference_ones(count: int, block_bytes: int) -> None:
    golden = np.load(GOLDEN / f"first_neighbour_clusters_{count}.npz")
    features = torch.from_numpy(golden["features"])
    assert cluster(features).tolist() == golden["labels"].tolist()
    assert components(first_neighbours(features, block_bytes)).tolist() == golden["labels"].tolist()


@pytest.mark.parametrize("seed", range(4))
def test_neighbours_are_the_nearest_and_blocks_do_not_matter(seed: int) -> None:
    features = blobs(301, seed=seed)
    naive = (1 - F.cosine_similarity(features[:, None].double(), features[None].double(), dim=2)).fill_diagonal_(9)
    assert first_neighbours(features).equal(naive.argmin(1))
    assert first_neighbours(features, 301 * 4 * 7).equal(naive.argmin(1))
    assert components(first_neighbours(features)).equal(scipys(naive.argmin(1)))


@pytest.mark.parametrize("seed", range(20))
def test_components_equal_scipys_for_any_links(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    count = int(torch.randint(1, 400, (), generator=draw))
    # Any link to any node: cycles of any length and long chains, more than nearest neighbours can make.
    links = torch.randint(count, (count,), generator=draw)
    assert components(links).equal(scipys(links))


@pytest.mark.parametrize("count", [2, 3, 64, 1000])
def test_components_of_the_longest_chain_and_the_longest_cycle(count: int) -> None:
    chain = torch.arange(count) - 1
    chain[0] = 1
    assert not components(chain).any()
    assert not components((torch.arange(count) + 1) % count).any()
    assert components(torch.arange(count)).equal(torch.arange(count))


def test_no_node_one_node_two_nodes_and_duplicates() -> None:
    assert cluster(torch.zeros(0, 4)).shape == (0,)
    assert cluster(torch.zeros(0, 4)).dtype == torch.long
    assert cluster(torch.ones(1, 4)).tolist() == [0]
    assert cluster(torch.eye(4)[:2]).tolist() == [0, 0]
    # Duplicates are as near as can be: each goes to the first other one.
    twice = torch.eye(4)[[0, 1, 0, 1, 0]]
    assert first_neighbours(twice).tolist() == [2, 3, 0, 1, 0]
    assert cluster(twice).tolist() == [0, 1, 0, 1, 0]
    assert cluster(torch.zeros(3, 4)).tolist() == [0, 0, 0]


def test_half_precision_nodes_cluster_in_full_precision() -> None:
    features = blobs(120).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert cluster(features).equal(cluster(features.float()))


def test_clustering_leaves_gradient_alone() -> None:
    assert not cluster(blobs(30).requires_grad_()).requires_grad


def test_many_nodes_are_clustered_approximately(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    class Descent:
        def __init__(self, data: np.ndarray, **how: object) -> None:
            asked.update(how)
            near = 1 - F.cosine_similarity(torch.tensor(data)[:, None], torch.tensor(data)[None], dim=2)
            order = near.argsort(1)[:, : how["n_neighbors"]].numpy()
            order[:, 1:] = np.where(np.arange(len(order))[:, None] == 3, -1, order[:, 1:])
            self.neighbor_graph = (order, None)

    class Module:
        NNDescent = Descent

    monkeypatch.setattr(clusters, "_pynndescent", lambda: Module)
    features = blobs(80)
    found = approximate_neighbours(features, seed=7)
    others = torch.arange(80) != 3
    assert found[others].equal(first_neighbours(features)[others])
    assert found[3] == 3, "a node for which nothing was found stays alone"
    assert asked["random_state"] == 7
    assert asked["metric"] == "cosine"
    assert cluster(features, approximate_over=79).equal(components(approximate_neighbours(features)))
    assert cluster(features, approximate_over=80).equal(components(first_neighbours(features)))


def test_without_pynndescent_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ConfigError, match=r"pip install 'nightaug\[clip\]'"):
        cluster(blobs(30), approximate_over=10)
