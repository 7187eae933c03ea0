from __future__ import annotations

from typing import Any

import pytest

from nightaug.experiment.verdict import size_notes, verdict


def arm(
    name: str, over: tuple[float, float, float], changes: dict[str, tuple[float, float, float]], **found: Any
) -> dict[str, Any]:
    rows = {c: {"change": v, "low": low, "high": high} for c, (v, low, high) in changes.items()}
    lost = sorted((c for c, row in rows.items() if row["change"] < 0), key=lambda c: rows[c]["change"])
    change = dict(zip(("value", "low", "high"), over, strict=True))
    return {
        "name": name, "slug": name.replace(":", "-"), "over_day": change,
        "recovered": found, "per_class": rows, "lost": lost,
    }  # fmt: skip


RATIO = {"day+night": {"value": 0.62, "low": 0.41, "high": 0.8}, "night": {"value": 0.7, "low": 0.5, "high": 0.9}}
LIGHT = {"car": (0.03, 0.02, 0.04), "traffic light": (-0.012, -0.02, -0.005)}


def test_share_of_the_gap_and_the_class_that_lost() -> None:
    table = {"arms": [arm("day", (0, 0, 0), {}), arm("day+translated:relight", (0.05, 0.03, 0.07), LIGHT, **RATIO)]}
    assert verdict(table) == (
        "day+translated:relight recovers 0.62 of the night gap (0.41 to 0.80); "
        "traffic light lost 1.2 AP against day only"
    )


def test_the_best_arm_comes_first_and_ceilings_are_no_candidates() -> None:
    arms = [
        arm("day+night", (0.5, 0.4, 0.6), {}),
        arm("a", (-0.01, -0.03, 0.01), {"car": (-0.002, -0.01, 0.01), "bus": (-0.03, -0.05, -0.01)}, **RATIO),
        arm("b", (0.05, 0.03, 0.07), {"car": (0.1, 0.0, 0.2)}, **RATIO),
        arm("c", (-0.02, -0.03, 0.01), {}, **RATIO),
    ]
    text = verdict({"arms": arms})
    assert text.startswith(
        "b recovers 0.62 of the night gap (0.41 to 0.80); no class lost against day only; a recovers"
    )
    assert "not clearly different from day only" in text
    assert "bus lost 3.0 AP, car may have lost 0.2 AP against day only" in text
    assert text.endswith("1 more arm in the table")


def test_not_measurable_says_why_and_gives_the_change() -> None:
    found = {"day+night": {"not_measurable": "the ceiling is not clearly above day only (0.2 AP, -1.0 to 1.4)"}}
    text = verdict({"arms": [arm("x", (0.01, -0.01, 0.03), {}, **found)]})
    assert text.startswith("x changes by +1.0 AP (-1.0 to +3.0) against day only, not clearly different")
    assert "night gap not measurable: the ceiling is not clearly above day only" in text


def test_the_second_ceiling_stands_in_by_name() -> None:
    text = verdict({"arms": [arm("x", (0.05, 0.03, 0.07), {}, night=RATIO["night"])]})
    assert "recovers 0.70 of the night gap to night (0.50 to 0.90)" in text


def test_without_translated_arms_the_gap_itself_is_said() -> None:
    gap = {"value": 0.15, "low": 0.1, "high": 0.2, "measurable": True}
    table = {"arms": [arm("day", (0, 0, 0), {})], "ceilings": {"day+night": gap}}
    assert verdict(table) == "real night images (day+night) are worth +15.0 AP (+10.0 to +20.0) against day only"
    assert verdict({"arms": [], "ceilings": {}}) == "nothing to compare with day only yet"


@pytest.mark.parametrize(
    ("images", "seeds", "note"),
    [
        (300, 3, ["demonstration, 300 images"]),
        (300, 1, ["demonstration, 300 images and 1 seed", "one seed: the intervals hold no spread of training"]),
        (2000, 3, []),
    ],
)
def test_small_comparisons_say_so(images: int, seeds: int, note: list[str]) -> None:
    assert size_notes(images, seeds, 1000, 3) == note
