"""``nightaug pseudo-label`` as one function: what a finished detector finds on unlabelled images, as labels.

Self-training (Xie et al., CVPR 2020; for detectors STAC, Sohn et al., 2020): a detector labels images nobody has
labelled, the boxes it is sure of train the next one. From which score on it is sure is chosen class by class on
labelled validation images: the lowest score from which on a given share of its boxes is right. Several detectors label
together: their boxes are fused first (see :mod:`nightaug.detect.fusion`).

The folder that is written is a dataset:

```
train/x.jpg                  links to the images in which something sure was found
annotations/train.json       COCO; unsure boxes are crowds (``iscrowd``): neither object nor background
detections.jsonl             everything that was found; run again, it goes on after its last line
detections-2.jsonl           the same of the second detector, and so on
pseudo_labels.json           thresholds, counts, and whose labels these are; written first and last
```
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from nightaug import __version__
from nightaug.data.classes import DAY, NIGHT, canonical_class
from nightaug.data.formats import coco, open_dataset
from nightaug.data.formats.base import shown
from nightaug.data.frames import Frame
from nightaug.data.links import Linker
from nightaug.data.ownership import remove_file
from nightaug.data.text import table
from nightaug.detect import pseudo_found
from nightaug.detect.average_precision import match
from nightaug.detect.checkpoint import find_detector, load_detector, read_facts
from nightaug.detect.dataset import bare
from nightaug.detect.detectors.base import Detector
from nightaug.detect.evaluate_job import detect_truth
from nightaug.detect.predict_store import check_apart
from nightaug.detect.pseudo_found import (
    UNREADABLE,
    Threshold,
    choose_threshold,
    detect_kept,
    fused_results,
    fused_rows,
    label_frames,
    path_of,
    too_few,
)
from nightaug.detect.sources import SourceSpec, labelled_frames, load_target, map_classes
from nightaug.detect.truth import Truth
from nightaug.errors import ConfigError, DatasetError, NothingSure
from nightaug.images import atomic_write_text
from nightaug.runs import file_sha256, lock_folder

#: What ``pseudo_labels.json`` says the folder is; nothing else is gone on with.
KIND = "nightaug pseudo labels"
FACTS, ROWS, LABELS, IMAGES = "pseudo_labels.json", "detections.jsonl", "annotations/train.json", "train"
#: Share of the labels that are right on the validation images, and share of a threshold from which on a box is unsure.
PRECISION, UNSURE = 0.6, 0.3


def run_pseudo_label(
    run: str | os.PathLike[str],
    dataset: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    also: Sequence[str | os.PathLike[str]] = (),
    split: str = "train",
    domain: str = "B",
    choose: str = "val",
    precision: float = PRECISION,
    score: float | None = None,
    unsure: float = UNSURE,
    batch: int = 8,
    device: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Label images by a detector; arguments as the command's options.

    Args:
        run: a train-detector run folder or weight file.
        also: further detectors of the same classes; what all of them find is fused.
        dataset: of which the images of ``split`` and ``domain`` are labelled; labels they have are not looked at.
        choose: the split whose labelled images of ``domain`` thresholds are chosen on.
        precision: share of the labels that are right there (IoU 0.5), in (0, 1).
        score: in place of both: one threshold for every class. No label of a night image is then used.
        unsure: boxes under a threshold, but not under this share of it, are neither object nor background.

    Returns:
        What ``pseudo_labels.json`` holds; empty after a dry run.

    Raises:
        ConfigError: options that make no sense, a detector without classes or with others than the first, one that is
            named twice, or ``out`` holds something else.
        CheckpointError: no usable detector.
        DatasetError: no images, no labels to choose thresholds on, or (NothingSure) no sure box at all.
    """
    runs, dataset, out = [Path(one) for one in (run, *also)], Path(dataset), Path(out)
    weights = [find_detector(one) for one in runs]
    known = [read_facts(file)["settings"] for file in weights]
    for one, theirs in zip(runs, known, strict=True):
        if (theirs.get("rcnn") or {}).get("class_agnostic"):
            raise ConfigError(f"{one} finds objects and does not name them; label with a detector that knows classes")
    settings = known[0]
    opened = open_dataset(dataset)
    opened.require_split(split)
    spec = SourceSpec("dataset", split, domain)
    frames = [bare(frame) for frame in load_target(spec, opened, "pseudo-label")]
    frames = list({str(frame.path): frame for frame in frames if frame.path is not None}.values())
    for frame in frames:
        frame.timeofday = {"A": DAY, "B": NIGHT}.get(domain, frame.timeofday)
    check_apart(dataset, [part.images for part in opened.parts], out)
    facts = begun_facts(weights, dataset, split, domain)
    _check_folder(out, facts, overwrite)
    detectors = [load_detector(file, "cpu") for file in weights]
    check_alike(detectors, runs)
    dev: list[Frame] = []
    if score is None:
        rename = settings.get("rename") or {}
        dev = map_classes(labelled_frames(opened, choose, domain), rename)
        mine = {path_of(frame) for frame in frames}
        if any(frame.path is not None and path_of(frame) in mine for frame in dev):
            # Thresholds would be chosen on the labels of what is to be labelled without them.
            raise ConfigError(
                f"--choose {choose}: the images to label are among its own; choose on another split, or give one "
                "threshold for all classes with --score"
            )
        if not dev:
            raise DatasetError(
                f"{dataset}: no labelled images of {choose}/{domain} to choose thresholds on; name another split with "
                "--choose, or give one threshold for all classes with --score"
            )
    say(
        f"{len(frames):,} images of {split}/{domain} to label; thresholds: "
        + (f"{score:g} for every class" if score is not None else f"precision {precision:g} on {len(dev):,} images of "
           f"{choose}/{domain}, whose labels are used for nothing else")
    )  # fmt: skip
    if dry_run:
        say(f"would write {out}")
        return {}
    try:
        facts = label_images(
            detectors, frames, dev, out, facts, precision=precision, score=score, unsure=unsure, batch=batch,
            device=device, workers=workers, overwrite=overwrite, chosen_on=f"{choose}/{domain}", say=say,
        )  # fmt: skip
    except NothingSure as error:
        lower = "lower --score" if score is not None else "lower --precision, or give a --score"
        raise NothingSure(f"{error}; {lower}", error.trainable) from error
    # Objects that the teacher was not taught are on these images, too: a student of all classes would learn them as
    # background, and know renamed ones twice.
    renamed = ",".join(f"{old}={new}" for old, new in (settings.get("rename") or {}).items())
    same = f' --rename "{renamed}"' if renamed else ""
    same += f' --classes "{",".join(settings["classes"])}"' if settings.get("classes") else ""
    day = " --data dataset:train:A" if labelled_frames(opened, "train", "A") else ""
    say(f"next: nightaug train-detector {dataset}{day} --data {out}:all{same} --out RUN")
    return facts


