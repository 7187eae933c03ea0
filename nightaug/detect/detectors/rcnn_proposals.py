"""Anchors of a two-stage detector's pyramid, and which of its proposals are left (Ren et al., 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms

from nightaug.detect.detectors.base import Found
from nightaug.detect.rcnn_settings import RPNSettings

#: Classes of boxes that go on to suppression, an image.
CANDIDATES = 2000


class Anchors(NamedTuple):
    """All anchors of a network input, level after level: ``boxes`` (A, 4) xyxy pixels, ``level`` (A,)."""

    boxes: Tensor
    level: Tensor


class Proposals(NamedTuple):
    """Proposals of one image, best first: ``boxes`` (P, 4) xyxy pixels of the network's input, ``scores`` (P,)."""

    boxes: Tensor
    scores: Tensor


def make_anchors(generator: AnchorGenerator, size: tuple[int, int], pyramid: Sequence[Tensor]) -> Anchors:
    """The anchors of a network input.

    Args:
        size: its height and width, pixels.
        pyramid: maps (N, C, H, W) a level.
    """
    device = pyramid[0].device
    with torch.autocast(device.type, enabled=False):
        shown = torch.zeros(1, 3, *size, device=device)
        maps = [torch.zeros(1, 1, *level.shape[-2:], device=device) for level in pyramid]
        boxes = generator(ImageList(shown, [size]), maps)[0].float()
    counts = [level.shape[-2] * level.shape[-1] for level in pyramid]
    each = generator.num_anchors_per_location()
    level = torch.cat(
        [torch.full((count * per,), n, device=device) for n, (count, per) in enumerate(zip(counts, each, strict=True))]
    )
    return Anchors(boxes, level)


def flatten_levels(maps: Sequence[Tensor], values: int) -> Tensor:
    """Maps (N, anchors * ``values``, H, W) of each level to (N, A, ``values``), in the order of the anchors."""
    return torch.cat(
        [
            m.reshape(len(m), -1, values, *m.shape[-2:])
            .permute(0, 3, 4, 1, 2)
            .flatten(1, 3)  # (N, H, W, anchors, values)
            for m in maps
        ],
        dim=1,
    )


@torch.no_grad()
def propose(
    scores: Tensor, boxes: Tensor, level: Tensor, size: tuple[int, int], settings: RPNSettings, training: bool
) -> Proposals:
    """The proposals of one image.

    Each level's best go through suppression by themselves, as a level's scores say little about another's boxes.

    Args:
        scores: (A,) in [0, 1].
        boxes: (A, 4) xyxy, cut to the image here.
        level: (A,).
        size: height and width of the network's input.
    """
    most = settings.candidates_training if training else settings.candidates
    best: list[Tensor] = []
    start = 0
    for count in torch.bincount(level).tolist():
        best.append(scores[start : start + count].topk(min(most, count)).indices + start)
        start += count
    chosen = torch.cat(best)
    limit = torch.tensor([size[1], size[0]] * 2, device=boxes.device, dtype=boxes.dtype)
    own, score, where = torch.minimum(boxes[chosen].clamp(min=0), limit), scores[chosen], level[chosen]
    # Not under any setting a box without an area: nothing could be read from it.
    solid = ((own[:, 2:] - own[:, :2]) >= max(settings.min_side, 1e-2)).all(dim=1)
    own, score, where = own[solid], score[solid], where[solid]
    keep = batched_nms(own, score, where, settings.nms)
    keep = keep[: settings.kept_training if training else settings.kept]
    return Proposals(own[keep], score[keep])


def best_of_classes(boxes: Tensor, scores: Tensor, least: float, overlap: float, most: int) -> Found:
    """Detections of one image: each class in each box over a score, after suppression class by class.

    Args:
        boxes: (P, 4) xyxy; those without an area are dropped.
        scores: (P, K) in [0, 1].
        least: scores at or under this are dropped.
        overlap: of two boxes of a class with a larger IoU the weaker one goes.
        most: only so many, the best.
    """
    place, label = (scores > least).nonzero(as_tuple=True)
    best, order = scores[place, label].topk(min(CANDIDATES, len(place)))
    own, label = boxes[place[order]], label[order]
    solid = ((own[:, 2:] - own[:, :2]) > 0.5).all(dim=1)
    own, best, label = own[solid], best[solid], label[solid]
    keep = batched_nms(own, best, label, overlap)[:most]
    return Found(own[keep], best[keep], label[keep])
