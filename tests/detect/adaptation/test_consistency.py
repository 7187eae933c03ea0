from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nightaug.detect.adaptation.clusters import cluster
from nightaug.detect.adaptation.consistency import ConsistencySampler, cluster_loss, draw, representatives
from nightaug.detect.regions import RegionBatch

GOLDEN = Path(__file__).parents[2] / "golden"


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def regions(objects: int, background: int = 0, width: int = 8, seed: int = 0) -> RegionBatch:
    count, chance = objects + background, seeded(seed)
    labels = torch.randint(0, 4, (count,), generator=chance)
    labels[torch.randperm(count, generator=chance)[:background]] = -1
    return RegionBatch(
        torch.randn(count, width, generator=chance).requires_grad_(),
        torch.rand(count, 4, generator=chance),
        labels,
        torch.rand(count, generator=chance),
        torch.rand(count, generator=chance).requires_grad_(),
        torch.zeros(count, dtype=torch.long),
        torch.zeros(count, dtype=torch.long),
    )


def naive_loss(quality: Tensor, clusters: Tensor) -> Tensor:
    parts = [quality[clusters == number] for number in clusters.unique()]
    return torch.stack([part.var() for part in parts if len(part) > 1]).mean()


@pytest.mark.parametrize("count", [12, 257])
def test_representatives_and_loss_are_the_reference_ones(count: int) -> None:
    golden = {key: torch.from_numpy(value) for key, value in
              np.load(GOLDEN / f"first_neighbour_clusters_{count}.npz").items() if value.ndim}  # fmt: skip
    expected = float(np.load(GOLDEN / f"first_neighbour_clusters_{count}.npz")["cluster_loss"])
    quality, labels = golden["centerness"], golden["labels"]
    assert representatives(quality, labels).equal(golden["representative"])
    assert cluster_loss(quality, labels).item() == pytest.approx(expected, rel=1e-5)
    # And through the sampler, from the features.
    batch = regions(count)
    batch.features, batch.quality = golden["features"], quality
    sample = ConsistencySampler().target(batch, seeded())
    assert sample.index.equal(golden["representative"])
    assert sample.loss.item() == pytest.approx(expected, rel=1e-5)


def test_loss_and_its_gradient_equal_naive_ones_and_leave_singletons_out() -> None:
    quality = torch.rand(50, generator=seeded(), requires_grad=True)
    clusters = torch.randint(0, 12, (50,), generator=seeded(1))
    clusters[7], clusters[9] = 12, 13
    value = cluster_loss(quality, clusters)
    value.backward()
    again = quality.detach().double().requires_grad_()
    naive = naive_loss(again, clusters)
    naive.backward()
    assert value.item() == pytest.approx(naive.item(), rel=1e-5)
    assert torch.allclose(quality.grad, again.grad.float(), atol=1e-7)
    assert quality.grad[[7, 9]].eq(0).all(), "a node alone in its cluster gets no gradient"


def test_loss_in_closed_form() -> None:
    # Two clusters: the unbiased variance of (0, 1) is 1/2 and that of (0.2, 0.4, 0.6) is 0.04.
    quality = torch.tensor([0.0, 0.2, 1.0, 0.4, 0.6], requires_grad=True)
    value = cluster_loss(quality, torch.tensor([0, 1, 0, 1, 1]))
    assert value.item() == pytest.approx((0.5 + 0.04) / 2)
    value.backward()
    assert torch.allclose(quality.grad, torch.tensor([-0.5, -0.1, 0.5, 0.0, 0.1]), atol=1e-6)
    assert cluster_loss(torch.full((4,), 0.3), torch.tensor([0, 0, 1, 1])).item() == 0


