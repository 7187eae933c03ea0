from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from openvocab_toys import seeded, unit

from nightaug.config import build
from nightaug.detect.detectors.region_head import Embedded
from nightaug.detect.openvocab.vild import ViLDHead, text_loss
from nightaug.detect.rcnn_settings import RCNNSettings
from nightaug.errors import ConfigError


def head(classes: int = 3, features: int = 10, width: int = 6, **vild: object) -> ViLDHead:
    torch.manual_seed(0)
    made = ViLDHead(build(RCNNSettings, {"box_features": features, "vild": vild}), classes, {"embedding": width})
    made.set_classes([str(n) for n in range(classes)], unit(classes, width, seed=3))
    return made


def regions(count: int, width: int = 10) -> torch.Tensor:
    return torch.randn(count, width, generator=seeded()).requires_grad_()


def test_the_text_loss_is_the_weighted_mean_of_the_cross_entropies() -> None:
    logits = torch.randn(5, 4, generator=seeded())
    labels, weights = torch.tensor([0, 2, -1, 1, -1]), torch.tensor([1.0, 0.5, 1.0, 0.0, 0.25])
    total = 0.0
    for row, label, weight in zip(logits.tolist(), labels.tolist(), weights.tolist(), strict=True):
        wanted = row[label] if label >= 0 else row[3]  # background is the last
        total += weight * (math.log(sum(math.exp(value) for value in row)) - wanted)
    assert text_loss(logits, labels, weights).item() == pytest.approx(total / 2.75, rel=1e-5)
    # All logits equal: log of the number of choices.
    assert text_loss(torch.zeros(3, 4), labels[:3], torch.ones(3)).item() == pytest.approx(math.log(4))


def test_scores_are_the_softmax_of_cosines_over_the_temperature() -> None:
    own, features = head(temperature=0.1), regions(4)
    scores = own.scores(features, torch.ones(4))
    found = F.normalize(own.space.project(features), dim=1).detach()
    known = [*own.space.text, F.normalize(own.background.detach(), dim=0)]
    for row, region in zip(scores, found, strict=True):
        cosines = [float(region @ direction) for direction in known]
        powers = [math.exp(value / 0.1) for value in cosines]
        assert row.tolist() == pytest.approx([value / sum(powers) for value in powers[:3]], rel=1e-4)
    assert scores.dtype == torch.float32


def test_losses_reach_projection_background_and_detector() -> None:
    own, features, other = head(), regions(6), regions(4)
    losses = own.losses(
        features, torch.tensor([0, 1, 2, -1, -1, 0]), torch.ones(6), Embedded(other, unit(4, 6, seed=5))
    )
    assert set(losses) == set(own.loss_weights) == set(own.class_losses)
    losses["text"].backward(retain_graph=True)
    assert features.grad.abs().sum(1).gt(0).all()
    assert own.background.grad.abs().sum() > 0
    assert other.grad is None or other.grad.eq(0).all()
    own.zero_grad()
    losses["image"].backward()
    assert other.grad.abs().sum(1).gt(0).all()
    assert own.space.project.weight.grad.abs().sum() > 0
    assert own.background.grad is None


def test_regions_of_weight_0_teach_nothing() -> None:
    own, features = head(), regions(3)
    losses = own.losses(features, torch.tensor([0, 1, -1]), torch.tensor([1.0, 0.0, 0.0]), None)
    losses["text"].backward()
    assert features.grad[1:].eq(0).all()
    assert features.grad[0].abs().sum() > 0


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("embedded", [None, 0, 1, 2])
def test_few_regions(count: int, embedded: int | None) -> None:
    own, features = head(), regions(count)
    given = None if embedded is None else Embedded(regions(embedded), unit(embedded, 6, seed=2))
    losses = own.losses(features, torch.full((count,), -1), torch.ones(count), given)
    sum(losses.values()).backward()
    assert all(loss.isfinite() and loss.shape == () for loss in losses.values())
    # Every weight has a gradient, as a group of processes waits for.
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in own.parameters())
    assert own.scores(features, torch.ones(count)).shape == (count, 3)


