"""FID, KID, CMMD and structure distance against naive versions and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nightaug.cyclegan.translation_metrics import (
    clip_distance,
    frechet_distance,
    kernel_distance,
    structure_distance,
)


def draw(count: int, width: int, seed: int, mean: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) * scale + mean


def naive_fid(a: torch.Tensor, b: torch.Tensor) -> float:
    """With the root of the product of covariances taken as it stands."""
    first, second = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    root = np.sqrt(np.maximum(np.linalg.eigvals(first @ second).real, 0)).sum()
    means = a.mean(0) - b.mean(0)
    return float(means @ means) + np.trace(first) + np.trace(second) - 2 * root


@pytest.mark.parametrize(("n", "m", "width"), [(60, 40, 5), (12, 9, 20), (30, 6, 8)])
def test_fid_is_the_naive_one_also_for_small_sets(n: int, m: int, width: int) -> None:
    a, b = draw(n, width, 0), draw(m, width, 1, 0.5, 2.0)
    assert frechet_distance(a, b) == pytest.approx(naive_fid(a, b), rel=1e-6)
    assert frechet_distance(a, a.flip(0)) == pytest.approx(0, abs=1e-9)


def test_fid_closed_form() -> None:
    a = draw(50, 4, 0)
    # Scaled by 3 and moved by 2 a side: |m|^2 + (3 - 1)^2 tr C, about its own mean.
    centred = a - a.mean(0)
    expected = 4 * 4 + 4 * float((centred**2).sum()) / 49
    assert frechet_distance(centred, 3 * centred + 2) == pytest.approx(expected, rel=1e-9)


def test_kid_is_the_unbiased_mmd_of_the_cubic_kernel() -> None:
    a, b = draw(6, 3, 0), draw(5, 3, 1, 1.0)

    def k(x: torch.Tensor, y: torch.Tensor) -> float:
        return float((x @ y / 3 + 1) ** 3)

    # Subsets as large as the sets are the sets: of the first one, any five of six.
    whole = kernel_distance(a[:5], b, subsets=3, size=5)
    inside = [sum(k(s[i], s[j]) for i in range(5) for j in range(5) if i != j) / 20 for s in (a[:5], b)]
    across = sum(k(x, y) for x in a[:5] for y in b) / 25
    assert whole.mean == pytest.approx(sum(inside) - 2 * across)
    assert whole.spread == pytest.approx(0, abs=1e-9)
    same = kernel_distance(draw(400, 3, 2), draw(400, 3, 3))
    assert abs(same.mean) < 2 * same.spread
    assert same.mean < kernel_distance(draw(400, 3, 2), draw(400, 3, 3, 0.5)).mean
    assert kernel_distance(a, b, seed=1) == kernel_distance(a, b, seed=1)


def test_cmmd_naive_and_closed_form() -> None:
    a, b = draw(7, 4, 0), draw(5, 4, 1)
    x, y = (each / each.norm(dim=1, keepdim=True) for each in (a, b))

    def mean(p: torch.Tensor, q: torch.Tensor) -> float:
        return sum(math.exp(-float(((i - j) ** 2).sum()) / 200) for i in p for j in q) / (len(p) * len(q))

    assert clip_distance(a, b) == pytest.approx(1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y)), rel=1e-6)
    # Two points at a right angle: 2000 (1 - exp(-2 / 200)).
    one, other = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 0.1]])
    assert clip_distance(one, other) == pytest.approx(2000 * -math.expm1(-0.01))
    assert clip_distance(one, one * 5) == pytest.approx(0, abs=1e-9)


def test_structure_distance_asks_for_the_arrangement_alone() -> None:
    places = draw(2, 5 * 3, 0).reshape(2, 5, 3)
    turned = torch.linalg.qr(draw(3, 3, 4)).Q
    assert structure_distance(places, 7 * places @ turned).abs().max() < 1e-6
    other = places[:, torch.tensor([1, 0, 2, 3, 4])]
    similar = [
        torch.nn.functional.cosine_similarity(each[:, :, None], each[:, None], dim=3) for each in (places, other)
    ]
    naive = ((similar[0] - similar[1]) ** 2).mean(dim=(1, 2))
    assert structure_distance(places, other) == pytest.approx(naive.numpy(), rel=1e-5)


def test_refused() -> None:
    with pytest.raises(ValueError, match="expected features"):
        frechet_distance(torch.zeros(4, 3), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="at least 4 images"):
        kernel_distance(torch.zeros(3, 3), torch.zeros(9, 3))
    with pytest.raises(ValueError, match="at least 1 images"):
        clip_distance(torch.zeros(0, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="two \\(N, T, C\\)"):
        structure_distance(torch.zeros(1, 2, 3), torch.zeros(1, 3, 3))