def check_alike(detectors: Sequence[Detector], runs: Sequence[Path]) -> None:
    """Refuse detectors that cannot label together.

    Raises:
        ConfigError: one knows other classes than the first.
    """
    first, *others = ({canonical_class(name) for name in detector.classes} for detector in detectors)
    for run, classes in zip(runs[1:], others, strict=True):
        if classes != first:
            known = ", ".join(sorted(classes ^ first))
            raise ConfigError(f"{run} and {runs[0]} cannot label together: only one of them knows {known}")


def weights_known(shas: Sequence[str]) -> str | list[str]:
    """What a folder of labels knows its detectors by: the checksum of one, the list of several."""
    return shas[0] if len(shas) == 1 else list(shas)


def begun_facts(weights: Sequence[Path], dataset: Path, split: str, domain: str) -> dict[str, Any]:
    """What pseudo labels are known by: the detectors and the images.

    Raises:
        ConfigError: a detector is there twice; it would be sure of whatever it is sure of.
    """
    shas = [file_sha256(file) for file in weights]
    if len({*shas}) < len(shas):
        twice = next(file for number, file in enumerate(weights) if shas[number] in shas[:number])
        raise ConfigError(f"{shown(twice)} is the same detector as one before it; detectors that label together differ")
    return {
        "kind": KIND,
        "nightaug": __version__,
        "detector": ", ".join(f"{file.resolve().parent.name}/{file.name}" for file in weights),
        "weights_sha256": weights_known(shas),
        "input": os.path.abspath(dataset),
        "split": split,
        "domain": domain,
    }


