from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nightaug.detect.adaptation.alignment import (
    NodeClassifier,
    NodeDiscriminator,
    PyramidDiscriminators,
    classification_loss,
    domain_loss,
    reverse_gradient,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_reversal_changes_nothing_but_the_gradient() -> None:
    x = drawn(4)
    y = reverse_gradient(x, 0.02)
    assert y.equal(x)
    (y * torch.arange(4.0)).sum().backward()
    assert torch.allclose(x.grad, -0.02 * torch.arange(4.0))


def test_domain_loss_in_closed_form() -> None:
    assert domain_loss(torch.zeros(5), torch.zeros(2)).item() == pytest.approx(math.log(2))
    assert domain_loss(torch.full((5,), 50.0), torch.full((2,), -50.0)).item() == pytest.approx(0, abs=1e-6)
    source, target = drawn(3), drawn(4, 2, seed=1)
    naive = [-math.log(1 / (1 + math.exp(-x))) for x in source.tolist()]
    naive += [-math.log(1 - 1 / (1 + math.exp(-x))) for x in target.flatten().tolist()]
    assert domain_loss(source, target).item() == pytest.approx(sum(naive) / len(naive), rel=1e-5)


@pytest.mark.parametrize(("count", "other"), [(0, 0), (0, 3), (3, 0), (1, 1), (2, 5)])
def test_node_discriminator_with_any_number_of_nodes(count: int, other: int) -> None:
    model, a, b = NodeDiscriminator(16), drawn(count, 16), drawn(other, 16, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(a, b)
    assert loss.dtype == torch.float32
    loss.backward()
    both = bool(count and other)
    assert (loss.item() > 0) is both
    assert (a.grad.abs().sum() > 0) == both
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_the_discriminator_learns_and_the_features_unlearn() -> None:
    torch.manual_seed(0)
    model = NodeDiscriminator(8, scale=1.0)
    source, target = drawn(50, 8), drawn(50, 8, seed=1) + 1.5
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        loss = model(source.detach(), target.detach())
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3
    moved = target.detach().requires_grad_()
    before = model(source.detach(), moved)
    before.backward()
    # Going down the gradient that comes out of the reversal makes the domains harder to tell apart.
    assert model(source.detach(), moved.detach() - 5 * moved.grad) > before


def test_scale_is_that_of_the_features_gradient_only() -> None:
    torch.manual_seed(0)
    small, plain = NodeDiscriminator(8, 0.02), NodeDiscriminator(8, -1.0)
    plain.load_state_dict(small.state_dict())
    source, target = drawn(3, 8), drawn(4, 8, seed=1)
    ours, theirs = (torch.autograd.grad(m(source, target), [source, *m.parameters()]) for m in (small, plain))
    assert torch.allclose(ours[0], -0.02 * theirs[0], atol=1e-8)
    assert all(a.equal(b) for a, b in zip(ours[1:], theirs[1:], strict=True))


def test_pyramid_gives_a_loss_per_level_of_any_width_and_size() -> None:
    torch.manual_seed(0)
    channels = (8, 12, 64)
    model = PyramidDiscriminators(channels)
    source = [drawn(2, width, 8 >> i, 6 >> i) for i, width in enumerate(channels)]
    target = [drawn(1, width, 4 >> i, 9 >> i, seed=1) for i, width in enumerate(channels)]
    losses = model(source, target)
    assert losses.shape == (3,)
    for number, (ours, theirs) in enumerate(zip(source, target, strict=True)):
        a, b = model.levels[number](ours), model.levels[number](theirs)
        assert losses[number].item() == pytest.approx((F.softplus(-a).mean() + F.softplus(b).mean()).item(), rel=1e-5)
    losses[1].backward()
    assert source[1].grad.abs().sum() > 0
    assert source[0].grad is None or source[0].grad.eq(0).all()
    with torch.no_grad():
        for level in model.levels:
            level[-1].weight.zero_()
            level[-1].bias.zero_()
    assert torch.allclose(model(source, target), torch.full((3,), 2 * math.log(2)))


def test_pyramid_reverses_by_its_scale_and_takes_empty_batches() -> None:
    model = PyramidDiscriminators((8,), scale=0.02)
    plain = PyramidDiscriminators((8,), scale=-1.0)
    plain.load_state_dict(model.state_dict())
    x, y = drawn(2, 8, 4, 4), drawn(2, 8, 4, 4, seed=1)
    ours, theirs = (torch.autograd.grad(m([x], [y]).sum(), x)[0] for m in (model, plain))
    assert torch.allclose(ours, -0.02 * theirs, rtol=1e-4, atol=1e-9)
    with torch.autocast("cpu", torch.bfloat16):
        assert model([x], [y]).dtype == torch.float32
        empty = model([x], [drawn(0, 8, 4, 4)])
    assert empty.tolist() == [0]
    empty.sum().backward()
    assert x.grad.eq(0).all()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_node_classification(count: int) -> None:
    model, nodes = NodeClassifier(4, 16), drawn(count, 16)
    labels = torch.arange(count)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(nodes)
        loss = classification_loss(logits, labels)
    assert logits.shape == (count, 4)
    assert loss.dtype == torch.float32
    loss.backward()
    assert (nodes.grad.abs().sum() > 0) == bool(count)
    assert (loss.item() == 0) == (count == 0)
    certain = torch.zeros(2, 3)
    assert classification_loss(certain, torch.tensor([0, 2])).item() == pytest.approx(math.log(3))
