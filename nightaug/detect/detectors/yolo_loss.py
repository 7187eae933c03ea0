"""YOLO's losses with label weights: ultralytics' own loss, with two of its parts wrapped.

Its detection loss assigns anchors to objects (task-aligned assignment, TOOD, Feng et al., 2021, section 3.2), takes the
binary cross-entropy of every class at every anchor, and the box losses of assigned anchors, and divides by the sum of
the target scores. The assigner and the cross-entropy are attributes of the loss object: wrapping them is enough to give
every anchor a weight, and with weights of 1 nothing changes. Nothing here imports ultralytics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nightaug.detect.detectors.base import Assignment, Target, across_processes


class Anchors(NamedTuple):
    """All anchor points of a network input, level after level.

    ``points`` (A, 2) xy in pixels; ``stride`` (A,) of the level, pixels; ``level`` (A,), 0 is the finest.
    """

    points: Tensor
    stride: Tensor
    level: Tensor


def anchor_points(pyramid: Sequence[Tensor], strides: Tensor) -> Anchors:
    """The middles of the cells of every map; float32 whatever the maps are."""
    device, points, sizes, levels = pyramid[0].device, [], [], []
    for number, level in enumerate(pyramid):
        height, width = level.shape[-2:]
        y, x = torch.meshgrid(
            torch.arange(height, device=device) + 0.5, torch.arange(width, device=device) + 0.5, indexing="ij"
        )
        points.append(torch.stack([x.flatten(), y.flatten()], dim=1) * strides[number])
        sizes.append(strides[number].expand(height * width))
        levels.append(torch.full((height * width,), number, device=device))
    return Anchors(torch.cat(points), torch.cat(sizes), torch.cat(levels))


def decode(distances: Tensor, anchors: Anchors) -> Tensor:
    """The boxes a head predicts.

    Args:
        distances: (N, 4 R, A): for each side R logits over the distances 0 .. R - 1 strides, or R = 1 distance.

    Returns:
        (N, A, 4) xyxy in pixels, float32.
    """
    count, channels, places = distances.shape
    bins = distances.float().view(count, 4, channels // 4, places)
    if bins.shape[2] > 1:
        distance = torch.arange(bins.shape[2], device=bins.device, dtype=bins.dtype)
        sides = torch.einsum("nsra,r->nas", bins.softmax(dim=2), distance)
    else:
        sides = bins[:, :, 0].transpose(1, 2)
    sides = sides * anchors.stride[:, None]
    return torch.cat([anchors.points - sides[..., :2], anchors.points + sides[..., 2:]], dim=2)


class Labels:
    """A batch's labels as ultralytics' loss takes them, and beside them the weights it does not know.

    Labels of weight 0 are not handed to the loss. Attributes: ``batch`` the loss' dictionary; ``weights`` (N, P) of
    the labels it has; ``positions`` (N, P) where in the image's targets each of them is; ``images`` (N,) weights;
    ``ignored`` per image the boxes (Q, 4) of weight 0.
    """

    def __init__(self, targets: Sequence[Target], size: tuple[int, int], device: torch.device) -> None:
        real = [target.weights > 0 for target in targets]
        boxes = torch.cat([target.boxes[keep].float() for target, keep in zip(targets, real, strict=True)])
        middle, extent = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        scale = torch.tensor([size[1], size[0]] * 2, device=device, dtype=torch.float32)
        labels = torch.cat([target.labels[keep] for target, keep in zip(targets, real, strict=True)])
        image = torch.cat([torch.full_like(t.labels[keep], n) for n, (t, keep) in enumerate(zip(targets, real))])  # noqa: B905
        self.batch = {"batch_idx": image, "cls": labels.float(), "bboxes": torch.cat([middle, extent], dim=1) / scale}
        self.images = torch.tensor([target.image_weight for target in targets], device=device)
        self.ignored = [target.boxes[~keep].float() for target, keep in zip(targets, real, strict=True)]
        self.weights = _padded([t.weights[keep].float() for t, keep in zip(targets, real, strict=True)])
        self.positions = _padded([keep.nonzero().squeeze(1) for keep in real])


def _padded(rows: list[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


class WeightedLoss:
    """One ``v8DetectionLoss`` of ultralytics that respects label weights.

    Args:
        criterion: the loss object, with gains of 1; its assigner and cross-entropy are replaced.
        labels: of the batch it will be called with.

    Attributes:
        assignment: after the call, which label each anchor serves.
    """

    assignment: Assignment

    def __init__(self, criterion: Any, labels: Labels) -> None:
        self.criterion, self.labels = criterion, labels
        self._assign, self._entropy = criterion.assigner, criterion.bce
        criterion.assigner, criterion.bce = self._weighted_assignment, self._weighted_entropy

    def __call__(self, predictions: Mapping[str, Any]) -> Tensor:
        """(3,): box, cls, and dfl (or l1), each divided by the weighted sum of the target scores."""
        loss: Tensor = self.criterion.loss(predictions, self.labels.batch)[0]
        # It has multiplied by the batch's size, and divided by its own sum instead of the mean of all processes.
        share = self._own_total.clamp(min=1) / across_processes(self._own_total).clamp(min=1)
        loss = loss / len(self.labels.images) * share
        return loss

    def _weighted_assignment(
        self, scores: Tensor, boxes: Tensor, points: Tensor, labels: Tensor, truth: Tensor, valid: Tensor, **more: Any
    ) -> tuple[Tensor, ...]:
        found = self._assign(scores, boxes, points, labels, truth, valid, **more)
        target_labels, target_boxes, target_scores, positive, index = found
        weight = self.labels.images[:, None].expand(positive.shape).clone()  # (N, A)
        # As the assigner grows objects to a stride before it looks for their anchors, so do we.
        least = float(getattr(self._assign, "stride_val", 8))
        for number, ignored in enumerate(self.labels.ignored):
            if len(ignored):
                weight[number] *= ~_inside(points, ignored, least)
        place = torch.full(positive.shape, -1, dtype=torch.long, device=positive.device)
        if truth.shape[1]:
            index = index.long()
            own = self.labels.weights.gather(1, index) * self.labels.images[:, None]
            weight = torch.where(positive, own, weight)
            place = torch.where(positive, self.labels.positions.gather(1, index), place)
        self.assignment = Assignment(place, weight)
        self._target_scores = target_scores
        weighted = target_scores * weight[..., None]
        self._own_total = weighted.sum()
        # The loss takes the weights of the box losses and its divisor from here.
        return target_labels, target_boxes, weighted, positive, index

    def _weighted_entropy(self, scores: Tensor, weighted: Tensor) -> Tensor:
        entropy: Tensor = self._entropy(scores, self._target_scores.to(scores.dtype))
        return entropy * self.assignment.weight[..., None]


def _inside(points: Tensor, boxes: Tensor, least: float) -> Tensor:
    """(A,): is the point inside one of the boxes, grown to ``least`` pixels a side?"""
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, ((boxes[:, 2:] - boxes[:, :2]) / 2).clamp(min=least / 2)
    return ((points[:, None] - middle[None]).abs() < half[None]).all(dim=2).any(dim=1)


def yolo_losses(
    criterion: Any, raw: Mapping[str, Any], targets: Sequence[Target], size: tuple[int, int], progress: float
) -> tuple[Tensor, Assignment]:
    """The three losses of a pass.

    Args:
        criterion: fresh from the network: a ``v8DetectionLoss``, or an ``E2ELoss`` of two of them.
        raw: the head's outputs: ``boxes`` (N, 4 R, A), ``scores`` (N, K, A) and ``feats``, or a pair of such.
        size: height and width of the network's input.
        progress: how far training is, 0 to 1.

    Returns:
        (3,) box, cls and dfl (or l1), before any gain; the assignment (of the one-to-many head where there are two).
    """
    heads = [raw["one2many"], raw["one2one"]] if "one2many" in raw else [raw]
    device = heads[0]["scores"].device
    labels = Labels(targets, size, device)
    parts = [criterion.one2many, criterion.one2one] if len(heads) > 1 else [criterion]
    losses = [WeightedLoss(part, labels) for part in parts]
    with torch.autocast(device.type, enabled=False):
        values = [loss(_precise(head)) for loss, head in zip(losses, heads, strict=True)]
    if len(values) == 1:
        return values[0], losses[0].assignment
    # As ultralytics: most of the weight on the one-to-many head first, most on the one-to-one head in the end.
    many = criterion.o2m + (criterion.final_o2m - criterion.o2m) * min(max(progress, 0.0), 1.0)
    return many * values[0] + (criterion.total - many) * values[1], losses[0].assignment


def _precise(head: Mapping[str, Any]) -> dict[str, Any]:
    # The loss asks the maps for their size and type only.
    maps = [torch.zeros((), device=m.device).expand(m.shape) for m in head["feats"]]
    return {"boxes": head["boxes"].float(), "scores": head["scores"].float(), "feats": maps}
