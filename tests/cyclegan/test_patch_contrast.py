from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nightaug.cyclegan.patch_contrast import PatchProjection, draw_places, info_nce, patch_nce, suppression


def unit(*shape: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_info_nce_against_a_loop() -> None:
    anchor, positive, negatives = unit(2, 3, 5), unit(2, 3, 5, seed=1), unit(2, 4, 5, seed=2)
    usable = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(3)) > 0.4
    values = info_nce(anchor, positive, negatives, usable, 0.2)
    for n in range(2):
        for s in range(3):
            same = math.exp(float(anchor[n, s] @ positive[n, s]) / 0.2)
            others = [math.exp(float(anchor[n, s] @ negatives[n, m]) / 0.2) for m in range(4) if usable[n, s, m]]
            assert values[n, s].item() == pytest.approx(-math.log(same / (same + sum(others))), rel=1e-4)


def test_places_are_drawn_from_the_mask_once_each() -> None:
    mask = torch.zeros(3, 4, 5, dtype=torch.bool)
    mask[0, 1, 2] = True
    mask[1] = True
    places = draw_places(mask, 6, torch.Generator().manual_seed(0))
    assert places.real.sum(1).tolist() == [1, 6, 0]
    assert places.at[0][places.real[0]].tolist() == [7]
    assert len(set(places.at[1].tolist())) == 6
    assert torch.equal(places.at, draw_places(mask, 6, torch.Generator().manual_seed(0)).at)
    assert draw_places(mask, 99, torch.Generator()).at.shape == (3, 20)


def test_patch_nce_prefers_the_same_place_and_trains_the_translation_alone() -> None:
    projection = PatchProjection({0: 6, 4: 3}, 8)
    source = {0: torch.randn(2, 6, 4, 4), 4: torch.randn(2, 3, 2, 2)}
    nce = lambda there: patch_nce(there, source, projection, 16, 0.07, torch.Generator().manual_seed(0))  # noqa: E731
    shuffled = {layer: value.flip(2, 3) for layer, value in source.items()}
    assert nce(source) < nce(shuffled)
    there = {layer: value.clone().requires_grad_() for layer, value in shuffled.items()}
    before = {layer: value.requires_grad_() for layer, value in source.items()}
    patch_nce(there, before, projection, 16, 0.07, torch.Generator().manual_seed(0)).backward()
    assert all(value.grad is not None and value.grad.any() for value in there.values())
    assert all(value.grad is None for value in before.values())
    assert all(parameter.grad is not None for parameter in projection.parameters())


def test_patch_nce_of_equal_features_is_the_log_of_the_places() -> None:
    flat = torch.ones(1, 6, 4, 4)
    value = patch_nce({0: flat}, {0: flat}, PatchProjection({0: 6}, 8), 10, 0.07, torch.Generator())
    assert value.item() == pytest.approx(math.log(10), rel=1e-4)


def naive_suppression(translated: Tensor, source: Tensor, marked: list[int], prototypes: Tensor, t: float) -> float:
    """Of one image, every place drawn: (C, h w) features."""
    a, b = (torch.nn.functional.normalize(x, dim=0) for x in (translated, source))
    terms = []
    for at in marked:
        same = math.exp(float(a[:, at] @ b[:, at]) / t)
        others = [math.exp(float(a[:, at] @ b[:, j]) / t) for j in range(b.shape[1]) if j != at]
        others += [math.exp(float(a[:, at] @ c / c.norm()) / t) for c in prototypes]
        terms.append(-math.log(same / (same + sum(others))))
    return sum(terms) / len(terms) if terms else 0.0


@pytest.mark.parametrize("prototypes", [0, 1, 3])
@pytest.mark.parametrize("marked", [[], [5], [0, 5, 15]])
def test_suppression_against_a_loop(marked: list[int], prototypes: int) -> None:
    chance = torch.Generator().manual_seed(1)
    translated, source = (torch.randn(1, 6, 4, 4, generator=chance) for _ in range(2))
    known = torch.randn(prototypes, 6, generator=chance)
    pixels = torch.zeros(1, 16, 16, dtype=torch.bool)
    for at in marked:
        pixels[0, 4 * (at // 4) + 3, 4 * (at % 4) + 1] = True  # one pixel of the place is enough
    translated.requires_grad_(), source.requires_grad_(), known.requires_grad_()
    value = suppression(translated, source, pixels, known, 16, 0.5, chance)
    expected = naive_suppression(
        translated[0].flatten(1).detach(), source[0].flatten(1).detach(), marked, known.detach(), 0.5
    )
    assert value.item() == pytest.approx(expected, rel=1e-4)
    value.backward()
    assert translated.grad is not None
    assert (translated.grad[0].abs().sum(0).flatten() > 0).nonzero().flatten().tolist() == marked
    assert source.grad is None
    assert known.grad is None


def test_suppression_moves_a_feature_from_the_prototype_to_its_source() -> None:
    source = torch.randn(1, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    prototype = torch.randn(1, 6, generator=torch.Generator().manual_seed(1))
    feature = source.clone()
    feature[0, :, 1, 1] = prototype[0]
    feature.requires_grad_()
    pixels = torch.zeros(1, 4, 4, dtype=torch.bool)
    pixels[0, 1, 1] = True
    optimizer = torch.optim.SGD([feature], 0.5)
    cosine = lambda other: float(torch.cosine_similarity(feature[0, :, 1, 1].detach(), other, dim=0))  # noqa: E731
    before = cosine(prototype[0]), cosine(source[0, :, 1, 1])
    for _ in range(20):
        optimizer.zero_grad()
        suppression(feature, source, pixels, prototype, 16, 0.07, torch.Generator().manual_seed(0)).backward()
        optimizer.step()
    assert cosine(prototype[0]) < before[0]
    assert cosine(source[0, :, 1, 1]) > max(before[1], 0.8)
