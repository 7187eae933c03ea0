"""Results files in COCO's format: ours, and those of any other program, with whatever is wrong in them.

Other programs number images and classes after the annotation file they were given, or name the images. How a file
counts is found by looking which numbering knows its numbers (see :func:`find_numbering`).
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from nightaug.data.formats.base import plausible, read_bytes, why_implausible
from nightaug.data.formats.frame_json import loads, no_gc
from nightaug.detect.truth import Truth
from nightaug.errors import DatasetError
from nightaug.images import atomic_write_bytes


class ResultRow(msgspec.Struct, gc=False):
    """One entry of a results file, as found there."""

    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float
    file_name: str | None = None


class Results(NamedTuple):
    """Sound results in a truth's numbers, and how many entries were left out, by reason."""

    rows: list[dict[str, Any]]
    left_out: Counter[str]


class Numbering(NamedTuple):
    """What a file's numbers mean: image id (or name) -> the truth's image id, category id -> the truth's, or None for
    a class that is known but not measured."""

    images: Mapping[int | str, int]
    categories: Mapping[int, int | None]
    what: str  # for people


def read_rows(path: Path) -> tuple[list[ResultRow], Counter[str]]:
    """All entries that can be understood, and how many could not.

    Raises:
        DatasetError: the file cannot be read, or is no results file.
    """
    data = read_bytes(path)
    left_out: Counter[str] = Counter()
    with no_gc():
        try:
            return msgspec.json.decode(data, type=list[ResultRow]), left_out
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            value = loads(data, path)
        if not isinstance(value, list):
            what = "a file of labels, it seems" if isinstance(value, dict) and "images" in value else "something else"
            raise DatasetError(
                f'{path}: {what}; expected COCO results, a list of {{"image_id", "category_id", "bbox", "score"}}'
            )
        rows = []
        for entry in value:
            try:
                rows.append(msgspec.convert(entry, ResultRow, strict=False))
            except (msgspec.ValidationError, RecursionError):
                left_out["entry without image_id, category_id, score and a bbox of four numbers"] += 1
    if not rows and left_out:
        raise DatasetError(f"{path}: none of its {len(value):,} entries is a COCO result; was another file meant?")
    return rows, left_out


def read_results(path: Path, truth: Truth, numbering: Numbering | None = None) -> Results:
    """Read and check a results file; what cannot be used is counted and left out.

    Args:
        numbering: what the file's numbers mean; None if they are the truth's own.

    Raises:
        DatasetError: the file cannot be read, is no results file, or nothing in it can be used.
    """
    rows, left_out = read_rows(path)
    results = check_rows(rows, numbering or own_numbering(truth), left_out)
    if rows and not results.rows:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in results.left_out.most_common())
        raise DatasetError(f"{path}: none of its {len(rows):,} detections can be used ({reasons})")
    return results


def check_rows(rows: Sequence[ResultRow], numbering: Numbering, left_out: Counter[str] | None = None) -> Results:
    """Entries with known image and class, a sound box and a score in 0 to 1, in the truth's numbers."""
    left_out = Counter() if left_out is None else left_out
    kept: list[dict[str, Any]] = []
    unknown = -1
    for row in rows:
        image = _image_of(row, numbering.images)
        category = numbering.categories.get(row.category_id, unknown)
        x, y, width, height = row.bbox
        if image is None:
            left_out["of an image that is not in the test set"] += 1
        elif category is None:
            left_out["of a class that is not measured"] += 1
        elif category == unknown:
            left_out["of an unknown category"] += 1
        elif not plausible(x, y, x + width, y + height):
            left_out[why_implausible(x, y, x + width, y + height)] += 1
        elif not 0 <= row.score <= 1:  # also NaN
            left_out["with a score outside 0 to 1"] += 1
        else:
            kept.append({"image_id": image, "category_id": category, "bbox": list(row.bbox), "score": row.score})
    return Results(kept, left_out)


def _image_of(row: ResultRow, images: Mapping[int | str, int]) -> int | None:
    key = row.image_id if row.file_name is None else row.file_name
    found = images.get(key)
    if found is None and isinstance(key, str):
        base = _base(key)
        found = images.get(base, images.get(os.path.splitext(base)[0]))
    return found


def own_numbering(truth: Truth) -> Numbering:
    """The truth's own numbers, and the images' names."""
    images: dict[int | str, int] = {**_names(truth), **{image["id"]: image["id"] for image in truth.images}}
    numbers = range(1, len(truth.classes) + 1)
    return Numbering(images, dict(zip(numbers, numbers, strict=True)), "the numbers of nightaug's truth file")


def _names(truth: Truth) -> dict[int | str, int]:
    """Full names, and base names and stems where they are of one image only -> image id."""
    found: dict[int | str, int] = {}
    shorter: dict[str, list[int]] = defaultdict(list)
    for image in truth.images:
        name = str(image["file_name"])
        found[name] = image["id"]
        base = name.rsplit("/", 1)[-1]
        for key in {base, os.path.splitext(base)[0]}:
            shorter[key].append(image["id"])
    for key, ids in shorter.items():
        if len(ids) == 1:
            found.setdefault(key, ids[0])
    return found


