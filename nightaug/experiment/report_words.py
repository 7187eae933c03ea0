"""Words and numbers of the report: one way to write each of them, in HTML and in Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import NamedTuple

from nightaug.data.text import plain
from nightaug.experiment.arms import NIGHT_MARK
from nightaug.experiment.report_read import Arm, ClassRow, Interval, Number, Stat, Table

NONE = "\u2013"
MINUS = "\u2212"
BASELINE = "day"
UNMEASURED = "not measurable"


def safe(word: object) -> str:
    """A stranger's word as HTML, fit for text and for quoted attributes."""
    return html.escape(plain(str(word)), quote=True)


def parted(word: object) -> str:
    """As :func:`safe`, with places where a long name of parts (``day+translated:relight``) may go to a new line."""
    return re.sub(r"([:+/_-])(?=\w)", r"\1<wbr>", safe(word))


def points(value: Number) -> str:
    """A fraction times 100, one decimal."""
    return NONE if value is None else f"{value * 100:.1f}".replace("-0.0", "0.0").replace("-", MINUS)


def signed(value: Number) -> str:
    """As :func:`points`, with its sign."""
    text = points(value)
    return text if value is None or text[0] == MINUS or text == "0.0" else f"+{text}"


def spread(stat: Stat) -> str:
    """Mean and spread; the mean alone where one seed has no spread."""
    return points(stat.mean) + (
        f" ± {points(stat.spread)}" if stat.spread is not None and stat.mean is not None else ""
    )


def span(low: Number, high: Number) -> str:
    """An interval of fractions in points, or nothing."""
    return "" if low is None or high is None else f"[{points(low)}, {points(high)}]"


def gained(interval: Interval | None) -> str:
    """A change in points with its interval."""
    if interval is None or interval.value is None:
        return NONE
    return f"{signed(interval.value)} {span(interval.low, interval.high)}".strip()


def _share(value: Number) -> str:
    # The gap may be next to nothing in some draws: then the share has no end on that side.
    return "unbounded" if value is None else points(value)


def recovered(interval: Interval | None) -> str:
    """A share of the night gap in per cent with its interval, or that it cannot be measured."""
    if interval is None:
        return NONE
    if interval.not_measurable is not None or not interval.measurable:
        return UNMEASURED
    if interval.value is None:
        return NONE
    return f"{points(interval.value)} % [{_share(interval.low)}, {_share(interval.high)}]"


def clear(low: Number, high: Number) -> bool:
    """Whether an interval says on which side of zero the value is."""
    return low is not None and high is not None and (low > 0 or high < 0)


def dropped(arm: Arm) -> str:
    return NONE if arm.images_dropped is None else f"{arm.images_dropped:,}"


def seeds(arm: Arm, table: Table) -> str:
    """How many seeds are done, and of how many where some are not."""
    wanted = len(table.seeds)
    return str(len(arm.seeds)) if len(arm.seeds) >= wanted else f"{len(arm.seeds)} of {wanted}"


def marks(arm: Arm, table: Table) -> list[str]:
    """What a reader must know of an arm beside its numbers."""
    known = []
    if arm.name == BASELINE:
        known.append("baseline")
    if arm.name in table.ceilings:
        known.append("ceiling")
    if arm.night_boxes and not arm.name.endswith(NIGHT_MARK):
        known.append("night boxes")
    return known


def reasons(table: Table) -> dict[str, list[str]]:
    """Why a share of the gap is not measurable -> the ceilings it is said of."""
    why: dict[str, list[str]] = {}
    for ceiling, gap in table.ceilings.items():
        said = [rows.not_measurable for arm in table.arms if (rows := arm.recovered.get(ceiling)) is not None]
        texts = [text for text in said if text]
        if not texts and gap is not None and not gap.measurable and gap.value is not None:
            texts = [f"the interval of {ceiling} - day, {gained(gap)} AP, contains 0"]
        for text in dict.fromkeys(texts):
            why.setdefault(text, []).append(ceiling)
    return why


class Fall(NamedTuple):
    """An arm in which a class has a lower AP than by day alone; ``sure`` if the interval excludes 0."""

    arm: str
    change: float
    sure: bool


def falls(table: Table) -> dict[str, list[Fall]]:
    """Measured class -> where it fell against day; sure falls first, then the worst."""
    fell: dict[str, list[Fall]] = {}
    for arm in table.arms:
        for name in arm.lost:
            row = arm.per_class.get(name, ClassRow())
            if name in table.measured_classes and row.change is not None and signed(row.change) != "0.0":
                fell.setdefault(name, []).append(Fall(arm.name, row.change, clear(row.low, row.high)))
    for arms in fell.values():
        arms.sort(key=lambda fall: (not fall.sure, fall.change))
    return dict(sorted(fell.items(), key=lambda item: (not item[1][0].sure, item[1][0].change)))


def notes(table: Table, missing: Sequence[str]) -> list[str]:
    """The notes, without those the verdict begins with, and without the comparison's own list of what is not finished
    where a longer one is given."""
    said = (table.verdict or "").casefold()
    return [
        note
        for note in table.notes
        if not (missing and note.startswith("not finished yet")) and not said.startswith(note.casefold())
    ]


def gap_in_words(table: Table) -> str:
    """What the night gap is and how large, for the first ceiling that was measured; nothing without one."""
    for name, gap in table.ceilings.items():
        if gap is not None and gap.value is not None:
            return (
                f"The night gap is what the dataset's own night images with their labels ({name}) add to day images "
                f"alone: {gained(gap)} AP."
            )
    return ""


def class_order(table: Table) -> list[str]:
    """Classes that lost first, then the other measured ones, then those too rare to measure."""
    named = dict.fromkeys([*table.classes, *(name for arm in table.arms for name in arm.per_class)])
    measured = set(table.measured_classes)
    lost = list(falls(table))
    rest = [name for name in named if name in measured and name not in lost]
    return lost + rest + [name for name in named if name not in measured]


#: What the numbers mean, as sentences.
DEFINITIONS: tuple[tuple[str, str], ...] = (
    (
        "AP",
        "COCO's average precision over IoU 0.50 to 0.95 on the night test images, averaged over the measured classes "
        "(enough test boxes, and training boxes in every arm); times 100. AP50 is the same at IoU 0.50.",
    ),
    ("AP, all classes", "the mean over every class that has a test box. Rare classes make it noisy: no conclusion."),
    ("±", "the spread over the seeds; nothing is written where there is one seed."),
    (
        "over day",
        "AP of the arm minus AP of training on day images alone, with a 95 % interval from a paired bootstrap over "
        "test images and seeds.",
    ),
    (
        "night gap recovered",
        "(arm - day) / (ceiling - day): 0 % is training by day alone, 100 % is the ceiling, which learned from the "
        "dataset's own night images and their labels. If the interval of (ceiling - day) contains 0 it is "
        "not measurable.",
    ),
    ("night boxes", "labels of night images went into the arm; no such label was used in the others."),
    ("equal budget", "every arm takes the same number of steps and images a step; choices are made on dev alone."),
)
