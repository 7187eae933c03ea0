"""Which regions of an image show a seen class, which are background, and which are neither (METHODS section 5.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nightaug.boxes import area, iou
from nightaug.data.classes import DAY, NIGHT
from nightaug.data.frames import Frame
from nightaug.detect.adaptation.consistency import draw
from nightaug.detect.openvocab.features import Chosen
from nightaug.detect.openvocab.settings import VLDUSSettings

#: What the generator is told of a time of day.
DOMAIN = {DAY: 0, NIGHT: 1}


def domain_of(frame: Frame) -> int:
    """0 day, 1 night, -1 anything else or unknown."""
    return DOMAIN.get(frame.timeofday or "", -1)


def seen_regions(
    proposals: NDArray[np.floating[Any]],
    boxes: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    weights: NDArray[np.floating[Any]],
    settings: VLDUSSettings,
    generator: torch.Generator,
    clip: NDArray[np.floating[Any]] | None = None,
    domain: int = -1,
) -> Chosen:
    """Proposals that show a labelled object, and some of those that show none; at most so many as the settings say.

    Args:
        proposals: (Q, 4) xyxy in pixels of the original.
        boxes, labels, weights: (P, 4), (P,) and (P,) of the labelled objects. A place of weight 0 (a crowd) is neither
            object nor background, and so is a proposal that lies in one by more than ``settings.background``.
        settings: thresholds and numbers.
        generator: of the draws.
        clip: (Q, E) embeddings of the proposals.
        domain: of the image.
    """
    proposals = np.asarray(proposals, np.float64).reshape(-1, 4)
    overlap = iou(proposals, boxes)
    reached = overlap.max(axis=1, initial=0)
    served = overlap.argmax(axis=1) if len(boxes) else np.zeros(len(proposals), np.int64)
    trusted = np.asarray(weights)[served] > 0 if len(boxes) else np.zeros(len(proposals), bool)
    objects = np.flatnonzero((reached >= settings.foreground) & trusted)
    unsure = _inside(proposals, np.asarray(boxes, np.float64).reshape(-1, 4)[np.asarray(weights) <= 0])
    around = np.flatnonzero((reached < settings.background) & (unsure <= settings.background))
    objects, around = (
        each[draw(len(each), most, generator).numpy()]
        for each, most in ((objects, settings.objects), (around, settings.backgrounds))
    )
    kept = np.concatenate((objects, around))
    shown = np.concatenate((np.asarray(labels, np.int64)[served[objects]], np.full(len(around), -1)))
    return Chosen(proposals[kept], shown, None if clip is None else clip[kept], domain)


def _inside(boxes: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """(Q,) the largest share of each box' area that lies in one of the places."""
    if not len(places) or not len(boxes):
        return np.zeros(len(boxes))
    low = np.maximum(boxes[:, None, :2], places[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], places[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=2)
    share: NDArray[np.float64] = (both / np.maximum(area(boxes), 1e-9)[:, None]).max(axis=1)
    return share
