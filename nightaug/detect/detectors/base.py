"""What every detector is to the rest of nightaug: an FCOS, a YOLO, or a stand-in of a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nightaug.detect.adaptation.consistency import draw
from nightaug.detect.regions import RegionBatch
from nightaug.detect.settings import DetectorSettings
from nightaug.images import Letterbox


class EmbeddedRegions(NamedTuple):
    """Precomputed proposals of one image: ``boxes`` (Q, 4) xyxy pixels of the network's input, ``clip`` (Q, E)."""

    boxes: Tensor
    clip: Tensor


@dataclass
class Target:
    """The labels of one image of a batch.

    Attributes:
        boxes: (P, 4) xyxy in pixels of the network's input.
        labels: (P,) class numbers from 0.
        weights: (P,) in [0, 1]: how far each label is trusted. 0 makes the box a place that is neither object nor
            background (crowds, objects a translation has lost, objects cut off by the image's edge).
        image_weight: in [0, 1], for the whole image.
        clip: (P, E) CLIP embeddings of the labelled crops, zero where there is none; None where nobody asked for them.
        regions: precomputed proposals with CLIP's embeddings of their crops; None where nobody asked for them.
    """

    boxes: Tensor
    labels: Tensor
    weights: Tensor
    image_weight: float = 1.0
    clip: Tensor | None = None
    regions: EmbeddedRegions | None = None

    def to(self, device: torch.device | str) -> Target:
        boxes, labels, weights = (
            value.to(device, non_blocking=True) for value in (self.boxes, self.labels, self.weights)
        )
        clip = None if self.clip is None else self.clip.to(device, non_blocking=True)
        regions = self.regions
        if regions is not None:
            regions = EmbeddedRegions(*(value.to(device, non_blocking=True) for value in regions))
        return Target(boxes, labels, weights, self.image_weight, clip, regions)


class Assignment(NamedTuple):
    """For a batch: which object each place of the pyramid serves.

    ``served`` (N, A): position in the image's targets, -1 for background; ``weight`` (N, A): of the place's object, or
    for background 1 (0 inside a box of weight 0), times the image's weight.
    """

    served: Tensor
    weight: Tensor


class Served(NamedTuple):
    """The places of a batch that serve an object, and the objects.

    ``image`` (P,) and ``where`` (P,) locations; ``labels`` (P,) class numbers; ``boxes`` (P, 4) xyxy pixels.
    """

    image: Tensor
    where: Tensor
    labels: Tensor
    boxes: Tensor


def served_objects(targets: Sequence[Target], assignment: Assignment) -> Served:
    """Every location that serves an object, image after image, with that object's label and box."""
    image, where = (assignment.served >= 0).nonzero(as_tuple=True)
    first = [0, *accumulate(len(target.labels) for target in targets)][:-1]
    chosen = torch.tensor(first, device=image.device)[image] + assignment.served[image, where]
    labels, boxes = torch.cat([target.labels for target in targets]), torch.cat([target.boxes for target in targets])
    return Served(image, where, labels[chosen], boxes[chosen])


class Found(NamedTuple):
    """Detections of one image, best first."""

    boxes: Tensor  # (P, 4) xyxy, pixels of the network's input
    scores: Tensor  # (P,) in [0, 1]
    labels: Tensor  # (P,) class numbers from 0


