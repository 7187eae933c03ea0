"""What ``prepare`` says, as plain text for the terminal."""

from __future__ import annotations

from nightaug.data.domains import PrepareReport
from nightaug.data.formats.base import named
from nightaug.data.text import table

#: What to do about an empty test split.
_MORE = "give a --split with a share for test, images of more drives, or a dataset with a test split of its own"


def prepare_table(report: PrepareReport) -> list[str]:
    """What ``prepare`` made and what it left out, for people."""
    cells = [(split, domain, cell) for split, domains in report.counts.items() for domain, cell in domains.items()]
    names = [f"{split}/{domain}" for split, domain, _ in cells]
    rows = [["images", *(f"{cell['images']:,}" for *_, cell in cells)]]
    rows += [["  with labels", *(f"{cell['labelled']:,}" for *_, cell in cells)]]
    rows += [["boxes", *(f"{cell['boxes']:,}" for *_, cell in cells)]]
    rows += [[f"  {name}", *(f"{cell['classes'].get(name, 0):,}" for *_, cell in cells)] for name in report.classes]
    lines = table(["", *names], rows)
    for domain, when in (("A", "day"), ("B", "night")):
        images = {split: domains[domain]["images"] for split, domains in report.counts.items()}
        if any(images.values()) and not images["test"]:
            lines += ["", f"warning: test/{domain} is empty, so nothing can be tested by {when}; {_MORE}"]
    if report.excluded:
        lines += ["", f"left out of {report.frames_read:,} frames: " + _counts(report.excluded)]
    if report.problem_counts:
        lines += ["noticed (listed in problems.jsonl): " + _counts(report.problem_counts), *named(report.problems)]
    return lines


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in sorted(counts.items(), key=lambda item: -item[1]))
