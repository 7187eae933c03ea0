from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import box_iou

from nightaug.detect.detectors.base import Target
from nightaug.detect.detectors.rcnn_loss import (
    Match,
    Sampled,
    box_loss,
    centrality,
    choose,
    match,
    quality_loss,
    sampled,
)

CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))


def target(boxes: list[list[float]], weights: list[float] | None = None, image: float = 1.0) -> Target:
    given = torch.tensor(boxes).reshape(-1, 4)
    return Target(given, torch.arange(len(given)) % 3, torch.tensor(weights or [1.0] * len(given)), image)


def some_boxes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 80
    return torch.cat([corner, corner + 4 + torch.rand(count, 2, generator=generator) * 40], dim=1)


@pytest.mark.parametrize(("foreground", "background", "reach"), [(0.7, 0.3, True), (0.5, 0.5, False)])
@pytest.mark.parametrize("seed", range(5))
def test_the_match_is_torchvisions_where_all_labels_count(
    foreground: float, background: float, reach: bool, seed: int
) -> None:
    boxes, objects = some_boxes(300, seed), some_boxes(7, 100 + seed)
    found = match(boxes, Target(objects, torch.arange(7), torch.ones(7)), foreground, background, reach)
    own = Matcher(foreground, background, allow_low_quality_matches=reach)(box_iou(objects, boxes))
    assert torch.equal(found.served, own.clamp(min=-1))
    assert torch.equal(found.weight, (own != -2).float())


def test_without_objects_all_is_background() -> None:
    found = match(some_boxes(5, 0), target([], image=0.5), 0.5, 0.5)
    assert found.served.tolist() == [-1] * 5
    assert found.weight.tolist() == [0.5] * 5
    assert len(match(torch.zeros(0, 4), target([[0, 0, 9, 9]]), 0.5, 0.5, reach=True).served) == 0


def test_a_label_of_weight_0_is_neither_object_nor_background() -> None:
    unsure = target([[0, 0, 40, 40], [60, 0, 100, 40]], [0.0, 0.5])
    boxes = torch.tensor(
        [
            [0.0, 0, 40, 40],  # the unsure object itself
            [5, 5, 10, 10],  # inside it
            [0, 0, 100, 100],  # it is a small part of this
            [60, 0, 100, 40],  # the trusted one
            [60, 60, 90, 90],  # neither
        ]
    )
    found = match(boxes, unsure, 0.5, 0.5)
    assert found.served.tolist() == [-1, -1, -1, 1, -1]
    assert found.weight.tolist() == [0.0, 0.0, 1.0, 0.5, 1.0]
    only = match(boxes, target([[0, 0, 40, 40]], [0.0]), 0.7, 0.3, reach=True)
    assert only.served.tolist() == [-1] * 5
    assert only.weight.tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]


def test_an_object_below_the_threshold_is_reached_by_its_best_box() -> None:
    boxes = torch.tensor([[0.0, 0, 32, 32], [40, 40, 72, 72]])
    small = target([[2, 2, 8, 8]])
    assert match(boxes, small, 0.7, 0.3).served.tolist() == [-1, -1]
    assert match(boxes, small, 0.7, 0.3, reach=True).served.tolist() == [0, -1]


def test_cover_takes_every_box_around_an_object() -> None:
    around, half = [0.0, 0, 100, 100], [0.0, 0, 15, 100]
    boxes, one = torch.tensor([around, half]), target([[10, 10, 20, 20]])
    assert match(boxes, one, 0.6, 0.5).served.tolist() == [-1, -1]
    found = match(boxes, one, 0.6, 0.5, cover=True)
    assert found.served.tolist() == [0, -1]
    assert found.weight.tolist() == [1.0, 0.0]  # half of it is covered: neither


