"""``nightaug openvocab evaluate`` as one function: what a detector makes of seen and of unseen classes.

ZSD: only unseen classes compete; GZSD: all of them, measured on seen and unseen ones apart, with their harmonic mean
(METHODS section 5.6). "Base", "novel" and "all" of ViLD and LP-OVOD are GZSD's seen, unseen and all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nightaug import __version__
from nightaug.clip.encoder import Clip
from nightaug.data.classes import canonical_class
from nightaug.detect.average_precision import match
from nightaug.detect.checkpoint import find_detector, load_detector, read_facts
from nightaug.detect.detectors import Detector
from nightaug.detect.eval_results import read_results, write_results
from nightaug.detect.eval_testset import LabelledSet, open_test_set, renamed
from nightaug.detect.evaluate import UNDEFINED
from nightaug.detect.evaluate_job import check_paths, detect_truth, read_made, truth_hash
from nightaug.detect.openvocab.crop_detector import CropDetector, naming_clip
from nightaug.detect.openvocab.scores import (
    LIMIT,
    best_of_each_image,
    chance,
    class_measures,
    group_means,
    summary,
)
from nightaug.detect.openvocab.splits import ClassSplit, class_split
from nightaug.detect.openvocab.table import markdown
from nightaug.detect.openvocab.vocabulary import (
    had_boxes,
    is_class_agnostic,
    load_text,
    name_classes,
    narrow,
    reads_text,
    taught,
)
from nightaug.detect.truth import Truth
from nightaug.errors import ConfigError, DatasetError
from nightaug.images import atomic_write_text
from nightaug.runs import file_sha256

#: What our metrics file says it is; nothing else is ever written over.
KIND = "nightaug open-vocabulary metrics"

Rows = list[dict[str, Any]]


class _Files(NamedTuple):
    """What an evaluation writes."""

    metrics: Path
    table: Path
    truth: Path
    gzsd: Path
    zsd: Path


def run_evaluation(
    run: Path,
    dataset: Path,
    *,
    out: Path,
    unseen: Sequence[str] | None = None,
    split_name: str | None = None,
    split: str = "test",
    domain: str | None = None,
    images: Path | None = None,
    labels: Path | None = None,
    format: str | None = None,
    clip: str | None = None,
    shuffles: int = 5,
    seed: int = 0,
    batch: int = 8,
    device: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure a detector on the seen and the unseen classes of a dataset; arguments as the command's options.

    Writes ``out`` (the metrics), ``STEM.md`` (the table), ``STEM.truth.json``, and the detections ``STEM.gzsd.json``
    and ``STEM.zsd.json`` (COCO results), which are used again while weights, classes and images are the same.

    Args:
        run: run folder or weight file of a detector. One that reads text (ViLD) is told the unseen classes' names;
            the proposals of a class-agnostic one are named by CLIP from their crops; any other must know them
            (probed, synthesized, or trained on all classes: the ceiling).
        unseen, split_name: which classes are unseen, see :func:`~nightaug.detect.openvocab.splits.class_split`.
        split, domain: which part of the dataset.
        clip: of a detector that reads text, if it is no longer where it was; that names a class-agnostic one's boxes.
        shuffles, seed: how often class names are dealt anew for the chance row, and their seed.

    Returns:
        What ``out`` holds: ``split``, ``images``, ``boxes``, ``ZSD``, ``GZSD`` (``seen``, ``unseen``, ``all``,
        ``HM``), ``chance``, ``per_class``, ``by`` (time of day), ``limit``, ``supervised`` (unseen classes that the
        detector had boxes of after all: a ceiling), ``made``. Empty after a dry run.

    Raises:
        ConfigError: the split does not fit, the detector does not know the unseen classes, or ``out`` is in use.
        DatasetError: nothing to measure. CheckpointError: no usable detector or CLIP.
    """
    files = _files(out)
    check_paths(files, KIND, run, dataset)
    weights = find_detector(run)
    test = open_test_set(dataset, split, domain, images=images, labels=labels, format=format)
    facts = read_facts(weights)
    test = renamed(test, facts["settings"].get("rename") or {})
    crops = is_class_agnostic(facts)
    knows = list(test.classes) if crops else [canonical_class(str(name)) for name in facts["classes"]]
    classes, notes = _choose(test, unseen, split_name, knows)
    boxed = taught(facts)
    supervised = had_boxes(boxed, classes.unseen)
    if supervised:
        what = "their places are" if crops else "what stands under unseen is"
        notes.append(f"the detector was trained on boxes of {', '.join(supervised)}: {what} supervised, a ceiling")
    if boxless := [name for name in classes.seen if boxed and name not in boxed]:
        notes.append(f"counted as seen, though the detector had no boxes of them: {', '.join(boxless)}")
    truth = Truth.from_frames(test.frames, classes.classes)
    skipped = [f"{number:,} x {reason}" for reason, number in truth.skipped.items()]
    for note in [*test.notes, *notes, *skipped]:
        say(note)
    counts = truth.boxes()
    if not truth.images or not any(counts[name] for name in classes.unseen):
        raise DatasetError(f"{dataset}: no boxes of the unseen classes ({', '.join(classes.unseen)}) to measure on")
    say(
        f"{len(truth.images):,} images, {sum(counts.values()):,} boxes; seen: {', '.join(classes.seen)}; "
        f"unseen: {', '.join(classes.unseen)}"
    )
    text = naming_clip(clip, device) if crops else _text(weights, classes, knows, clip)
    if crops:
        say("the proposals are named by CLIP from their crops")
    if dry_run:
        say(f"would write {', '.join(path.name for path in files)} in {files.metrics.parent}")
        return {}
    files.metrics.parent.mkdir(parents=True, exist_ok=True)
    truth.write(files.truth)
    key = {
        "weights_sha256": file_sha256(weights),
        "test_set": truth_hash(files.truth, truth),
        "classes": list(classes.classes),
        "unseen": list(classes.unseen),  # they alone compete in ZSD
        "clip_sha": text.sha if text is not None else None,
    }
    found = None if overwrite else _known(files, key, truth)
    if found is not None:
        say(f"{files.gzsd} was made with the same weights on the same images: used again")
    else:

        def load(names: Sequence[str]) -> Callable[[str], Detector]:
            return lambda device: _competing(weights, names, text, crops, device)

        where = (truth, device, batch, workers)
        found = (
            detect_truth(load([name for name in classes.classes if text is not None or name in knows]), *where),
            detect_truth(load(classes.unseen), *where),
        )
        for path, rows in zip((files.gzsd, files.zsd), found, strict=True):
            write_results(path, rows)
    metrics = measure(truth, classes, *found, shuffles=shuffles, seed=seed)
    metrics["supervised"] = supervised
    metrics["made"] = {
        "kind": KIND, "nightaug": __version__, "input": str(run), "dataset": str(dataset), "split": split,
        "domain": domain, "seed": seed, **key, "not_measured": dict(truth.left_out), "skipped": dict(truth.skipped),
        "results_sha256": [file_sha256(path) for path in (files.gzsd, files.zsd)],
    }  # fmt: skip
    lines = markdown(metrics)
    atomic_write_text(files.table, "\n".join(lines) + "\n")
    atomic_write_text(files.metrics, json.dumps(metrics, indent=1) + "\n")
    for line in ["", *lines, ""]:
        say(line)
    say(f"all numbers in {files.metrics}, the table in {files.table}")
    return metrics


