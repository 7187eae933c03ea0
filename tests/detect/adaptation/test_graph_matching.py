from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nightaug.detect.adaptation.graph_matching import (
    Affinity,
    GraphMatching,
    assignment,
    many_to_many_loss,
    normalize_map,
    one_to_one_loss,
    sinkhorn,
    structure_loss,
)

GOLDEN = Path(__file__).parents[2] / "golden"


def golden(name: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(np.asarray(value)) for key, value in np.load(GOLDEN / f"{name}.npz").items()}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def classes(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.long)


# -- affinity ----------------------------------------------------------------------------------------------------


def test_affinity_equals_the_mlp_over_every_pair_side_by_side() -> None:
    head = Affinity(8, 12)
    source, target = drawn(5, 8), drawn(3, 8, seed=1)
    a, b = head.source(source), head.target(target)
    side_by_side = torch.cat((a[:, None].expand(5, 3, 8), b[None].expand(5, 3, 8)), 2)
    expected = head.out(F.relu(head.pair(side_by_side)))[..., 0]
    assert torch.allclose(head(source, target), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 3])
def test_chunks_change_neither_affinity_nor_gradient(rows: int) -> None:
    whole, source, target = Affinity(8, 12), drawn(7, 8), drawn(4, 8, seed=1)
    parts = Affinity(8, 12, chunk_values=4 * 12 * rows)
    parts.load_state_dict(whole.state_dict())
    scores = [head(source, target) for head in (whole, parts)]
    assert torch.allclose(*scores, atol=1e-6)
    grads = [
        torch.autograd.grad(score.square().sum(), [source, target, *head.parameters()])
        for score, head in zip(scores, (whole, parts), strict=True)
    ]
    assert all(torch.allclose(one, two, rtol=1e-4, atol=1e-6) for one, two in zip(*grads, strict=True))


# -- Sinkhorn ----------------------------------------------------------------------------------------------------


def test_sinkhorn_is_the_golden_one() -> None:
    z = golden("sinkhorn_slack")
    assert torch.allclose(sinkhorn(z["log_alpha"], int(z["n_iters"])), z["log_assignment"], rtol=1e-5, atol=1e-6)


def test_sinkhorn_equals_normalising_the_matrix_itself_and_so_does_its_gradient() -> None:
    scores = drawn(6, 9)
    matrix = F.pad(scores, (0, 1, 0, 1)).exp()
    for _ in range(20):
        matrix = torch.cat((matrix[:-1] / matrix[:-1].sum(1, keepdim=True), matrix[-1:]))
        matrix = torch.cat((matrix[:, :-1] / matrix[:, :-1].sum(0, keepdim=True), matrix[:, -1:]), 1)
    expected = matrix[:-1, :-1]
    assert torch.allclose(sinkhorn(scores).exp(), expected, rtol=1e-5)
    ours, theirs = (
        torch.autograd.grad(value.square().sum(), scores)[0] for value in (sinkhorn(scores).exp(), expected)
    )
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-7)


def test_sinkhorn_in_closed_form() -> None:
    # One node against one, score 0: rounds of a -> a / (a + r), then a -> a / (a + c), with slack r and c left as is.
    a, row, column = 1.0, 1.0, 1.0
    for _ in range(20):
        a, row = a / (a + row), row / (a + row)
        a, column = a / (a + column), column / (a + column)
    assert sinkhorn(torch.zeros(1, 1)).exp().item() == pytest.approx(a, rel=1e-5)
    # Scores far apart leave each node to its one partner; what slack still holds after n rounds is 1 / (n + 1).
    assert torch.allclose(sinkhorn(100 * torch.eye(4)).exp(), torch.eye(4) * 20 / 21, atol=1e-5)
    assert torch.allclose(sinkhorn(100 * torch.eye(4), 99).exp(), torch.eye(4) * 0.99, atol=1e-5)


def test_sinkhorn_keeps_sums_below_one_and_survives_large_scores() -> None:
    for scale in (1, 1000):
        out = sinkhorn(scale * drawn(30, 50)).exp()
        assert out.isfinite().all()
        assert out.sum(0).max() <= 1 + 1e-4


def test_normalised_map_is_instance_norm() -> None:
    affinity = drawn(5, 8)
    assert torch.allclose(normalize_map(affinity), F.instance_norm(affinity[None, None])[0, 0], atol=1e-5)
    assert normalize_map(torch.full((3, 3), 7.0)).eq(0).all()
    assert normalize_map(torch.ones(1, 1)).eq(0).all()


# -- losses ------------------------------------------------------------------------------------------------------


def test_one_to_one_is_the_golden_one() -> None:
    z = golden("one_to_one_matching")
    assigned = assignment(z["affinity"])
    assert torch.allclose(assigned, z["assignment"], rtol=1e-5, atol=1e-7)
    loss = one_to_one_loss(assigned, z["labels_source"], z["labels_target"])
    assert loss.item() == pytest.approx(z["loss"].item(), rel=1e-5)


