"""A comparison in one sentence, a line for each further arm, and what is to be said beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nightaug.experiment.compare_settings import CEILINGS, DAY

#: Classes a sentence names; the table has the rest.
_MOST_CLASSES = 3
#: A class that lost less than this (a fraction) shows as 0.0 AP, and is not named.
_SHOWN = 0.0005
_DEMONSTRATION = "demonstration"


def verdict(table: Mapping[str, Any]) -> str:
    """What the best arm without real night images and labels was worth, the classes that lost first.

    A comparison too small to be more than a demonstration says so in its first word.
    """
    arms = _candidates(table)
    if not arms:
        return _sized(table, _ceiling_only(table))
    best, unlabelled = arms[0], sum(not arm["night_boxes"] for arm in arms)
    rank = f", the best of {unlabelled} arms without night labels," if unlabelled > 1 else ""
    text = f"with {best['name']}{rank} {losses(best)} against day only; over all measured classes it {worth(best)}"
    return _sized(table, text)


def others(table: Mapping[str, Any]) -> list[str]:
    """A line for each arm the verdict is not about, the best first."""
    return [f"{arm['name']}: {losses(arm)}; {worth(arm)}" for arm in _candidates(table)[1:]]


def _candidates(table: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Arms that could take the place of real night images, the best first; those with night labels come last."""
    arms = [arm for arm in table["arms"] if arm["slug"] not in (DAY, *CEILINGS) and arm["over_day"] is not None]
    return sorted(arms, key=lambda arm: (arm["night_boxes"], -(arm["over_day"]["value"] or 0.0)))


def _sized(table: Mapping[str, Any], text: str) -> str:
    small = next((note for note in table["notes"] if note.startswith(_DEMONSTRATION)), "")
    text = f"{small}: {text}" if small else text
    # A name stays as it is written: it is what the table calls the arm.
    return text[:1].upper() + text[1:]


def worth(arm: Mapping[str, Any]) -> str:
    """``recovers 62 % of the night gap (41 to 80 %)``, or its AP over day only where that cannot be measured."""
    over = arm["over_day"]
    for ceiling in CEILINGS:
        found = arm["recovered"].get(ceiling, {})
        if found.get("value") is not None:
            whose = "" if ceiling == CEILINGS[0] else f" to {ceiling}"
            span = f"{_percent(found['low'])} to {_percent(found['high'])}"
            unit = " %" if found["high"] is not None else ""
            return f"recovers {_percent(found['value'])} % of the night gap{whose} ({span}{unit}){_doubt(over)}"
    why = next(
        (found["not_measurable"] for found in arm["recovered"].values() if "not_measurable" in found),
        "no ceiling was trained",
    )
    # The numbers behind the reason stand in the table.
    return f"changes AP by {_signed(over)}{_doubt(over)}; the night gap is not measurable: {why.partition(' (')[0]}"


def _doubt(over: Mapping[str, float | None]) -> str:
    low, high = over["low"], over["high"]
    return ", not clearly different from day only" if low is None or high is None or low <= 0 <= high else ""


def losses(arm: Mapping[str, Any]) -> str:
    """The measured classes that lost against day only, sure losses first, then the worst; at most three by name."""
    rows = {name: arm["per_class"][name] for name in arm["lost"]}
    fell = [name for name, row in rows.items() if row["change"] is not None and row["change"] <= -_SHOWN]
    sure = {name: rows[name]["high"] is not None and rows[name]["high"] < 0 for name in fell}
    fell.sort(key=lambda name: (not sure[name], rows[name]["change"]))
    if not fell:
        return "no measured class lost"
    said = [
        f"{name} {'lost' if sure[name] else 'may have lost'} {-100 * rows[name]['change']:.1f} AP"
        for name in fell[:_MOST_CLASSES]
    ]
    more = len(fell) - len(said)
    if more:
        said.append(f"{more} more {'class' if more == 1 else 'classes'} fell")
    return " and ".join(filter(None, (", ".join(said[:-1]), said[-1])))


def _ceiling_only(table: Mapping[str, Any]) -> str:
    for ceiling in CEILINGS:
        gap = table["ceilings"].get(ceiling)
        if gap and gap.get("value") is not None:
            text = f"real night images ({ceiling}) change AP by {_signed(gap)} against day only"
            return text + ("" if gap["measurable"] else ": no clear night gap")
    return "nothing to compare with day only yet"


def _signed(estimate: Mapping[str, float | None]) -> str:
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "an unknown amount"
    return f"{_points(value)} ({_points(low)} to {_points(high)})"


def _points(value: float) -> str:
    text = f"{100 * value:+z.1f}"
    return "0.0" if text == "+0.0" else text


def _percent(value: float | None) -> str:
    return "unbounded" if value is None else f"{100 * value:z.0f}"


def size_notes(images: int, seeds: int, min_images: int, min_seeds: int) -> list[str]:
    """``demonstration, 300 images`` where test images or seeds are few."""
    few = [f"{images:,} {'image' if images == 1 else 'images'}"] if images < min_images else []
    few += [f"{seeds} {'seed' if seeds == 1 else 'seeds'}"] if seeds < min_seeds else []
    notes = [f"{_DEMONSTRATION}, {' and '.join(few)}"] if few else []
    return [*notes, "one seed: the intervals hold no spread of training"] if seeds == 1 else notes


def missing_note(missing: Sequence[str]) -> list[str]:
    """What is not finished yet."""
    return [f"not finished yet: {', '.join(missing)}"] if missing else []
