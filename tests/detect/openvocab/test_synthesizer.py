from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from openvocab_toys import seeded
from torch import Tensor, nn

from nightaug.detect.openvocab.settings import VLDUSSettings
from nightaug.detect.openvocab.synthesizer import RealFeatures, Synthesizer
from nightaug.detect.openvocab.unseen import UnseenClassifier, train_classifier
from nightaug.errors import NightaugError

SMALL = {
    "noise": 4, "generator": 32, "critic": 32, "critic_feature": 8, "batch": 32, "start": 0.2, "learning_rate": 3e-3,
    "critic_steps": 3,
}  # fmt: skip
#: Four classes, the last two never seen, and the means of their features by day; at night they are larger by 1.
TEXT = torch.eye(6)[:4]
MEANS = torch.tensor([[2, 0.5, 1, 1, 0.5], [0.5, 2, 1, 0.5, 1], [1, 1, 1, 1, 1], [1, 1, 2, 2, 2]])


def world(count: int = 400, domains: bool = False, clip: bool = True) -> RealFeatures:
    """Features of the two seen classes about their means."""
    labels, domain = torch.arange(count) % 2, (torch.arange(count) // 2) % 2
    features = MEANS[labels] + 0.1 * torch.randn(count, 5, generator=seeded(3))
    if domains:
        features = features + domain[:, None]
    return RealFeatures(features.clamp(min=0), labels, TEXT[labels] if clip else None, domain if domains else None)


def synthesizer(real: RealFeatures | None = None, **settings: Any) -> Synthesizer:
    own, real = VLDUSSettings(**(SMALL | settings)), real or world()
    torch.manual_seed(0)
    classifier, unseen = nn.Linear(5, 3), UnseenClassifier(5, 6)
    options: dict[str, Any] = {"epochs": 5, "batch": 32, "rate": 0.02, "seed": 0, "stream": 0, "name": "unseen"}
    train_classifier(classifier, real.features, real.labels, **options)
    train_classifier(unseen, real.features, real.labels, TEXT[:2], **options)
    return Synthesizer(real, TEXT, 2, classifier, unseen, own)


def reached(maker: Synthesizer, loss: Tensor, network: nn.Module) -> float:
    found = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True, allow_unused=True)
    return sum(float(each.abs().sum()) for each in found if each is not None)


def test_every_loss_that_is_said_to_train_the_generator_reaches_it() -> None:
    """In the public code the distillation never does, and the unseen loss is cut off by a copy."""
    maker = synthesizer()
    losses = maker.generator_losses(maker._draw(seeded()), seeded(1))
    assert set(losses) == {"generator", "seen", "unseen", "mode_seeking", "image", "similarity"}
    for name, loss in losses.items():
        assert reached(maker, loss, maker.generator) > 0, name
    losses = maker.critic_losses(maker._draw(seeded()), seeded(1))
    assert set(losses) == {"critic", "penalty", "critic_image", "critic_similarity"}
    for name, loss in losses.items():
        assert reached(maker, loss, maker.critic) > 0, name
        assert not any(each.requires_grad and reached(maker, loss, maker.generator) for each in [loss]), name


def test_without_embeddings_nothing_is_distilled() -> None:
    maker = synthesizer(world(clip=False))
    assert set(maker.step(0)) == {"critic", "penalty", "generator", "seen", "unseen", "mode_seeking"}


def test_a_step_changes_each_network_by_its_own_losses_alone() -> None:
    maker = synthesizer(weights={"seen": 0, "unseen": 0, "mode_seeking": 0, "image": 0, "similarity": 0})
    critic = copy.deepcopy(maker.critic.state_dict())
    frozen = copy.deepcopy([maker.classifier.state_dict(), maker.unseen.state_dict()])
    losses = maker.generator_losses(maker._draw(seeded()), seeded(1))
    maker._descend("generator", losses)
    assert all(torch.equal(value, critic[key]) for key, value in maker.critic.state_dict().items())
    maker.step(0)
    assert any(not torch.equal(value, critic[key]) for key, value in maker.critic.state_dict().items())
    for before, now in zip(frozen, [maker.classifier.state_dict(), maker.unseen.state_dict()], strict=True):
        assert all(torch.equal(value, now[key]) for key, value in before.items())


