"""Pseudo labels of whole boxes from a mean teacher (Tarvainen and Valpola, NeurIPS 2017), and what its student sees.

The teacher is the moving average of the student's weights. It sees a target image as it is; its sure boxes are the
labels of the student, who sees the same image changed in colour and detail (Unbiased Teacher, Liu et al., ICLR 2021,
section 3.2). Nothing is moved: a box of one view is true in the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou
from torchvision.transforms.v2 import functional

from nightaug.detect.adaptation.nodes import full_precision
from nightaug.detect.augment import FILL
from nightaug.detect.detectors.base import Found, Target

#: An unsure box that overlaps a sure one of its class by more is that same object.
SAME = 0.5

# What is changed, and how far. Night is dark: brightness may double but not fall below two thirds, and a gamma over 1
# takes more from dark pixels than from bright ones, so it stays low.
_BRIGHTNESS = (0.67, 2.0)
_CONTRAST = (0.7, 1.3)
_GAMMA = (0.7, 1.15)
_SATURATION = (0.4, 1.6)
_GREY = 0.2
_NOISE = 0.03  # largest deviation, of full white
_BLUR = 0.5
_SIGMA = (0.2, 1.2)  # pixels of the network's input, where a far traffic light has five
_KERNEL = 7
_HOLES = 4  # at most
_HOLE = (0.02, 0.1)  # sides, as shares of the image's


@torch.no_grad()
def pseudo_targets(found: Sequence[Found], thresholds: Tensor, unsure: float | Tensor) -> list[Target]:
    """A teacher's detections as labels of its student.

    Args:
        found: of each image.
        thresholds: (K,) by class.
        unsure: share of a threshold, in [0, 1]; or (K,), each class' own.

    Returns:
        For each image: boxes from their class' threshold on with weight 1; with weight 0, which is neither object nor
        background, those under it but not under ``unsure`` times it, unless they overlap one of the former of their
        class by more than :data:`SAME` (they would only take away the background around it). An image without a sure
        box has weight 0: that nothing was found does not say that nothing is there.
    """
    targets = []
    for boxes, scores, labels in found:
        least = thresholds.to(scores)[labels]
        floor = least * (unsure.to(scores)[labels] if isinstance(unsure, Tensor) else unsure)
        sure = scores >= least
        known = torch.zeros_like(sure)
        if len(boxes):
            near = (box_iou(boxes.float(), boxes.float()) > SAME) & (labels[:, None] == labels)
            known = (near & sure).any(dim=1)
        keep = (sure | ((scores >= floor) & ~known)).nonzero()[:, 0]
        targets.append(Target(boxes[keep], labels[keep], sure[keep].float(), float(sure.any())))
    return targets


@torch.no_grad()
def pseudo_facts(targets: Sequence[Target]) -> dict[str, Tensor]:
    """For the metrics: labels an image, and places that are neither object nor background; each ()."""
    if not targets:
        return {"teacher_sure": torch.zeros(()), "teacher_unsure": torch.zeros(())}
    weights = torch.cat([target.weights for target in targets])
    sure = (weights > 0).sum() / len(targets)
    return {"teacher_sure": sure, "teacher_unsure": len(weights) / len(targets) - sure}


@torch.no_grad()
def strong_view(images: Tensor, generator: torch.Generator) -> Tensor:
    """The student's view: light, contrast, gamma, colour, blur and noise changed image by image, and small grey holes.

    Args:
        images: uint8 (N, 3, H, W) RGB, at least 4 pixels a side.
        generator: of the CPU. The same state gives the same views (of noise: on the same kind of device).

    Returns:
        uint8 (N, 3, H, W), new, on the images' device.
    """
    count, _, height, width = images.shape
    chance = torch.rand(count, 9 + 4 * _HOLES, generator=generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    if not count:
        return images.clone()
    light = torch.stack(
        [
            _between(chance[:, 0], _BRIGHTNESS, log=True),
            _between(chance[:, 1], _CONTRAST),
            _between(chance[:, 2], _GAMMA, log=True),
            torch.where(chance[:, 4] < _GREY, 0.0, _between(chance[:, 3], _SATURATION)),
            _NOISE * chance[:, 5],
        ]
    )
    # One small copy to the device, for which it is not waited.
    factors = light[..., None, None, None].to(images.device, non_blocking=True)
    brightness, contrast, gamma, saturation, noise = factors  # (N, 1, 1, 1) each
    with full_precision(images):
        x = images.float() / 255
        x = (x * brightness).clamp(0, 1).pow(gamma)
        grey = functional.rgb_to_grayscale(x)
        x = grey + (x - grey) * saturation
        middle = grey.mean(dim=(1, 2, 3), keepdim=True)
        x = middle + (x - middle) * contrast
        blurred = chance[:, 6] < _BLUR
        sigmas = _between(chance[:, 7], _SIGMA)
        for number in blurred.nonzero()[:, 0].tolist():
            x[number] = functional.gaussian_blur(x[number], [_KERNEL] * 2, [float(sigmas[number])] * 2)
        # Too many numbers to draw on the CPU: the device's own generator, from the CPU's.
        own = torch.Generator(images.device).manual_seed(seed)
        x = x + torch.randn(x.shape, generator=own, device=x.device) * noise
        out: Tensor = (x * 255).round().clamp(0, 255).to(torch.uint8)
    holes = (chance[:, 8] * (_HOLES + 1)).long().tolist()
    for number, places in enumerate(chance[:, 9:].view(count, _HOLES, 4).tolist()):
        for x_place, y_place, wide, high in places[: holes[number]]:
            w, h = (max(1, round(side * _within(share, _HOLE))) for side, share in ((width, wide), (height, high)))
            left, top = int(x_place * (width - w + 1)), int(y_place * (height - h + 1))
            out[number, :, top : top + h, left : left + w] = FILL
    return out


def _within(share: float, ends: tuple[float, float]) -> float:
    return ends[0] + (ends[1] - ends[0]) * share


def _between(share: Tensor, ends: tuple[float, float], log: bool = False) -> Tensor:
    """Numbers in [0, 1] spread over a range, by their logarithms where doubling and halving are the same step."""
    low, high = (math.log(end) for end in ends) if log else ends
    value = low + (high - low) * share
    return value.exp() if log else value
