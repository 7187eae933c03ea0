"""The report's curves of training: the loss of every arm, and every named number of each arm by itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nightaug.detect.adaptation.settings import PartWeights
from nightaug.experiment.report_charts import Level, Point, legend, line_chart, thin
from nightaug.experiment.report_read import Compared, Run, Table
from nightaug.experiment.report_words import parted

#: What a training calls its loss and its AP on dev, by preference.
LOSS_KEYS = ("loss", "total")
AP_KEYS = ("val_AP", "AP")
#: Numbers of a training that are neither a loss nor an AP.
NO_LOSS = frozenset({"step", "epoch", "learning_rate", "lr", "steps_per_second", "data_share"})
#: Charts of single losses at most where no total is written, and of one arm; points of a small chart.
LOSSES, CHARTS, POINTS = 4, 40, 80
#: Losses of the detectors, and of the night head.
DETECTOR = ("classification", "cls", "box", "centerness", "dfl")
HEAD = tuple(PartWeights.model_fields)
#: Numbers in words.
WORDS = {
    "classification": "classes of labelled objects",
    "cls": "classes of labelled objects",
    "box": "boxes of labelled objects",
    "centerness": "how central a place is in its object",
    "dfl": "edges of the boxes",
    "cluster": "spread of quality inside clusters; should fall",
    "alignment": "features against CLIP's; should fall",
    "hallucination": "made features against real ones; should fall",
    "matching": "day and night nodes of a class; should fall",
    "structure": "relations among matched nodes; should fall",
    "node_class": "class of a node; should fall",
    "node_domain": "adversary, by node: should stay near the dashed line",
    "pyramid_domain": "adversary, by place, all levels added: should stay near the dashed line",
    "teacher": "night images, by the mean teacher's labels",
    "gradient_norm": "length of the gradient",
    "quality_auc": "whether quality tells good boxes; should not fall to the dashed line",
    "source_objects": "labelled day regions a step",
    "target_objects": "pseudo-labelled night regions a step",
    "source_nodes": "day nodes a step",
    "target_nodes": "night nodes a step",
    "threshold": "score from which a night region counts as an object",
    "teacher_sure": "pseudo labels an image",
    "teacher_unsure": "doubtful ones an image: neither object nor background",
}
#: Pyramid levels of a detector, by how its name begins.
LEVELS = {"fcos": 5, "yolo": 3}


def training_section(compared: Compared) -> str:
    """The loss (or its parts, where no total is written) and AP on dev over the steps, then each arm's own curves."""
    names = [arm.name for arm in compared.table.arms]
    keys = _keys(compared.runs)
    losses = [key for key in LOSS_KEYS if key in keys][:1]
    # An adapted arm's sum is mostly its adversaries', several times all others': beside it nothing could be read.
    alike = [run for run in compared.runs if not is_adapted([run])] or compared.runs
    charts = [
        line_chart(f"training loss: {key}", _run_lines(names, alike if losses else compared.runs, key), "step")
        for key in losses or [key for key in keys if _is_shown(key)][:LOSSES]
    ]
    for key in [key for key in AP_KEYS if key in keys][:1]:
        charts.append(line_chart("AP on dev while training", _run_lines(names, compared.runs, key, 100), "step"))
    body = ""
    if any(charts):
        left_out = " The sum of an adapted arm is not shown: it holds its adversaries' losses."
        fine = f"One line a seed.{left_out if losses and len(alike) < len(compared.runs) else ''}"
        body = f'{legend(names)}<div class="grid">{"".join(charts)}</div><p class="fine">{fine}</p>'
    arms = "".join(_arm(compared, name, at) for at, name in enumerate(names))
    if not arms:
        return body
    told = "Every number an arm's training has written, before its weight; the mean of the seeds."
    return f'{body}<h3>Every loss, arm by arm</h3><p class="fine">{told}</p>{arms}'


def is_adapted(runs: Iterable[Run]) -> bool:
    """Whether a night head took part in a training."""
    return any(key in HEAD for key in _keys(runs))


def _arm(compared: Compared, name: str, at: int) -> str:
    """Small charts of an arm: losses of the detector, of the night head, and the rest."""
    runs = [run for run in compared.runs if run.arm == name]
    keys = [key for key in _keys(runs) if _is_shown(key) and key not in LOSS_KEYS]
    rest = [key for key in keys if key not in DETECTOR and key not in HEAD]
    groups = [
        ("Losses of the detector", [key for key in DETECTOR if key in keys]),
        ("Losses of the night head", [key for key in HEAD if key in keys]),
        ("Other numbers", rest[:CHARTS]),
    ]
    body, count = "", 0
    for title, some in groups:
        charts = [_small(compared.table, runs, key, at) for key in some]
        count += sum(map(bool, charts))
        if any(charts):
            body += f'<h4>{title}</h4><div class="small grid">{"".join(charts)}</div>'
    if not count:
        return ""
    shown = " open" if is_adapted(runs) else ""
    return f"<details{shown}><summary><b>{parted(name)}</b> {count} curves</summary>{body}</details>"


def _small(table: Table, runs: Sequence[Run], key: str, at: int) -> str:
    line = thin(mean_of_seeds([_points(run, key) for run in runs]), POINTS)
    return line_chart(
        key,
        [(at, key, line)] if line else [],
        "step",
        note=WORDS.get(key, ""),
        level=level_of(key, table.detector),
        marks=3,
    )


def level_of(key: str, detector: str | None) -> Level | None:
    """Where a number lies when a classifier cannot tell what it is to tell; None where that is not known."""
    if key == "node_domain":
        return Level(math.log(2), "cannot tell")
    if key == "quality_auc":
        return Level(0.5, "tells nothing")
    levels = next((number for kind, number in LEVELS.items() if (detector or "").lower().startswith(kind)), None)
    if key == "pyramid_domain" and levels is not None:
        return Level(levels * 2 * math.log(2), "cannot tell")
    return None


def mean_of_seeds(lines: Sequence[Sequence[Point]]) -> list[Point]:
    """The mean at the steps all lines have; at those any has, where they share none."""
    known = [dict(line) for line in lines if line]
    if not known:
        return []
    common = set(known[0]).intersection(*known[1:]) or set().union(*known)
    means = []
    for step in sorted(common):
        values = [line[step] for line in known if step in line]
        means.append((step, sum(values) / len(values)))
    return means


def _keys(runs: Iterable[Run]) -> list[str]:
    return list(dict.fromkeys(key for run in runs for row in run.log for key in row))


def _is_shown(key: str) -> bool:
    return key not in NO_LOSS and not key.startswith(("val_", "AP"))


def _points(run: Run, key: str, times: float = 1.0) -> list[Point]:
    return [
        (float(row["step"]), float(row[key]) * times) for row in run.log if _finite(row, "step") and _finite(row, key)
    ]


def _run_lines(
    names: Sequence[str], runs: Iterable[Run], key: str, times: float = 1.0
) -> list[tuple[int, str, list[Point]]]:
    lines = [(names.index(run.arm), f"{run.arm}, seed {run.seed}", thin(_points(run, key, times))) for run in runs]
    return [line for line in lines if line[2]]


def _finite(row: Mapping[str, Any], key: str) -> bool:
    value = row.get(key)
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