def find_numbering(
    rows: Sequence[ResultRow],
    truth: Truth,
    dataset_classes: Sequence[str],
    category_ids: Mapping[int | str, str],
    companion: Truth | None = None,
) -> Numbering:
    """How a stranger's file counts: after the first of the usual ways that knows all its numbers.

    Images: the ids of the dataset's own COCO file, numeric file stems (as ultralytics writes), the position in the
    list sorted by name. Names always work. Classes: the ids of the dataset's COCO file, positions from 1, from 0.
    Where no way knows all numbers, the one that knows most.

    Args:
        truth: made with :meth:`Truth.from_frames`.
        dataset_classes: canonical name of each class of the dataset's own list, in order.
        category_ids: id in the dataset's COCO file -> canonical name; empty for other formats.
        companion: the truth file the results were made with; then nothing is guessed.

    Raises:
        DatasetError: the ids of the dataset's COCO files are not unique, and the results use numbers.
    """
    measured = {name: number for number, name in enumerate(truth.classes, 1)}
    if companion is not None:
        images = {**_names(companion), **{image["id"]: image["id"] for image in companion.images}}
        now = _same_images(companion, truth)
        translated = {key: now[number] for key, number in images.items() if number in now}
        classes: dict[int, int | None] = {n: measured.get(name) for n, name in enumerate(companion.classes, 1)}
        return Numbering(translated, classes, "the numbers of the truth file it was made with")
    names = _names(truth)
    own_ids = {extra["id"]: number for number, frame in truth.frames.items() if "id" in (extra := frame.extra or {})}
    used = Counter(row.image_id for row in rows if isinstance(row.image_id, int) and row.file_name is None)
    doubles = sum("id" in (frame.extra or {}) for frame in truth.frames.values()) - len(own_ids)
    if doubles and used:
        raise DatasetError(
            f"{doubles:,} images share their COCO id with another one, so these results can mean either; "
            "choose one part of the dataset with --domain and --split"
        )
    stems = {int(str(name)): number for name, number in names.items() if str(name).isdecimal() and str(name).isascii()}
    positions = {image["id"]: image["id"] for image in truth.images}
    ways: list[tuple[str, Mapping[Any, int]]] = [
        ("the image ids of the dataset's COCO file", own_ids if len(own_ids) == len(truth.frames) else {}),
        ("image ids that are file names", stems),
        ("image ids that are positions in the list of files sorted by name, from 1", positions),
    ]
    image_way, image_ids = _first_knowing(ways, used)
    if not used:
        image_way = "images by name"
    class_ways: list[tuple[str, Mapping[Any, Any]]] = [
        ("its category ids", {i: measured.get(name, 0) for i, name in category_ids.items() if isinstance(i, int)}),
        *(
            (f"classes counted from {first}", {n: measured.get(c, 0) for n, c in enumerate(dataset_classes, first)})
            for first in (1, 0)
        ),
    ]
    class_way, class_numbers = _first_knowing(class_ways, Counter(row.category_id for row in rows))
    return Numbering(
        {**names, **image_ids}, {n: c or None for n, c in class_numbers.items()}, f"{image_way}, {class_way}"
    )


def _same_images(companion: Truth, truth: Truth) -> dict[int, int]:
    """Image id of the one -> of the other, for the images both have.

    By name; else, as ``predict`` names images by their place below its input (``test/B/x.jpg``), by the end of the
    path, or by a base name that only one image has on either side.
    """
    exact = {key: image_id for image_id, key in _unique_names(truth).items()}
    like: dict[str, list[int]] = defaultdict(list)
    for image in truth.images:
        like[_base(image["file_name"])].append(image["id"])
    then = _unique_names(companion)
    alike = Counter(_base(name) for name, _ in then.values())
    found: dict[int, int] = {}
    taken: set[int] = set()
    # The longest name first: of c.jpg and test/c.jpg the latter is more sure to be .../test/c.jpg.
    for number, key in sorted(then.items(), key=lambda item: -len(item[1][0])):
        base = _base(key[0])
        ends = [image_id for image_id in like[base] if _place(truth, image_id).endswith(f"/{key[0]}")]
        alone = like[base][0] if len(like[base]) == alike[base] == 1 else None
        image_id = ends[0] if len(ends) == 1 else exact.get(key, alone)
        if image_id is not None and image_id not in taken:
            found[number] = image_id
            taken.add(image_id)
    return found


def _base(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def _place(truth: Truth, image_id: int) -> str:
    frame = truth.frames.get(image_id)
    return frame.path.as_posix() if frame is not None and frame.path is not None else ""


def _unique_names(truth: Truth) -> dict[int, tuple[str, int]]:
    """Image id -> its name, and how many images before it have the same one."""
    seen: Counter[str] = Counter()
    keys = {}
    for image in truth.images:
        keys[image["id"]] = (image["file_name"], seen[image["file_name"]])
        seen[image["file_name"]] += 1
    return keys


def _first_knowing(
    ways: Sequence[tuple[str, Mapping[Any, Any]]], used: Mapping[Any, int]
) -> tuple[str, dict[Any, Any]]:
    def unknown(way: tuple[str, Mapping[Any, Any]]) -> int:
        return sum(count for number, count in used.items() if number not in way[1])

    what, numbers = min((way for way in ways if way[1]), key=unknown, default=("", {}))  # the first of equals
    return what, dict(numbers)


def write_results(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write COCO results, atomically."""
    atomic_write_bytes(path, msgspec.json.encode(rows))
