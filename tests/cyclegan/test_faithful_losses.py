from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nightaug.cyclegan.faithful_losses import (
    crop_consistency,
    hallucination_outside,
    invented,
    object_consistency,
    weighted_l1,
)
from nightaug.cyclegan.label_maps import UNKNOWN, UNSURE
from nightaug.cyclegan.losses import l1


def labels(*boxes: tuple[int, int, int, int], size: int = 8, n: int = 2) -> Tensor:
    """A label map of class 1 in the boxes (x1, y1, x2, y2) of the first image, none in the others."""
    result = torch.zeros(n, size, size, dtype=torch.uint8)
    for x1, y1, x2, y2 in boxes:
        result[0, y1:y2, x1:x2] = 1
    return result


BOXES = [(), ((1, 1, 4, 5),), ((1, 1, 4, 5), (6, 0, 8, 8))]


@pytest.mark.parametrize("boxes", BOXES)
def test_hallucination_is_the_mean_outside_of_the_squared_class_probability(boxes: tuple[tuple[int, ...], ...]) -> None:
    logits = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    map_ = labels(*boxes)  # type: ignore[arg-type]
    map_[1, 0, 0], map_[1, 0, 1] = UNKNOWN, UNSURE
    terms = []
    for n in range(2):
        for y in range(8):
            for x in range(8):
                if map_[n, y, x] == 0:
                    e = logits[n, :, y, x].exp()
                    terms.append(float((e[1:].sum() / e.sum()) ** 2))
    value = hallucination_outside(logits, map_)
    assert value.item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    value.backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad.abs().sum(1) > 0, map_ == 0), "gradient outside every box, and nowhere else"


def test_hallucination_in_closed_form_and_without_anything_outside() -> None:
    # Equal logits of K + 1 channels: (K / (K + 1)) ** 2 everywhere.
    even = torch.zeros(1, 5, 4, 4, requires_grad=True)
    assert hallucination_outside(even, labels(size=4, n=1)).item() == pytest.approx(0.64)
    nothing = hallucination_outside(even, labels((0, 0, 4, 4), size=4, n=1))
    nothing.backward()
    assert nothing.item() == 0
    assert even.grad is not None
    assert not even.grad.any()
    assert hallucination_outside(even, torch.full((1, 4, 4), UNKNOWN, dtype=torch.uint8)).item() == 0


def test_invented_is_where_a_class_beats_background_outside_boxes() -> None:
    logits = torch.zeros(1, 3, 4, 4)
    logits[:, 0] = 1
    logits[0, 2, 0, 0] = logits[0, 1, 3, 3] = 2
    found = invented(logits, labels((0, 0, 1, 1), size=4, n=1))
    assert found.nonzero().tolist() == [[0, 3, 3]]


@pytest.mark.parametrize("boxes", BOXES)
def test_cycle_counts_more_inside_boxes(boxes: tuple[tuple[int, ...], ...]) -> None:
    first, second = (torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    first.requires_grad_()
    map_ = labels(*boxes)  # type: ignore[arg-type]
    naive = 0.0
    for n in range(2):
        for y in range(8):
            for x in range(8):
                weight = 3.0 if map_[n, y, x] else 1.0
                naive += weight * float((first[n, :, y, x] - second[n, :, y, x]).abs().sum())
    value = weighted_l1(first, second, map_, 3.0)
    assert value.item() == pytest.approx(naive / first.numel(), rel=1e-5)
    assert weighted_l1(first, second, map_, 1.0).item() == pytest.approx(l1(first, second).item(), rel=1e-6)
    # In closed form: an error of 1 everywhere costs 1 + (factor - 1) * share of the boxes.
    share = float((map_ > 0).float().mean())
    assert weighted_l1(second + 1, second, map_, 3.0).item() == pytest.approx(1 + 2 * share, rel=1e-5)
    assert weighted_l1(second + 1, second, torch.full_like(map_, UNKNOWN), 3.0).item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("boxes", BOXES)
def test_object_consistency_against_a_loop(boxes: tuple[tuple[int, ...], ...]) -> None:
    first, second = (torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    map_ = labels(*boxes)  # type: ignore[arg-type]
    there, before = first.clone().requires_grad_(), second.clone().requires_grad_()
    value = object_consistency([there], [before], map_)
    top = bottom = 0.0
    for n in range(2):
        a, b = (
            (x[n] - x[n].mean((1, 2), keepdim=True)) / x[n].std((1, 2), correction=0, keepdim=True)
            for x in (first, second)
        )
        for y in range(4):
            for x in range(4):
                share = float((map_[n, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2] > 0).float().mean())
                cosine = float((a[:, y, x] * b[:, y, x]).sum() / a[:, y, x].norm() / b[:, y, x].norm())
                top, bottom = top + share * (1 - cosine), bottom + share
    assert value.item() == pytest.approx(top / bottom if bottom else 0.0, rel=1e-3)
    value.backward()
    assert before.grad is None
    assert there.grad is not None
    assert bool(there.grad[0].any()) == bool(boxes)
    assert not there.grad[1].any(), "an image without boxes"


def test_a_darker_image_has_the_same_objects() -> None:
    features = torch.randn(1, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    map_ = labels((0, 0, 4, 4), n=1)
    darker = features * (0.1 + 0.4 * torch.rand(1, 6, 1, 1)) - 3  # scaled to nothing, a channel has no pattern left
    assert object_consistency([darker], [features], map_).item() == pytest.approx(0, abs=1e-3)
    assert object_consistency([-features], [features], map_).item() == pytest.approx(2, abs=1e-3)


def test_crops_that_are_filling_do_not_count() -> None:
    source = torch.eye(3)
    there = torch.stack([source[0], source[0], source[1]]).requires_grad_()
    assert crop_consistency(there, source, torch.tensor([True, True, False])).item() == pytest.approx(0.5)
    nothing = crop_consistency(there, source, torch.zeros(3, dtype=torch.bool))
    nothing.backward()
    assert nothing.item() == 0
