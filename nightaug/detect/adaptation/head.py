"""The vision-language night head (VLMCSHFG, METHODS section 2): one head for every detector.

It sees the regions of a labelled source batch and of an unlabelled target batch, and nothing else of the detector;
what it gives are raw named losses. See the modules beside it for each part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nightaug.detect.adaptation.alignment import (
    NodeClassifier,
    NodeDiscriminator,
    PyramidDiscriminators,
    classification_loss,
)
from nightaug.detect.adaptation.consistency import ConsistencySampler, Sample, ranking
from nightaug.detect.adaptation.graph import GraphAttention, NodeProjection
from nightaug.detect.adaptation.graph_matching import (
    GraphMatching,
    many_to_many_loss,
    one_to_one_loss,
    structure_loss,
)
from nightaug.detect.adaptation.hallucination import Completed, Hallucination
from nightaug.detect.adaptation.nodes import step_generator, with_background, zero_on_graph
from nightaug.detect.adaptation.orthogonal_projection import VisionLanguageAlignment
from nightaug.detect.adaptation.settings import EXTRA_PARTS, AdaptationSettings
from nightaug.detect.optimization import warmed_up
from nightaug.detect.regions import RegionBatch
from nightaug.errors import ConfigError

#: Numbers of the head's uses of chance in a step.
_SOURCE, _TARGET, _GENERATED, _COMPLETED = range(4)


class HeadOutput(NamedTuple):
    """What one step of the head gives.

    Attributes:
        losses: raw named parts, each (), with gradient.
        facts: numbers for the metrics, each (), without gradient: nodes, clusters, pseudo labels.
    """

    losses: dict[str, Tensor]
    facts: dict[str, Tensor]


class AdaptationHead(nn.Module):
    """Joins the parts that are switched on.

    Args:
        settings: see :class:`AdaptationSettings`.
        classes: of the detector, without background.
        features: width D of a region's features.
        pyramid: channels of each pyramid level.
        clip_width: of CLIP's embeddings; None where there is no CLIP (``--clip none``), and no alignment.
        seed: of every random choice.

    Raises:
        ConfigError: no part is switched on.
    """

    def __init__(
        self,
        settings: AdaptationSettings,
        classes: int,
        features: int,
        pyramid: Sequence[int],
        clip_width: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not settings.parts:
            raise ConfigError("adaptation.parts is empty: name at least one part, or leave out --adapt")
        self.settings, self.classes, self.seed = settings, classes, seed
        left_out = set(EXTRA_PARTS) | (set() if clip_width is not None else {"alignment"})
        self.parts = set(settings.parts) - left_out
        self.sampler = ConsistencySampler(settings.nodes, settings.background_share, settings.source_over)
        width = settings.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.project = NodeProjection(features, width)
            self.inside, self.across = GraphAttention(width), GraphAttention(width)
            self.classifier = NodeClassifier(classes + 1, width)
            modules: dict[str, nn.Module] = {}
            if "alignment" in self.parts and clip_width is not None:
                modules["alignment"] = VisionLanguageAlignment(features, clip_width, settings.gamma, settings.absolute)
            if "hallucination" in self.parts:
                modules["hallucination"] = Hallucination(
                    classes + 1, width, settings.reference_memory, settings.at_least
                )
            if self.parts & {"matching", "structure"}:
                modules["matching"] = GraphMatching(width, settings.sinkhorn_rounds)
            if "node_domain" in self.parts:
                modules["node_domain"] = NodeDiscriminator(width, settings.reversal)
            if "pyramid_domain" in self.parts:
                modules["pyramid_domain"] = PyramidDiscriminators(pyramid, settings.reversal)
            self.own = nn.ModuleDict(modules)

    @property
    def _memory(self) -> Hallucination:
        part = self.own["hallucination"]
        assert isinstance(part, Hallucination)
        return part

    @property
    def graph(self) -> bool:
        """Whether any part needs the graph of nodes."""
        return bool(self.parts & {"hallucination", "matching", "structure", "node_class", "node_domain"})

    def loss_weights(self, step: int) -> dict[str, float]:
        """The weight of every loss that :meth:`forward` gives; it rises over the head's warm-up."""
        rise = warmed_up(step, self.settings.warmup)
        return {
            name: rise * value for name, value in self.settings.weights.model_dump().items() if name in self._names()
        }

    def _names(self) -> set[str]:
        return {"cluster" if part == "sampler" else part for part in self.parts}

    def forward(
        self,
        source: RegionBatch,
        target: RegionBatch,
        step: int,
        clip: Tensor | None = None,
        clip_labels: Tensor | None = None,
    ) -> HeadOutput:
        """The losses of one step.

        Args:
            source: labelled regions, with their objects' classes.
            target: regions by score, background with label -1.
            step: of the training; with the seed it decides every random choice.
            clip: (Q, E) CLIP embeddings of the source batch's labelled crops.
            clip_labels: (Q,) their classes.

        Returns:
            Losses for the parts switched on, zeros on the graph where there is nothing to learn from.
        """
        samples = self._sample(source, step, _SOURCE), self._sample(target, step, _TARGET)
        losses: dict[str, Tensor] = {}
        if "sampler" in self.parts:
            losses["cluster"] = samples[0].loss + samples[1].loss
        nodes = samples[0].regions.features, samples[1].regions.features
        labels = samples[0].regions.labels, samples[1].regions.labels
        if "alignment" in self.own:
            if clip is None or clip_labels is None:
                clip, clip_labels = nodes[0].new_zeros(0, 1), labels[0].new_zeros(0)
                losses["alignment"] = zero_on_graph(*nodes)
            else:
                losses["alignment"] = self.own["alignment"](torch.cat(nodes), torch.cat(labels), clip, clip_labels)
        if self.graph:
            losses |= self._graph_losses(nodes, labels, step)
        if "pyramid_domain" in self.own:
            losses["pyramid_domain"] = self.own["pyramid_domain"](source.pyramid, target.pyramid).sum()
        facts = {
            "source_objects": (source.labels >= 0).sum().float(),
            "target_objects": (target.labels >= 0).sum().float(),
            # On the device, as all that is averaged: what is made from a number begins on the CPU otherwise.
            "source_nodes": torch.full((), float(len(samples[0].index)), device=source.labels.device),
            "target_nodes": torch.full((), float(len(samples[1].index)), device=source.labels.device),
        }
        if source.overlap is not None:
            own = source.labels >= 0
            facts["quality_auc"] = ranking(source.quality[own].detach(), source.overlap[own])
        return HeadOutput(losses, facts)

    def _sample(self, batch: RegionBatch, step: int, stream: int) -> Sample:
        chance = step_generator(self.seed, step, stream)
        if "sampler" in self.parts:
            return self.sampler.source(batch, chance) if stream == _SOURCE else self.sampler.target(batch, chance)
        # Without the sampler nodes are drawn uniformly.
        return self.sampler.sample(batch, cluster_over=len(batch), generator=chance)

    def _graph_losses(
        self, features: tuple[Tensor, Tensor], labels: tuple[Tensor, Tensor], step: int
    ) -> dict[str, Tensor]:
        source, target = (self.project(value) for value in features)
        kinds = with_background(labels[0], self.classes), with_background(labels[1], self.classes)
        real = tuple(torch.ones_like(kind, dtype=torch.bool) for kind in kinds)
        made = Completed((source, target), kinds, (real[0], real[1]))
        losses: dict[str, Tensor] = {}
        if "hallucination" in self.own:
            made = self._memory.complete(made.nodes, kinds, step_generator(self.seed, step, _COMPLETED))
        inner = [self.inside(value, value) for value in made.nodes]
        if "hallucination" in self.own:
            losses["hallucination"] = self._remember(inner, made, step)
        crossed = [
            self.across(inner[0][0], inner[1][0])[0],
            self.across(inner[1][0], inner[0][0])[0],
        ]
        if "node_class" in self.parts:
            losses["node_class"] = classification_loss(self.classifier(torch.cat(crossed)), torch.cat(made.labels))
        if "node_domain" in self.own:
            # Hallucinated nodes have no domain to tell.
            mine, theirs = (value[is_real] for value, is_real in zip(crossed, made.real, strict=True))
            losses["node_domain"] = self.own["node_domain"](mine, theirs)
        if "matching" in self.own:
            found = self.own["matching"](*crossed)
            if "matching" in self.parts:
                if self.settings.matching == "one-to-one":
                    losses["matching"] = one_to_one_loss(found.assignment, *made.labels)
                else:
                    losses["matching"] = many_to_many_loss(found.affinity, *made.labels)
            if "structure" in self.parts:
                losses["structure"] = structure_loss(found.assignment, inner[0][1], inner[1][1])
        return losses

    def _remember(self, inner: list[tuple[Tensor, Tensor]], made: Completed, step: int) -> Tensor:
        """Update the memories with the real nodes after the attention inside their domain; the generator's loss."""
        part = self._memory
        nodes, labels = [], []
        for domain in (0, 1):
            is_real = made.real[domain]
            nodes.append(inner[domain][0][is_real])
            labels.append(made.labels[domain][is_real])
            if self.training:
                probabilities = self.classifier(nodes[domain]).float().softmax(1)
                part.bank.update(domain, nodes[domain], labels[domain], probabilities)
        loss: Tensor = part.loss(
            (nodes[0], nodes[1]), (labels[0], labels[1]), step_generator(self.seed, step, _GENERATED)
        )
        return loss