def test_training_without_classes_is_a_mistake_of_the_program() -> None:
    own = ViLDHead(build(RCNNSettings, {"box_features": 10}), 2, {"embedding": 6})
    with pytest.raises(AssertionError, match="set_classes"):
        own.losses(regions(2), torch.tensor([0, 1]), torch.ones(2), None)
    with pytest.raises(ConfigError, match="openvocab train"):
        ViLDHead(build(RCNNSettings, {"box_features": 10}), 2, {})


def test_a_class_without_boxes_is_found_by_its_name() -> None:
    """What the method is for: text loss on two classes, image loss on all; then the third one by text alone."""
    torch.manual_seed(0)
    text = torch.eye(6)[:3]
    own = ViLDHead(build(RCNNSettings, {"box_features": 10}), 2, {"embedding": 6})
    own.set_classes(["a", "b"], text[:2])
    centres = 3 * torch.randn(4, 10, generator=seeded(1))
    kind = torch.arange(4).repeat(25)  # a, b, the unknown one, background
    features = centres[kind] + 0.3 * torch.randn(100, 10, generator=seeded(2))
    clip = F.normalize(torch.eye(6)[kind] + 0.05 * torch.randn(100, 6, generator=seeded(3)), dim=1)
    labelled = kind != 2
    labels = torch.where(kind == 3, -1, kind)
    optimizer = torch.optim.Adam(own.parameters(), 0.01)
    for _ in range(150):
        losses = own.losses(features[labelled], labels[labelled], torch.ones(75), Embedded(features, clip))
        optimizer.zero_grad()
        (losses["text"] + 0.5 * losses["image"]).backward()
        optimizer.step()
    own.set_classes(["a", "b", "new"], text)
    scores = own.scores(features, torch.ones(100))
    assert (scores[kind < 3].argmax(1) == kind[kind < 3]).float().mean() > 0.95
    assert scores[kind == 2, 2].mean() > 0.9
    assert scores[kind == 3].amax(1).mean() < 0.2


def test_weights_of_other_numbers_of_classes_differ_in_the_text_alone() -> None:
    few, many = head(2).state_dict(), head(7).state_dict()
    assert few.keys() == many.keys()
    assert [key for key in few if few[key].shape != many[key].shape] == ["space.text"]


def test_a_labelled_region_is_no_rival_and_an_unlabelled_one_may_be() -> None:
    """The loss is the one of more classes where there is a label, and the published one where there is none."""
    plain, own = head(temperature=0.1), head(temperature=0.1)
    rivals = unit(2, 6, seed=9)
    own.set_rivals(3 * rivals)
    more = head(classes=5, temperature=0.1)
    more.set_classes([*"01234"], torch.cat((own.space.text, rivals)))
    more.load_state_dict(own.state_dict() | {"space.text": more.space.text})
    features, ones = regions(4), torch.ones(4)
    labelled, unlabelled = torch.tensor([0, 2, 1, 1]), torch.full((4,), -1)

    def text(head: ViLDHead, labels: torch.Tensor) -> torch.Tensor:
        return head.losses(features, labels, ones, None)["text"]

    assert torch.allclose(text(own, labelled), text(more, labelled), rtol=1e-5)
    assert text(own, labelled) > text(plain, labelled)
    assert torch.allclose(text(own, unlabelled), text(plain, unlabelled), rtol=1e-5)
    own.losses(features, torch.tensor([0, -1, -1, 2]), ones, None)["text"].backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    assert features.grad.abs().sum(1).gt(0).all()
    assert "rivals" not in own.state_dict(), "a trained detector does not need them"
    assert own.scores(features, ones).shape == (4, 3), "nor does it look for them"


def test_scores_may_hold_objectness() -> None:
    features, objectness = regions(3), torch.tensor([1.0, 0.25, 0.0])
    plain = head(temperature=0.1).scores(features, objectness)
    both = head(temperature=0.1, objectness=True).scores(features, objectness)
    assert torch.allclose(both, (plain * objectness[:, None]).sqrt())


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_regions_beside_rivals(count: int) -> None:
    own, features = head(), regions(count)
    own.set_rivals(unit(2, 6, seed=9))
    losses = own.losses(features, torch.arange(count) - 1, torch.ones(count), None)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