def measure(
    truth: Truth, split: ClassSplit, gzsd: Rows, zsd: Rows, *, shuffles: int = 5, seed: int = 0
) -> dict[str, Any]:
    """All metrics of two lists of detections, without where they are from.

    Args:
        truth: of the split's classes, in its order.
        gzsd: COCO results with all classes in competition.
        zsd: with the unseen ones alone.
    """
    assert truth.classes == split.classes, f"expected a truth of {split.classes}, got {truth.classes}"
    groups = _groups(split)
    unseen = {"unseen": groups["unseen"]}
    numbers = {number for number, name in enumerate(truth.classes, 1) if name in split.unseen}
    all_rows = best_of_each_image(gzsd)
    alone_rows = best_of_each_image([row for row in zsd if row["category_id"] in numbers])
    everyone, alone = match(truth, all_rows), match(truth, alone_rows)
    values, alone_values = class_measures(everyone), class_measures(alone)
    counts = truth.boxes()
    luck_zsd = None
    if len(split.unseen) > 1:  # names of one class cannot be dealt anew
        luck_zsd = chance(truth, alone_rows, groups, shuffles, seed)["unseen"]
    times = [image.get("timeofday") or UNDEFINED for image in truth.images]
    by = {}
    for time in sorted(set(times)):
        inside = np.array([other == time for other in times])
        by[time] = {
            "images": int(inside.sum()),
            "ZSD": group_means(class_measures(alone, inside), unseen)["unseen"],
            "GZSD": summary(class_measures(everyone, inside), groups),
        }
    return {
        "images": len(truth.images),
        "boxes": sum(counts.values()),
        "split": {"name": split.name, "seen": list(split.seen), "unseen": list(split.unseen)},
        "limit": LIMIT,
        "ZSD": group_means(alone_values, unseen)["unseen"],
        "GZSD": summary(values, groups),
        "chance": {
            "ZSD": luck_zsd,
            "GZSD": chance(truth, all_rows, groups, shuffles, seed),
            "shuffles": shuffles,
        },
        "per_class": {
            name: {
                "side": "unseen" if name in split.unseen else "seen",
                "boxes": counts[name],
                **{key: _number(column[at]) for key, column in values.items()},
                "ZSD_AP50": _number(alone_values["AP50"][at]) if name in split.unseen else None,
            }
            for at, name in enumerate(truth.classes)
        },
        "by": {"timeofday": by},
    }


