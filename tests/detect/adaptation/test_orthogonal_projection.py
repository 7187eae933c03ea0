from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nightaug.detect.adaptation.orthogonal_projection import VisionLanguageAlignment, orthogonal_projection_loss

GOLDEN = Path(__file__).parents[2] / "golden" / "orthogonal_projection.npz"


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def naive(features: Tensor, labels: Tensor, gamma: float, absolute: bool) -> Tensor:
    same, other = [], []
    for i in range(len(features)):
        for j in range(len(features)):
            if i != j and min(labels[i], labels[j]) >= 0:
                cosine = F.cosine_similarity(features[i], features[j], dim=0)
                (same if labels[i] == labels[j] else other).append(cosine)
    apart = [value.abs() for value in other] if absolute else other
    return 1 - torch.stack(same).mean() + gamma * torch.stack(apart).mean()


def test_loss_and_gradient_are_the_reference_ones() -> None:
    golden = np.load(GOLDEN)
    features = torch.from_numpy(golden["features"]).requires_grad_()
    loss = orthogonal_projection_loss(features, torch.from_numpy(golden["labels"]), float(golden["gamma"]))
    loss.backward()
    assert loss.item() == pytest.approx(float(golden["loss"]), rel=1e-5)
    error = (features.grad - torch.from_numpy(golden["grad"])).norm() / np.linalg.norm(golden["grad"])
    assert error < 1e-5


@pytest.mark.parametrize("absolute", [False, True])
def test_loss_equals_the_mean_over_pairs(absolute: bool) -> None:
    features = torch.randn(17, 5, generator=seeded(), dtype=torch.double)
    labels = torch.randint(-1, 3, (17,), generator=seeded(1))
    fast = orthogonal_projection_loss(features, labels, 0.7, absolute)
    assert fast.item() == pytest.approx(naive(features, labels, 0.7, absolute).item(), rel=1e-5)


def test_loss_in_closed_form() -> None:
    right = torch.tensor([[2.0, 0.0], [5.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert orthogonal_projection_loss(right, labels).item() == pytest.approx(0.0, abs=1e-6)
    assert orthogonal_projection_loss(right, torch.tensor([0, 1, 0, 1])).item() == pytest.approx(1 + 0.5 * 0.5)
    opposite = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    assert orthogonal_projection_loss(opposite, labels).item() == pytest.approx(-0.5)
    assert orthogonal_projection_loss(opposite, labels, absolute=True).item() == pytest.approx(0.5)


def test_background_and_lonely_nodes_get_no_gradient() -> None:
    features = torch.randn(6, 4, generator=seeded()).requires_grad_()
    orthogonal_projection_loss(features, torch.tensor([0, 0, 1, 1, -1, -1])).backward()
    assert features.grad[4:].eq(0).all()
    assert features.grad[:4].abs().sum(1).gt(0).all()


@pytest.mark.parametrize("labels", [[], [0], [-1], [0, 0], [0, 1], [-1, -1], [2, 2, 2, 2]])
def test_few_nodes_and_one_class(labels: list[int]) -> None:
    features = torch.randn(len(labels), 4, generator=seeded()).requires_grad_()
    loss = orthogonal_projection_loss(features, torch.tensor(labels, dtype=torch.long))
    loss.backward()
    assert loss.isfinite()
    assert features.grad.isfinite().all()
    if len([label for label in labels if label >= 0]) < 2:
        assert loss.item() == 0
    zeros = torch.zeros(len(labels), 4, requires_grad=True)
    orthogonal_projection_loss(zeros, torch.tensor(labels, dtype=torch.long)).backward()
    assert zeros.grad.isfinite().all()


@pytest.mark.parametrize("width", [256, 64])
def test_nodes_are_aligned_and_clip_is_not(width: int) -> None:
    head = VisionLanguageAlignment(width, 48)
    nodes = torch.randn(9, width, generator=seeded()).requires_grad_()
    clip = torch.randn(5, 48, generator=seeded(1)).requires_grad_()
    labels, clip_labels = torch.tensor([0, 1, 2, 0, 1, 2, -1, -1, 0]), torch.tensor([0, 1, 2, 2, 1])
    with torch.autocast("cpu", torch.bfloat16):
        loss = head(nodes, labels, clip, clip_labels)
    assert loss.dtype == torch.float32
    loss.backward()
    assert clip.grad is None
    assert nodes.grad[labels >= 0].abs().sum(1).gt(0).all()
    assert nodes.grad[labels < 0].eq(0).all()
    assert head.project.weight.grad.abs().sum() > 0


def test_training_the_projection_brings_nodes_to_their_class() -> None:
    torch.manual_seed(0)
    head = VisionLanguageAlignment(16, 8)
    labels = torch.arange(3).repeat(10)
    nodes = F.one_hot(labels, 16).float() + 0.1 * torch.randn(30, 16, generator=seeded())
    clip = F.one_hot(torch.arange(3), 8).float()
    optimizer = torch.optim.Adam(head.parameters(), 0.02)
    for _ in range(80):
        optimizer.zero_grad()
        loss = head(nodes, labels, clip, torch.arange(3))
        loss.backward()
        optimizer.step()
    assert ((head.project(nodes) @ clip.T).argmax(1) == labels).all()


@pytest.mark.parametrize(("nodes", "crops"), [(0, 0), (0, 4), (1, 0), (1, 1), (3, 4)])
def test_without_foreground_nodes_the_loss_is_zero_on_the_graph(nodes: int, crops: int) -> None:
    head = VisionLanguageAlignment(6, 4)
    features = torch.randn(nodes, 6, generator=seeded()).requires_grad_()
    background = torch.full((nodes,), -1)
    loss = head(features, background, torch.randn(crops, 4, generator=seeded()), torch.zeros(crops, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert head.project.weight.grad.eq(0).all()
    assert features.grad.eq(0).all()