def across_processes(value: Tensor) -> Tensor:
    """The mean of a count over all training processes.

    With it several processes make the same gradient as one with all their images: DDP averages gradients, so each
    must divide by the mean count, not by its own.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        value = value.detach().clone()
        torch.distributed.all_reduce(value)
        value = value / torch.distributed.get_world_size()
    return value.detach()


@dataclass
class Forward:
    """One pass of a detector over a batch.

    Attributes:
        losses: raw named losses, each (), empty without targets.
        pyramid: feature maps (N, C, H, W), finest first.
        outputs: what the detector itself needs for its other methods, image by image: tensors (N, ...), or lists and
            dictionaries of such.
        shared: likewise, but of the whole batch.
        assignment: which objects the losses were taken for, None without targets.
    """

    losses: dict[str, Tensor]
    pyramid: list[Tensor]
    outputs: dict[str, Any]
    shared: dict[str, Any] = field(default_factory=dict)
    assignment: Assignment | None = None

    def split(self, at: int) -> tuple[Forward, Forward]:
        """The pass over the first ``at`` images, which has the losses, and the one over the rest."""
        first, rest = (
            Forward({}, _part(self.pyramid, images), _part(self.outputs, images), self.shared)
            for images in (slice(at), slice(at, None))
        )
        first.losses, first.assignment = self.losses, self.assignment
        return first, rest


def _part(value: Any, images: slice) -> Any:
    if isinstance(value, dict):
        return {key: _part(each, images) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_part(each, images) for each in value]
    return value if value is None else value[images]


class Detector(nn.Module):
    """Base of the adapters.

    Attributes:
        name: the settings' name of the architecture.
        classes: canonical class names, in the order of the class numbers.
        width, height: of the network's input, pixels.
        score, nms, max_detections: which detections are given.
        loss_weights: a weight for every loss :meth:`forward` gives.
        class_losses: those of them that say what is there, and not where.
        progress: share of the training steps that are done, in [0, 1]; some losses shift their weight with it.
        number: of the training's forward pass, counted over all processes: what a detector draws at random comes from
            its seed and this number.
        facts: what a weight file must hold beside settings and classes to build the same network again.
        loaded: a line on the pretrained weights it started from, or empty.
    """

    name: str
    classes: tuple[str, ...]
    width: int
    height: int
    score: float = 0.01
    nms: float = 0.6
    max_detections: int = 100
    loss_weights: Mapping[str, float]
    class_losses: tuple[str, ...]
    progress: float = 0.0
    number: int = 0
    facts: Mapping[str, Any] = MappingProxyType({})
    loaded: str = ""

    def follow(self, settings: DetectorSettings, classes: Sequence[str]) -> None:
        """Take over what the settings say of every detector."""
        self.name, self.classes = settings.detector, tuple(classes)
        self.width, self.height = settings.width, settings.height
        self.score, self.nms, self.max_detections = settings.score, settings.nms, settings.max_detections

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> Forward:
        """Run the network.

        Args:
            images: uint8 or float (N, 3, H, W) RGB, 0 to 255.
            targets: labels of each image, or of the first ones only: those behind them are seen by the network (and
                by its normalisation layers) and give no losses. None gives no losses at all.
        """
        forward = self.run(images)
        if targets is not None:
            labelled = forward if len(targets) == len(images) else forward.split(len(targets))[0]
            forward.losses, forward.assignment = self.losses(labelled, targets)
        return forward

    def run(self, images: Tensor) -> Forward:
        """The pass itself, without losses; see :meth:`forward`."""
        raise NotImplementedError

    def losses(self, forward: Forward, targets: Sequence[Target]) -> tuple[dict[str, Tensor], Assignment]:
        """Raw named losses of a pass, each (), and which places serve which objects."""
        raise NotImplementedError

    def found(self, forward: Forward) -> list[Found]:
        """Detections of each image of a pass."""
        raise NotImplementedError

    # -- regions -------------------------------------------------------------------------------------------------

    def class_scores(self, forward: Forward) -> Tensor:
        """(N, A, K) fp32 in [0, 1], detached: the score of each class at each place."""
        raise NotImplementedError

    def regions(
        self,
        forward: Forward,
        image: Tensor,
        where: Tensor,
        labels: Tensor,
        letterboxes: list[Letterbox] | None = None,
    ) -> RegionBatch:
        """Some places as regions, with the boxes predicted there.

        Args:
            image, where: (P,) each, the places.
            labels: (P,) what they show, -1 for background.
        """
        raise NotImplementedError

    def labelled_regions(
        self,
        forward: Forward,
        targets: Sequence[Target],
        letterboxes: list[Letterbox] | None = None,
        background: int = 0,
        generator: torch.Generator | None = None,
    ) -> RegionBatch:
        """Every place assigned to a labelled object (METHODS 2.1); labels and boxes are the objects' own.

        Args:
            forward: with the assignment of these targets.
            background: add at most so many places that serve no object, drawn by ``generator``.
        """
        assert forward.assignment is not None, "expected a pass with targets"
        image, where, labels, truth = served_objects(targets, forward.assignment)
        objects = len(image)
        if background:
            served, weight = forward.assignment
            around = _some((served < 0) & (weight > 0), background, generator)
            image, where = torch.cat((image, around[0])), torch.cat((where, around[1]))
            labels = torch.cat((labels, torch.full_like(around[0], -1)))
        batch = self.regions(forward, image, where, labels, letterboxes)
        batch.overlap = torch.zeros_like(batch.score)
        batch.overlap[:objects] = row_iou(batch.boxes[:objects], truth.float())
        batch.boxes = torch.cat((truth.to(batch.boxes.dtype), batch.boxes[objects:]))
        return batch

    def scored_regions(
        self,
        forward: Forward,
        foreground: float | Tensor,
        background: float,
        letterboxes: list[Letterbox] | None = None,
        scores: Tensor | None = None,
        most_background: int | None = None,
        generator: torch.Generator | None = None,
    ) -> RegionBatch:
        """Places by their best class score: over ``foreground`` with that class, under ``background`` with label -1.

        Args:
            foreground: threshold in [0, 1], of all classes or (K,) of each.
            scores: (N, A, K) of somebody else (a mean teacher) decide; None: the detector's own.
            most_background: so many places under ``background`` at most, drawn by ``generator``; None: all of them.
        """
        best, label = (self.class_scores(forward) if scores is None else scores).max(dim=2)  # (N, A)
        least = foreground[label] if isinstance(foreground, Tensor) else foreground
        image, where = (best > least).nonzero(as_tuple=True)
        labels = label[image, where]
        around = _some(best < background, most_background, generator)
        return self.regions(
            forward,
            torch.cat((image, around[0])),
            torch.cat((where, around[1])),
            torch.cat((labels, torch.full_like(around[0], -1))),
            letterboxes,
        )


def _some(mask: Tensor, most: int | None, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """At most so many of the places of a mask (N, A), uniformly and without repetition: (Q,) images and places."""
    image, where = mask.nonzero(as_tuple=True)
    if most is None or generator is None:
        return image, where
    kept = draw(len(image), most, generator).to(image.device)
    return image[kept], where[kept]


def row_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """(P,) IoU of boxes (P, 4) with others, row by row."""
    low, high = torch.maximum(boxes[:, :2], others[:, :2]), torch.minimum(boxes[:, 2:], others[:, 2:])
    both = (high - low).clamp(min=0).prod(dim=1)
    areas = [(each[:, 2:] - each[:, :2]).clamp(min=0).prod(dim=1) for each in (boxes, others)]
    return both / (areas[0] + areas[1] - both).clamp(min=1e-9)
