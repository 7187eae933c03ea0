from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nightaug.detect.adaptation.hallucination import (
    FeatureGenerator,
    Hallucination,
    MemoryBank,
    hallucination_kl,
)
from nightaug.detect.adaptation.nodes import one_hot, step_generator, with_background, zero_on_graph

GOLDEN = Path(__file__).parents[2] / "golden"


def golden(name: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(np.asarray(value)) for key, value in np.load(GOLDEN / f"{name}.npz").items()}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some(count: int, width: int = 8, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes with gradient, labels, probabilities."""
    chance = seeded(seed)
    nodes = torch.randn(count, width, generator=chance).requires_grad_()
    labels = torch.randint(0, classes, (count,), generator=chance)
    return nodes, labels, torch.rand(count, classes, generator=chance)


# -- what the parts share ----------------------------------------------------------------------------------------


def test_background_is_the_last_class() -> None:
    assert with_background(torch.tensor([0, -1, 2, -1]), 3).tolist() == [0, 3, 2, 3]
    assert one_hot(torch.tensor([1, -1]), 2).tolist() == [[0, 1], [0, 0]]


def test_zero_on_graph_survives_infinity_and_emptiness() -> None:
    x, y = torch.full((2, 2), torch.inf, requires_grad=True), torch.zeros(0, 3, requires_grad=True)
    zero = zero_on_graph(x, y)
    zero.backward()
    assert zero.item() == 0
    assert x.grad.eq(0).all()
    assert y.grad.shape == (0, 3)


def test_a_step_draws_the_same_again_and_each_step_and_use_another() -> None:
    def drawn(*key: int) -> float:
        return torch.rand((), generator=step_generator(*key)).item()

    assert drawn(3, 100, 1) == drawn(3, 100, 1)
    keys = [(seed, step, stream) for seed in range(3) for step in range(20) for stream in range(3)]
    assert len({drawn(*key) for key in keys}) == len(keys)


# -- memory ------------------------------------------------------------------------------------------------------


def test_reference_update_is_the_golden_one() -> None:
    z = golden("memory_bank")
    bank = MemoryBank(3, reference=True)
    bank.memory[1] = z["bank_before"]
    bank.update(1, z["nodes"], z["labels"], z["class_probabilities"])
    assert torch.allclose(bank.memory[1], z["bank_after"], rtol=1e-5, atol=1e-6)
    assert bank.memory[0].eq(0).all(), "the other domain's memory is its own"


@pytest.mark.parametrize("reference", [False, True])
def test_update_equals_a_loop_over_classes(reference: bool) -> None:
    nodes, labels, probabilities = some(30)
    bank = MemoryBank(5, 8, reference)
    bank.memory.normal_(generator=seeded(5))
    expected = bank.memory[0].clone()
    for number in labels.unique():
        own = labels == number
        trust = probabilities[own, number][:, None]
        new = (nodes.detach()[own] * trust).sum(0) / (1 if reference else trust.sum())
        keep = F.cosine_similarity(expected[number], new, dim=0)
        keep = keep if reference else keep.clamp(0, 1)
        expected[number] = keep * expected[number] + (1 - keep) * new
    bank.update(0, nodes, labels, F.pad(probabilities, (0, 1)))
    assert torch.allclose(bank.memory[0], expected, rtol=1e-5, atol=1e-6)
    assert not bank.memory.requires_grad


def test_memory_in_closed_form_does_not_grow_with_the_number_of_nodes() -> None:
    bank = MemoryBank(2, 2)
    nodes, labels = torch.tensor([[2.0, 0.0]]).repeat(50, 1), torch.zeros(50, dtype=torch.long)
    bank.update(0, nodes, labels, torch.full((50, 2), 0.5))
    assert bank.memory[0].tolist() == [[2, 0], [0, 0]], "the first update is the nodes' mean"
    assert bank.seen.tolist() == [[True, False], [False, False]]
    bank.update(0, nodes @ torch.tensor([[0.0, 1.0], [1.0, 0.0]]), labels, torch.ones(50, 2))
    assert torch.allclose(bank.memory[0, 0], torch.tensor([0.0, 2.0])), "at a right angle the new replaces the old"
    bank.update(0, -nodes, labels, torch.ones(50, 2))
    bank.update(0, nodes, labels, torch.ones(50, 2))
    assert bank.memory[0, 0].tolist() == [2, 0], "opposite is as new as can be, and memory does not overshoot"


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_any_nodes_damaged_ones_and_untrusted_ones_leave_memory_whole(count: int) -> None:
    bank = MemoryBank(4, 8)
    nodes, labels, probabilities = some(count)
    bank.update(1, nodes, labels, probabilities)
    before = bank.memory.clone()
    assert before.isfinite().all()
    assert int(bank.seen.sum()) == len(labels.unique())
    bank.update(1, torch.full((3, 8), torch.nan), torch.arange(3), torch.ones(3, 4))
    bank.update(1, torch.ones(3, 8), torch.arange(3), torch.zeros(3, 4))
    assert bank.memory.equal(before)


# -- generator and loss ------------------------------------------------------------------------------------------


def test_kl_is_the_golden_one() -> None:
    z = golden("hallucination_kl")
    loss = hallucination_kl(z["generated"], z["nodes"], torch.zeros(14, dtype=torch.long), 1)
    assert loss.item() == pytest.approx(z["loss"].item(), rel=1e-5)


def test_kl_equals_a_loop_over_groups_and_skips_small_ones() -> None:
    made, nodes = torch.randn(60, 16, generator=seeded()), torch.randn(60, 16, generator=seeded(1))
    groups = torch.cat((torch.arange(3).repeat(17), torch.full((9,), 4)))
    parts = []
    for number in range(3):
        own = groups == number
        parts.append(F.kl_div(nodes[own].log_softmax(1), made[own].softmax(1), reduction="batchmean"))
    made.requires_grad_()
    nodes.requires_grad_()
    loss = hallucination_kl(made, nodes, groups, 8)
    loss.backward()
    assert loss.item() == pytest.approx(torch.stack(parts).mean().item(), rel=1e-5)
    assert nodes.grad is None
    assert made.grad[groups < 3].abs().sum(1).gt(0).all()
    assert made.grad[groups == 4].eq(0).all(), "nine nodes are too few"


def test_kl_in_closed_form() -> None:
    # (3/4, 1/4) to (1/2, 1/2) is log 2 minus the entropy of the first.
    made = torch.tensor([[3.0, 1.0]]).log().repeat(10, 1)
    loss = hallucination_kl(made, torch.zeros(10, 2), torch.zeros(10, dtype=torch.long), 1)
    assert loss.item() == pytest.approx(0.75 * np.log(1.5) + 0.25 * np.log(0.5), rel=1e-5)
    assert hallucination_kl(made, made + 5, torch.zeros(10, dtype=torch.long), 1).item() == pytest.approx(0, abs=1e-6)


def test_generator_is_a_u_with_skips_and_its_noise_is_the_generators() -> None:
    network = FeatureGenerator(8, (32, 16, 4))
    shapes = [tuple(layer[0].weight.shape) for layer in (*network.down, *network.up)] + [network.out.weight.shape]
    assert shapes == [(32, 8), (16, 32), (4, 16), (16, 4), (32, 16), (8, 32)]
    memory = torch.randn(5, 8, generator=seeded())
    one, same, other = (network(memory, step_generator(0, step)) for step in (7, 7, 8))
    assert one.equal(same)
    assert not one.equal(other)
    with torch.no_grad():
        for layer in network.up:
            layer[0].weight.zero_()
            layer[0].bias.zero_()
            layer[1].bias.zero_()
    # With the way up silent, what comes out has gone over the outermost skip alone.
    x = memory + torch.randn(5, 8, generator=step_generator(0, 7))
    assert torch.allclose(network(memory, step_generator(0, 7)), network.out(network.down[0](x)), atol=1e-6)
    assert sum(p.numel() for p in FeatureGenerator().parameters()) > 1_000_000


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (2, 1), (30, 2)])
def test_loss_with_any_number_of_nodes(counts: tuple[int, int]) -> None:
    head = Hallucination(3, 8)
    (a, la, _), (b, lb, _) = some(counts[0], classes=1), some(counts[1], classes=1)
    head.bank.update(0, a, la, torch.ones(len(la), 3))
    with torch.autocast("cpu", torch.bfloat16):
        loss = head.loss((a, b), (la, lb), seeded())
    assert loss.dtype == torch.float32
    loss.backward()
    grads = [p.grad for p in head.generator.parameters()]
    assert all(grad.isfinite().all() for grad in grads)
    assert (loss.item() > 0) == any(grad.abs().sum() > 0 for grad in grads) == (counts[0] >= 10)
    assert a.grad is None
    assert head.stand_in.weight.grad is None


def test_generator_learns_the_nodes_and_tells_domains_apart() -> None:
    torch.manual_seed(0)
    head = Hallucination(2, 16)
    centres = 3 * torch.randn(2, 16, generator=seeded())
    nodes = [centre + 0.3 * torch.randn(40, 16, generator=seeded(1)) for centre in centres]
    labels = torch.zeros(40, dtype=torch.long)
    for domain in (0, 1):
        head.bank.update(domain, nodes[domain], labels, torch.ones(40, 2))
    optimizer = torch.optim.Adam(head.generator.parameters(), 1e-3)
    losses = []
    for step in range(60):
        optimizer.zero_grad()
        loss = head.loss((nodes[0], nodes[1]), (labels, labels), step_generator(0, step))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.15 * losses[0]


def test_resuming_gives_the_same_steps() -> None:
    def train(head: Hallucination, start: int, stop: int) -> list[float]:
        losses = []
        for step in range(start, stop):
            nodes, labels, probabilities = some(40, seed=step)
            head.bank.update(0, nodes, labels, probabilities)
            losses.append(head.loss((nodes, nodes[:0]), (labels, labels[:0]), step_generator(0, step)).item())
        return losses

    torch.manual_seed(0)
    one = Hallucination(4, 8)
    whole = train(one, 0, 2)
    two = Hallucination(4, 8)
    two.load_state_dict(one.state_dict())
    assert "bank.memory" in one.state_dict()
    whole = train(one, 2, 4)
    assert train(two, 2, 4) == whole


# -- completion --------------------------------------------------------------------------------------------------


def test_lacking_classes_are_completed_from_own_memory_or_the_others() -> None:
    head = Hallucination(4, 8)
    nodes = some(5)[0]
    own, theirs = torch.tensor([0, 0, 1, 3, 3]), torch.tensor([0, 2])
    empty = head.complete((nodes, nodes[:2]), (own, theirs), seeded())
    assert empty.nodes[0].equal(nodes)
    assert empty.labels[1].equal(theirs), "nothing to make nodes from yet"
    head.bank.memory[0, 1] = 1.0  # only the source has ever shown class 1
    head.bank.memory[1, 3] = 2.0  # the target has shown class 3, the source has not
    done = head.complete((nodes, nodes[:2]), (own, theirs), seeded())
    assert done.labels[0].equal(own), "class 2 is in nobody's memory"
    assert done.labels[1].tolist() == [0, 2, 1, 3, 3]
    assert done.real[1].tolist() == [True, True, False, False, False]
    made = head.stand_in(head.generator(head.bank.memory[[0, 1, 1], [1, 3, 3]], seeded()))
    assert done.nodes[1][:2].equal(nodes[:2])
    assert torch.allclose(done.nodes[1][2:], made, atol=1e-6)
    assert not done.nodes[1][3].equal(done.nodes[1][4]), "each has noise of its own"
    done.nodes[1].sum().backward()
    assert head.stand_in.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("counts", [(0, 0), (3, 0), (0, 3), (1, 1)])
def test_completion_of_nothing(counts: tuple[int, int]) -> None:
    head = Hallucination(2, 8)
    head.bank.memory[0] = 1.0
    (a, la, _), (b, lb, _) = some(counts[0], classes=1), some(counts[1], classes=1)
    done = head.complete((a, b), (la, lb), seeded())
    assert [len(value) for value in done.labels] == [max(counts)] * 2
    assert [len(value) for value in done.nodes] == [max(counts)] * 2
