"""The numbers of a whole set, with 95 % intervals by a bootstrap over its images, and the table for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightaug.curate.kept import kept_parts
from nightaug.curate.scores import BoxScore, ImageScore
from nightaug.curate.structure import MIN_SIDE
from nightaug.data.text import table

Floats = NDArray[np.float64]

#: Draws of the images behind an interval, and its ends in percent.
REPLICATES = 1000
_ENDS = (2.5, 97.5)
#: An object of which less is kept is lost.
LOST = 0.5
#: A judge that finds less than this share of what it finds by day, on real nights, says little of translations.
_BLIND = 0.5
#: A judge that finds less than this share of the labelled objects in the source itself says nothing of translations.
_LEAST_FOUND = 0.05
#: Replicates drawn at once: bounds the memory of large sets.
_BLOCK = 50
ALL = "all"
#: Why no measure can tell of a box, as people read it.
_REASONS = {"small": f"too small, a side under {MIN_SIDE:g} px", "blank": "nothing to recognise by day"}


def ratio_interval(totals: Sequence[float], counts: Sequence[float], seed: int = 0) -> dict[str, float | None]:
    """sum(totals) / sum(counts) with its 95 % interval when the images are drawn anew, with replacement.

    Args:
        totals, counts: (N,) of each image: say, the kept shares of its boxes, and how many boxes.

    Returns:
        ``{"value", "low", "high", "count"}``, null where there is nothing.
    """
    sums, numbers = np.asarray(totals, np.float64), np.asarray(counts, np.float64)
    if not len(sums) or numbers.sum() <= 0:
        return {"value": None, "low": None, "high": None, "count": 0}
    rng = np.random.default_rng([seed, len(sums)])
    drawn = []
    for start in range(0, REPLICATES, _BLOCK):
        images = rng.integers(0, len(sums), (min(_BLOCK, REPLICATES - start), len(sums)))
        under = numbers[images].sum(axis=1)
        over = sums[images].sum(axis=1)
        drawn.append(over[under > 0] / under[under > 0])
    ends = np.percentile(np.concatenate(drawn), _ENDS)
    value = float(sums.sum() / numbers.sum())
    return {
        "value": round(value, 4), "low": round(float(ends[0]), 4), "high": round(float(ends[1]), 4),
        "count": int(numbers.sum()),
    }  # fmt: skip


def _by_class(
    images: Sequence[ImageScore], classes: Sequence[str], of: Callable[[BoxScore], float | None]
) -> dict[str, dict[str, float | None]]:
    """The mean over boxes of a number, of all classes and of each."""
    out = {}
    for name in (ALL, *classes):
        totals, counts = np.zeros(len(images)), np.zeros(len(images))
        for at, image in enumerate(images):
            values = [of(box) for box in image.boxes if name in (ALL, box.category)]
            known = [value for value in values if value is not None]
            totals[at], counts[at] = sum(known), len(known)
        if counts.any() or name == ALL:
            out[name] = ratio_interval(totals.tolist(), counts.tolist())
    return out


def _unmeasured(images: Sequence[ImageScore]) -> dict[str, dict[str, int]]:
    """Boxes of which no measure can tell, by reason, beside all: of all classes and of each that has any."""
    out: dict[str, dict[str, int]] = {}
    for box in (box for image in images for box in image.boxes):
        x1, y1, x2, y2 = box.xyxy
        reason = "small" if min(x2 - x1, y2 - y1) < MIN_SIDE else "blank"
        for name in (ALL, box.category):
            of = out.setdefault(name, {"boxes": 0, **dict.fromkeys(_REASONS, 0)})
            of["boxes"] += 1
            of[reason] += box.kept is None
    return {name: out[name] for name in sorted(out, key=lambda one: (one != ALL, one)) if _missing(out[name])}


def _missing(counts: Mapping[str, int]) -> int:
    return sum(counts[reason] for reason in _REASONS)


def objects_summary(images: Sequence[ImageScore], score: float, chance: float) -> dict[str, Any]:
    """Kept, lost and moved by class, what each witness says alone, and how many boxes could not be measured.

    Args:
        score, chance: as for :func:`~nightaug.curate.kept.kept_parts`.
    """
    classes = sorted({box.category for image in images for box in image.boxes})
    kept = _by_class(images, classes, lambda box: box.kept)
    out: dict[str, Any] = {
        "boxes": sum(len(image.boxes) for image in images),
        "unmeasured": _unmeasured(images),
        "kept": kept,
        "lost": _by_class(images, classes, lambda box: None if box.kept is None else float(box.kept < LOST)),
        "moved": _by_class(images, classes, lambda box: box.moved),
        "similarity": _by_class(images, classes, lambda box: box.similarity),
        "kept_by": {},
    }
    for witness in ("judge", "clip", "structure"):
        own = _by_class(images, classes, lambda box, w=witness: kept_parts(box, score, chance).get(w))  # type: ignore[misc]
        if own[ALL]["count"]:
            out["kept_by"][witness] = own
    return out


def per_image(counts: Iterable[float], seed: int = 0) -> dict[str, float | None]:
    """The mean of a count over images, with its interval."""
    values = list(counts)
    return ratio_interval(values, [1.0] * len(values), seed)


def _counted(found: Sequence[Sequence[str]]) -> dict[str, dict[str, float | None]]:
    """How many an image, of all classes and of each that any image has; ``found`` holds the classes in each image."""
    names = sorted({name for each in found for name in each})
    return {ALL: per_image(map(len, found)), **{name: per_image(each.count(name) for each in found) for name in names}}


def invented_summary(images: Sequence[ImageScore], judged: bool) -> dict[str, Any]:
    """Invented objects and lamps an image, by class; beside them what the judge takes for such in a dim copy of the
    source (``doubted``), and all false detections."""
    out: dict[str, Any] = {
        "lamps": per_image(sum(each.kind == "lamp" for each in image.invented) for image in images),
        "lamps_shown": per_image(image.spots for image in images if image.spots is not None),
    }
    if judged:
        out["objects"] = _counted([[each.category for each in image.invented if each.category] for image in images])
        out["doubted"] = _counted([image.doubted for image in images])
        told = [image.false_detections for image in images if image.false_detections is not None]
        out["false_detections"] = per_image(told)
    return out


def blind_judge(summary: Mapping[str, Any]) -> str | None:
    """Why nothing that a judge counts can be believed, in words; None where it sees, or none was asked."""
    found = (summary.get("judge") or {}).get("found_source")
    if found is None or found >= _LEAST_FOUND:
        return None
    return (
        f"this judge is blind (it finds {found:.2f} of the labelled objects in the source itself): its counts of "
        "invented objects mean nothing"
    )


def invented_untold() -> dict[str, Any]:
    """What :func:`invented_summary` says of a judge where nothing can be told."""
    nothing = per_image(())
    return {"objects": {ALL: nothing}, "doubted": {ALL: nothing}, "false_detections": nothing}


def _shown(cell: Mapping[str, Any] | None, digits: int = 2) -> str:
    """``0.93 [0.91, 0.95]``, a dash where there is nothing."""
    if not cell or cell.get("value") is None:
        return "-"
    return f"{cell['value']:.{digits}f} [{cell['low']:.{digits}f}, {cell['high']:.{digits}f}]"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """The summary for people: tables, then what was left out and why."""
    objects, invented = summary["objects"], summary["invented"]
    judge, blind = summary.get("judge") or {}, blind_judge(summary)
    # A count of 0 by a judge that sees nothing would speak for any translation.
    found = {} if blind else invented.get("objects", {})
    untold = objects.get("unmeasured", {})  # files written before have none
    kept = objects["kept"]
    kept = {name: kept.get(name, {}) for name in [*kept, *(name for name in untold if name not in kept)]}
    rows = [
        [
            name,
            f"{int(cell.get('count') or 0):,}" + (f" of {untold[name]['boxes']:,}" if name in untold else ""),
            _shown(cell),
            _shown(objects["lost"].get(name)),
            _shown(objects["moved"].get(name)),
            _shown(found.get(name)),
        ]
        for name, cell in kept.items()
    ]
    rows += [[name, "0", "-", "-", "-", _shown(cell)] for name, cell in found.items() if name not in kept]
    head = ["mean [95 % interval]", "boxes", "kept", f"lost (under {LOST:g})", "moved", "invented an image"]
    lines = table(head, rows)
    if ALL in untold:
        every = untold[ALL]
        why = "; ".join(f"{every[key]:,} {reason}" for key, reason in _REASONS.items() if every[key])
        lines.append(f"{_missing(every):,} of {every['boxes']:,} boxes could not be measured ({why})")
    by = [
        f"{name} {_number(cell[ALL]['value'], 2)} ({cell[ALL]['count']:,})" for name, cell in objects["kept_by"].items()
    ]
    if by:
        lines += ["", f"kept as each measure alone has it (boxes): {', '.join(by)}"]
    lamps = f"lamps that the source does not show, an image: {_shown(invented['lamps'])}"
    lines += ["", f"{lamps}; lamp-like spots in all {_shown(invented['lamps_shown'])}"]
    if blind:
        lines.append(f"{blind}; take one trained on images like these")
    elif "false_detections" in invented:
        lines.append(
            f"detections that no label explains, an image: {_shown(invented['false_detections'])}, new ones "
            f"{_shown(found.get(ALL))} (score {judge['score']:g} or more, {judge['score_from']})"
        )
    if "doubted" in invented and not blind:
        doubted = _shown(invented["doubted"][ALL])
        lines.append(
            f"new ones in dim copies of the source, in which nothing can be invented: {doubted} an image; so much "
            "is the judge's own doubt"
        )
    real = summary.get("real", {})
    if real.get("false_detections"):
        lines.append(
            f"the same judge on {real['labelled']:,} real night images: {_shown(real['false_detections'])} detections "
            f"that no label explains an image, {_shown(real['found'])} of the labelled objects found"
        )
        by_day, by_night = judge["found_source"], real["found"]["value"]
        if not blind and by_day is not None and by_night is not None and by_night < _BLIND * by_day:
            lines.append(
                f"this judge is nearly blind by night (it finds {by_day:.2f} of the objects by day): its word says "
                "little; take one trained on day and real night images"
            )
    if real.get("lamps_shown"):
        lines.append(
            f"lamp-like spots outside objects on {real['labelled']:,} real nights: {_shown(real['lamps_shown'])}"
        )
    lines += _night_lines(summary.get("night"))
    lines += _set_lines(summary.get("sets", {}), real.get("images", 0))
    left = summary.get("left_out", {})
    if any(left.values()):
        lines.append(
            f"not in kept, lost, moved and invented, as the manifest has training leave them out: {left['images']:,} "
            f"images, {left['boxes']:,} boxes, theirs among them; --all takes them in"
        )
    lines += [f"not measured: {what}: {why}" for what, why in summary["skipped"].items()]
    return lines


def _night_lines(night: Mapping[str, Any] | None) -> list[str]:
    if night is None:
        return []
    shares = {key: f"{100 * value:.0f}%" for key, value in night.items() if isinstance(value, float)}
    return [
        f"did it become night: {_shown(night['probability'])}, {shares['share']} of the images are (the source: "
        f"{shares['source_share']}, dim copies of it: {shares['dim_share']}); the classifier is right on "
        f"{100 * night['accuracy']:.1f}% of images held out (day {shares['accuracy_day']}, dim day "
        f"{shares['accuracy_dim']}, night {shares['accuracy_night']})"
    ]


def _set_lines(sets: Mapping[str, Any], real: int) -> list[str]:
    if not sets:
        return []
    rows = []
    for name, cell in sets.items():
        for which, called in (("translated", "translated"), ("source", "source"), ("real", "one half from the other")):
            if which in cell:
                own = cell[which]
                kid = "-" if own["kid"] is None else f"{own['kid']:.4g} ± {own['kid_spread']:.2g}"
                structure = {"translated": _number(cell["structure_distance"], 4), "source": "0"}.get(which, "-")
                rows.append([f"{called}, {name}", _number(own["fid"], 4), kid, _number(own["cmmd"], 3), structure])
        if not any(which in cell for which in ("translated", "source")):
            rows.append([f"translated, {name}", "-", "-", "-", _number(cell["structure_distance"], 4)])
    lines = ["", *table([f"distance to {real:,} real night images", "FID", "KID", "CMMD", "structure"], rows)]
    biased = [f"{name} ({cell['width']:,} wide)" for name, cell in sets.items() if cell.get("fid_biased")]
    if biased:
        lines.append(f"FID of fewer images than features is too high: {', '.join(biased)}; KID is not biased")
    return lines
