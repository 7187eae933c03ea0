from __future__ import annotations

import math

import pytest
import torch

from nightaug.detect.detectors.region_head import ObjectnessHead, SoftmaxHead
from nightaug.detect.rcnn_settings import RCNNSettings
from nightaug.errors import ConfigError

WIDTH, CLASSES = 8, 3


def make(seed: int = 0) -> SoftmaxHead:
    torch.manual_seed(seed)
    head = SoftmaxHead(RCNNSettings(box_features=WIDTH, classification=2.0), CLASSES, {})
    torch.nn.init.normal_(head.classifier.weight)
    return head


def regions(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    features = torch.randn(count, WIDTH, generator=generator, requires_grad=True)
    labels = torch.randint(-1, CLASSES, (count,), generator=generator)
    return features, labels, torch.rand(count, generator=generator)


def naive(head: SoftmaxHead, features: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> float:
    total = 0.0
    for feature, label, weight in zip(features, labels.tolist(), weights.tolist(), strict=True):
        logits = (head.classifier.weight @ feature + head.classifier.bias).tolist()
        right = logits[label] if label >= 0 else logits[-1]  # background is last
        total += weight * (math.log(sum(math.exp(value) for value in logits)) - right)
    return total / max(1.0, sum(weights.tolist()))


@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_the_loss_is_the_naive_one_and_has_gradients(count: int) -> None:
    head = make()
    features, labels, weights = regions(count)
    losses = head.losses(features, labels, weights, None)
    assert set(losses) == set(head.loss_weights) == set(head.class_losses)
    assert losses["classification"].item() == pytest.approx(naive(head, features.detach(), labels, weights), abs=1e-5)
    losses["classification"].backward()
    assert head.classifier.weight.grad is not None
    assert bool(head.classifier.weight.grad.abs().sum() > 0) == bool(count)


def test_a_head_that_knows_nothing_loses_log_of_the_classes() -> None:
    head = make()
    torch.nn.init.zeros_(head.classifier.weight)
    features, labels, _ = regions(6)
    assert head.losses(features, labels, torch.ones(6), None)["classification"].item() == pytest.approx(math.log(4))


def test_a_weight_of_0_teaches_nothing() -> None:
    head = make()
    features, labels, _ = regions(4)
    head.losses(features, labels, torch.tensor([1.0, 0, 1, 0]), None)["classification"].backward()
    assert features.grad is not None
    assert (features.grad.abs().sum(dim=1) > 0).tolist() == [True, False, True, False]


def test_scores_are_probabilities_without_background() -> None:
    head = make()
    with torch.no_grad():
        head.classifier.bias.copy_(torch.tensor([0.0, 5, 0, 0]))
        head.classifier.weight.zero_()
    scores = head.scores(torch.randn(2, WIDTH), torch.tensor([0.0, 1.0]))
    assert scores.shape == (2, CLASSES)
    assert scores[0].tolist() == pytest.approx([x / (math.exp(5) + 3) for x in (1, math.exp(5), 1)])
    assert head.scores(torch.zeros(0, WIDTH), torch.zeros(0)).shape == (0, CLASSES)


def test_a_plain_head_knows_no_other_classes() -> None:
    with pytest.raises(ConfigError, match="openvocab train"):
        make().set_classes(["tram"], torch.ones(1, 4))


def test_without_a_classifier_the_score_is_the_objectness() -> None:
    head = ObjectnessHead(RCNNSettings(box_features=WIDTH), 1, {})
    assert head.losses(*regions(3), None) == {} == head.loss_weights
    assert head.scores(torch.randn(2, WIDTH), torch.tensor([0.25, 1])).tolist() == [[0.25], [1.0]]