def test_one_to_one_equals_a_loop_over_nodes() -> None:
    assigned = drawn(9, 7).detach().sigmoid().requires_grad_()
    ours, theirs = classes(0, 1, 2, 0, 1, 2, 5, 5, 0), classes(0, 1, 2, 2, 1, 0, 4)
    missing, wrong = [], []
    for i in range(9):
        same = [assigned[i, j] for j in range(7) if ours[i] == theirs[j]]
        wrong += [assigned[i, j] for j in range(7) if ours[i] != theirs[j]]
        if same:
            missing.append((1 - max(same)) ** 2)
    expected = sum(missing) / len(missing) + sum(w**2 for w in wrong) / sum(wrong).detach()
    value = one_to_one_loss(assigned, ours, theirs)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    a, b = (torch.autograd.grad(loss, assigned)[0] for loss in (value, expected))
    assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_one_to_one_in_closed_form_with_gradient_only_where_it_belongs() -> None:
    assigned = torch.tensor([[0.5, 0.2, 0.1], [0.3, 0.4, 0.3]], requires_grad=True)
    loss = one_to_one_loss(assigned, classes(0, 7), classes(0, 0, 1))
    # Row 0: its best of class 0 is 0.5; row 1 has no partner; wrong are 0.1, 0.3, 0.4, 0.3.
    assert loss.item() == pytest.approx(0.25 + (0.01 + 0.09 + 0.16 + 0.09) / 1.1)
    loss.backward()
    assert assigned.grad[0, 0].item() == pytest.approx(-1.0)
    assert assigned.grad[0, 1].item() == 0, "the second best of its class is left alone"
    assert assigned.grad[1].gt(0).all(), "a node without a partner is pulled to nobody"
    assert one_to_one_loss(torch.eye(3), torch.arange(3), torch.arange(3)).item() == 0


def test_many_to_many_in_closed_form() -> None:
    affinity = torch.tensor([[0.0, 0.0], [20.0, -20.0]], requires_grad=True)
    loss = many_to_many_loss(affinity, classes(0, 0), classes(0, 1))
    assert loss.item() == pytest.approx((0.25 + 0.25) / 4)
    loss.backward()
    assert affinity.grad[0, 0] < 0 < affinity.grad[0, 1]
    same = (classes(0, 0)[:, None] == classes(0, 1)).float()
    assert loss.item() == pytest.approx((affinity.sigmoid() - same).square().mean().item())


def test_structure_in_closed_form_with_gradient_into_the_assignment_only() -> None:
    order = torch.randperm(5, generator=torch.Generator().manual_seed(1))
    matched = F.one_hot(order, 5).float().requires_grad_()
    source = drawn(5, 5).softmax(1)
    target = (matched.T @ source @ matched).detach().requires_grad_()
    assert structure_loss(matched, source, target).item() == pytest.approx(0, abs=1e-6)
    loss = structure_loss(matched, source, target.roll(1, 0))
    expected = (source @ matched - matched @ target.roll(1, 0)).abs().sum() / 25
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert matched.grad.abs().sum() > 0
    assert target.grad is None


@pytest.mark.parametrize(("count", "other"), [(0, 0), (0, 3), (3, 0), (1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("one_class", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_any_number_of_nodes(count: int, other: int, one_class: bool, autocast: bool) -> None:
    head = GraphMatching(8)
    a, b = drawn(count, 8), drawn(other, 8, seed=1)
    ours = torch.zeros(count, dtype=torch.long)
    theirs = torch.zeros(other, dtype=torch.long) + (0 if one_class else 1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        affinity, assigned = head(a, b)
        losses = [
            one_to_one_loss(assigned, ours, theirs),
            many_to_many_loss(affinity, ours, theirs),
            structure_loss(assigned, torch.ones(count, count), torch.ones(other, other)),
        ]
    assert assigned.shape == (count, other)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses)
    if not count * other:
        assert sum(losses) == 0
    sum(losses).backward()
    grads = [a.grad, b.grad, *(p.grad for p in head.parameters())]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)


def test_half_precision_training_matches_in_full_precision() -> None:
    scores = drawn(20, 30)
    with torch.autocast("cpu", torch.bfloat16):
        assert assignment(scores).equal(assignment(scores))
        inside = assignment(scores)
    assert inside.equal(assignment(scores))


def test_training_learns_to_match_by_class() -> None:
    torch.manual_seed(0)
    head = GraphMatching(16)
    ours, theirs = torch.arange(4).repeat(2), torch.arange(4)
    source, target = (F.one_hot(labels, 16).float() for labels in (ours, theirs))
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        loss = one_to_one_loss(head(source, target).assignment, ours, theirs)
        loss.backward()
        optimizer.step()
    assert (head(source, target).assignment.argmax(1) == ours).all()
