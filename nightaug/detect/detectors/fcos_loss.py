"""FCOS' assignment of locations to objects, and its three losses (Tian et al., 2019, sections 3.1 to 3.3).

Beyond the paper: every label has a weight, and a label of weight 0 marks a place that is neither object nor
background; objects smaller than a stride, which contain no location, get those a stride-sized box would have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from nightaug.detect.detectors.base import Assignment, Target, across_processes, served_objects


class Locations(NamedTuple):
    """All locations of a network input, level after level.

    ``points`` (A, 2) xy in pixels; ``size`` (A,) the anchor's side (the level's nominal stride), pixels;
    ``low`` and ``high`` (A,): a location serves objects whose farthest side lies between them; ``level`` (A,).
    """

    points: Tensor
    size: Tensor
    low: Tensor
    high: Tensor
    level: Tensor


def assign(locations: Locations, targets: Sequence[Target], radius: float, reach_tiny: bool) -> Assignment:
    """Assign every location of every image; the smallest object wins where several claim one."""
    indices, weights = zip(*(_assign_one(locations, target, radius, reach_tiny) for target in targets), strict=True)
    return Assignment(torch.stack(indices), torch.stack(weights))


def _assign_one(at: Locations, target: Target, radius: float, reach_tiny: bool) -> tuple[Tensor, Tensor]:
    count = len(at.points)
    points = at.points
    if len(target.boxes) == 0:
        return (
            torch.full((count,), -1, dtype=torch.long, device=points.device),
            torch.full((count,), target.image_weight, device=points.device),
        )
    boxes = target.boxes
    center = (boxes[:, :2] + boxes[:, 2:]) / 2  # (P, 2)
    claimed = boxes[None].expand(count, -1, -1)  # (A, P, 4)
    if reach_tiny:
        # At each level the box that claims locations is at least a stride wide and high, about the same centre.
        half = torch.maximum((boxes[:, 2:] - boxes[:, :2])[None], at.size[:, None, None]) / 2  # (A, P, 2)
        claimed = torch.cat([center[None] - half, center[None] + half], dim=2)
    sides = torch.cat([points[:, None] - claimed[..., :2], claimed[..., 2:] - points[:, None]], dim=2)  # (A, P, ltrb)
    near = (points[:, None] - center[None]).abs().amax(dim=2) < radius * at.size[:, None]
    # The level is chosen by the object itself, not by what it was grown to.
    own = torch.cat([points[:, None] - boxes[None, :, :2], boxes[None, :, 2:] - points[:, None]], dim=2).amax(dim=2)
    # A grown box reaches exactly to locations on its edge: one of them must count as inside.
    inside = sides.amin(dim=2) > (-1e-4 if reach_tiny else 0)
    match = near & inside & (own > at.low[:, None]) & (own < at.high[:, None])
    area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).float()
    real = target.weights > 0
    ignored = (match & ~real[None]).any(dim=1)
    if bool((~real).any()):
        # Beyond the assigned centre: nowhere inside an ignored box is background.
        low, high = boxes[~real][None, :, :2], boxes[~real][None, :, 2:]
        ignored |= ((points[:, None] > low) & (points[:, None] < high)).all(dim=2).any(dim=1)
    cost = torch.where(match & real[None], area[None], torch.inf)
    best, index = cost.min(dim=1)
    background = best.isinf()
    index = torch.where(background, -1, index)
    weight = torch.where(background, torch.where(ignored, 0.0, 1.0), target.weights.float()[index.clamp(min=0)])
    return index, weight * target.image_weight


def fcos_losses(
    logits: Tensor,
    regression: Tensor,
    centerness: Tensor,
    locations: Locations,
    targets: Sequence[Target],
    assignment: Assignment,
) -> dict[str, Tensor]:
    """Classification (focal), box (GIoU) and centerness (BCE) losses, each divided by the weight of the positives.

    Args:
        logits: (N, A, K).
        regression: (N, A, 4) distances to left, top, right, bottom in units of the anchor's size, none negative.
        centerness: (N, A) logits.

    Returns:
        ``{"classification": (), "box": (), "centerness": ()}``.
    """
    logits, regression, centerness = logits.float(), regression.float(), centerness.float()
    weight = assignment.weight
    image, where, labels, boxes = served_objects(targets, assignment)
    own = weight[image, where]
    total = across_processes(own.sum()).clamp(min=1.0)

    wanted = torch.zeros_like(logits)
    wanted[image, where, labels] = 1.0
    focal = sigmoid_focal_loss(logits, wanted, reduction="none").sum(dim=2)

    points, size = locations.points[where], locations.size[where]
    found = decode(regression[image, where], points, size)
    overlap = generalized_box_iou_loss(found, boxes, reduction="none")
    right = centerness_target(boxes, points, size)
    middle = binary_cross_entropy_with_logits(centerness[image, where], right, reduction="none")
    return {
        "classification": (focal * weight).sum() / total,
        "box": (overlap * own).sum() / total,
        "centerness": (middle * own).sum() / total,
    }


def decode(regression: Tensor, points: Tensor, size: Tensor) -> Tensor:
    """(..., 4) distances in anchor sizes to xyxy boxes in pixels."""
    distance = regression * size[..., None]
    return torch.cat([points - distance[..., :2], points + distance[..., 2:]], dim=-1)


def centerness_target(boxes: Tensor, points: Tensor, size: Tensor) -> Tensor:
    """sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)), equation 3; (P,) in [0, 1].

    Measured in the box the location was assigned by: one at least a stride wide and high.
    """
    center, extent = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    half = torch.maximum(extent, size[:, None]) / 2
    before, after = points - (center - half), (center + half) - points  # (P, 2)
    low, high = torch.minimum(before, after).clamp(min=0), torch.maximum(before, after).clamp(min=1e-6)
    return (low / high).prod(dim=1).sqrt()
