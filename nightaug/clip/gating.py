"""CLIP gating: labelled objects that a translation has taken out of their class are trained on less, or not at all.

A box of a translated frame says what was there by day. Whether it still is, CLIP is asked: how probable is the label
in the box after the translation, against before it, in the same box of the day frame. What CLIP did not recognise by
day either (a far light of six pixels) is not held against the translation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from nightaug.boxes import iou
from nightaug.clip.encoder import Clip
from nightaug.clip.prompts import Prompts
from nightaug.clip.region_cache import RegionCache, regions_of
from nightaug.data.classes import canonical_class, canonical_classes
from nightaug.data.frames import Box, Frame
from nightaug.errors import ConfigError

#: weigh: a label counts by the share of its probability that is left. drop: not at all under :data:`LOST`.
GateMode = Literal["weigh", "drop"]
#: An object that has kept less than this share of its probability is lost.
LOST = 0.5
#: Boxes that overlap by less are not the same object.
_SAME = 0.5
#: Digits of the share kept: beyond them CLIP's answers differ between machines, and weights must not.
_DIGITS = 3


@dataclass(frozen=True)
class GateReport:
    """What gating did.

    Attributes:
        frames: the translated frames in their order, with new weights; those without a change are the same objects.
        mode: of the gating.
        boxes: labels asked for: of the known classes, no crowds, no weights of 0.
        judged: those with an embedding on both sides; the others keep their weights.
        unnamed: of the judged ones, those that CLIP gave less than chance by day, too: the larger their share, the less
            its word is worth.
        count, kept, lost: by class with a judged box: how many, the mean of the shares kept in [0, 1], and the part of
            them under :data:`LOST` (with ``drop`` those now have weight 0).
    """

    frames: list[Frame]
    mode: GateMode
    boxes: int
    judged: int
    unnamed: int
    count: dict[str, int]
    kept: dict[str, float]
    lost: dict[str, float]

    def line(self) -> str:
        """One line for people, the classes that lost most first."""
        if not self.judged:
            return f"CLIP gating ({self.mode}): none of {self.boxes:,} boxes has an embedding by day and by night"
        share = sum(self.lost[name] * self.count[name] for name in self.count) / self.judged
        worst = sorted(self.kept, key=lambda name: (self.kept[name], name))
        classes = ", ".join(f"{name} {self.kept[name]:.2f} ({100 * self.lost[name]:.0f}%)" for name in worst)
        return (
            f"CLIP gating ({self.mode}): {self.judged:,} of {self.boxes:,} boxes judged, {100 * share:.1f}% lost, "
            f"{100 * self.unnamed / self.judged:.0f}% unknown to CLIP by day, too; mean kept (lost): {classes}"
        )


@dataclass(frozen=True)
class Judged:
    """A frame's boxes before CLIP: ``classes`` canonical names, ``boxes`` (P, 4) upright, ``log`` (P,) log probability
    of each box's class, NaN without an embedding or for a class nobody asked about."""

    classes: list[str]
    boxes: NDArray[np.float64]
    log: NDArray[np.float64]


def gate_classes(classes: Sequence[str]) -> list[str]:
    """Canonical names of the classes CLIP chooses between.

    Raises:
        ConfigError: fewer than two.
    """
    names = list(canonical_classes(classes))
    if len(names) < 2:
        raise ConfigError(
            "clip_gate asks CLIP which of several classes an object is: train two or more, or leave it out"
        )
    return names


