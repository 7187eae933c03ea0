from __future__ import annotations

import pytest
import torch
from openvocab_toys import seeded, unit
from torch import nn

from nightaug.detect.openvocab.settings import VLDUSSettings
from nightaug.detect.openvocab.synthesis_losses import (
    gradient_penalty,
    image_distillation,
    mode_seeking,
    similarity_distillation,
    wasserstein,
)
from nightaug.detect.openvocab.wgan import Critic, Generator, Judged, condition

SMALL = VLDUSSettings(noise=5, generator=16, critic=16, critic_feature=6, start=0.3)


class Flat(nn.Module):
    """A critic whose value is a plane: its gradient is the same everywhere."""

    def __init__(self, slope: torch.Tensor) -> None:
        super().__init__()
        self.first = nn.Linear(len(slope), 1)
        self.first.weight.data[0] = slope

    def forward(self, features: torch.Tensor, wanted: torch.Tensor) -> Judged:
        return Judged(self.first(features)[:, 0], features)


def test_wasserstein_is_the_difference_of_the_means() -> None:
    assert wasserstein(torch.tensor([1.0, 3.0]), torch.tensor([5.0, 6.0, 7.0])).item() == pytest.approx(4)
    empty = torch.zeros(0, requires_grad=True)
    wasserstein(empty, empty).backward()


def test_the_penalty_of_a_plane_is_how_far_its_slope_is_from_1() -> None:
    critic = Flat(torch.tensor([3.0, 4.0]))
    real, fake = torch.randn(4, 2, generator=seeded()), torch.randn(4, 2, generator=seeded(1))
    penalty = gradient_penalty(critic, real, fake, torch.zeros(4, 1), torch.rand(4, generator=seeded(2)))
    assert penalty.item() == pytest.approx(16)
    penalty.backward()
    # d (|w| - 1)^2 / dw = 2 (|w| - 1) w / |w|
    assert critic.first.weight.grad[0].tolist() == pytest.approx([2 * 4 * 0.6, 2 * 4 * 0.8])


def test_the_penalty_is_that_of_each_mixture() -> None:
    torch.manual_seed(0)
    critic = Critic(4, 3, 6, SMALL)
    real, fake = torch.randn(5, 4, generator=seeded()), torch.randn(5, 4, generator=seeded(1))
    wanted, share = torch.randn(5, 3, generator=seeded(2)), torch.rand(5, generator=seeded(3))
    naive = 0.0
    for i in range(5):
        mixed = (share[i] * real[i] + (1 - share[i]) * fake[i])[None].requires_grad_()
        critic(mixed, wanted[i : i + 1]).value.sum().backward()
        naive += (float(mixed.grad.norm()) - 1) ** 2 / 5
    critic.zero_grad()
    penalty = gradient_penalty(critic, real, fake, wanted, share)
    assert penalty.item() == pytest.approx(naive, rel=1e-4)
    penalty.backward()
    assert critic.first.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_rows(count: int) -> None:
    torch.manual_seed(0)
    critic = Critic(4, 3, 6, SMALL)
    features, wanted = torch.randn(count, 4).requires_grad_(), torch.randn(count, 3)
    judged = critic(features, wanted)
    losses = [
        gradient_penalty(critic, features, -features, wanted, torch.rand(count)),
        mode_seeking(features, features.detach() + 1, torch.randn(count, 5), torch.randn(count, 5)),
        image_distillation(judged.feature, unit(count, 6)),
        similarity_distillation(judged.feature, unit(count, 6), unit(3, 6)),
    ]
    sum(losses).backward()
    assert all(loss.isfinite() and loss.shape == () for loss in losses)
    assert features.grad.isfinite().all()


def test_mode_seeking_in_closed_form() -> None:
    first, noise = torch.zeros(3, 4), torch.zeros(3, 2)
    assert mode_seeking(first, first + 2, noise, noise - 0.5).item() == pytest.approx(1 / (4 + 1e-5))
    assert mode_seeking(first, first, noise, noise + 1).item() == pytest.approx(1e5)


def test_distillation_in_closed_form_and_naive() -> None:
    feature, clip, text = unit(5, 6), unit(5, 6, seed=1), unit(3, 6, seed=2)
    clip[2] = 0  # too small a crop
    rows = [0, 1, 3, 4]
    naive = sum(float((feature[i] - clip[i]).abs().sum()) for i in rows) / 4
    assert image_distillation(feature, clip).item() == pytest.approx(naive, rel=1e-5)
    naive = sum(abs(float(feature[i] @ name) - float(clip[i] @ name)) for i in rows for name in text) / 4
    assert similarity_distillation(feature, clip, text).item() == pytest.approx(naive, rel=1e-5)
    # At right angles in the plane of the two names: one cosine 1 too high, one 1 too low.
    one, other = torch.eye(2)[:1], torch.eye(2)[1:]
    assert similarity_distillation(one, other, torch.eye(2)).item() == pytest.approx(2)


def test_networks_have_the_published_shapes() -> None:
    own = VLDUSSettings()
    generator, critic = Generator(1024, 512, own), Critic(1024, 512, 512, own)
    assert sum(each.numel() for each in generator.parameters()) == (812 + 1) * 4096 + 4097 * 1024
    # 512 wide as CLIP is: no map in between.
    assert sum(each.numel() for each in critic.parameters()) == 1537 * 4096 + 4097 * 512 + 513
    assert isinstance(Critic(8, 4, 640, SMALL).project, nn.Linear)
    assert generator.layers[0].weight.std().item() == pytest.approx(0.02, rel=0.02)
    made = generator(torch.randn(3, 300, generator=seeded()), unit(3, 512))
    assert made.shape == (3, 1024)
    assert made.ge(0).all()
    judged = critic(made, unit(3, 512))
    assert (judged.value.shape, judged.feature.shape) == ((3,), (3, 512))
    assert torch.allclose(judged.feature.norm(dim=1), torch.ones(3), atol=1e-5)


def test_a_condition_names_the_class_and_where_known_the_domain() -> None:
    text = torch.eye(3)
    assert condition(text, torch.tensor([2, 0]), None).tolist() == [[0, 0, 1], [1, 0, 0]]
    wanted = condition(text, torch.tensor([1, 1, 1]), torch.tensor([0, 1, -1]))
    assert wanted[:, 3:].tolist() == [[1, 0], [0, 1], [0, 0]]
