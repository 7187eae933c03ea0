from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from openvocab_toys import seeded, unit

from nightaug.config import build
from nightaug.detect.detectors.region_head import Embedded
from nightaug.detect.openvocab.lp_ovod import LPOVODHead, combine, focal_loss
from nightaug.detect.rcnn_settings import RCNNSettings
from nightaug.errors import ConfigError


def head(base: int = 3, novel: int = 0, width: int = 6, **settings: Any) -> LPOVODHead:
    torch.manual_seed(0)
    facts = {"embedding": width} | ({"novel": [f"n{i}" for i in range(novel)]} if novel else {})
    own = LPOVODHead(build(RCNNSettings, {"box_features": 10, "lp_ovod": settings}), base + novel, facts)
    own.set_classes([str(n) for n in range(base + novel)], unit(base + novel, width, seed=3))
    return own


def regions(count: int) -> torch.Tensor:
    return torch.randn(count, 10, generator=seeded()).requires_grad_()


def test_the_focal_loss_is_the_sum_over_the_weight_of_the_positives() -> None:
    logits = torch.randn(4, 3, generator=seeded())
    labels, weights = torch.tensor([0, -1, 2, 1]), torch.tensor([1.0, 1.0, 0.5, 0.0])
    total = 0.0
    for i in range(4):
        for k in range(3):
            p = 1 / (1 + math.exp(-float(logits[i, k])))
            right, alpha = (p, 0.25) if labels[i] == k else (1 - p, 0.75)
            total += float(weights[i]) * alpha * (1 - right) ** 2 * -math.log(right)
    assert focal_loss(logits, labels, weights).item() == pytest.approx(total / 1.5, rel=1e-4)
    # One positive at a score of a half, by itself: alpha / 4 log 2.
    assert focal_loss(torch.zeros(1, 1), torch.tensor([0]), torch.ones(1)).item() == pytest.approx(math.log(2) / 16)


def test_scores_are_combined_as_published() -> None:
    score, clip = torch.tensor([[0.5, 0.4]]), torch.tensor([[0.2, 0.9]])
    share = torch.tensor([0.0, 0.2])
    found = combine(score, clip, share, torch.tensor([0.81]))
    assert found[0, 0].item() == pytest.approx(math.sqrt(0.5 * 0.81))
    assert found[0, 1].item() == pytest.approx(math.sqrt(0.4**0.8 * 0.9**0.2 * 0.81))
    assert combine(score, torch.zeros(1, 2), share, torch.ones(1))[0, 0].item() == pytest.approx(math.sqrt(0.5))


def test_a_probed_head_scores_base_and_novel_classes() -> None:
    own, features, objectness = (
        head(2, 1, b=0.7, a=0.1, temperature=0.1),
        regions(4),
        torch.rand(4, generator=seeded(4)),
    )
    scores = own.scores(features, objectness)
    s = torch.cat((own.classifier(features), own.probe(features)), 1).sigmoid().detach()
    c = (F.normalize(own.space.project(features), dim=1) @ own.space.text.T / 0.1).softmax(1).detach()
    for row, (i, score) in enumerate(zip(range(4), scores, strict=True)):
        base = [float(s[i, k]) ** 0.9 * float(c[i, k]) ** 0.1 for k in range(2)]
        novel = [float(c[i, 2]) ** 0.3 * float(s[i, 2]) ** 0.7]
        assert score.tolist() == pytest.approx([math.sqrt(v * float(objectness[row])) for v in base + novel], rel=1e-4)


def test_losses_reach_what_they_should() -> None:
    own, features, other = head(), regions(5), regions(4)
    losses = own.losses(features, torch.tensor([0, 1, 2, -1, -1]), torch.ones(5), Embedded(other, unit(4, 6, seed=5)))
    assert set(losses) == set(own.loss_weights) == set(own.class_losses)
    naive = (F.normalize(own.space.project(other), dim=1) - unit(4, 6, seed=5)).abs().mean()
    assert losses["distillation"].item() == pytest.approx(naive.item(), rel=1e-5)
    losses["classification"].backward()
    assert features.grad.abs().sum(1).gt(0).all()
    assert own.classifier.weight.grad.abs().sum() > 0
    assert own.space.project.weight.grad is None
    losses["distillation"].backward()
    assert other.grad.abs().sum(1).gt(0).all()
    assert own.space.project.weight.grad.abs().sum() > 0


def test_background_is_no_class_and_weight_0_teaches_nothing() -> None:
    own, features = head(), regions(3)
    own.losses(features, torch.tensor([0, -1, 1]), torch.tensor([1.0, 1.0, 0.0]), None)["classification"].backward()
    assert features.grad[2].eq(0).all()
    assert features.grad[:2].abs().sum(1).gt(0).all()
    # A region of background lowers every class.
    own.zero_grad()
    own.losses(features, torch.full((3,), -1), torch.ones(3), None)["classification"].backward()
    assert own.classifier.bias.grad.gt(0).all()


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("embedded", [None, 0, 1])
def test_few_regions(count: int, embedded: int | None) -> None:
    own, features = head(), regions(count)
    given = None if embedded is None else Embedded(regions(embedded), unit(embedded, 6, seed=2))
    losses = own.losses(features, torch.full((count,), -1), torch.ones(count), given)
    sum(losses.values()).backward()
    assert all(loss.isfinite() and loss.shape == () for loss in losses.values())
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in own.parameters())
    assert own.scores(features, torch.ones(count)).shape == (count, 3)


def test_a_new_classifier_begins_at_its_prior() -> None:
    scores = head(prior=0.02).classifier(torch.zeros(1, 10)).sigmoid()
    assert scores[0].tolist() == pytest.approx([0.02] * 3, rel=1e-4)


def test_it_knows_no_other_classes_than_its_own() -> None:
    own = head()
    same = own.space.text.clone()
    own.set_classes("abc", same)  # a resumed run tells it again
    with pytest.raises(ConfigError, match="openvocab probe"):
        own.set_classes("abcd", unit(4, 6))
    with pytest.raises(ConfigError, match="openvocab probe"):
        own.set_classes("xyz", unit(3, 6, seed=9))
    with pytest.raises(ConfigError, match="5 wide"):
        own.set_classes("abc", unit(3, 5))
    assert torch.equal(own.space.text, same)


def test_a_probed_head_is_not_trained_further() -> None:
    with pytest.raises(ConfigError, match="base run"):
        head(2, 1).losses(regions(1), torch.tensor([0]), torch.ones(1), None)
