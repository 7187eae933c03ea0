"""The comparison as a Markdown file: verdict, table of arms, classes, how it was measured."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nightaug.data.text import plain
from nightaug.experiment.report_ablation import HEAD as PART_HEAD
from nightaug.experiment.report_ablation import cells, sentence
from nightaug.experiment.report_read import Table
from nightaug.experiment.report_words import (
    BASELINE,
    NONE,
    class_order,
    dropped,
    falls,
    gained,
    gap_in_words,
    marks,
    notes,
    points,
    reasons,
    recovered,
    seeds,
    signed,
    spread,
)


def cell(word: object) -> str:
    """A stranger's word that stays one cell and plain text."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", plain(str(word)))


def markdown(table: Table, missing: Sequence[str]) -> str:
    """The content of ``table.md``."""
    lines = [f"**{cell(verdict(table))}**", ""]
    said = [*notes(table, missing), *(f"missing: {text}" for text in missing)]
    gap = gap_in_words(table)
    lines += [cell(gap), ""] if gap else []
    for some in (table.others, said):
        lines += [*(f"- {cell(line)}" for line in some), ""] if some else []
    head = ["arm", "AP", "AP50", "over day", *(f"gap recovered, to {cell(gap)}" for gap in table.ceilings)]
    head += ["AP, all classes (noisy)", "images dropped", "seeds"]
    rows = []
    for arm in table.arms:
        base = arm.name == BASELINE
        kinds = marks(arm, table)
        name = cell(arm.name) + (f" ({', '.join(kinds)})" if kinds else "")
        gaps = [NONE if base or arm.name == gap else recovered(arm.recovered.get(gap)) for gap in table.ceilings]
        over = NONE if base else gained(arm.over_day)
        rows.append(
            [name, spread(arm.AP), spread(arm.AP50), over, *gaps, spread(arm.AP_all), dropped(arm), seeds(arm, table)]
        )
    lines += [*_table(head, rows), ""]
    for why, of in reasons(table).items():
        lines += [f"Not measurable ({cell(', '.join(of))}): {cell(why)}", ""]
    lines += _classes(table) + _parts(table) + _facts(table)
    return "\n".join(lines).rstrip() + "\n"


def verdict(table: Table) -> str:
    """The sentence on top."""
    return plain(table.verdict) if table.verdict else "No verdict yet: the comparison is not complete."


def _classes(table: Table) -> list[str]:
    order, measured, lost = class_order(table), set(table.measured_classes), falls(table)
    if not order:
        return []
    rows = []
    for name in order:
        boxes = table.test.boxes.get(name, 0)
        row = [
            cell(name) + (" ▼" if name in lost and lost[name][0].sure else ""),
            f"{boxes:,}" + ("" if name in measured else " (too few)"),
        ]
        for arm in table.arms:
            known = arm.per_class.get(name)
            shift = (
                f" ({signed(known.change)})"
                if known is not None and known.change is not None and arm.name != BASELINE
                else ""
            )
            row.append(NONE if known is None else points(known.AP) + shift)
        rows.append(row)
    return [
        "AP by class (change against day); ▼ clearly fell in an arm:",
        "",
        *_table(["class", "boxes", *(cell(a.name) for a in table.arms)], rows),
        "",
    ]


def _parts(table: Table) -> list[str]:
    lines = []
    for entry in table.ablations:
        rows = [[cell(word) for word in cells(row)] for row in entry.rows]
        told = f"{entry.arm} with each part left out. {sentence(entry)}"
        lines += [cell(told), "", *_table(PART_HEAD, rows), ""]
    return lines


def _facts(table: Table) -> list[str]:
    facts = [
        ("images", table.test.images),
        ("steps", table.steps),
        ("batch", table.batch),
        ("seeds", ", ".join(map(str, table.seeds))),
        ("world version", table.world_version),
        ("machine", table.machine),
        ("date", table.date),
        ("commit", table.commit),
    ]
    told = "; ".join(f"{name} {cell(value)}" for name, value in facts if value not in (None, ""))
    command = ["", *("    " + plain(line) for line in table.command.splitlines())] if table.command else []
    return [f"Measured: {told}.", *command]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *("---:" for _ in head[1:])]
    return ["| " + " | ".join(row) + " |" for row in [head, rule, *rows]]
