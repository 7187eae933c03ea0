"""What the two stages of a Faster R-CNN learn from: which boxes serve which objects, which of them learn, the losses.

Ren et al., 2015, section 3.1.2, with three differences: every label has a weight, and a label of weight 0 marks a place
that is neither object nor background; the draw of the samples comes from a generator; several processes make the
gradient of one. Boxes are class-agnostic: one regression for all classes, so that any class can be added.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_area, box_iou

from nightaug.detect.adaptation.consistency import draw
from nightaug.detect.detectors.base import Target, across_processes

#: A box of which more than this share lies in a label of weight 0 is not background.
IGNORED_SHARE = 0.5


class Match(NamedTuple):
    """For the boxes of one image: ``served`` (R,) position in the image's targets, -1 for background; ``weight`` (R,).

    The weight is the object's, or for background 1, and 0 where a box is neither; times the image's.
    """

    served: Tensor
    weight: Tensor


class Sampled(NamedTuple):
    """The boxes of a batch that learn.

    ``labels`` (P,) class numbers, -1 for background; ``weights`` (P,); ``boxes`` (P, 4) what learns; ``objects`` (P, 4)
    the object each box serves, itself for background.
    """

    labels: Tensor
    weights: Tensor
    boxes: Tensor
    objects: Tensor


def match(
    boxes: Tensor, target: Target, foreground: float, background: float, reach: bool = False, cover: bool = False
) -> Match:
    """Which object each box serves.

    Args:
        boxes: (R, 4) xyxy pixels.
        foreground: a box serves the object it overlaps most, from this overlap on.
        background: a box that overlaps every object by less is background; those in between are neither.
        reach: the boxes with an object's highest IoU serve an object, whatever that is: none goes without.
        cover: overlap is intersection over the object's area instead of IoU.
    """
    served = boxes.new_full((len(boxes),), -1, dtype=torch.long)
    weight = boxes.new_full((len(boxes),), target.image_weight, dtype=torch.float32)
    if not len(boxes) or not len(target.boxes):
        return Match(served, weight)
    objects, real = target.boxes.to(boxes.dtype), target.weights > 0
    iou, inside = box_iou(boxes, objects), _intersection(boxes, objects)
    overlap = inside / box_area(objects).clamp(min=1e-6)[None] if cover else iou
    own = overlap.masked_fill(~real[None], 0.0)
    best, index = own.max(dim=1)
    serves = (best >= foreground) & (best > 0)
    if reach:
        highest = own.max(dim=0).values
        serves |= ((own == highest[None]) & (highest > 0)[None]).any(dim=1)
    # A box on something nobody vouches for teaches nothing.
    unsure = (inside / box_area(boxes).clamp(min=1e-6)[:, None] > IGNORED_SHARE) | (iou >= max(background, 1e-6))
    neither = ((best >= background) & (best > 0)) | (unsure & ~real[None]).any(dim=1)
    trust = torch.where(serves, target.weights.float()[index], torch.where(neither, 0.0, 1.0))
    return Match(torch.where(serves, index, -1), trust * target.image_weight)


def _intersection(boxes: Tensor, others: Tensor) -> Tensor:
    """(R, P) areas that boxes (R, 4) share with others (P, 4)."""
    low = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return (high - low).clamp(min=0).prod(dim=2)


def choose(found: Match, count: int, share: float, generator: torch.Generator) -> Tensor:
    """(Q,) positions of the boxes that learn: at most ``count``, at most ``share`` of ``count`` of them objects.

    Uniformly and without repetition; boxes of weight 0 are never drawn. Draws are made on the generator's device.
    """
    positive, negative = (
        ((side) & (found.weight > 0)).nonzero().squeeze(1) for side in (found.served >= 0, found.served < 0)
    )
    positive = positive[draw(len(positive), int(count * share), generator).to(positive.device)]
    negative = negative[draw(len(negative), count - len(positive), generator).to(negative.device)]
    return torch.cat([positive, negative])


def sampled(boxes: Tensor, target: Target, found: Match, chosen: Tensor) -> Sampled:
    """What the chosen boxes of one image learn."""
    boxes, served = boxes[chosen], found.served[chosen]
    if not len(target.boxes):
        return Sampled(served, found.weight[chosen], boxes, boxes)
    is_object = served >= 0
    labels = torch.where(is_object, target.labels[served.clamp(min=0)], -1)
    objects = torch.where(is_object[:, None], target.boxes.to(boxes.dtype)[served.clamp(min=0)], boxes)
    return Sampled(labels, found.weight[chosen], boxes, objects)


def join(parts: list[Sampled]) -> Sampled:
    """The samples of several images as one."""
    return Sampled(*(torch.cat(values) for values in zip(*parts, strict=True)))


def total_weight(weights: Tensor) -> Tensor:
    """() what losses are divided by: the weight of all samples, objects and background, a mean over processes."""
    return across_processes(weights.sum()).clamp(min=1.0)


def box_loss(deltas: Tensor, samples: Sampled, coder: BoxCoder, beta: float) -> Tensor:
    """() smooth L1 between predicted and wanted box codes of the objects, summed over the four coordinates.

    Divided by the weight of all samples, as published: so a rare object does not outweigh the classification.

    Args:
        deltas: (P, 4) predicted.
        beta: where the loss becomes linear.
    """
    own = samples.labels >= 0
    wanted = coder.encode_single(samples.objects[own].float(), samples.boxes[own].float())
    each = smooth_l1_loss(deltas.float()[own], wanted, beta=beta, reduction="none").sum(dim=1)
    return (each * samples.weights[own]).sum() / total_weight(samples.weights)


def centrality(boxes: Tensor, objects: Tensor) -> Tensor:
    """(P,) in [0, 1]: sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) of the boxes' centres in their objects."""
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    before, after = center - objects[:, :2], objects[:, 2:] - center
    low, high = torch.minimum(before, after).clamp(min=0), torch.maximum(before, after).clamp(min=1e-6)
    return (low / high).prod(dim=1).sqrt()


def quality_loss(logits: Tensor, wanted: Tensor, samples: Sampled) -> Tensor:
    """() L1 between a predicted quality and the true one, the weighted mean over objects alone (Kim et al., 2022).

    Args:
        logits: (P,).
        wanted: (P,) in [0, 1]; that of background is not looked at.
    """
    own = samples.labels >= 0
    weights = samples.weights[own]
    each = (logits.float()[own].sigmoid() - wanted.float()[own]).abs()
    return (each * weights).sum() / total_weight(weights)