@pytest.fixture(scope="module")
def trained() -> Synthesizer:
    maker = synthesizer(world(domains=True), domains=True)
    for step in range(200):
        maker.step(step)
    return maker


def test_made_features_come_to_lie_about_the_means_of_their_classes(trained: Synthesizer) -> None:
    features, labels = trained.synthesize(100)
    assert labels.tolist() == [0] * 100 + [1] * 100 + [2] * 100 + [3] * 100
    for number in range(2):  # as much of the day as of the night
        assert (features[labels == number].mean(0) - MEANS[number] - 0.5).norm() < 0.5
    # A layer trained on what was made knows the real ones.
    layer = nn.Linear(5, 4)
    train_classifier(layer, features, labels, epochs=20, batch=32, rate=0.02, seed=0, stream=0, name="unseen")
    real = world(domains=True)
    assert (layer(real.features)[:, :2].argmax(1) == real.labels).float().mean() > 0.95


def test_the_domain_decides_what_is_made(trained: Synthesizer) -> None:
    labels = torch.zeros(200, dtype=torch.long)
    day, night = (trained.make(labels, torch.full((200,), domain), seeded()).features.mean() for domain in (0, 1))
    assert day.item() == pytest.approx(1, abs=0.25)
    assert (night - day).item() == pytest.approx(1, abs=0.3)


def test_mode_seeking_makes_features_differ() -> None:
    spread = []
    for weight in (0.0, 1.0):
        maker = synthesizer(weights={"mode_seeking": weight}, seed=1)
        for step in range(60):
            maker.step(step)
        features, labels = maker.synthesize(100)
        spread.append(torch.stack([features[labels == number].std(0).mean() for number in range(4)]).mean().item())
    assert spread[1] > 1.3 * spread[0]


def test_a_resumed_training_equals_one_that_went_on() -> None:
    whole = synthesizer()
    for step in range(4):
        whole.step(step)
    first = synthesizer()
    for step in range(2):
        first.step(step)
    state = copy.deepcopy(first.state())
    second = synthesizer()
    second.unseen.project.weight.data.zero_()  # comes with the state
    second.load(state)
    for step in range(2, 4):
        second.step(step)
    for one, other in ((whole.generator, second.generator), (whole.critic, second.critic)):
        assert all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())
    assert torch.equal(whole.synthesize(3)[0], second.synthesize(3)[0])


def test_the_unseen_classifier_learns_seen_classes_and_names_others_by_their_text() -> None:
    torch.manual_seed(0)
    text = torch.eye(3)
    kind = torch.arange(3).repeat(30)
    features = text[kind] @ torch.randn(3, 8, generator=seeded()) + 0.1 * torch.randn(90, 8, generator=seeded(1))
    classifier = UnseenClassifier(8, 3)
    seen = kind < 2
    losses = train_classifier(
        classifier, features[seen], kind[seen], text[:2], epochs=20, batch=16, rate=0.01, seed=0, stream=0,
        name="unseen",
    )  # fmt: skip
    assert losses[-1] < 0.3 * losses[0]
    logits = classifier(features, text)
    assert torch.allclose(logits, classifier.project(features) @ text.T)
    assert (logits[seen][:, :2].argmax(1) == kind[seen]).all()


def test_a_classifier_whose_loss_becomes_nan_is_refused() -> None:
    features = torch.full((4, 8), float("inf"))
    options: dict[str, Any] = {"epochs": 2, "batch": 2, "rate": 0.01, "seed": 0, "stream": 0, "name": "unseen"}
    with pytest.raises(NightaugError, match=r"unseen classifier became non-finite in epoch 1; .*unseen_learning_rate"):
        train_classifier(nn.Linear(8, 2), features, torch.zeros(4, dtype=torch.long), **options)
