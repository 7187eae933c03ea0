"""Captioned crops for the tiny CLIP: labelled boxes cut with some surroundings, and sentences that are true of them."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nightaug.boxes import iou
from nightaug.clip.crops import cut, grown, large_enough
from nightaug.clip.prompts import BACKGROUND, DAY_TEMPLATES, NIGHT_TEMPLATES, TEMPLATES, WORDS, fill_template
from nightaug.clip.region_cache import regions_of
from nightaug.data.classes import DAY, NIGHT, canonical_class
from nightaug.data.frames import Box, Frame
from nightaug.errors import ImageError
from nightaug.images import read_image
from nightaug.runs import load_weights, progress_bar, save_weights

if TYPE_CHECKING:
    from nightaug.clip.tiny import TinySettings

#: Times of day and light colours as small numbers; 0 is "not known".
TIMES: tuple[str | None, ...] = (None, DAY, NIGHT)
COLORS: tuple[str | None, ...] = (None, "red", "yellow", "green")
#: Such a place has less than this IoU with every labelled box, crowds among them.
_MOST_OVERLAP = 0.3
#: How many pixels larger than the network's input the stored crops are, so that windows inside them stay sharp.
_MARGIN = 1.25


@dataclass
class Crops:
    """Crops in memory.

    Attributes:
        pixels: uint8 (N, 3, S, S), each box with its surroundings stretched to a square.
        inner: (N, 4) where the box itself lies in that square, pixels.
        label, time, color: (N,) numbers into the classes, :data:`TIMES` and :data:`COLORS`.
        sha: of what was cut from where; a resumed run must find the same.
    """

    pixels: Tensor
    inner: Tensor
    label: Tensor
    time: Tensor
    color: Tensor
    sha: str


@dataclass
class Caption:
    """A sentence and what it claims (0 where it claims nothing): class, time of day, light colour."""

    text: str
    label: int
    time: int = 0
    color: int = 0


def with_background(frames: Sequence[Frame], count: int, seed: int) -> list[Frame]:
    """The frames, each with up to ``count`` more boxes of class :data:`BACKGROUND` where no object is.

    Half of them are places of any size anywhere, half lie beside an object and are as large as it: what a detector's
    proposals get wrong. They touch objects by an IoU under 0.3 at most. Drawn by seed and the frame's name; frames of
    unknown size stay as they are.
    """
    return [_with_background(frame, count, seed) for frame in frames]


def _with_background(frame: Frame, count: int, seed: int) -> Frame:
    if not frame.width or not frame.height:
        return frame
    rng = np.random.default_rng([seed, *hashlib.sha256(frame.name.encode()).digest()[:8]])
    size = np.array([frame.width, frame.height], np.float64)
    objects = np.array([box.xyxy for box in frame.boxes], np.float64).reshape(-1, 4)
    places: list[Box] = []
    for attempt in range(4 * count):
        if len(places) == count:
            break
        if attempt % 2 and len(objects):
            corners = objects[rng.integers(len(objects))].reshape(2, 2)
            span, middle = corners[1] - corners[0], corners.mean(axis=0)
            middle = middle + span * rng.uniform(0.4, 1.5, 2) * rng.choice([-1, 1], 2)
        else:
            span = np.exp(rng.uniform(math.log(8), math.log(size.min() / 2))) * np.exp(rng.uniform(-0.7, 0.7, 2))
            middle = rng.uniform(0, 1, 2) * size
        place = np.clip(np.concatenate((middle - span / 2, middle + span / 2)), 0, np.tile(size, 2))
        if (place[2:] - place[:2]).min() >= 4 and iou(place[None], objects).max(initial=0) < _MOST_OVERLAP:
            x1, y1, x2, y2 = place.tolist()
            places.append(Box(x1, y1, x2, y2, BACKGROUND))
    return msgspec.structs.replace(frame, boxes=[*frame.boxes, *places])


def cut_crops(
    frames: Sequence[Frame],
    classes: Sequence[str],
    settings: TinySettings,
    device: torch.device,
    keep: Path | None = None,
) -> Crops:
    """Cut every labelled box that is large enough, at most ``settings.per_class`` a class, drawn by seed.

    Files that cannot be read are stepped over.

    Args:
        keep: a file that holds the crops afterwards; if it holds the same ones already they are read from it.
    """
    names = {canonical_class(name): i for i, name in enumerate(classes)}
    chosen = _choose(frames, names, settings)
    wanted = _wanted(frames, classes, chosen, settings)
    if keep is not None and keep.exists():
        tensors, facts = load_weights(keep)
        if facts.get("wanted") == wanted:
            return Crops(**tensors, sha=facts["sha"])
    crops = _cut(frames, names, chosen, settings, device)
    if keep is not None:
        tensors = {name: value for name, value in vars(crops).items() if isinstance(value, Tensor)}
        save_weights(keep, tensors, {"wanted": wanted, "sha": crops.sha})
    return crops


def _wanted(
    frames: Sequence[Frame], classes: Sequence[str], chosen: dict[int, list[int]], settings: TinySettings
) -> str:
    """What the crops are made of: equal only where cutting again would give the same."""
    digest = hashlib.sha256(repr((tuple(classes), settings.size, settings.context, settings.min_side)).encode())
    for number, picked in chosen.items():
        frame = frames[number]
        assert frame.path is not None
        status = os.stat(frame.path) if frame.path.exists() else None
        facts = (str(frame.path), status and (status.st_size, status.st_mtime_ns), frame.timeofday)
        boxes = list(frame.boxes)
        digest.update(repr((facts, [(boxes[at].xyxy, boxes[at].category) for at in picked])).encode())
    return digest.hexdigest()


def _cut(
    frames: Sequence[Frame],
    names: dict[str, int],
    chosen: dict[int, list[int]],
    settings: TinySettings,
    device: torch.device,
) -> Crops:
    side = int(settings.size * _MARGIN)
    parts: list[tuple[Tensor, Tensor, list[tuple[int, int, int]]]] = []
    digest = hashlib.sha256()
    with progress_bar("cutting crops", len(chosen)) as show:
        for done, (number, wanted) in enumerate(chosen.items()):
            frame, boxes = frames[number], torch.from_numpy(regions_of(frames[number]).boxes).float()[wanted]
            assert frame.path is not None
            try:
                image = torch.from_numpy(read_image(frame.path)).to(device).permute(2, 0, 1)
            except ImageError:
                continue
            height, width = image.shape[1:]
            kept = large_enough(boxes, settings.min_side, width, height)
            boxes, picked = boxes[kept], [at for at, good in zip(wanted, kept.tolist(), strict=True) if good]
            if not picked:
                continue
            digest.update(repr((frame.name, boxes.tolist())).encode())
            outer = grown(boxes, settings.context, width, height)
            near = grown(boxes, 1.0, width, height)
            scale = side / (outer[:, 2:] - outer[:, :2])
            inner = (near - outer[:, :2].repeat(1, 2)) * scale.repeat(1, 2)
            pixels = (cut(image, outer.to(device), (side, side)) * 255).round().byte().cpu()
            labels = list(frame.boxes)
            facts = [
                (
                    names[canonical_class(box.category)],
                    TIMES.index(frame.timeofday) if frame.timeofday in TIMES else 0,
                    COLORS.index(box.light_color) if box.light_color in COLORS else 0,
                )
                for box in (labels[at] for at in picked)
            ]
            parts.append((pixels, inner, facts))
            show(done + 1, "")
    facts_all = torch.tensor([fact for _, _, facts in parts for fact in facts], dtype=torch.long).reshape(-1, 3)
    return Crops(
        torch.cat([torch.zeros(0, 3, side, side, dtype=torch.uint8), *(part[0] for part in parts)]),
        torch.cat([torch.zeros(0, 4), *(part[1] for part in parts)]),
        facts_all[:, 0],
        facts_all[:, 1],
        facts_all[:, 2],
        digest.hexdigest(),
    )


def _choose(frames: Sequence[Frame], names: dict[str, int], settings: TinySettings) -> dict[int, list[int]]:
    """Frame number -> numbers of its boxes that are used."""
    by_class: dict[int, list[tuple[int, int]]] = {}
    for number, frame in enumerate(frames):
        for at, box in enumerate(frame.boxes):
            label = names.get(canonical_class(box.category))
            if label is not None and not box.crowd and box.weight > 0 and frame.path is not None:
                by_class.setdefault(label, []).append((number, at))
    rng = np.random.default_rng(settings.seed)
    chosen: dict[int, list[int]] = {}
    for label in sorted(by_class):
        places = by_class[label]
        count = min(settings.per_class, len(places))
        for i in rng.choice(len(places), count, replace=False):
            chosen.setdefault(places[i][0], []).append(places[i][1])
    return {number: sorted(chosen[number]) for number in sorted(chosen)}


def draw(
    crops: Crops, chosen: NDArray[np.integer], size: int, rng: np.random.Generator, device: torch.device
) -> Tensor:
    """A batch of augmented crops: a window between the box and its surroundings, mirrored or not, light and contrast.

    Returns:
        float32 (N, 3, size, size) in [0, 1].
    """
    from torchvision.ops import roi_align

    count, side = len(chosen), crops.pixels.shape[2]
    index = torch.from_numpy(chosen.astype(np.int64))
    pixels = crops.pixels[index].to(device).float() / 255
    inner = crops.inner[index]
    whole = inner.new_tensor([0, 0, side, side])
    # Half the windows are the box, as at test time, the others end anywhere up to the surroundings.
    share = torch.from_numpy(rng.uniform(0, 1, (count, 1)) * (rng.random((count, 1)) < 0.7)).float()
    window = inner + (whole - inner) * share
    span = (window[:, 2:] - window[:, :2]).repeat(1, 2)
    window = (window + span * torch.from_numpy(rng.uniform(-0.06, 0.06, (count, 4))).float()).clamp(0, side)
    numbered = torch.cat([torch.arange(count).float()[:, None], window], dim=1).to(device)
    out: Tensor = roi_align(pixels, numbered, size, sampling_ratio=1, aligned=True)
    mirrored = torch.from_numpy(rng.random(count) < 0.5).to(device)
    out = torch.where(mirrored[:, None, None, None], out.flip(3), out)
    contrast, light = (torch.from_numpy(rng.uniform(*ends, (count, 1, 1, 1))).float().to(device) for ends in _JITTER)
    middle = out.mean(dim=(1, 2, 3), keepdim=True)
    return ((out - middle) * contrast + middle * light).clamp(0, 1)


#: Ranges of contrast and light, as factors.
_JITTER = ((0.7, 1.3), (0.8, 1.2))


def captions(
    crops: Crops, chosen: NDArray[np.integer], classes: Sequence[str], rng: np.random.Generator
) -> list[Caption]:
    """A true sentence for each crop; some tell the time of day, some the colour of a light."""
    said = []
    for at in chosen.tolist():
        label, time, color = int(crops.label[at]), int(crops.time[at]), int(crops.color[at])
        name = canonical_class(classes[label])
        words = WORDS.get(name, (name,))
        word = words[int(rng.integers(len(words)))]
        timed = {DAY: DAY_TEMPLATES, NIGHT: NIGHT_TEMPLATES}.get(TIMES[time] or "", ())
        tells_time, tells_color = bool(timed) and rng.random() < 0.4, color > 0 and rng.random() < 0.5
        templates = timed if tells_time else TEMPLATES
        template = templates[int(rng.integers(len(templates)))]
        word = f"{COLORS[color]} {word}" if tells_color else word
        said.append(
            Caption(fill_template(template, word), label, time if tells_time else 0, color if tells_color else 0)
        )
    return said


def positives(crops: Crops, chosen: NDArray[np.integer], said: Sequence[Caption]) -> Tensor:
    """bool (N, N): caption j is true of crop i, as far as the labels know."""
    index = torch.from_numpy(chosen.astype(np.int64))
    right: Tensor = crops.label[index][:, None] == torch.tensor([caption.label for caption in said])[None]
    for known, claims in (
        (crops.time[index], torch.tensor([caption.time for caption in said])),
        (crops.color[index], torch.tensor([caption.color for caption in said])),
    ):
        right = right & ((claims[None] == 0) | (claims[None] == known[:, None]))
    return right
