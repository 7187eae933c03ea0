"""The report's tables and charts: arms, classes, curves, confusion, and how it was measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nightaug.experiment.report_charts import Point, forest, legend, line_chart
from nightaug.experiment.report_read import Arm, ClassRow, Compared, Curve, Number, Table
from nightaug.experiment.report_words import (
    BASELINE,
    DEFINITIONS,
    NONE,
    UNMEASURED,
    class_order,
    clear,
    dropped,
    falls,
    gained,
    marks,
    parted,
    points,
    reasons,
    recovered,
    safe,
    seeds,
    signed,
    span,
    spread,
)

#: Domains in words.
_TIMES = {"A": "day", "B": "night"}


def scroll(content: str, label: str) -> str:
    """A box that scrolls by itself where it is wider than the page, by keyboard too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{safe(label)}">{content}</div>'


def arms_section(table: Table) -> str:
    """The table of arms and the plot of their intervals."""
    gaps = list(table.ceilings)
    head = ["arm", "AP", "AP50", "over day", *(f"night gap recovered, to {gap}" for gap in gaps)]
    head += ["AP, all classes (noisy)", "images dropped", "seeds"]
    cells = "".join(f'<th scope="col">{safe(name)}</th>' for name in head)
    rows = "".join(_arm_row(arm, table) for arm in table.arms)
    body = scroll(f'<table class="arms"><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table>', "table of arms")
    known = [(gap, row) for gap, row in table.ceilings.items() if row is not None and row.value is not None]
    if known:
        told = ", ".join(f"{safe(gained(row))} AP to <b>{safe(gap)}</b>" for gap, row in known)
        body += f'<p class="fine">The night gap: {told}.</p>'
    for why, of in reasons(table).items():
        body += f'<p class="fine"><b>{UNMEASURED}</b> ({safe(", ".join(of))}): {safe(why)}</p>'
    plot = forest("AP over day", {arm.name: arm.over_day for arm in table.arms if arm.name != BASELINE}, "points of AP")
    if plot:
        body += f'<h3>AP over training on day images alone</h3>{plot}<p class="fine">'
        body += "Lines are 95 % intervals; grey ones contain 0: no difference was shown.</p>"
    return body