def test_gradient_reaches_quality_only_and_is_fp32_under_autocast() -> None:
    batch = regions(40)
    with torch.autocast("cpu", torch.bfloat16):
        sample = ConsistencySampler().target(batch, seeded())
    assert sample.loss.dtype == torch.float32
    sample.loss.backward()
    assert batch.quality.grad.abs().sum() > 0
    assert batch.features.grad is None
    assert sample.loss.item() == pytest.approx(naive_loss(batch.quality, cluster(batch.features)).item(), rel=1e-5)


def test_each_cluster_gives_its_best_node() -> None:
    batch = regions(150, 30)
    sample = ConsistencySampler().target(batch, seeded())
    objects = (batch.labels >= 0).nonzero()[:, 0]
    clusters = cluster(batch.features[objects])
    best = {int(objects[clusters == n][batch.quality[objects][clusters == n].argmax()]) for n in clusters.unique()}
    kept = sample.index[sample.regions.labels >= 0]
    assert set(kept.tolist()) == best
    assert len(sample.regions) - len(kept) == -(-len(kept) // 10), "a tenth of the objects, rounded up"
    assert sample.regions.features.equal(batch.features[sample.index])


def test_as_good_ones_give_the_first_and_nan_is_worst() -> None:
    assert representatives(torch.ones(4), torch.tensor([0, 1, 1, 0])).tolist() == [0, 1]
    quality = torch.tensor([torch.nan, 0.1, torch.nan, 0.0])
    assert representatives(quality, torch.tensor([0, 0, 1, 1])).tolist() == [1, 3]
    assert representatives(torch.zeros(0), torch.zeros(0, dtype=torch.long)).shape == (0,)


def test_source_clusters_only_when_it_has_many() -> None:
    batch = regions(200, 40)
    few = ConsistencySampler().source(batch, seeded())
    assert not few.clustered
    assert few.index[:200].equal((batch.labels >= 0).nonzero()[:, 0])
    assert len(few.index) == 220
    assert few.loss.item() == 0
    few.loss.backward()
    assert batch.quality.grad.eq(0).all()
    many = ConsistencySampler().source(regions(201, 40), seeded())
    assert many.clustered
    assert many.loss.item() > 0
    assert (many.regions.labels >= 0).sum() < 150


def test_draws_are_uniform_without_repetition_and_by_the_generator() -> None:
    sampler = ConsistencySampler(limit=20, source_over=1000, background=0.5)
    batch = regions(60, 30)
    one, same, other = (sampler.source(batch, seeded(seed)).index for seed in (1, 1, 2))
    assert one.equal(same)
    assert not one.equal(other)
    assert len(one.unique()) == len(one) == 30
    before = torch.random.get_rng_state()
    drawn = torch.stack([torch.bincount(draw(10, 3, seeded(seed)), minlength=10) for seed in range(2000)])
    assert torch.random.get_rng_state().equal(before), "the global state is left alone"
    assert drawn.max() == 1
    # 2000 draws of 3 in 10: 600 each, with a standard deviation of 20.
    assert ((drawn.sum(0) - 600).abs() < 90).all()


@pytest.mark.parametrize(("objects", "background"), [(0, 0), (0, 5), (1, 0), (1, 5), (2, 5)])
def test_hardly_any_regions(objects: int, background: int) -> None:
    batch = regions(objects, background)
    sample = ConsistencySampler().target(batch, seeded())
    assert (sample.regions.labels >= 0).sum() == min(objects, 1)
    assert (sample.regions.labels < 0).sum() == (1 if objects and background else 0)
    assert sample.loss.isfinite()
    sample.loss.backward()
    if objects < 2:
        assert sample.loss.item() == 0
        assert batch.quality.grad.eq(0).all()


def test_all_of_one_class_and_all_alike() -> None:
    batch = regions(30)
    batch.labels.zero_()
    batch.features = torch.ones(30, 8)
    sample = ConsistencySampler().target(batch, seeded())
    assert sample.index.tolist() == [int(batch.quality.argmax())]
    assert sample.loss.item() == pytest.approx(batch.quality.var().item(), rel=1e-5)
