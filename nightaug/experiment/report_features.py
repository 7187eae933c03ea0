"""The report's pictures of features: day and night objects as a detector sees them, before and after a training."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np

from nightaug.experiment.report_read import Compared, Embedding, Features, Number, Run, Spot
from nightaug.experiment.report_words import safe

#: Classes with a colour of their own (c1 and on; the rest is c0, grey), and points drawn at most of a picture.
COLOURED, POINTS = 5, 2000
#: Size of a picture in its own units, its margin, and the percentage of points that may lie on each edge.
WIDE, HIGH, MARGIN, OUTSIDE = 400, 300, 8, 2.0
#: A change of a share by less says nothing: about the standard error of a few hundred regions, twice.
NOTABLE = 0.05
DOMAINS = ("day", "night")


def features_section(compared: Compared) -> str:
    """Two scatters for each arm that has an embedding, that of its first seed, with the numbers under them."""
    first: dict[str, Run] = {}
    for run in sorted(compared.runs, key=lambda run: run.seed):
        if run.embedding is not None:
            first.setdefault(run.arm, run)
    shown = [arm.name for arm in compared.table.arms if arm.name in first]
    panels = [
        f'<div data-of="features" data-key="{at}">{_panel(first[name], compared.table.test.boxes)}</div>'
        for at, name in enumerate(shown)
    ]
    if not panels:
        return ""
    options = "".join(f'<option value="{at}">{safe(name)}</option>' for at, name in enumerate(shown))
    picker = f'<label class="picker">Arm <select data-picks="features">{options}</select></label>'
    told = (
        "<p>Each point is a place on a labelled object of a day image (filled) or a night image (ring), along the two "
        "directions in which its features vary most; night lies to the right and above in the mean. Where the two "
        "lie apart, what was learned by day may not hold at night. Trust the numbers more than the picture: they use "
        "all directions.</p>"
    )
    return f"{told}{picker}{''.join(panels)}"


def _panel(run: Run, boxes: Mapping[str, int]) -> str:
    embedding = run.embedding
    assert embedding is not None
    counts = Counter(spot[2] for side in (embedding.before, embedding.after) for spot in side.points)
    # By boxes of the test set first: the points are a choice that is balanced over classes.
    order = sorted(counts, key=lambda number: (-boxes.get(embedding.classes[number], 0), -counts[number], number))
    coloured = {number: at + 1 for at, number in enumerate(order[:COLOURED])}
    figures = "".join(
        _scatter(title, side, embedding.classes, coloured)
        for title, side in (("Before", embedding.before), ("After", embedding.after))
    )
    return (
        f'{_legend(embedding, coloured, len(counts) > len(coloured))}<div class="grid">{figures}</div>'
        f'<p class="change">{_changed(embedding)}</p><p class="fine">Seed {run.seed}. The axes of the two pictures are '
        "not the same directions.</p>"
    )


def _legend(embedding: Embedding, coloured: Mapping[int, int], others: bool) -> str:
    items = "".join(f'<li class="c{at}"><i></i>{safe(embedding.classes[n])}</li>' for n, at in coloured.items())
    if others:
        items += '<li class="c0"><i></i>other classes</li>'
    return f'<ul class="legend dots">{items}<li><i></i>day</li><li class="night"><i></i>night</li></ul>'


def _scatter(title: str, side: Features, classes: list[str], coloured: Mapping[int, int]) -> str:
    groups: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for (x, y), spot in zip(_placed(side.points[:POINTS]), side.points[:POINTS], strict=True):
        groups[spot[3], spot[2]].append((x, y))
    drawn = ""
    for (domain, number), places in sorted(groups.items(), key=lambda item: (item[0][1] in coloured, item[0])):
        kind = f"c{coloured.get(number, 0)}{' night' if domain else ''}"
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places)
        drawn += f'<g class="{kind}"><title>{safe(classes[number])}, {DOMAINS[domain]}</title>{dots}</g>'
    of = Counter(spot[3] for spot in side.points)
    told = _told(side)
    label = f"{title} the training: {of[0]} day and {of[1]} night regions. {' '.join(told)}"
    axes = [f"{100 * share:.0f}" for share in side.variance if share is not None]
    shares = f" · axes hold {' and '.join(axes)} % of the variance" if len(axes) == 2 else ""
    numbers = "".join(f"<p>{line}</p>" for line in told)
    return (
        f'<figure class="scatter"><figcaption><b>{title}</b>{shares}</figcaption>'
        f'<svg viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="{label}">{drawn}</svg>{numbers}</figure>'
    )


def _placed(points: list[Spot]) -> list[tuple[float, float]]:
    """The points in the picture's units, one scale for both axes; a few far ones are put on the edge."""
    if not points:
        return []
    at = np.array([spot[:2] for spot in points], np.float64)
    low, high = np.percentile(at, OUTSIDE, axis=0), np.percentile(at, 100 - OUTSIDE, axis=0)
    room = np.array([WIDE, HIGH]) - 2 * MARGIN
    scale = float((room / np.maximum(high - low, 1e-9)).min())
    centred = (at - (low + high) / 2) * scale * [1, -1]
    placed = np.clip(centred, -room / 2, room / 2) + np.array([WIDE, HIGH]) / 2
    return [(float(x), float(y)) for x, y in placed]


def _share(value: float) -> str:
    return f"{100 * value:.0f}\u00a0%"


def _told(side: Features) -> list[str]:
    """The two numbers of a picture, a sentence each."""
    lines = []
    if side.domain_separation is not None:
        lines.append(
            f"A linear classifier tells day from night for {_share(side.domain_separation)} of the regions "
            "(guessing: 50\u00a0%)."
        )
    if side.class_separation is not None:
        by_chance = f" (guessing: {_share(side.chance)})" if side.chance is not None else ""
        lines.append(
            f"One trained on day regions names the class of {_share(side.class_separation)} of the night regions, "
            f"classes counting alike{by_chance}."
        )
    return lines or ["Too few regions for numbers."]


def _changed(embedding: Embedding) -> str:
    """What the training did to the two numbers, in one sentence."""
    before, after = embedding.before, embedding.after

    def words(was: Number, now: Number, up: str, down: str, same: str) -> str:
        if was is None or now is None:
            return ""
        shift = f" ({_share(was)} to {_share(now)})" if _share(was) != _share(now) else f" ({_share(now)})"
        return (same if abs(now - was) < NOTABLE else up if now > was else down) + shift

    told = [
        words(
            before.domain_separation,
            after.domain_separation,
            "day and night lie further apart",
            "day and night are more alike",
            "day and night are about as far apart as before",
        ),
        words(
            before.class_separation,
            after.class_separation,
            "classes learned by day are known better at night",
            "classes learned by day are known worse at night",
            "classes learned by day are known at night about as well as before",
        ),
    ]
    said = ", and ".join(text for text in told if text)
    return f"After the training {said}." if said else ""
