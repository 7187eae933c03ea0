"""Plain-text tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from nightaug.data.domains import PrepareReport


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def prepare_table(report: PrepareReport) -> list[str]:
    """What ``prepare`` made and what it left out, for people."""
    cells = [(split, domain, cell) for split, domains in report.counts.items() for domain, cell in domains.items()]
    names = [f"{split}/{domain}" for split, domain, _ in cells]
    rows = [["images", *(f"{cell['images']:,}" for *_, cell in cells)]]
    rows += [["  with labels", *(f"{cell['labelled']:,}" for *_, cell in cells)]]
    rows += [["boxes", *(f"{cell['boxes']:,}" for *_, cell in cells)]]
    rows += [[f"  {name}", *(f"{cell['classes'].get(name, 0):,}" for *_, cell in cells)] for name in report.classes]
    lines = table(["", *names], rows)
    if report.excluded:
        lines += ["", f"left out of {report.frames_read:,} frames: " + _counts(report.excluded)]
    if report.problem_counts:
        lines += ["noticed (listed in problems.jsonl): " + _counts(report.problem_counts)]
    return lines


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in sorted(counts.items(), key=lambda item: -item[1]))