def gate(
    frames: Sequence[Frame],
    origins: Mapping[Path, Frame],
    cache: RegionCache,
    clip: Clip,
    classes: Sequence[str],
    mode: GateMode,
) -> GateReport:
    """Weigh the labels of translated frames by what CLIP says is left of their objects.

    The share kept of a box is min(1, p / p_day), p the softmax over ``classes`` of CLIP's scaled cosines to their
    texts, at the label's class. p_day is of the same box in the day frame: the one at the same place of the list
    where both lists have the same classes in the same order, else the one of its class that overlaps it most, by half
    at least. Where there is none, p_day is the median of the class over all day frames.

    Args:
        frames: translated frames with their labels; not changed.
        origins: path of a translated frame's image -> the day frame it was made from; some may be missing.
        cache: filled for ``frames`` and for the frames of ``origins``.
        clip: the one the cache was filled with.
        classes: names, aliases allowed; boxes of others keep their weights.
        mode: see :data:`GateMode`.

    Raises:
        ConfigError: another mode, or fewer than two classes, between which CLIP could choose.
    """
    if mode not in ("weigh", "drop"):
        raise ConfigError(f"expected clip_gate weigh or drop, got '{mode}'")
    names = gate_classes(classes)
    text = clip.scale * Prompts(clip).embed(names).cpu().numpy().astype(np.float64)
    number = {name: i for i, name in enumerate(names)}
    days = {
        place: judge_boxes(frame, cache, text, number) for place, frame in origins.items() if frame.path is not None
    }
    usual = _medians(days.values(), names)
    chance = -np.log(len(names))

    out: list[Frame] = []
    asked = unnamed = 0
    shares: dict[str, list[float]] = {name: [] for name in names}
    for frame in frames:
        wanted = [box.weight > 0 and not box.crowd and canonical_class(box.category) in number for box in frame.boxes]
        asked += sum(wanted)
        if frame.path is None or not any(wanted):
            out.append(frame)
            continue
        own = judge_boxes(frame, cache, text, number)
        day = _day(own, days.get(frame.path), usual)
        left = np.round(np.exp(np.minimum(own.log - day, 0)), _DIGITS)
        boxes: list[Box] = []
        for i, box in enumerate(frame.boxes):
            if not wanted[i] or np.isnan(left[i]):
                boxes.append(box)
                continue
            kept = float(left[i])
            shares[own.classes[i]].append(kept)
            unnamed += bool(day[i] < chance)
            weight = round(box.weight * kept, _DIGITS) if mode == "weigh" else box.weight * (kept >= LOST)
            boxes.append(msgspec.structs.replace(box, weight=float(weight)))
        changed = any(new.weight != old.weight for new, old in zip(boxes, frame.boxes, strict=True))
        out.append(msgspec.structs.replace(frame, boxes=boxes) if changed else frame)
    seen = {name: np.array(values) for name, values in shares.items() if values}
    return GateReport(
        out,
        mode,
        asked,
        sum(len(values) for values in seen.values()),
        unnamed,
        {name: len(values) for name, values in seen.items()},
        {name: float(values.mean()) for name, values in seen.items()},
        {name: float((values < LOST).mean()) for name, values in seen.items()},
    )


def judge_boxes(frame: Frame, cache: RegionCache, text: NDArray[np.float64], number: Mapping[str, int]) -> Judged:
    """Ask CLIP about a frame's boxes.

    Args:
        cache: filled for the frame.
        text: (K, E) embeddings of the classes' texts, times CLIP's scale.
        number: canonical class -> row of ``text``.
    """
    regions = regions_of(frame)
    rows, mask = cache.lookup(regions)
    vectors = rows.astype(np.float64)
    vectors = vectors if vectors.ndim == 2 else vectors.mean(axis=1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
    logits = vectors @ text.T  # (P, K)
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    classes = [canonical_class(box.category) for box in frame.boxes]
    log = np.full(len(classes), np.nan)
    for i, name in enumerate(classes):
        if mask[i] and name in number:
            log[i] = logits[i, number[name]]
    return Judged(classes, np.asarray(regions.boxes, np.float64).reshape(-1, 4), log)


def _medians(days: Iterable[Judged], names: Sequence[str]) -> dict[str, float]:
    """Log of the median probability of each class; NaN without a box of it."""
    found: dict[str, list[float]] = {name: [] for name in names}
    for day in days:
        for name, value in zip(day.classes, day.log, strict=True):
            if not np.isnan(value):
                found[name].append(float(value))
    # The logarithm keeps the order, and a probability of 1e-400 a number.
    return {name: float(np.median(values)) if values else np.nan for name, values in found.items()}


def _day(own: Judged, origin: Judged | None, usual: Mapping[str, float]) -> NDArray[np.float64]:
    """Log probability by day of each of a translated frame's boxes, (P,); NaN where it is not known."""
    if origin is not None and origin.classes == own.classes:
        return origin.log
    day = np.array([usual.get(name, np.nan) for name in own.classes])
    if origin is None or not len(origin.classes) or not len(own.classes):
        return day
    overlap = iou(own.boxes, origin.boxes)
    overlap *= np.array(own.classes)[:, None] == np.array(origin.classes)[None]
    best = overlap.argmax(axis=1)
    same = overlap[np.arange(len(best)), best] >= _SAME
    return np.where(same, origin.log[best], day)
