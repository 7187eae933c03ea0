"""``nightaug report``: a comparison's files as one self-contained HTML page and a Markdown table.

The page loads nothing, from the network or from disk: pictures are data URIs, charts are inline SVG, and its
policy lets its own script run and nothing else, so that no name in a dataset can become code.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from string import Template

from nightaug import __version__
from nightaug.experiment.page import SLIDER_STYLE
from nightaug.experiment.report_ablation import ablation_lines, ablation_section
from nightaug.experiment.report_features import features_section
from nightaug.experiment.report_markdown import markdown, verdict
from nightaug.experiment.report_pictures import detections_section, pictures_of, shown_images, sliders_section
from nightaug.experiment.report_read import Compared, Table, read_comparison
from nightaug.experiment.report_script import SCRIPT, script_hash
from nightaug.experiment.report_tables import (
    arms_section,
    classes_section,
    confusion_section,
    curves_section,
    measured_section,
)
from nightaug.experiment.report_training import training_section
from nightaug.experiment.report_words import gap_in_words, notes, parted, safe
from nightaug.images import atomic_write_text

#: Missing things named on top of the page; the rest are counted there and listed at its end.
NAMED = 5
#: Letters from which a verdict is set smaller.
LONG = 180


def write_report(folder: str | os.PathLike[str], say: Callable[[str], None] = lambda text: None) -> Path:
    """Write ``index.html`` and ``table.md`` into a compare folder, each at once or not at all.

    A comparison that is not finished is reported as far as it is, and the page says what is missing.

    Args:
        folder: where ``nightaug compare`` wrote.
        say: takes lines for the terminal.

    Returns:
        The page.

    Raises:
        DatasetError: ``table.json`` is missing, damaged, or of another version of nightaug.
    """
    folder = Path(folder)
    compared = read_comparison(folder)
    page = _page(compared)
    atomic_write_text(folder / "table.md", markdown(compared.table, compared.missing))
    atomic_write_text(folder / "index.html", page)
    say(verdict(compared.table))
    for line in compared.table.others:
        say(f"  {line}")
    for line in ablation_lines(compared.table.ablations):
        say(line)
    for text in compared.missing[:NAMED]:
        say(f"missing: {text}")
    if len(compared.missing) > NAMED:
        say(f"missing: {len(compared.missing) - NAMED} more, listed in the page")
    say(f"report: {folder / 'index.html'}")
    return folder / "index.html"


def _page(compared: Compared) -> str:
    table = compared.table
    shown, score = shown_images(compared)
    pictures = pictures_of(compared, shown)
    sections = [
        ("arms", "Arms", arms_section(table)),
        ("classes", "Classes", classes_section(table)),
        ("ablation", "What each part is worth", ablation_section(table)),
        ("night", "On the same night images", detections_section(compared, shown, score, pictures)),
        ("translations", "Day made night", sliders_section(compared.pairs, pictures)),
        ("curves", "Precision, recall, F1", curves_section(compared)),
        ("confusion", "What was taken for what", confusion_section(compared)),
        ("features", "Features of day and night objects", features_section(compared)),
        ("training", "Training curves", training_section(compared)),
        # Last: reading the pictures above may have found more that is missing.
        ("measured", "How it was measured", measured_section(table, compared.missing)),
    ]
    there = [(key, title, content) for key, title, content in sections if content]
    about = " · ".join(safe(word) for word in ("nightaug compare", table.detector, table.dataset, table.date) if word)
    size = ' class="long"' if len(verdict(table)) > LONG else ""
    body = [f'<header><p class="eyebrow">{about}</p><h1{size}>{safe(verdict(table))}</h1>']
    gap = gap_in_words(table)
    if gap:
        body.append(f'<p class="fine">{safe(gap)}</p>')
    if table.others:
        lines = "".join(f"<li>{_named(line, table)}</li>" for line in table.others)
        body.append(f'<p class="fine">The other arms:</p><ul class="others">{lines}</ul>')
    said = "".join(f"<li>{safe(note)}</li>" for note in notes(table, compared.missing))
    if said:
        body.append(f'<ul class="notes">{said}</ul>')
    body.append(_incomplete(compared.missing))
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in there)
    body.append(f'<nav aria-label="parts of the page">{links}</nav></header><main>')
    body += [f'<section><h2 id="{key}">{title}</h2>{content}</section>' for key, title, content in there]
    template = Template((resources.files("nightaug") / "experiment" / "report.html").read_text("utf-8"))
    return template.substitute(
        title=safe(verdict(table)),
        version=__version__,
        script=SCRIPT,
        script_hash=script_hash(SCRIPT),
        slider_style=SLIDER_STYLE,
        body="".join(body) + "</main>",
    )


def _named(line: str, table: Table) -> str:
    """A sentence that begins with an arm's name, the name in bold."""
    name = max((arm.name for arm in table.arms if line.startswith(f"{arm.name}:")), key=len, default="")
    return f"<b>{parted(name)}</b>{safe(line[len(name) :])}" if name else safe(line)


def _incomplete(missing: list[str]) -> str:
    if not missing:
        return ""
    items = "".join(f"<li>{safe(text)}</li>" for text in missing[:NAMED])
    if len(missing) > NAMED:
        items += f'<li><a href="#missing">{len(missing) - NAMED} more</a></li>'
    return f'<div class="incomplete"><b>Not complete.</b> What is missing:<ul>{items}</ul></div>'
