"""Is the object still there? What judge, CLIP and edges say of each labelled box, and what they say together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nightaug.boxes import iou
from nightaug.clip.encoder import Clip
from nightaug.clip.gating import judge_boxes
from nightaug.clip.prompts import Prompts
from nightaug.clip.region_cache import RegionCache, regions_of
from nightaug.curate.judge import find_boxes
from nightaug.curate.pairs import Pair, on_image
from nightaug.curate.rows import PairRow
from nightaug.curate.scores import BoxScore
from nightaug.data.classes import BDD100K_CLASSES, canonical_class, canonical_classes
from nightaug.data.frames import Box
from nightaug.runs import StopRequest, user_cache

#: An object whose edges agree so far has lost nothing. In true pictures of one scene by day and by night (the sample
#: world renders such pairs) the median object agrees by 0.4 and nine of ten by half of this; erased objects by 0.05.
LINES_KEPT = 0.3
#: No witness alone says that nothing is left: a detector that is blind in the dark would else overrule the others.
LEAST_PART = 0.05
_DIGITS = 4


def kept_parts(box: BoxScore, score: float, chance: float) -> dict[str, float]:
    """What each measure says is left of an object, in [0, 1]; measures that cannot tell are left out.

    - judge: min(1, found_night / found_day), where by day it was found over ``score``;
    - clip: min(1, clip_night / clip_day) as in CLIP gating, where by day CLIP gave the class at least ``chance``;
    - structure: min(1, structure / 0.3), see :data:`LINES_KEPT`.

    So an object too small, or not recognised by day either, is not held against the translation.
    """
    parts = {}
    if box.found_day is not None and box.found_night is not None and box.found_day >= score:
        parts["judge"] = min(1.0, box.found_night / box.found_day)
    if box.clip_day is not None and box.clip_night is not None and box.clip_day >= chance:
        parts["clip"] = min(1.0, box.clip_night / box.clip_day)
    if box.structure is not None:
        parts["structure"] = min(1.0, box.structure / LINES_KEPT)
    return parts


def kept_share(parts: dict[str, float]) -> float | None:
    """The geometric mean of the parts, none of them taken as less than 0.05; None without any.

    The geometric mean, as each is a share of what was there and one that is near nothing must count for more than in
    an arithmetic mean: found 0 and lines wholly there gives 0.22, a lost object. The minimum would be lower still, but
    three noisy witnesses of a whole object would always be cut down to the worst of their errors.
    """
    if not parts:
        return None
    logs = [np.log(max(part, LEAST_PART)) for part in parts.values()]
    return round(float(np.exp(np.mean(logs))), _DIGITS)


def wanted(box: Box) -> bool:
    """Whether a box is an object to be judged: no crowd, and not ignored."""
    return not box.crowd and box.weight > 0


def score_boxes(
    pair: Pair, row: PairRow, known: Sequence[str], score: float, clip: Sequence[ClipBox] | None, chance: float
) -> list[BoxScore]:
    """The scores of a pair's boxes; crowds and ignored boxes are left out.

    Args:
        known: the judge's classes.
        score: the judge's threshold.
        clip: what CLIP says of every box of the frame, None without it.
        chance: 1 / number of classes between which CLIP chose.
    """
    frame = pair.frame
    classes = [canonical_class(box.category) for box in frame.boxes]
    corners = np.array([box.xyxy for box in frame.boxes], np.float64).reshape(-1, 4)
    day = find_boxes(corners, classes, row.day) if row.day is not None else None
    night = find_boxes(corners, classes, row.night) if row.night is not None else None
    out = []
    for i, box in enumerate(frame.boxes):
        if not wanted(box):
            continue
        one = BoxScore(index=i, category=classes[i], xyxy=box.xyxy, structure=row.structure[i])
        if day is not None and night is not None and classes[i] in known:
            one.found_day, one.found_night = float(day.score[i]), float(night.score[i])
            if min(one.found_day, one.found_night) >= score and row.day is not None and row.night is not None:
                boxes = row.day.boxes[day.at[i]], row.night.boxes[night.at[i]]
                one.moved = round(1 - float(iou([boxes[0]], [boxes[1]])[0, 0]), _DIGITS)
        if clip is not None:
            one.clip_day, one.clip_night, one.similarity = clip[i]
        one.kept = kept_share(kept_parts(one, score, chance))
        out.append(one)
    return out


#: clip_day, clip_night, similarity of a :class:`BoxScore`.
ClipBox = tuple[float | None, float | None, float | None]


def ask_clip(
    pairs: Sequence[Pair], clip: Clip, classes: Sequence[str], stop: StopRequest, say: Callable[[str], None]
) -> tuple[list[list[ClipBox]], int]:
    """What CLIP says of every box before and after, and between how many classes it chose.

    The embeddings come from the user's cache of regions, which training and gating share.

    Args:
        pairs: their images need not be readable; such boxes have no answer.
        classes: of the labels; with fewer than two, BDD100K's are chosen from, too.
    """
    names = list(canonical_classes(classes))
    if len(names) < 2:
        names = list(dict.fromkeys([*names, *BDD100K_CLASSES]))
    cache = RegionCache.open(user_cache("regions"), clip)
    frames = [
        (on_image(pair.frame, pair.origin), on_image(pair.frame, pair.frame.path or pair.origin)) for pair in pairs
    ]
    cache.fill([frame for both in frames for frame in both if frame is not None], clip, stop=stop, say=say)
    text = clip.scale * Prompts(clip).embed(names).cpu().numpy().astype(np.float64)
    number = {name: i for i, name in enumerate(names)}
    out = []
    for pair, (day, night) in zip(pairs, frames, strict=True):
        said: list[ClipBox] = [(None, None, None)] * len(pair.frame.boxes)
        if day is None or night is None:
            out.append(said)
            continue
        logs = [judge_boxes(frame, cache, text, number).log for frame in (day, night)]
        vectors, masks = zip(*(cache.lookup(regions_of(frame)) for frame in (day, night)), strict=True)
        cosines = (vectors[0].astype(np.float64) * vectors[1].astype(np.float64)).sum(axis=1)
        both = masks[0] & masks[1]
        said = []
        for i in range(len(pair.frame.boxes)):
            share = [None if np.isnan(log[i]) or not both[i] else round(float(np.exp(log[i])), 6) for log in logs]
            said.append((share[0], share[1], round(float(cosines[i]), _DIGITS) if both[i] else None))
        out.append(said)
    return out, len(names)
