"""A comparison in one sentence, and what is to be said beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nightaug.experiment.compare_settings import CEILINGS, DAY

#: Arms and classes the sentence names; the table has the rest.
_MOST_ARMS, _MOST_CLASSES = 2, 3
#: A class that lost less than this (a fraction) shows as 0.0 AP, and is not named.
_SHOWN = 0.0005


def verdict(table: Mapping[str, Any]) -> str:
    """What the arms without real night images were worth, the best one first, each with the classes that lost."""
    arms = [arm for arm in table["arms"] if arm["slug"] not in (DAY, *CEILINGS) and arm["over_day"] is not None]
    if not arms:
        return _ceiling_only(table)
    arms.sort(key=lambda arm: -(arm["over_day"]["value"] or 0.0))
    clauses = [_clause(arm) for arm in arms[:_MOST_ARMS]]
    left = len(arms) - len(clauses)
    if left:
        clauses.append(f"{left} more {'arm' if left == 1 else 'arms'} in the table")
    return "; ".join(clauses)


def _clause(arm: Mapping[str, Any]) -> str:
    return f"{arm['name']} {worth(arm)}; {losses(arm)}"


def worth(arm: Mapping[str, Any]) -> str:
    """``recovers 0.62 of the night gap (0.41 to 0.80)``, or its AP over day only where that cannot be measured."""
    over = arm["over_day"]
    for ceiling in CEILINGS:
        found = arm["recovered"].get(ceiling, {})
        if found.get("value") is not None:
            whose = "" if ceiling == CEILINGS[0] else f" to {ceiling}"
            span = f"{_share(found['low'])} to {_share(found['high'])}"
            return f"recovers {found['value']:.2f} of the night gap{whose} ({span}){_doubt(over)}"
    why = next(
        (found["not_measurable"] for found in arm["recovered"].values() if "not_measurable" in found), "no ceiling"
    )
    return f"changes by {_signed(over)} against day only{_doubt(over)}; night gap not measurable: {why}"


def _doubt(over: Mapping[str, float | None]) -> str:
    low, high = over["low"], over["high"]
    return ", not clearly different from day only" if low is None or high is None or low <= 0 <= high else ""


def losses(arm: Mapping[str, Any]) -> str:
    """The measured classes that lost against day only, worst first; those that may have lost by chance say so."""
    said = []
    for name in arm["lost"][:_MOST_CLASSES]:
        row = arm["per_class"][name]
        if row["change"] is None or row["change"] > -_SHOWN:
            continue
        sure = row["high"] is not None and row["high"] < 0
        said.append(f"{name} {'lost' if sure else 'may have lost'} {-100 * row['change']:.1f} AP")
    more = len(arm["lost"]) - _MOST_CLASSES
    if not said:
        return "no class lost against day only"
    return ", ".join(said) + (f" and {more} more classes fell" if more > 0 else "") + " against day only"


def _ceiling_only(table: Mapping[str, Any]) -> str:
    for ceiling in CEILINGS:
        gap = table["ceilings"].get(ceiling)
        if gap and gap.get("value") is not None:
            text = f"real night images ({ceiling}) are worth {_signed(gap)} against day only"
            return text + ("" if gap["measurable"] else ": no clear night gap")
    return "nothing to compare with day only yet"


def _signed(estimate: Mapping[str, float | None]) -> str:
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "an unknown amount of AP"
    return f"{100 * value:+.1f} AP ({100 * low:+.1f} to {100 * high:+.1f})"


def _share(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.2f}"


def size_notes(images: int, seeds: int, min_images: int, min_seeds: int) -> list[str]:
    """``demonstration, 300 images`` where test images or seeds are few."""
    few = [f"{images:,} images"] if images < min_images else []
    few += [f"{seeds} {'seed' if seeds == 1 else 'seeds'}"] if seeds < min_seeds else []
    notes = [f"demonstration, {' and '.join(few)}"] if few else []
    return [*notes, "one seed: the intervals hold no spread of training"] if seeds == 1 else notes


def missing_note(missing: Sequence[str]) -> list[str]:
    """What is not finished yet."""
    return [f"not finished yet: {', '.join(missing)}"] if missing else []
