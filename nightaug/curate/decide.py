"""What is to be done with each scored image and box: a function of the scores and the settings alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import msgspec

from nightaug.curate.scores import BoxScore, ImageScore
from nightaug.curate.settings import CurateSettings


@dataclass
class Decision:
    """For one image.

    Attributes:
        weight: in [0, 1]; 0 drops the image.
        dropped: numbers of the boxes that are neither target nor background in training.
        lost: numbers of the boxes that are mended.
        invented: places in the score's list of invented objects that are painted over.
        day: it did not become night, so nothing brings it back.
        spoilt: invented objects that count.
    """

    weight: float = 1.0
    dropped: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)
    invented: list[int] = field(default_factory=list)
    day: bool = False
    spoilt: int = 0

    @property
    def mends(self) -> bool:
        return bool(self.lost or self.invented)


class BoxCounts(msgspec.Struct):
    """Boxes of one class: ``total = kept + mended + dropped``; ``unmeasured`` are among the kept or dropped."""

    total: int = 0
    kept: int = 0
    mended: int = 0
    dropped: int = 0
    unmeasured: int = 0


def is_lost(box: BoxScore, settings: CurateSettings) -> bool:
    """Whether an object is no longer there, or no longer in its box; one that could not be measured is not."""
    moved = box.moved is not None and box.moved > settings.moved_above
    return moved or (box.kept is not None and box.kept < settings.lost_below)


def decide(
    scores: Sequence[ImageScore], settings: CurateSettings, unmendable: Collection[str] = ()
) -> tuple[dict[str, Decision], Counter[str]]:
    """Decide about every image.

    Args:
        unmendable: outputs that ``mend`` could not mend.

    Returns:
        Decisions by output, and by class the boxes that would have been dropped without ``max_class_share``.
    """
    decisions = {score.output: _decide(score, settings, score.output not in unmendable) for score in scores}
    return decisions, _limit_classes(scores, decisions, settings)


def _decide(score: ImageScore, settings: CurateSettings, mendable: bool) -> Decision:
    lost = {box.index for box in score.boxes if is_lost(box, settings)}
    invented = [
        place
        for place, one in enumerate(score.invented)
        if one.score >= (settings.min_lamp if one.kind == "lamp" else settings.min_object)
    ]
    if score.night is not None and score.night < settings.min_night:
        return Decision(0.0, lost, day=True, spoilt=len(invented))
    if settings.mode == "mend" and mendable:
        return Decision(lost=lost, invented=invented, spoilt=len(invented))
    decision = Decision(dropped=lost, spoilt=len(invented))
    if settings.mode != "drop":
        decision.weight = _weight(decision, settings)
        return decision
    measured = sum(box.kept is not None or box.moved is not None for box in score.boxes)
    if len(invented) > settings.max_invented or (measured and len(lost) / measured > settings.max_lost):
        decision.weight = 0.0
    return decision


def _weight(decision: Decision, settings: CurateSettings) -> float:
    """The weight of an image with invented objects that is not dropped."""
    return max(round((1 - settings.invented_cost) ** decision.spoilt, 4), settings.min_weight)


def _limit_classes(
    scores: Sequence[ImageScore], decisions: dict[str, Decision], settings: CurateSettings
) -> Counter[str]:
    """Take back what would remove too much of a class, best-scored boxes first, in place."""
    by_class: dict[str, list[tuple[str, BoxScore]]] = {}
    for score in scores:
        for box in score.boxes:
            by_class.setdefault(box.category, []).append((score.output, box))
    back: Counter[str] = Counter()
    for category in sorted(by_class):
        members = by_class[category]
        allowed = math.floor(settings.max_class_share * len(members))
        gone = [(output, box) for output, box in members if _is_dropped(decisions[output], box)]
        over = len(gone) - allowed
        if over <= 0:
            continue
        in_image: dict[str, list[BoxScore]] = {}
        for output, box in gone:
            in_image.setdefault(output, []).append(box)
        gone.sort(key=lambda one: (-(1.0 if one[1].kept is None else one[1].kept), one[0], one[1].index))
        for output, box in gone:
            decision = decisions[output]
            if over <= 0:
                break
            if decision.day or not _is_dropped(decision, box):  # or it came back with its image
                continue
            before = sum(_is_dropped(decision, one) for one in in_image[output])
            decision.dropped.discard(box.index)
            if decision.weight == 0:
                decision.weight = _weight(decision, settings)
            returned = before - sum(_is_dropped(decision, one) for one in in_image[output])
            over -= returned
            back[category] += returned
    return back


def _is_dropped(decision: Decision, box: BoxScore) -> bool:
    return decision.weight == 0 or box.index in decision.dropped


def count_boxes(scores: Sequence[ImageScore], decisions: dict[str, Decision]) -> dict[str, BoxCounts]:
    """Boxes by class, as decided."""
    counts: dict[str, BoxCounts] = {}
    for score in scores:
        decision = decisions[score.output]
        for box in score.boxes:
            of = counts.setdefault(box.category, BoxCounts())
            of.total += 1
            of.unmeasured += box.kept is None and box.moved is None
            if _is_dropped(decision, box):
                of.dropped += 1
            elif box.index in decision.lost:
                of.mended += 1
            else:
                of.kept += 1
    return dict(sorted(counts.items()))
