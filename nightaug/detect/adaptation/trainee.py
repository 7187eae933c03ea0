"""A detector and what adapts it as the one module that is trained: one forward pass a step, whatever is on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nightaug.detect.adaptation.head import AdaptationHead
from nightaug.detect.adaptation.nodes import step_generator
from nightaug.detect.adaptation.settings import EXTRA_PARTS, AdaptationSettings
from nightaug.detect.adaptation.teacher import pseudo_facts, pseudo_targets, strong_view
from nightaug.detect.adaptation.thresholds import PseudoThresholds, per_image
from nightaug.detect.detectors.base import Detector, Forward, Found, Target
from nightaug.detect.optimization import warmed_up
from nightaug.detect.settings import DetectorSettings
from nightaug.errors import ConfigError
from nightaug.losses import weighted_total

#: Regions of background a domain offers the head in a step, of which it draws a few dozen.
BACKGROUND = 1000
#: Numbers of the uses of chance in a step; the head has those below.
_AROUND_SOURCE, _AROUND_TARGET, _VIEW = range(10, 13)


class Pseudo(NamedTuple):
    """What a mean teacher says about a batch of target images.

    ``found`` its detections; ``targets`` those over their thresholds, as labels; ``scores`` (N, A, K) its class scores
    at every place; ``view`` uint8 (N, 3, H, W), the images as the student sees them.
    """

    found: list[Found]
    targets: list[Target]
    scores: Tensor
    view: Tensor


class Step(NamedTuple):
    """Losses (raw, named, each () with gradient) and facts (each () without) of one forward pass."""

    losses: dict[str, Tensor]
    facts: dict[str, Tensor]


class AdaptedDetector(nn.Module):
    """A detector that learns from unlabelled images of a target domain beside its labelled ones.

    Args:
        detector: an FCOS or a YOLO; its weights are part of this module.
        settings: of the run.
        clip_width: E of CLIP's embeddings, None without CLIP.

    Attributes:
        detector: as given.
        beside: everything that is trained or remembered beside it.
        head: the vision-language night head, None where only parts beyond it are switched on.
        regions, boxes: thresholds of pseudo labels, for places of the pyramid and for whole boxes.
    """

    def __init__(self, detector: Detector, settings: DetectorSettings, clip_width: int | None) -> None:
        super().__init__()
        own: AdaptationSettings = settings.adaptation
        self.detector, self.settings, self.seed = detector, own, settings.seed
        classes = len(detector.classes)
        sure = own.teacher.sure
        self.beside = nn.ModuleDict(
            {"regions": PseudoThresholds(classes, own), "boxes": PseudoThresholds(classes, own, sure, sure)}
        )
        if set(own.parts) - set(EXTRA_PARTS):
            width, pyramid = _shape(detector)
            self.beside["head"] = AdaptationHead(own, classes, width, pyramid, clip_width, settings.seed)

    @property
    def regions(self) -> PseudoThresholds:
        found: PseudoThresholds = self.beside["regions"]  # type: ignore[assignment]
        return found

    @property
    def boxes(self) -> PseudoThresholds:
        found: PseudoThresholds = self.beside["boxes"]  # type: ignore[assignment]
        return found

    @property
    def head(self) -> AdaptationHead | None:
        found: AdaptationHead | None = self.beside["head"] if "head" in self.beside else None  # type: ignore[assignment]  # noqa: SIM401
        return found

    @property
    def teaches(self) -> bool:
        """Whether a mean teacher is asked for pseudo labels."""
        return "teacher" in self.settings.parts

    @property
    def aligns(self) -> bool:
        """Whether CLIP's embeddings of the labelled crops are looked at."""
        return self.head is not None and "alignment" in self.head.own

    def loss_weights(self, step: int) -> dict[str, float]:
        """The weight of every loss beside the detector's own."""
        weights = self.head.loss_weights(step) if self.head is not None else {}
        rise = warmed_up(step, self.settings.warmup)
        return weights | ({"teacher": self.settings.weights.teacher * rise} if self.teaches else {})

    @torch.no_grad()
    def ask(self, teacher: Detector, images: Tensor, number: int) -> Pseudo:
        """Pseudo labels of a batch of target images, and the view of them the student learns from.

        Args:
            teacher: a moving average of the detector.
            images: uint8 (N, 3, H, W).
            number: see :meth:`forward`.
        """
        seen = teacher.run(images)
        found, scores = teacher.found(seen), teacher.class_scores(seen)
        labels = pseudo_targets(found, self.boxes.values(), self.settings.teacher.unsure)
        return Pseudo(found, labels, scores, strong_view(images, step_generator(self.seed, number, _VIEW)))

    def forward(
        self,
        images: Tensor,
        targets: Sequence[Target],
        unlabelled: Tensor,
        number: int,
        pseudo: Pseudo | None = None,
    ) -> Step:
        """The losses of one pass over labelled source images and unlabelled target images.

        Both go through the network together, so that normalisation layers see in training the mixture they keep
        statistics of.

        Args:
            images: uint8 (N, 3, H, W) of the source, with their labels ``targets``.
            unlabelled: uint8 (M, 3, H, W) of the target.
            number: of the pass, another one in every pass of every process; with the seed it decides every random
                choice.
            pseudo: see :meth:`ask`; needed where the mean teacher is switched on.
        """
        shown = unlabelled if pseudo is None else pseudo.view
        source, target = self.detector(torch.cat((images, shown)), targets).split(len(images))
        losses, facts = dict(source.losses), {}
        if self.head is not None:
            out = self._adapt(source, target, targets, number, None if pseudo is None else pseudo.scores)
            losses, facts = losses | out.losses, out.facts
        if pseudo is not None:
            own, _ = self.detector.losses(target, pseudo.targets)
            learnt = own if self.settings.teacher.boxes else self.detector.class_losses
            weights = {name: self.detector.loss_weights[name] for name in learnt}
            losses["teacher"] = weighted_total({name: own[name] for name in learnt}, weights)
            facts |= pseudo_facts(pseudo.targets)
            labels = torch.cat([torch.where(one.weights > 0, one.labels, -1) for one in targets])
            self.boxes.update_found(per_image(labels, len(targets), len(self.detector.classes)), pseudo.found)
        return Step(losses, {name: value.detach() for name, value in facts.items()})

    def _adapt(
        self,
        source: Forward,
        target: Forward,
        targets: Sequence[Target],
        number: int,
        scores: Tensor | None,
    ) -> Step:
        assert self.head is not None
        detector = self.detector
        chance = [step_generator(self.seed, number, at) for at in (_AROUND_SOURCE, _AROUND_TARGET)]
        labelled = detector.labelled_regions(source, targets, background=BACKGROUND, generator=chance[0])
        seen = detector.class_scores(target) if scores is None else scores
        self.regions.update(per_image(labelled.labels, len(targets), len(detector.classes)), seen)
        thresholds = self.regions.values()
        found = detector.scored_regions(
            target,
            thresholds,
            self.settings.background,
            scores=seen,
            most_background=BACKGROUND,
            generator=chance[1],
        )
        clip, clip_labels = _crops(targets)
        out = self.head(labelled, found, number, clip, clip_labels)
        return Step(out.losses, out.facts | {"threshold": thresholds.mean()})