def _arm_row(arm: Arm, table: Table) -> str:
    pills = "".join(f' <span class="pill {mark.replace(" ", "-")}">{mark}</span>' for mark in marks(arm, table))
    base, over = arm.name == BASELINE, arm.over_day
    side = ""
    if over is not None and over.value is not None and clear(over.low, over.high) and not base:
        side = "gain" if over.value > 0 else "loss"
    cells = [f"<b>{spread(arm.AP)}</b>", spread(arm.AP50), f'<span class="{side}">{_stacked(gained(over))}</span>']
    if base:
        cells[2] = NONE
    for gap in table.ceilings:
        known = arm.recovered.get(gap)
        text = NONE if base or arm.name == gap else recovered(known)
        why = known.not_measurable if known is not None and text == UNMEASURED else None
        cells.append(f'<span class="muted" title="{safe(why or "")}">{text}</span>' if why else _stacked(text))
    cells += [f'<span class="muted">{spread(arm.AP_all)}</span>', dropped(arm), seeds(arm, table)]
    return (
        f'<tr><th scope="row">{parted(arm.name)}{pills}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    )


def _stacked(text: str) -> str:
    """The interval under its value."""
    value, bracket, rest = text.partition(" [")
    return f"{value}<small>[{rest}</small>" if bracket else text


def classes_section(table: Table) -> str:
    """AP of every class in every arm, coloured by its change against day; classes that lost come first."""
    order = class_order(table)
    if not order:
        return ""
    fell, measured = falls(table), set(table.measured_classes)
    changes = [abs(row.change) for arm in table.arms for row in arm.per_class.values() if row.change is not None]
    most = max([0.03, *changes])
    head = '<th scope="col">class</th>' + "".join(f'<th scope="col">{parted(arm.name)}</th>' for arm in table.arms)
    rows = []
    for name in order:
        boxes = table.test.boxes.get(
            name, max((a.per_class[name].boxes for a in table.arms if name in a.per_class), default=0)
        )
        rare = name not in measured
        note = f"{boxes:,} boxes" + (", too few" if rare else "")
        sure = [fall for fall in fell.get(name, ()) if fall.sure]
        if sure:
            note += f"; fell in {len(sure)} of {len(table.arms) - 1} arms"
        cells = "".join(_class_cell(arm.per_class.get(name), arm.name == BASELINE, rare, most) for arm in table.arms)
        kind = "rare" if rare else ("fell" if sure else "")
        rows.append(f'<tr class="{kind}"><th scope="row">{parted(name)}<small>{note}</small></th>{cells}</tr>')
    body = ""
    for lead, clearly in (("Fell against day:", True), ("Lower than day, perhaps by chance:", False)):
        told = [
            f"{safe(name)} ({', '.join(f'{safe(fall.arm)} {signed(fall.change)}' for fall in some)})"
            for name, arms in fell.items()
            if (some := [fall for fall in arms if fall.sure == clearly])
        ]
        if told:
            body += f'<p class="lost"><b>{lead}</b> {"; ".join(told)}.</p>'
    body = body or "<p>No measured class fell against day.</p>"
    body += scroll(
        f'<table class="heat"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>', "AP of classes"
    )
    return body + (
        '<p class="fine">AP, and its change against day with the 95 % interval. Strong colour: the interval '
        "excludes 0. Grey rows have too few test boxes and count in no mean but “all classes”.</p>"
    )


def _class_cell(row: ClassRow | None, base: bool, rare: bool, most: float) -> str:
    if row is None or row.AP is None:
        return f"<td>{NONE}</td>"
    if base or row.change is None:
        return f"<td><b>{points(row.AP)}</b></td>"
    sure = clear(row.low, row.high)
    share = abs(row.change) / most * (0.6 if sure else 0.15)
    side = "" if rare or not row.change else (" up" if row.change > 0 else " down")
    shift = f"<b>{signed(row.change)}</b>" if sure else signed(row.change)
    return (
        f'<td class="cell{side}" style="--a:{share * 100:.0f}%"><b>{points(row.AP)}</b>'
        f"<small>{shift} {span(row.low, row.high)}</small></td>"
    )


def curves_section(compared: Compared) -> str:
    """Precision over recall and F1 over score for a class at a time, each arm the mean of its seeds."""
    names = [arm.name for arm in compared.table.arms]
    found: dict[str, dict[str, list[Curve]]] = defaultdict(lambda: defaultdict(list))
    for run in compared.runs:
        for name, curve in run.metrics.curves.items() if run.metrics is not None else ():
            found[name][run.arm].append(curve)
    order = [name for name in class_order(compared.table) if name in found]
    panels: list[str] = []
    options: list[str] = []
    for name in [*order, *(name for name in found if name not in order)]:
        charts = _curve_charts(names, found[name])
        if charts:
            panels.append(f'<div class="grid" data-of="curves" data-key="{len(options)}">{charts}</div>')
            options.append(f'<option value="{len(options)}">{safe(name)}</option>')
    if not panels:
        return ""
    picker = f'<label class="picker">Class <select data-picks="curves">{"".join(options)}</select></label>'
    told = '<p class="fine">At IoU 0.5, on the test set; means over the seeds.</p>'
    return f"{picker}{legend(names)}{''.join(panels)}{told}"


def _curve_charts(names: Sequence[str], arms: Mapping[str, Sequence[Curve]]) -> str:
    recall, score = (
        [
            (at, name, line)
            for at, name in enumerate(names)
            if (line := _mean_line([(getattr(c, x), getattr(c, y)) for c in arms.get(name, ())]))
        ]
        for x, y in (("recall", "precision"), ("score", "f1"))
    )
    unit = (0.0, 1.0)
    return line_chart("precision", recall, "recall", unit, unit) + line_chart("F1", score, "score", unit, unit)


def _mean_line(curves: Iterable[tuple[Sequence[Number], Sequence[Number]]]) -> list[Point]:
    """The mean of curves over 0..1, at 101 points; a curve is 0 beyond its right end (nothing is detected there)."""
    grid = np.linspace(0, 1, 101)
    lines = []
    for xs, ys in curves:
        known = sorted((x, y) for x, y in zip(xs, ys, strict=False) if x is not None and y is not None)
        if known:
            lines.append(np.interp(grid, [x for x, _ in known], [y for _, y in known], right=0.0))
    return [(float(x), float(y)) for x, y in zip(grid, np.mean(lines, axis=0), strict=True)] if lines else []


def confusion_section(compared: Compared) -> str:
    """A confusion matrix an arm, its seeds added up, each row shaded by its shares."""
    panels: list[str] = []
    options: list[str] = []
    for arm in compared.table.arms:
        found = [run.metrics.confusion for run in compared.runs if run.arm == arm.name and run.metrics is not None]
        known = [c for c in found if c is not None and _is_square(c.matrix, len(c.classes))]
        known = [c for c in known if c.classes == known[0].classes]
        if not known:
            continue
        total = np.sum([c.matrix for c in known], axis=0)
        body = _confusion_table(known[0].classes, total, arm.name)
        score, iou = known[0].score, known[0].iou
        fine = f"Rows: what was there; columns: what was detected (score ≥ {score or 0:.2f}, IoU ≥ {iou or 0.5:g})"
        fine += f"; {len(known)} seeds added up. " if len(known) > 1 else ". "
        fine += "Last column: missed. Last row: detected where nothing is. Numbers are boxes, "
        fine += "shading is the share of the row."
        panels.append(f'<div data-of="confusion" data-key="{len(options)}">{body}<p class="fine">{fine}</p></div>')
        options.append(f'<option value="{len(options)}">{safe(arm.name)}</option>')
    if not panels:
        return ""
    picker = f'<label class="picker">Arm <select data-picks="confusion">{"".join(options)}</select></label>'
    return picker + "".join(panels)


def _is_square(matrix: Sequence[Sequence[float]], size: int) -> bool:
    return size > 0 and len(matrix) == size and all(len(row) == size for row in matrix)


def _confusion_table(classes: Sequence[str], matrix: np.ndarray, arm: str) -> str:
    head = "".join(f'<th scope="col">{safe("missed" if name == "background" else name)}</th>' for name in classes)
    rows = []
    for i, name in enumerate(classes):
        total = float(matrix[i].sum()) or 1.0
        cells = []
        for j in range(len(classes)):
            share, count = float(matrix[i, j]) / total, matrix[i, j]
            side = "up" if i == j else "down"
            text = f"{count:,.0f}" if count else "·"
            title = f"{name} → {classes[j]}: {count:,.0f} ({share:.0%})"
            cells.append(f'<td class="cell {side}" style="--a:{share * 70:.0f}%" title="{safe(title)}">{text}</td>')
        label = "nothing there" if name == "background" else name
        rows.append(f'<tr><th scope="row">{safe(label)}</th>{"".join(cells)}</tr>')
    body = f'<table class="heat confusion"><thead><tr><th scope="col">there \\ detected</th>{head}</tr></thead>'
    return scroll(f"{body}<tbody>{''.join(rows)}</tbody></table>", f"confusion matrix of {arm}")


def measured_section(table: Table, missing: Sequence[str]) -> str:
    """Command, machine, budget, data, and what the words mean."""
    size = f"{table.width} x {table.height} px" if table.width and table.height else None
    minutes = f"{table.wall_s / 60:,.1f} minutes" if table.wall_s is not None else None
    boxes = ", ".join(f"{name} {number:,}" for name, number in table.test.boxes.items())
    facts: list[tuple[str, object]] = [
        ("detector", table.detector),
        ("dataset", table.dataset),
        (
            "training images",
            ", ".join(
                f"{count:,} {_TIMES.get(name, name)}" for name, count in table.train.items() if count is not None
            ),
        ),
        ("dev images", table.dev.images),
        ("test images", table.test.images),
        ("test boxes", boxes),
        ("measured classes", ", ".join(table.measured_classes)),
        ("world version", table.world_version),
        ("steps", table.steps),
        ("steps of the day checkpoint", table.day_steps),
        ("steps of arms that label images", table.teacher_steps),
        ("trainings of each arm that labels images", table.teachers if table.teachers > 1 else None),
        ("settings of arms that label images", ", ".join(f"{key}={value}" for key, value in table.teacher.items())),
        ("images a step", table.batch),
        ("network input", size),
        ("seeds", ", ".join(map(str, table.seeds))),
        ("score threshold, chosen on dev", table.score),
        ("machine", table.machine),
        ("wall time", minutes),
        ("date", table.date),
        ("commit", table.commit),
        ("nightaug", table.nightaug),
    ]
    shown = [(name, f"{v:,}" if isinstance(v, int) else str(v)) for name, v in facts if v not in (None, "")]
    commands = "\n".join(safe(line) for line in (table.command or "").splitlines())
    body = f"<pre>{commands}</pre>" if commands else ""
    body += '<dl class="facts">' + "".join(f"<div><dt>{n}</dt><dd>{safe(v)}</dd></div>" for n, v in shown) + "</dl>"
    sources = "".join(
        f'<tr><th scope="row">{parted(arm.name)}</th><td>{safe(s.data)}</td><td>{safe(s.split)}/{safe(s.domain)}</td>'
        f"<td>{NONE if s.weight is None else f'{s.weight:g}'}</td>"
        f"<td>{NONE if s.images is None else f'{s.images:,}'}</td></tr>"
        for arm in table.arms
        for s in arm.sources
    )
    if sources:
        head = "".join(f'<th scope="col">{n}</th>' for n in ("arm", "data", "part", "weight", "images"))
        body += "<h3>What each arm was trained on</h3>"
        body += scroll(f"<table><thead><tr>{head}</tr></thead><tbody>{sources}</tbody></table>", "sources of the arms")
    body += '<h3>What the words mean</h3><dl class="words">'
    body += "".join(f"<div><dt>{term}</dt><dd>{text}</dd></div>" for term, text in DEFINITIONS) + "</dl>"
    if missing:
        body += '<h3 id="missing">What is missing</h3><ul>' + "".join(f"<li>{safe(m)}</li>" for m in missing) + "</ul>"
    return body
