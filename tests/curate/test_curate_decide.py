"""Decisions are a function of scores and settings."""

from __future__ import annotations

import pytest

from nightaug.config import build
from nightaug.curate.decide import count_boxes, decide
from nightaug.curate.scores import BoxScore, ImageScore, Invented
from nightaug.curate.settings import CurateSettings
from nightaug.errors import ConfigError

HERE = (0.0, 0.0, 9.0, 9.0)


def image(
    name: str, *kept: float | None, category: str = "car", lamps: int = 0, night: float | None = None
) -> ImageScore:
    boxes = [BoxScore(index=i, category=category, xyxy=HERE, kept=one) for i, one in enumerate(kept)]
    return ImageScore(
        output=name, source=name, sha256="", boxes=boxes,
        invented=[Invented(kind="lamp", xyxy=HERE, score=0.8)] * lamps, night=night,
    )  # fmt: skip


def test_lost_moved_and_unmeasured() -> None:
    one = image("a", 0.34, 0.35, None, 0.9, 0.9)
    one.boxes[3].moved = 0.61
    one.boxes[4].moved = 0.6
    decisions, _ = decide([one], CurateSettings())
    assert decisions["a"].dropped == {0, 3}
    counts = count_boxes([one], decisions)["car"]
    assert (counts.total, counts.kept, counts.dropped, counts.unmeasured) == (5, 3, 2, 1)


@pytest.mark.parametrize(
    ("mode", "lamps", "weight"),
    [("drop", 2, 1.0), ("drop", 3, 0.0), ("weigh", 2, 0.5625), ("weigh", 99, 0.1), ("mend", 99, 1.0)],
)
def test_invented_lamps(mode: str, lamps: int, weight: float) -> None:
    decisions, _ = decide([image("a", lamps=lamps)], build(CurateSettings, {"mode": mode}))
    assert decisions["a"].weight == weight
    assert len(decisions["a"].invented) == (lamps if mode == "mend" else 0)
    faint, _ = decide([image("a", lamps=lamps)], build(CurateSettings, {"mode": mode, "min_lamp": 0.81}))
    assert faint["a"].weight == 1.0


@pytest.mark.parametrize("mode", ["drop", "weigh", "mend"])
def test_what_the_judge_counts_as_invented_counts(mode: str) -> None:
    """A detector from scratch is sure at 0.14, which 0.5 would never see."""
    one = image("a")
    one.invented = [Invented(kind="object", category="car", xyxy=HERE, score=score) for score in (0.14, 0.2, 0.6)]
    decisions, _ = decide([one], build(CurateSettings, {"mode": mode}))
    assert decisions["a"].spoilt == 3
    surer, _ = decide([one], build(CurateSettings, {"mode": mode, "min_object": 0.5}))
    assert surer["a"].spoilt == 1


def test_an_image_that_lost_most_or_stayed_day() -> None:
    bad, half, day = image("a", 0, 0, 0, 0, 1), image("b", 0, 1), image("c", 1, 1, 1, 1, 1, night=0.1)
    decisions, _ = decide([bad, half, day], CurateSettings(min_night=0.2, max_class_share=1))
    assert [decisions[name].weight for name in "abc"] == [0, 1, 0]
    mended, _ = decide([bad, day], CurateSettings(mode="mend", min_night=0.2, max_class_share=1), unmendable={"a"})
    assert (mended["a"].lost, mended["a"].dropped) == (set(), {0, 1, 2, 3})
    assert not mended["c"].mends


def test_no_class_goes_silently() -> None:
    scores = [image(f"{i}", i / 100, category="rider") for i in range(10)]  # all lost, so all images are dropped
    scores += [image(f"c{i}", 0.9) for i in range(10)]
    decisions, back = decide(scores, CurateSettings(max_class_share=0.3))
    assert [decisions[f"{i}"].weight for i in range(10)] == [0.0] * 3 + [1.0] * 7  # the best-scored stay
    assert count_boxes(scores, decisions)["rider"].dropped == 3
    assert back == {"rider": 7}
    one = [image("a", 0.0, category="train")]
    assert decide(one, CurateSettings())[0]["a"].weight == 1.0  # the only one there is


def test_a_box_brings_its_image_back_but_not_the_lost_of_another_class() -> None:
    scores = [image("a", 0.2, 0.1, lamps=5), image("b", 0.9, 0.9)]
    scores[0].boxes[1].category = "bus"
    scores[1].boxes[1].category = "bus"
    decisions, back = decide(scores, CurateSettings(max_class_share=0.49))
    assert decisions["a"].weight == pytest.approx(0.75**5, abs=1e-4)
    assert back == {"bus": 1, "car": 1}
    decisions, _ = decide(scores, CurateSettings(max_class_share=0.5))
    assert decisions["a"].weight == 0


def test_strict_settings() -> None:
    with pytest.raises(ConfigError, match="did you mean 'lost_below'"):
        build(CurateSettings, {"lost_bellow": 0.3})
    with pytest.raises(ConfigError, match="max_invented"):
        build(CurateSettings, {"max_invented": -1, "mode": "drop"})
