"""The table for people leaves no box out unsaid."""

from __future__ import annotations

from typing import Any

from nightaug.curate.scores import BoxScore, ImageScore
from nightaug.curate.summary import invented_summary, objects_summary, summary_lines


def box(category: str, side: float, kept: float | None) -> BoxScore:
    return BoxScore(index=0, category=category, xyxy=(3.0, 3.0, 3.0 + side, 23.0), kept=kept)


def summary(*boxes: BoxScore) -> dict[str, Any]:
    images = [ImageScore(output="a", source="a", sha256="", boxes=list(boxes))]
    return {"objects": objects_summary(images, 0.5, 0.5), "invented": invented_summary(images, False), "skipped": {}}


def test_boxes_that_could_not_be_measured_are_named() -> None:
    small, blank = box("traffic light", 4.9, None), box("car", 5.0, None)
    whole = summary(box("car", 20, 0.9), box("truck", 20, 0.8), blank, small, small)
    assert whole["objects"]["unmeasured"] == {
        "all": {"boxes": 5, "small": 2, "blank": 1},
        "car": {"boxes": 2, "small": 0, "blank": 1},
        "traffic light": {"boxes": 2, "small": 2, "blank": 0},
    }
    lines = summary_lines(whole)
    columns = {line.split("  ")[0]: line.split() for line in lines}
    assert columns["all"][1:4] == ["2", "of", "5"]
    assert columns["car"][1:4] == ["1", "of", "2"]
    assert columns["truck"][1:3] == ["1", "0.80"]
    assert columns["traffic light"][2:] == ["0", "of", "2", "-", "-", "-", "-"]
    said = "3 of 5 boxes could not be measured (2 too small, a side under 5 px; 1 nothing to recognise by day)"
    assert said in lines


def test_nothing_is_said_where_all_were_measured_and_old_files_are_read() -> None:
    whole = summary(box("car", 20, 0.9))
    lines = summary_lines(whole)
    assert not any("could not be measured" in line for line in lines)
    del whole["objects"]["unmeasured"]
    assert summary_lines(whole) == lines