def label_images(
    detectors: Sequence[Detector],
    frames: Sequence[Frame],
    dev: Sequence[Frame],
    out: Path,
    facts: Mapping[str, Any],
    *,
    precision: float = PRECISION,
    score: float | None = None,
    unsure: float = UNSURE,
    batch: int = 8,
    device: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    chosen_on: str = "val",
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Write the folder of :func:`run_pseudo_label`; what an earlier call has found there is used again.

    Args:
        detectors: of the same classes, anywhere; they may be moved.
        frames: to be labelled; their own boxes are not looked at.
        dev: labelled frames that thresholds are chosen on, but for ``score``.
        facts: what is to be said of the labels, and their folder known by (see :func:`begun_facts`).
        chosen_on: what ``dev`` is called.

    Returns:
        ``facts`` and what has come of them.

    Raises:
        As :func:`run_pseudo_label`.
    """
    classes = tuple(canonical_class(name) for name in detectors[0].classes)
    lock = lock_folder(out)
    try:
        if overwrite:
            _remove_former(out)
        atomic_write_text(out / FACTS, json.dumps({**facts, "finished": False}, indent=1) + "\n")
        kept = [
            detect_kept(detector, frames, out / _rows_name(number), batch, device, workers)
            for number, detector in enumerate(detectors, 1)
        ]
        rows = fused_rows(kept, [[canonical_class(name) for name in one.classes] for one in detectors])
        few: list[str] = []
        if score is not None:
            chosen: dict[str, Threshold | None] = {name: Threshold(score, math.nan, math.nan) for name in classes}
        else:
            truth = Truth.from_frames(dev, classes)
            results = fused_results([detect_truth(one.to, truth, device, batch, workers) for one in detectors])
            found = match(truth, results).per_class
            chosen = {name: choose_threshold(one, precision) for name, one in zip(classes, found, strict=True)}
            few = too_few(found, classes)
        made = label_frames(frames, rows, classes, chosen, unsure)
        if not made.frames:
            if made.left_out[UNREADABLE] == len(frames):
                raise DatasetError(f"none of the {len(frames):,} images can be read")
            # Labels of an earlier call would pass for what was asked for now.
            gone = (
                "; the labels of an earlier call are removed, what was found is kept" if (out / LABELS).exists() else ""
            )
            _remove_labels(out)
            reasons = "; ".join([_listed(chosen) or "none", *_shortage(few, chosen_on)])
            words = f"the detector is sure of nothing on these images (thresholds: {reasons}){gone}"
            raise NothingSure(words, trainable=len(few) < len(classes))
        _write(out, made.frames, classes)
        made_of = {
            **facts,
            "thresholds": {name: None if one is None else _plain(one) for name, one in chosen.items()},
            "chosen_on": None if score is not None else chosen_on,
            "unsure": unsure,
            "images": len(made.frames),
            "left_out": dict(made.left_out),
            "sure": dict(made.sure),
            "unsure_boxes": made.unsure,
            "finished": True,
        }
        atomic_write_text(out / FACTS, json.dumps(made_of, indent=1) + "\n")
    except OSError as error:
        raise DatasetError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        lock.close()
    for line in [*_lines(made_of, chosen, len(frames)), *_shortage(few, chosen_on)]:
        say(line)
    return made_of


# -- the folder ------------------------------------------------------------------------------------------------------


def _check_folder(out: Path, facts: dict[str, Any], overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {shown(out)} is a file; choose a folder")
    try:
        before = json.loads((out / FACTS).read_bytes())
    except (OSError, ValueError, RecursionError):
        before = None
    if not isinstance(before, dict) or before.get("kind") != KIND:
        if out.is_dir() and any(entry.name != ".lock" for entry in out.iterdir()):
            raise ConfigError(f"{shown(out)} is not empty and holds no pseudo labels; choose another --out")
        return
    changed = [key for key in ("weights_sha256", "input", "split", "domain") if before.get(key) != facts[key]]
    if changed and not overwrite:
        raise ConfigError(
            f"{shown(out)} holds pseudo labels by another detector or of other images ({', '.join(changed)}); "
            "choose another --out, or --overwrite"
        )


def _remove_former(out: Path) -> None:
    _remove_labels(out)
    remove_file(out / FACTS)
    for number in itertools.count(1):
        if not (rows := out / _rows_name(number)).exists():
            break
        remove_file(rows)


def _rows_name(number: int) -> str:
    """The file of what a detector found, from 1 on."""
    return ROWS if number == 1 else f"{Path(ROWS).stem}-{number}{Path(ROWS).suffix}"


def _remove_labels(out: Path) -> None:
    _remove_images(out, ())  # which the labels name
    remove_file(out / LABELS)


def _remove_images(out: Path, kept: Collection[str]) -> None:
    """Links that an earlier call made and this one does not; nothing that somebody else has put there."""
    try:
        images = json.loads((out / LABELS).read_bytes())["images"]
        names = {Path(str(image["file_name"])).name for image in images} - set(kept)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    for name in names:
        remove_file(out / IMAGES / name)


def _write(out: Path, frames: Sequence[Frame], classes: tuple[str, ...]) -> None:
    (out / IMAGES).mkdir(parents=True, exist_ok=True)
    (out / LABELS).parent.mkdir(parents=True, exist_ok=True)
    _remove_images(out, [frame.name for frame in frames])
    linker = Linker()
    for frame in frames:
        assert frame.path is not None
        linker.put(frame.path, out / IMAGES / frame.name)
    coco.write(frames, out / LABELS, classes)


# -- words -----------------------------------------------------------------------------------------------------------


def _plain(one: Threshold) -> dict[str, float | None]:
    return {key: None if math.isnan(value) else round(value, 4) for key, value in one._asdict().items()}


def _listed(chosen: dict[str, Threshold | None]) -> str:
    return ", ".join(f"{name} {one.score:.2f}" for name, one in chosen.items() if one is not None)


def _shortage(few: Sequence[str], choose: str) -> list[str]:
    """Why classes have no labels, where no other --precision would give them any."""
    if not few:
        return []
    return [
        f"fewer than {pseudo_found.LEAST_BOXES} labelled boxes in {choose}, too few to choose a threshold on: "
        f"{', '.join(few)}"
    ]


def _lines(facts: dict[str, Any], chosen: dict[str, Threshold | None], images: int) -> list[str]:
    cells = []
    for name, one in chosen.items():
        numbers = ["no labels", "", ""] if one is None else [f"{one.score:.2f}"] + [
            "" if math.isnan(value) else f"{100 * value:.0f} %" for value in (one.precision, one.recall)
        ]  # fmt: skip
        cells.append([name, *numbers, f"{facts['sure'].get(name, 0):,}"])
    left = "".join(f"; {number:,} left out: {reason}" for reason, number in facts["left_out"].items())
    sure = sum(facts["sure"].values())
    return [
        *table(["class", "from score", "precision", "recall", "labels"], cells),
        f"{facts['images']:,} of {images:,} images with {sure:,} labels and {facts['unsure_boxes']:,} unsure boxes"
        + left,
    ]