def _groups(split: ClassSplit) -> dict[str, NDArray[np.bool_]]:
    side = np.array([name in split.unseen for name in split.classes])
    return {"seen": ~side, "unseen": side, "all": np.ones(len(side), bool)}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _files(out: Path) -> _Files:
    if out.suffix.lower() != ".json" or out.is_dir():
        raise ConfigError(f"--out {out}: expected the name of a .json file for the metrics")
    stem = out.name[: -len(out.suffix)]
    return _Files(out, *(out.with_name(stem + end) for end in (".md", ".truth.json", ".gzsd.json", ".zsd.json")))


def _choose(
    test: LabelledSet, unseen: Sequence[str] | None, name: str | None, knows: Sequence[str]
) -> tuple[ClassSplit, list[str]]:
    """The classes to measure: seen ones that the detector was taught, and the unseen ones that have boxes."""
    split = class_split(name, unseen, test.classes)
    notes = []
    never = [each for each in split.seen if each not in knows]
    if never:
        notes.append(f"seen classes the detector was not taught, left out: {', '.join(never)}")
    there = {box.category for frame in test.frames for box in frame.boxes}
    absent = [each for each in split.unseen if each not in there]
    if absent and len(absent) < len(split.unseen):
        notes.append(f"unseen classes without boxes here, left out: {', '.join(absent)}")
        split = split._replace(unseen=tuple(each for each in split.unseen if each in there))
    split = split._replace(seen=tuple(each for each in split.seen if each in knows))
    if not split.seen:
        raise ConfigError(f"the detector knows none of the seen classes; it knows {', '.join(knows)}")
    return split, notes


def _text(weights: Path, split: ClassSplit, knows: Sequence[str], clip: str | None) -> Clip | None:
    """The CLIP that tells the detector what it does not know; None where nothing is to be told.

    Raises:
        ConfigError: it does not know the unseen classes, and does not read text.
    """
    if all(name in knows for name in split.unseen):
        return None
    detector = load_detector(weights)
    if not reads_text(detector):
        missing = ", ".join(name for name in split.unseen if name not in knows)
        raise ConfigError(
            f"the detector does not know {missing}: teach it with nightaug openvocab probe (lp-ovod) or synthesize "
            "(vldus), or use a ViLD detector"
        )
    return load_text(detector.facts, clip)


def _competing(weights: Path, names: Sequence[str], text: Clip | None, crops: bool, device: str) -> Detector:
    """The detector with these classes in competition; ``crops``: its boxes named by CLIP."""
    detector = load_detector(weights, device)
    if crops and text is not None:
        return CropDetector(detector, text, names).eval()
    if text is not None:
        name_classes(detector, names, text)
    else:
        narrow(detector, names)
    return detector.eval()


def _known(files: _Files, key: dict[str, Any], truth: Truth) -> tuple[Rows, Rows] | None:
    """The results of an earlier evaluation of the same weights on the same images, if they are still there."""
    made = read_made(files.metrics, KIND)
    if made is None or any(made.get(name) != value for name, value in key.items()):
        return None
    paths = (files.gzsd, files.zsd)
    if not all(path.is_file() for path in paths):
        return None
    if [file_sha256(path) for path in paths] != made.get("results_sha256"):
        return None
    return read_results(files.gzsd, truth).rows, read_results(files.zsd, truth).rows
