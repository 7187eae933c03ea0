"""The metrics of an evaluation as lines of plain text."""

from __future__ import annotations

from typing import Any

from nightaug.data.text import table
from nightaug.detect.evaluate import GROUPS, UNDEFINED

_TITLES = {"timeofday": "time of day", "weather": "weather", "scene": "scene"}


def metrics_lines(metrics: dict[str, Any]) -> list[str]:
    """Tables of an ``evaluate`` dict: overall, by size, per class, by time of day, weather and scene; in percent."""
    numbers = metrics["all"]
    lines = [
        f"{metrics['images']:,} images, {metrics['boxes']:,} boxes; AP is COCO's (IoU 0.50 to 0.95), all in percent",
        "",
        *table(
            ["", "AP", "AP50", "AP75", "small", "medium", "large", "AR 100"],
            [["all classes", *(_percent(numbers[key]) for key in _ALL)]],
        ),
        "",
    ]
    rows = [
        [name, _percent(row["AP"]), _percent(row["AP50"]), f"{row['boxes']:,}", f"{row['images']:,}"]
        for name, row in metrics["per_class"].items()
    ]
    lines += table(["class", "AP", "AP50", "boxes", "images"], rows)
    for key in GROUPS:
        values = metrics["by"][key]
        if set(values) - {UNDEFINED}:
            rows = [
                [value, _percent(row["AP"]), _percent(row["AP50"]), f"{row['boxes']:,}", f"{row['images']:,}"]
                for value, row in values.items()
            ]
            lines += ["", *table([_TITLES[key], "AP", "AP50", "boxes", "images"], rows)]
    return lines


_ALL = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_100")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.1f}"
