"""What to predict on: the images behind an image, a folder or a dataset, and where the results of each go."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from nightaug.data.companion_names import without_companions
from nightaug.data.formats import Part, open_dataset
from nightaug.data.formats.base import shown
from nightaug.data.formats.discover import unlabelled_frames
from nightaug.data.results import result_suffix
from nightaug.data.text import encodable
from nightaug.detect.predict_store import CLASSES
from nightaug.detect.video import list_videos
from nightaug.errors import DatasetError
from nightaug.images import list_images


class Item(NamedTuple):
    """One image: its file, its name relative to the input, and the files made from it, relative to the output."""

    path: Path
    name: str
    picture: str
    text: str


class Inputs(NamedTuple):
    """All images of an input, sorted by name, and what was left out."""

    items: list[Item]
    folders: list[Path]  # where images are, if not in the input itself
    left_out: Counter[str]


def find_images(source: Path, limit: int | None = None) -> Inputs:
    """The images of one image file, a folder (with those below it), or any dataset.

    Args:
        limit: only the first so many, sorted by name.

    Raises:
        DatasetError: there is none.
    """
    left_out: Counter[str] = Counter()
    folders: list[Path] = []
    try:
        dataset = open_dataset(source)
    except DatasetError as error:
        # Labels are not needed here: a folder whose label files make no sense still has its images.
        found = _plain_images(source, left_out) if source.is_dir() else {}
        if not found:
            raise DatasetError(_nothing(source) or str(error)) from error
    else:
        root = source if source.is_dir() else source.parent
        found = {}
        for part in dataset.parts:
            extra = list(unlabelled_frames(part))
            if not source.is_dir() and part.source is not None:
                extra = []  # a label file means the images it names
                folders.append(part.images)
            for frame in [*part.labels.frames, *extra]:
                if frame.path is None:
                    left_out["in the labels, but not there"] += 1
                else:
                    found.setdefault(_name(frame.path, frame.name, root, part), frame.path)
        for kind in ("file name that is not UTF-8 skipped", "linked folder skipped", "broken link skipped"):
            if count := dataset.problems.counts.get(kind):
                left_out[kind] += count
    if not found:
        what = ", ".join(f"{count:,} {kind}" for kind, count in left_out.items())
        raise DatasetError(_nothing(source) or f"{shown(source)}: no images found" + (f" ({what})" if what else ""))
    items = make_items(found.items())
    if limit is not None and len(items) > limit:
        left_out["over the limit"] = len(items) - limit
        items = items[:limit]
    return Inputs(items, folders, left_out)


def _plain_images(folder: Path, left_out: Counter[str]) -> dict[str, Path]:
    """Images by name, without looking at labels."""
    names = []
    for path in list_images(folder):
        name = path.relative_to(folder).as_posix()
        if encodable(name):
            names.append(name)
        else:
            left_out["file name that is not UTF-8 skipped"] += 1
    return {name: folder / name for name in without_companions(names)}


def _nothing(source: Path) -> str:
    videos = list_videos(source) if source.is_dir() else []
    if not videos:
        return ""
    return f"{shown(source)}: no images, but {len(videos):,} videos; give one video a call, e.g. {shown(videos[0])}"


def _name(path: Path, name: str, root: Path, part: Part) -> str:
    """Relative to the input where the image lies in it (links are not followed), else by its image folder's name."""
    relative = os.path.relpath(os.path.abspath(path), os.path.abspath(root))
    if relative == ".." or relative.startswith("../"):
        return str(PurePosixPath(part.images.name, name))
    return relative


def make_items(found: Iterable[tuple[str, Path]]) -> list[Item]:
    """Names with their output files, sorted; no two share one (``a.png`` beside ``a.jpg`` has ``a_png.txt``)."""
    taken = {CLASSES}
    items = []
    for name, path in sorted(found):
        place = PurePosixPath(name)
        picture = _free(PurePosixPath("images", place.with_suffix(result_suffix(place))), place, taken)
        text = _free(PurePosixPath("labels", place.with_suffix(".txt")), place, taken)
        items.append(Item(path, name, picture, text))
    return items


def _free(wanted: PurePosixPath, place: PurePosixPath, taken: set[str]) -> str:
    """``wanted``, or where somebody has it a name with the original's ending, or a number, added."""
    name, number = str(wanted), 1
    while name in taken:
        added = place.suffix[1:] if number == 1 else f"{place.suffix[1:]}_{number}"
        name = str(wanted.with_name(f"{wanted.stem}_{added}{wanted.suffix}"))
        number += 1
    taken.add(name)
    return name