def test_the_draw_keeps_shares_and_never_takes_what_has_no_weight() -> None:
    served = torch.tensor([0] * 30 + [-1] * 70)
    weight = torch.ones(100)
    weight[::2] = 0
    drawn = choose(Match(served, weight), 20, 0.25, torch.Generator().manual_seed(0))
    assert len(drawn) == len(set(drawn.tolist())) == 20
    assert int((served[drawn] >= 0).sum()) == 5
    assert bool((weight[drawn] > 0).all())
    same, other = (choose(Match(served, weight), 20, 0.25, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert torch.equal(drawn, same)
    assert not torch.equal(drawn, other)
    # Background fills up where objects are few, and nothing else.
    few = choose(Match(served[28:], weight[28:]), 500, 0.25, torch.Generator().manual_seed(0))
    assert len(few) == int((weight[28:] > 0).sum())


def test_samples_know_their_labels_and_objects() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [1, 1, 11, 11]])
    one = target([[80, 80, 90, 90], [0, 0, 10, 10]], [1.0, 0.5])
    drawn = sampled(boxes, one, match(boxes, one, 0.5, 0.5), torch.tensor([2, 1]))
    assert drawn.labels.tolist() == [1, -1]
    assert drawn.weights.tolist() == [0.5, 1.0]
    assert drawn.objects.tolist() == [[0, 0, 10, 10], [50, 50, 60, 60]]
    nothing = sampled(boxes, target([]), match(boxes, target([]), 0.5, 0.5), torch.tensor([0]))
    assert nothing.labels.tolist() == [-1]


def samples(count: int, seed: int = 0) -> Sampled:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3 - 1 if count != 1 else torch.zeros(1, dtype=torch.long)
    return Sampled(labels, torch.rand(count, generator=generator), some_boxes(count, seed), some_boxes(count, seed + 1))


def naive_box(deltas: Tensor, given: Sampled, beta: float) -> float:
    total = 0.0
    for delta, label, weight, box, thing in zip(deltas.tolist(), *(v.tolist() for v in given), strict=True):
        if label < 0:
            continue
        (x, y, w, h), (u, v, s, t) = (
            ((b[0] + b[2]) / 2, (b[1] + b[3]) / 2, b[2] - b[0], b[3] - b[1]) for b in (box, thing)
        )
        wanted = (10 * (u - x) / w, 10 * (v - y) / h, 5 * math.log(s / w), 5 * math.log(t / h))
        for found, right in zip(delta, wanted, strict=True):
            apart = abs(found - right)
            total += weight * (0.5 * apart**2 / beta if apart < beta else apart - beta / 2)
    return total / max(1.0, float(given.weights.sum()))


@pytest.mark.parametrize("count", [0, 1, 2, 12])
def test_the_box_loss_is_the_naive_one_and_has_gradients(count: int) -> None:
    deltas = torch.randn(count, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    given = samples(count)
    loss = box_loss(deltas, given, CODER, 0.5)
    assert loss.item() == pytest.approx(naive_box(deltas.detach(), given, 0.5), rel=1e-4)
    loss.backward()
    assert deltas.grad is not None
    assert (deltas.grad.abs().sum(dim=1) > 0).tolist() == (given.labels >= 0).tolist()


def test_a_box_that_is_right_costs_nothing_and_one_beside_it_what_the_formula_says() -> None:
    box = torch.tensor([[0.0, 0, 10, 20]])
    right = Sampled(torch.tensor([0]), torch.ones(1), box, box)
    assert box_loss(torch.zeros(1, 4), right, CODER, 1 / 9).item() == 0
    moved = right._replace(objects=torch.tensor([[5.0, 0, 15, 20]]))  # half its width to the right: a code of 5
    assert box_loss(torch.zeros(1, 4), moved, CODER, 1 / 9).item() == pytest.approx(5 - 1 / 18)


def test_centrality_closed_form() -> None:
    thing = torch.tensor([[0.0, 0, 40, 20]]).repeat(3, 1)
    boxes = torch.tensor(
        [[10.0, 0, 30, 20], [0, 5, 20, 15], [50, 0, 60, 20]]
    )  # middle; a quarter from the left; outside
    assert centrality(boxes, thing).tolist() == pytest.approx([1.0, math.sqrt(10 / 30), 0.0])


@pytest.mark.parametrize("count", [0, 1, 2, 12])
def test_the_quality_is_learned_from_objects_alone(count: int) -> None:
    given = samples(count)
    logits = torch.randn(count, generator=torch.Generator().manual_seed(1), requires_grad=True)
    wanted = torch.rand(count, generator=torch.Generator().manual_seed(2))
    loss = quality_loss(logits, wanted, given)
    rows = zip(given.labels.tolist(), given.weights.tolist(), logits.tolist(), wanted.tolist(), strict=True)
    own = [(w, abs(1 / (1 + math.exp(-x)) - y)) for label, w, x, y in rows if label >= 0]
    assert loss.item() == pytest.approx(sum(w * d for w, d in own) / max(1.0, sum(w for w, _ in own)), abs=1e-6)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad != 0).tolist() == (given.labels >= 0).tolist()