def check_adaptation(settings: DetectorSettings, images: int) -> None:
    """Refuse what cannot be trained.

    Args:
        images: of the target.

    Raises:
        ConfigError: no target, or no part that can be trained.
    """
    if not images:
        raise ConfigError("--adapt needs unlabelled images of the target: add --target NIGHT_IMAGES")
    if not settings.adaptation.parts:
        raise ConfigError("adaptation.parts is empty: name at least one part, or leave out --adapt")
    if set(settings.adaptation.parts) == {"alignment"} and settings.clip == "none":
        raise ConfigError("adaptation.parts names alignment alone, which needs a CLIP: add --clip MODEL:TAG")


def _shape(detector: Detector) -> tuple[int, list[int]]:
    """Width of a region's features, and channels of each pyramid level."""
    mode, device = detector.training, next(detector.parameters()).device
    detector.eval()
    try:
        with torch.no_grad():
            forward = detector.run(torch.zeros(1, 3, 64, 64, dtype=torch.uint8, device=device))
            first = torch.zeros(1, dtype=torch.long, device=device)
            width = detector.regions(forward, first, first, first).features.shape[1]
    finally:
        detector.train(mode)
    return width, [level.shape[1] for level in forward.pyramid]


def _crops(targets: Sequence[Target]) -> tuple[Tensor | None, Tensor | None]:
    """CLIP's embeddings (Q, E) of the labelled crops of a batch, and their classes (Q,), -1 where there is none."""
    # Their fp16 means storage; autocast would take it for a choice.
    rows = [target.clip.float() for target in targets if target.clip is not None]
    if len(rows) < len(targets):
        return None, None
    clip = torch.cat(rows)
    labels, weights = (torch.cat([getattr(target, name) for target in targets]) for name in ("labels", "weights"))
    return clip, torch.where(clip.any(dim=1) & (weights > 0), labels, -1)
