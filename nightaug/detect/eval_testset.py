"""The part of a dataset that detections are measured on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from nightaug.data.classes import canonical_class, canonical_classes
from nightaug.data.formats import Dataset, open_dataset
from nightaug.data.formats.base import own_classes
from nightaug.data.frames import Frame
from nightaug.detect.sources import is_labelled, load_frames, map_classes
from nightaug.errors import ConfigError, DatasetError

#: What ``--classes`` says for every class of the dataset, also those a detector cannot know.
ALL_CLASSES = "all"


class LabelledSet(NamedTuple):
    """Labelled frames and what their dataset calls its classes."""

    frames: list[Frame]
    classes: tuple[str, ...]  # canonical, in the dataset's order; classes that only boxes name follow
    numbered: tuple[str, ...]  # the same as the dataset itself counts them: a class it has two names of is there twice
    category_ids: dict[int | str, str]  # id in the dataset's COCO file -> canonical name; empty for other formats
    notes: list[str]  # for the user


def open_test_set(
    root: Path,
    split: str,
    domain: str | None,
    *,
    images: str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
    format: str | None = None,
) -> LabelledSet:
    """Labelled frames of a split (``all``: every one) and a domain (``A`` day, ``B`` night, None both).

    A dataset without splits is taken whole. Frames whose image is missing are left out, unless all are: results can
    be measured without images.

    Raises:
        DatasetError: nothing labelled is there.
        ConfigError: unknown format or domain.
    """
    if domain not in ("A", "B", None):
        raise ConfigError(f"--domain {domain}: expected A (day) or B (night)")
    dataset = open_dataset(root, images, labels, format)
    notes: list[str] = []
    parts = [part for part in dataset.parts if part.source is not None]
    if not parts:
        lost = dataset.problems.lost_files()
        raise DatasetError(f"{root}: it has images but no labels, so nothing can be measured; pass --labels{lost}")
    if split != "all" and set(dataset.splits) == {"all"}:
        notes.append(f"the dataset has no splits: all of it is measured, not only {split}")
        split = "all"
    dataset.require_split(split)
    labelled = Dataset(dataset.root, parts, dataset.prepared, dataset.problems)
    every = labelled.frames(split, domain)
    frames = load_frames(labelled, split, domain or "all")
    missing = sum(frame.path is None for frame in every)
    if missing == len(every):
        frames = every
        if every:
            notes.append("no image was found; sizes are taken from the labels")
    elif missing:
        notes.append(f"{missing:,} labelled frames have no image file and are left out")
    if not any(is_labelled(frame) for frame in frames):
        where = f"split {split}" + (f", domain {domain}" if domain else "")
        lost = dataset.problems.lost_files()
        raise DatasetError(f"{root}: no labelled images in {where}; see --split and --domain{lost}")
    notes += dataset.problems.noticed()
    seen = {box.category for frame in frames for box in frame.boxes}
    named = [name for part in parts for name in part.labels.classes]
    classes = tuple(dict.fromkeys([*named, *sorted(seen)]))
    own = own_classes(parts[0].labels.meta)
    numbered = (*own, *(name for name in classes if name not in own))
    ids: dict[int | str, str] = {}
    for part in parts:
        chosen = split in (part.split, "all") and (domain is None or part.domain in (domain, None))
        if chosen and part.labels.format == "coco":
            for category in part.labels.meta["categories"]:
                ids.setdefault(category["id"], canonical_class(category["name"]))
    return LabelledSet(frames, classes, numbered, ids, notes)


def renamed(test: LabelledSet, rename: Mapping[str, str]) -> LabelledSet:
    """The set with its classes renamed as a detector's training labels were (``--rename``), and a note of it."""
    names = {canonical_class(old): canonical_class(new) for old, new in rename.items()}
    done = {old: new for old, new in names.items() if old in test.classes}
    if not done:
        return test
    note = "classes renamed as for the detector's training: " + ", ".join(f"{a} to {b}" for a, b in done.items())
    classes = tuple(dict.fromkeys(done.get(name, name) for name in test.classes))
    # Numbers of the dataset's own file are for results of other programs, which know nothing of this.
    return LabelledSet(map_classes(test.frames, done), classes, classes, {}, [*test.notes, note])


def choose_classes(
    test: LabelledSet, asked: Sequence[str] | None, known: Sequence[str] | None
) -> tuple[tuple[str, ...], list[str]]:
    """The classes to measure, and what to tell the user about the others.

    Args:
        asked: names, or ``all``; None takes those both sides know.
        known: the detector's classes; None where nobody can say (a results file).

    Raises:
        ConfigError: a class asked for is not in the dataset.
        DatasetError: the two have no class in common.
    """
    boxes: dict[str, int] = dict.fromkeys(test.classes, 0)
    for frame in test.frames:
        for box in frame.boxes:
            boxes[box.category] += 1
    able = test.classes if known is None else tuple(canonical_class(name) for name in known)
    if asked is not None and list(asked) != [ALL_CLASSES]:
        chosen = canonical_classes(asked)
        unknown = [name for name in chosen if name not in boxes]
        if unknown or not chosen:
            raise ConfigError(
                f"--classes {', '.join(unknown)}: not in the dataset, which has {', '.join(test.classes) or 'none'}"
            )
    elif asked is not None:
        chosen = test.classes
    else:
        chosen = tuple(name for name in test.classes if name in able)
    if not chosen:
        raise DatasetError(
            f"the detector knows {', '.join(able) or 'no classes'}, the dataset {', '.join(test.classes) or 'none'}: "
            "no class in common"
        )
    notes = []
    unable = [f"{name} ({boxes[name]:,} boxes)" for name in chosen if name not in able]
    if unable:
        notes.append(f"classes the detector does not know count as never found: {', '.join(unable)}")
    absent = [f"{name} ({number:,} boxes)" for name, number in boxes.items() if name not in chosen and number]
    if absent:
        why = "" if asked is not None else ", the detector does not know them (--classes all counts them as missed)"
        notes.append(f"classes not measured: {', '.join(absent)}{why}")
    others = [name for name in able if name not in boxes]
    if others:
        notes.append(f"classes the dataset does not have, left out: {', '.join(others)}")
    return chosen, notes
