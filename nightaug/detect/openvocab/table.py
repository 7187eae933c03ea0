"""The table of an open-vocabulary evaluation, in the form the papers print, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nightaug.data.text import plain


def markdown(metrics: Mapping[str, Any]) -> list[str]:
    """Lines of the tables of :func:`nightaug.detect.openvocab.evaluate.run_evaluation`'s dict, all in percent."""
    split, boxes = metrics["split"], metrics["boxes"]
    lines = [
        f"{metrics['images']:,} images, {boxes:,} boxes; {len(split['seen'])} seen and {len(split['unseen'])} unseen "
        f"classes ({plain(split['name'])}); in percent, IoU 0.5, {metrics['limit']} detections an image",
        "",
        *table(["", "ZSD", "seen", "unseen", "HM", "all"], _overall(metrics)),
        "",
        "ZSD: only unseen classes compete. Chance: the same boxes, their class names dealt anew "
        f"({metrics['chance']['shuffles']} times).",
        "",
    ]
    if supervised := metrics.get("supervised"):
        names = ", ".join(map(plain, supervised))
        lines += [f"Trained on boxes of {names}: what stands under ZSD and unseen is supervised, a ceiling.", ""]
    rows = [
        [plain(name), row["side"], f"{row['boxes']:,}", *(percent(row[key]) for key in ("AP50", "AP", "recall_100"))]
        for name, row in metrics["per_class"].items()
    ]
    lines += table(["class", "side", "boxes", "AP50", "AP", "recall@100"], rows)
    times = metrics["by"]["timeofday"]
    if len(times) > 1:
        rows = [
            [
                plain(value),
                f"{row['images']:,}",
                percent((row["ZSD"] or {}).get("AP50")),
                *(percent(row["GZSD"][side]["AP50"]) for side in ("seen", "unseen", "HM", "all")),
            ]
            for value, row in times.items()
        ]
        lines += ["", *table(["AP50", "images", "ZSD", "seen", "unseen", "HM", "all"], rows)]
    return lines


def _overall(metrics: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for title, key in (("AP50", "AP50"), ("recall@100", "recall_100"), ("AP 50:95", "AP")):
        alone = metrics["ZSD"]
        rows.append(
            [
                title,
                percent(alone[key] if alone else None),
                *(percent(metrics["GZSD"][side][key]) for side in ("seen", "unseen", "HM", "all")),
            ]
        )
    luck = metrics["chance"]
    rows.append(
        [
            "AP50 by chance",
            _with_spread(luck["ZSD"]),
            *(_with_spread(luck["GZSD"][side]) for side in ("seen", "unseen", "HM", "all")),
        ]
    )
    return rows


def _with_spread(found: Mapping[str, float | None] | None) -> str:
    if found is None or found["AP50"] is None:
        return "-"
    return f"{percent(found['AP50'])} ± {percent(found['deviation'])}"


def percent(value: float | None) -> str:
    """A fraction in percent, a dash where it is not known."""
    return "-" if value is None else f"{100 * value:.1f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, its columns in line; the first one to the left, the others to the right."""
    cells = [[each.replace("|", "\\|") for each in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[at]) for row in cells)) for at in range(len(head))]

    def line(row: Sequence[str]) -> str:
        parts = [
            text.ljust(w) if at == 0 else text.rjust(w) for at, (text, w) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(parts)} |"

    rule = [("-" * w) if at == 0 else ("-" * (w - 1) + ":") for at, w in enumerate(widths)]
    return [line(cells[0]), line(rule), *(line(row) for row in cells[1:])]
