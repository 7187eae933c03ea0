from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from nightaug.config import build
from nightaug.detect.adaptation.head import AdaptationHead
from nightaug.detect.adaptation.settings import PARTS, AdaptationSettings
from nightaug.detect.regions import RegionBatch
from nightaug.errors import ConfigError
from nightaug.losses import weighted_total

CLASSES, WIDTH, CLIP = 3, 24, 12


def regions(labels: list[int], seed: int = 0) -> RegionBatch:
    """Regions whose features lie about a direction of their class; leaves with gradient."""
    g = torch.Generator().manual_seed(seed)
    kinds = torch.tensor(labels, dtype=torch.long)
    centers = torch.randn(CLASSES + 1, WIDTH, generator=torch.Generator().manual_seed(99))
    features = (centers[kinds] + 0.3 * torch.randn(len(labels), WIDTH, generator=g)).requires_grad_()
    quality = torch.rand(len(labels), generator=g).requires_grad_()
    maps = [torch.randn(2, 32, size, size, generator=g).requires_grad_() for size in (8, 4)]
    count = torch.zeros(len(labels), dtype=torch.long)
    return RegionBatch(
        features, torch.zeros(len(labels), 4), kinds, torch.rand(len(labels), generator=g), quality, count, count, maps
    )


def head(parts: tuple[str, ...] = PARTS, clip: int | None = CLIP, **changes: Any) -> AdaptationHead:
    settings = build(AdaptationSettings, {"parts": parts, "width": 32, "at_least": 2, **changes})
    return AdaptationHead(settings, CLASSES, WIDTH, [32, 32], clip, seed=4)


def clip() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(5, CLIP, generator=torch.Generator().manual_seed(3)), torch.tensor([0, 0, 1, 2, 2])


MANY = [0, 1, 2] * 20 + [-1] * 12


def test_every_part_gives_its_loss_and_every_weight_a_gradient() -> None:
    module = head().train()
    # The first step fills the memory; from the second one the generator has something to stand in with.
    module(regions(MANY), regions(MANY, 1), 0, *clip())
    source, target = regions([0, 1] * 20 + [-1] * 5), regions([0, 2] * 20 + [-1] * 5, 1)
    out = module(source, target, 1, *clip())
    assert set(out.losses) == {"cluster", *PARTS} - {"sampler"}
    weighted_total(out.losses, module.loss_weights(1)).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in module.parameters())
    without = [name for name, p in module.named_parameters() if not float(p.grad.abs().sum()) > 0]
    assert not without, without
    for leaf in (source.features, target.features, target.quality, *source.pyramid, *target.pyramid):
        assert leaf.grad is not None
        assert float(leaf.grad.abs().sum()) > 0


@pytest.mark.parametrize("part", PARTS)
def test_each_part_works_alone_and_can_be_left_out(part: str) -> None:
    name = "cluster" if part == "sampler" else part
    alone = head((part,))
    out = alone(regions(MANY), regions(MANY, 1), 0, *clip())
    assert set(out.losses) == set(alone.loss_weights(0)) == {name}
    others = head(tuple(other for other in PARTS if other != part))
    out = others(regions(MANY), regions(MANY, 1), 0, *clip())
    assert name not in out.losses
    assert set(out.losses) == set(others.loss_weights(0))


@pytest.mark.parametrize("source", [[], [0], [0, 1], [-1, -1]])
@pytest.mark.parametrize("target", [[], [1], [2, 2], [-1]])
def test_0_1_and_2_regions(source: list[int], target: list[int]) -> None:
    module = head().train()
    for step in range(2):
        out = module(regions(source), regions(target, 1), step, *clip())
        total = weighted_total(out.losses, module.loss_weights(step))
        assert bool(total.isfinite())
        total.backward()
    assert all(bool(p.grad.isfinite().all()) for p in module.parameters() if p.grad is not None)


def test_without_clip_the_rest_trains() -> None:
    module = head(clip=None)
    assert "alignment" not in module(regions(MANY), regions(MANY, 1), 0).losses
    with_clip = head()
    assert with_clip(regions(MANY), regions(MANY, 1), 0).losses["alignment"].item() == 0.0


def test_the_same_step_is_the_same_whatever_came_before() -> None:
    module = head(nodes=10).eval()
    torch.rand(7)
    first = module(regions(MANY), regions(MANY, 1), 5, *clip()).losses
    torch.rand(3)
    again = module(regions(MANY), regions(MANY, 1), 5, *clip()).losses
    later = module(regions(MANY), regions(MANY, 1), 6, *clip()).losses
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], later[name]) for name in first)


def test_the_state_holds_the_memory() -> None:
    module = head().train()
    module(regions(MANY), regions(MANY, 1), 0, *clip())
    other = head().train()
    other.load_state_dict(copy.deepcopy(module.state_dict()))
    one, two = (m(regions([0, 1] * 9), regions([2] * 9, 1), 1, *clip()).losses for m in (module, other))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_evaluation_leaves_the_memory_alone() -> None:
    module = head().eval()
    module(regions(MANY), regions(MANY, 1), 0, *clip())
    assert not bool(module.state_dict()["own.hallucination.bank.memory"].any())


def test_bf16_gives_finite_fp32_losses() -> None:
    module = head().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = module(regions(MANY), regions(MANY, 1), 0, *clip()).losses
    assert all(value.dtype == torch.float32 and bool(value.isfinite()) for value in losses.values())


def test_training_the_head_matches_the_classes() -> None:
    """On separable nodes the matching loss falls: nodes of one class find each other."""
    module = head(("matching", "node_class")).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    values = []
    for step in range(60):
        # One node a class: with several, which of them belongs to which is chance, and the loss has a high floor.
        out = module(regions([0, 1, 2], step), regions([2, 1, 0], step + 1000), step)
        optimizer.zero_grad()
        (out.losses["matching"] + out.losses["node_class"]).backward()
        optimizer.step()
        values.append((out.losses["matching"].item(), out.losses["node_class"].item()))
    assert sum(v[0] for v in values[-5:]) < 0.5 * sum(v[0] for v in values[:5])
    assert values[-1][1] < 0.5 * values[0][1]


def test_warm_up_and_empty_parts() -> None:
    module = head(warmup=10)
    assert module.loss_weights(0)["structure"] == pytest.approx(0.1)
    assert module.loss_weights(50)["structure"] == 1.0
    with pytest.raises(ConfigError, match=r"adaptation\.parts is empty"):
        head(())
