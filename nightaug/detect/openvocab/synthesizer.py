"""Training of the feature synthesizer (METHODS section 5.4): a step of the critic, a step of the generator, its state.

Unlike the public code, everything that is said to train the generator does: the distillation and both classification
losses reach it through the features it made, none of which is copied on the way.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nightaug.detect.adaptation.nodes import step_generator
from nightaug.detect.openvocab.settings import VLDUSSettings
from nightaug.detect.openvocab.synthesis_losses import (
    gradient_penalty,
    image_distillation,
    mode_seeking,
    similarity_distillation,
    wasserstein,
)
from nightaug.detect.openvocab.unseen import UnseenClassifier
from nightaug.detect.openvocab.wgan import DOMAINS, Critic, Generator, condition
from nightaug.losses import weighted_total

#: Streams of chance: a training step, and features made afterwards.
STEP, MADE = 3, 4


class RealFeatures(NamedTuple):
    """Region features of seen classes.

    ``features`` (N, F) any float type; ``labels`` (N,) class numbers; ``clip`` (N, E) CLIP's embeddings of the crops,
    zero where there is none, or None; ``domains`` (N,) 0 day, 1 night, -1 unknown, or None: not told apart.
    """

    features: Tensor
    labels: Tensor
    clip: Tensor | None
    domains: Tensor | None


class Fakes(NamedTuple):
    """Made features (P, F), and the noise (P, Z) and conditions (P, C) they were made from."""

    features: Tensor
    noise: Tensor
    wanted: Tensor


class Synthesizer:
    """Generator, critic, their optimisers, and what tells the generator about classes.

    Args:
        real: of seen classes, on the device of training.
        text: (K, E) fp32 unit length, of seen classes and then of unseen ones.
        seen: how many of them are seen.
        classifier: F -> at least the seen classes' logits, in their order: the detector's last layer. Frozen.
        unseen: asked about unseen classes. Frozen.
        settings: see :class:`VLDUSSettings`.
    """

    def __init__(
        self,
        real: RealFeatures,
        text: Tensor,
        seen: int,
        classifier: nn.Module,
        unseen: UnseenClassifier,
        settings: VLDUSSettings,
    ) -> None:
        assert len(real.features), "expected features of seen classes"
        assert 0 < seen < len(text), f"expected seen and unseen classes, got {seen} of {len(text)}"
        self.real, self.text, self.seen, self.settings = real, text, seen, settings
        self.classifier, self.unseen = classifier, unseen
        features, width = real.features.shape[1], text.shape[1] + (0 if real.domains is None else DOMAINS)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.generator = Generator(features, width, settings).to(text.device)
            self.critic = Critic(features, width, text.shape[1], settings).to(text.device)
        options: dict[str, Any] = {"lr": settings.learning_rate, "betas": (settings.beta1, 0.999)}
        self.optimizers = {
            "generator": torch.optim.Adam(self.generator.parameters(), **options),
            "critic": torch.optim.Adam(self.critic.parameters(), **options),
        }

    # -- making features -----------------------------------------------------------------------------------------

    def make(self, labels: Tensor, domains: Tensor | None, chance: torch.Generator) -> Fakes:
        """Features of some classes.

        Args:
            labels: (P,) class numbers, seen or unseen.
            domains: (P,), where domains are told apart.
            chance: of the noise.
        """
        wanted = condition(self.text, labels, domains)
        noise = torch.randn(len(labels), self.generator.noise, generator=chance).to(self.text.device)
        return Fakes(self.generator(noise, wanted), noise, wanted)

    @torch.no_grad()
    def synthesize(self, count: int) -> tuple[Tensor, Tensor]:
        """``count`` features of every class: (K count, F) and their class numbers (K count,).

        Where domains are told apart, every other one is of the night.
        """
        labels = torch.arange(len(self.text), device=self.text.device).repeat_interleave(count)
        domains = torch.arange(len(labels), device=labels.device) % DOMAINS if self.real.domains is not None else None
        parts = [
            self.make(own, None if domains is None else domains[labels == own[0]], self._chance(number, MADE)).features
            for number, own in enumerate(labels.split(count))  # type: ignore[no-untyped-call]
        ]
        return torch.cat(parts), labels

    def _chance(self, number: int, stream: int) -> torch.Generator:
        return step_generator(self.settings.seed, number, stream)

    # -- training ------------------------------------------------------------------------------------------------

    def step(self, number: int) -> dict[str, Tensor]:
        """One step of the generator, after those of the critic; raw named losses, the critic's of its last step."""
        chance = self._chance(number, STEP)
        critic: dict[str, Tensor] = {}
        for _ in range(self.settings.critic_steps):
            critic = self.critic_losses(self._draw(chance), chance)
            self._descend("critic", critic)
        generator = self.generator_losses(self._draw(chance), chance)
        self._descend("generator", generator)
        return {name: value.detach() for name, value in (critic | generator).items()}

    @property
    def weights(self) -> dict[str, float]:
        """Of every loss, by name."""
        own = self.settings.weights
        return {
            "critic": 1.0, "penalty": own.penalty, "critic_image": own.image, "critic_similarity": own.similarity,
            "generator": 1.0, "seen": own.seen, "unseen": own.unseen, "mode_seeking": own.mode_seeking,
            "image": own.image, "similarity": own.similarity,
        }  # fmt: skip

    def _descend(self, which: str, losses: dict[str, Tensor]) -> None:
        optimizer, weights = self.optimizers[which], self.weights
        loss = weighted_total(losses, {name: weights[name] for name in losses})
        optimizer.zero_grad()
        # Of its own network alone: the critic is no party to what the generator learns.
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        for each, gradient in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
            each.grad = gradient
        optimizer.step()

    def _draw(self, chance: torch.Generator) -> RealFeatures:
        """A batch of real features, uniformly, with repetition."""
        real = self.real
        chosen = torch.randint(len(real.features), (self.settings.batch,), generator=chance).to(self.text.device)
        clip, domains = (None if each is None else each[chosen] for each in (real.clip, real.domains))
        return RealFeatures(real.features[chosen].float(), real.labels[chosen], clip, domains)

    def critic_losses(self, batch: RealFeatures, chance: torch.Generator) -> dict[str, Tensor]:
        """``critic``, ``penalty``, and with CLIP's embeddings ``critic_image`` and ``critic_similarity``."""
        with torch.no_grad():
            fakes = self.make(batch.labels, batch.domains, chance)
        real, fake = self.critic(batch.features, fakes.wanted), self.critic(fakes.features, fakes.wanted)
        share = torch.rand(len(batch.labels), generator=chance).to(self.text.device)
        losses = {
            "critic": wasserstein(real.value, fake.value),
            "penalty": gradient_penalty(self.critic, batch.features, fakes.features, fakes.wanted, share),
        }
        return losses | self._distilled(real.feature, batch.clip, "critic_")

    def generator_losses(self, batch: RealFeatures, chance: torch.Generator) -> dict[str, Tensor]:
        """``generator``, ``seen``, ``unseen``, ``mode_seeking``, and with CLIP's embeddings ``image``, ``similarity``.

        As many features of unseen classes are made as of seen ones. CLIP's embedding of a real region says what a
        made one of its class and domain should look like to the critic.
        """
        count = len(batch.labels)
        others = torch.randint(self.seen, len(self.text), (count,), generator=chance).to(self.text.device)
        labels, domains = torch.cat((batch.labels, others)), batch.domains
        if domains is not None:
            drawn = torch.randint(DOMAINS, (count,), generator=chance).to(domains)
            domains = torch.cat((domains, drawn))
        first, second = (self.make(labels, domains, chance) for _ in range(2))
        judged = self.critic(first.features[:count], first.wanted[:count])
        losses = {
            "generator": -judged.value.mean(),
            "seen": F.cross_entropy(self.classifier(first.features[:count]), batch.labels),
            "unseen": F.cross_entropy(self.unseen(first.features[count:], self.text), others),
            "mode_seeking": mode_seeking(first.features, second.features, first.noise, second.noise),
        }
        return losses | self._distilled(judged.feature, batch.clip)

    def _distilled(self, feature: Tensor, clip: Tensor | None, prefix: str = "") -> dict[str, Tensor]:
        if clip is None:
            return {}
        return {
            f"{prefix}image": image_distillation(feature, clip),
            f"{prefix}similarity": similarity_distillation(feature, clip, self.text),
        }

    # -- state ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything a resumed training needs, the classifiers it asks among it."""
        modules = {"generator": self.generator, "critic": self.critic, "unseen": self.unseen}
        return {name: module.state_dict() for name, module in modules.items()} | {
            f"{name}_optimizer": optimizer.state_dict() for name, optimizer in self.optimizers.items()
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave."""
        modules = {"generator": self.generator, "critic": self.critic, "unseen": self.unseen}
        for name, module in modules.items():
            module.load_state_dict(state[name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[f"{name}_optimizer"])
