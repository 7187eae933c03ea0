"""What each part of an adapted arm is worth, in words and tables: HTML, Markdown, and the terminal's text."""

from __future__ import annotations

from collections.abc import Sequence

from nightaug.data.text import table as text_table
from nightaug.experiment.report_charts import forest
from nightaug.experiment.report_read import Ablation, Interval, PartRow, Table
from nightaug.experiment.report_tables import scroll
from nightaug.experiment.report_words import NONE, clear, gained, parted, points, safe

HEAD = ("part", "AP with it", "AP without", "difference", "over the spread", "seeds")
_ANSWERS = {True: "yes", False: "no", None: NONE}


def judged(rows: Sequence[PartRow]) -> tuple[list[str], list[str], list[str]]:
    """Parts that help, parts that do harm, and those of which nothing was shown.

    A part counts as one of the first two if the interval of its difference excludes 0 and the difference is not within
    the spread of the day arm.
    """
    found: tuple[list[str], list[str], list[str]] = ([], [], [])
    for row in rows:
        sure = row.difference is not None and clear(row.low, row.high) and row.exceeds_spread is not False
        found[2 if not sure or row.difference is None else 0 if row.difference > 0 else 1].append(row.part)
    return found


def sentence(entry: Ablation) -> str:
    """Which parts help and which do not, as plain text."""
    helps, harms, rest = judged(entry.rows)
    told = [f"Parts that help: {', '.join(helps) or 'none was shown to'}."]
    if harms:
        told.append(f"Parts that do harm: {', '.join(harms)}.")
    if rest:
        why = "the interval contains 0"
        if entry.day_spread is not None:
            why += f", or the difference is within the spread of the day arm, {points(entry.day_spread)} AP"
        told.append(f"No effect shown: {', '.join(rest)} ({why}).")
    if any(len(row.seeds) == 1 for row in entry.rows):
        told.append("An interval of one seed does not hold the chance of training: take it as a hint.")
    return " ".join(told)


def cells(row: PartRow) -> list[str]:
    """A row of the table, as plain text."""
    return [
        row.part,
        points(row.AP_with),
        points(row.AP_without),
        gained(Interval(row.difference, row.low, row.high)),
        _ANSWERS[row.exceeds_spread],
        ", ".join(map(str, row.seeds)) or NONE,
    ]


def ablation_lines(entries: Sequence[Ablation]) -> list[str]:
    """The same for the terminal, without the plot."""
    lines = []
    for entry in entries:
        spread = "not known" if entry.day_spread is None else f"{points(entry.day_spread)} AP"
        lines.append(f"{entry.arm} with each part left out; spread of the day arm over its seeds: {spread}")
        lines += [f"  {line}" for line in text_table(HEAD, [cells(row) for row in entry.rows])]
    return lines


def ablation_section(table: Table) -> str:
    """For each arm of which parts were left out one by one: which helped, a table, and the differences as a plot."""
    body = ""
    for entry in table.ablations:
        head = "".join(f'<th scope="col">{name}</th>' for name in HEAD)
        rows = ""
        for row in entry.rows:
            first, *rest = cells(row)
            rows += f'<tr><th scope="row">{parted(first)}</th>' + "".join(f"<td>{safe(c)}</td>" for c in rest) + "</tr>"
        differences = {row.part: Interval(row.difference, row.low, row.high) for row in entry.rows}
        body += (
            f"<h3>{parted(entry.arm)}</h3><p>{safe(sentence(entry))}</p>"
            f"{scroll(f'<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>', f'parts of {entry.arm}')}"
            f"{forest('AP with a part, over without it', differences, 'points of AP')}"
        )
    return f"<p>The arm was trained again with each part left out, all else equal.</p>{body}" if body else ""
