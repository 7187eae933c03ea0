"""From which score on a target region is a pseudo-labelled object: one number for all classes, or each class' own.

With one number the classes a detector is sure of (cars) soon give all the pseudo labels, and those that night has
hidden (lights, riders) none. Class-balanced self-training (Zou et al., ECCV 2018, section 4.2) takes the same share of
each class instead; here that share is of what the labelled source shows, which needs no pass over the whole target.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nightaug.detect.adaptation.nodes import full_precision, one_hot
from nightaug.detect.adaptation.settings import AdaptationSettings
from nightaug.detect.detectors.base import Found, across_processes

#: Steps of the score that thresholds are told apart by.
BINS = 200
#: What a step's counts are multiplied by at each later step: a memory of about a hundred steps.
DECAY = 0.99
#: No class' own threshold is over this, and it is that of a class the source has not shown yet.
CEILING = 0.9
#: Counts that differ by less than this share are the same up to rounding.
_ROUNDING = 1e-5


def per_image(labels: Tensor, images: int, classes: int) -> Tensor:
    """How many regions (or boxes) of each class an image has in the mean.

    Args:
        labels: (P,) class numbers from 0 of all images; those below 0 do not count.
        images: of the batch.

    Returns:
        (classes,) fp32.
    """
    return one_hot(labels, classes).sum(0) / max(images, 1)


class PseudoThresholds(nn.Module):
    """The score over which a target region counts as an object, by class.

    ``settings.thresholds`` is ``fixed``: ``foreground`` for all. ``balanced``: the smallest score at which an
    image of the target shows at most ``settings.foreground_share`` times as many regions of the class as a labelled
    image of the source does, both as decayed means over the last steps, between ``floor`` and :data:`CEILING`.

    There is nothing to learn. What it has counted, in all processes, is in buffers and saved with the training's state.

    Args:
        classes: K, without background.
        settings: see :class:`AdaptationSettings`.
        foreground, floor: in place of the settings' ``foreground`` and ``foreground_floor``.
    """

    over: Tensor
    source: Tensor
    steps: Tensor
    edges: Tensor

    def __init__(
        self,
        classes: int,
        settings: AdaptationSettings,
        foreground: float | None = None,
        floor: float | None = None,
    ) -> None:
        super().__init__()
        self.foreground = settings.foreground if foreground is None else foreground
        self.floor = settings.foreground_floor if floor is None else floor
        self.classes, self.settings = classes, settings
        # (K, BINS): regions an image of the target with at least the score of each step of the score.
        self.register_buffer("over", torch.zeros(classes, BINS))
        # (K,): regions an image of the source.
        self.register_buffer("source", torch.zeros(classes))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("edges", torch.arange(BINS) / BINS, persistent=False)

    def update(self, source_counts: Tensor, scores: Tensor) -> None:
        """Take in one step; nothing in evaluation mode, where thresholds are fixed, or without target images.

        Args:
            source_counts: (K,) labelled regions of each class an image of this step's source (see :func:`per_image`).
            scores: (N, A, K) class scores in [0, 1] of all regions of the step's N target images.
        """
        best, label = scores.detach().max(dim=2)
        self.observe(source_counts, best.flatten(), label.flatten(), len(scores))

    def update_found(self, source_counts: Tensor, found: Sequence[Found]) -> None:
        """As :meth:`update`, where detections are what is counted: for thresholds of a mean teacher's boxes.

        Args:
            source_counts: (K,) labelled objects of each class an image of this step's source.
            found: the detections of each target image, before any threshold.
        """
        if not found:
            return
        best, label = torch.cat([one.scores for one in found]), torch.cat([one.labels for one in found])
        self.observe(source_counts, best, label, len(found))

    @torch.no_grad()
    def observe(self, source_counts: Tensor, best: Tensor, label: Tensor, images: int) -> None:
        """As :meth:`update`, from each region's best class.

        Args:
            source_counts: (K,).
            best: (P,) score of the region's best class; those up to ``settings.background`` do not count.
            label: (P,) that class, from 0.
            images: N, that the regions come from.
        """
        if not self.training or self.settings.thresholds == "fixed" or images == 0:
            return
        with full_precision(best):
            value = best.float()
            step = torch.bucketize(value, self.edges, right=True).clamp(1, BINS) - 1
            # Whole numbers, whose sums do not depend on their order on any device.
            count = torch.zeros(self.classes * BINS, dtype=torch.long, device=value.device)
            count.scatter_add_(0, label * BINS + step, (value > self.settings.background).long())
            count = count.view(self.classes, BINS).flip(1).cumsum(1).flip(1)
            # Of all processes, so that each has the same thresholds at every time, and after a resume.
            self.over.mul_(DECAY).add_(across_processes(count.float() / images), alpha=1 - DECAY)
            self.source.mul_(DECAY).add_(across_processes(source_counts.float()), alpha=1 - DECAY)
            self.steps.add_(1)

    @torch.no_grad()
    def values(self) -> Tensor:
        """The thresholds, (K,) fp32 on the module's device.

        Balanced ones are ``foreground`` before the first update, and for a class of which the target has shown
        no region over ``settings.background``; and :data:`CEILING` for one the source has not shown: a class nobody
        has been taught can only be a mistake.
        """
        s = self.settings
        same = torch.full_like(self.source, self.foreground)
        if s.thresholds == "fixed":
            return same
        # Both means began at 0 in the same step: what that takes away cancels, and early steps need no correction.
        wanted = s.foreground_share * (1 + _ROUNDING) * self.source
        value = (self.over > wanted[:, None]).sum(1) / BINS
        value = value.clamp(self.floor, max(CEILING, self.floor))
        value = torch.where(self.over[:, 0] > 0, value, same)
        value = torch.where(self.source > 0, value, CEILING)
        return torch.where(self.steps > 0, value, same)
