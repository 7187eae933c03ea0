from __future__ import annotations

from typing import Any

import pytest

from nightaug.experiment.verdict import others, size_notes, verdict

Change = tuple[float, float, float]


def arm(name: str, over: Change, changes: dict[str, Change], night_boxes: bool = False, **found: Any) -> dict[str, Any]:
    rows = {c: {"change": v, "low": low, "high": high} for c, (v, low, high) in changes.items()}
    lost = sorted((c for c, row in rows.items() if row["change"] < 0), key=lambda c: rows[c]["change"])
    change = dict(zip(("value", "low", "high"), over, strict=True))
    return {
        "name": name, "slug": name.replace(":", "-"), "over_day": change, "night_boxes": night_boxes,
        "recovered": found, "per_class": rows, "lost": lost,
    }  # fmt: skip


def table_of(*arms: dict[str, Any], notes: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    return {"arms": [arm("day", (0, 0, 0), {}), *arms], "ceilings": {}, **more, "notes": list(notes)}


RATIO = {"day+night": {"value": 0.62, "low": 0.41, "high": 0.8}, "night": {"value": 0.7, "low": 0.5, "high": 0.9}}
LIGHT = {"car": (0.03, 0.02, 0.04), "traffic light": (-0.012, -0.02, -0.005)}


def test_the_class_that_lost_comes_before_the_share_of_the_gap() -> None:
    table = table_of(arm("day+translated:relight", (0.05, 0.03, 0.07), LIGHT, **RATIO))
    assert verdict(table) == (
        "With day+translated:relight traffic light lost 1.2 AP against day only; "
        "over all measured classes it recovers 62 % of the night gap (41 to 80 %)"
    )
    assert others(table) == []


def test_a_small_comparison_says_so_first() -> None:
    notes = ("demonstration, 30 images and 2 seeds", "dev: 1 drive cut off from train")
    text = verdict(table_of(arm("x", (0.05, 0.03, 0.07), {}, **RATIO), notes=notes))
    assert text.startswith("Demonstration, 30 images and 2 seeds: with x no measured class lost against day only; over")


def test_the_best_arm_has_the_sentence_and_the_others_a_line_each() -> None:
    arms = [
        arm("day+night", (0.5, 0.4, 0.6), {}, night_boxes=True),
        arm("seed-translated:x [night boxes]", (0.2, 0.1, 0.3), {}, night_boxes=True, **RATIO),
        arm("a", (-0.01, -0.03, 0.01), {"car": (-0.04, -0.09, 0.01), "bus": (-0.03, -0.05, -0.01)}, **RATIO),
        arm("b", (0.05, 0.03, 0.07), {"car": (0.1, 0.0, 0.2)}, **RATIO),
        arm("c", (-0.02, -0.03, -0.01), dict.fromkeys("defgh", (-0.01, -0.02, 0.1)), **RATIO),
    ]
    table = table_of(*arms)
    assert verdict(table).startswith("With b, the best of 3 arms without night labels, no measured class lost against")
    lines = others(table)
    # An arm that used night labels comes last, however good it is; its name says it once.
    assert [line.partition(": ")[0] for line in lines] == ["a", "c", "seed-translated:x [night boxes]"]
    # Sure losses first.
    assert lines[0] == (
        "a: bus lost 3.0 AP and car may have lost 4.0 AP; recovers 62 % of the night gap (41 to 80 %), "
        "not clearly different from day only"
    )
    assert "d may have lost 1.0 AP, e may have lost 1.0 AP, f may have lost 1.0 AP and 2 more classes fell;" in lines[1]


def test_an_arm_with_night_labels_alone_is_no_best_of() -> None:
    table = table_of(arm("mixed [night boxes]", (0.05, 0.03, 0.07), {}, night_boxes=True, **RATIO))
    assert verdict(table).startswith("With mixed [night boxes] no measured class lost")


def test_not_measurable_says_why_and_gives_the_change() -> None:
    found = {"day+night": {"not_measurable": "the ceiling is not clearly above day only (0.2 AP, -1.0 to 1.4)"}}
    text = verdict(table_of(arm("x", (0.01, -0.0004, 0.03), {}, **found)))
    assert text.endswith(
        "changes AP by +1.0 (0.0 to +3.0), not clearly different from day only; "
        "the night gap is not measurable: the ceiling is not clearly above day only"
    )


def test_an_end_without_a_number_and_shares_around_zero() -> None:
    found = {"day+night": {"value": -0.001, "low": None, "high": 0.2}}
    assert "recovers 0 % of the night gap (unbounded to 20 %)" in verdict(
        table_of(arm("x", (0.05, 0.03, 0.07), {}, **found))
    )


def test_the_second_ceiling_stands_in_by_name() -> None:
    text = verdict(table_of(arm("x", (0.05, 0.03, 0.07), {}, night=RATIO["night"])))
    assert "recovers 70 % of the night gap to night (50 to 90 %)" in text


def test_without_translated_arms_the_gap_itself_is_said() -> None:
    gap = {"value": 0.15, "low": 0.1, "high": 0.2, "measurable": True}
    text = "Real night images (day+night) change AP by +15.0 (+10.0 to +20.0) against day only"
    assert verdict(table_of(ceilings={"day+night": gap})) == text
    assert verdict(table_of(ceilings={"day+night": {**gap, "measurable": False}})) == f"{text}: no clear night gap"
    assert verdict({"arms": [], "ceilings": {}, "notes": []}) == "Nothing to compare with day only yet"


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
