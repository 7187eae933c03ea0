"""YOLO text labels: one .txt an image, ``class cx cy w h`` a line in fractions of the image, or a polygon.

Class names come from ``dataset.yaml`` / ``data.yaml`` (``names``) or ``classes.txt``, in the label folder or up to two
folders above. Pixels need the image's size, so a text file whose image is missing gives no frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from nightaug.data.classes import canonical_class, canonical_classes
from nightaug.data.formats.base import (
    SEGMENTATION,
    ImageIndex,
    LabelSet,
    Problems,
    first_places,
    own_classes,
    own_name,
    place_of,
    plausible,
    shown,
    why_implausible,
)
from nightaug.data.formats.detect import YOLO_FILES
from nightaug.data.frames import Box, Frame
from nightaug.data.packed import Keep, pack_frames, packed
from nightaug.data.shelf import change
from nightaug.errors import DatasetError, ImageError, first_line
from nightaug.images import atomic_write_bytes, atomic_write_text, image_size

#: Files of classes and image lists that lie among the labels.
_NOT_LABELS = frozenset({"classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt", "readme.txt"})
_MAX_CLASSES = 10_000
_MAX_BYTES = 1_000_000  # a file of class names


def read(path: Path, images: ImageIndex | None = None, keep: Keep = pack_frames) -> LabelSet:
    """Read a folder of .txt files (or a single one) whose images are in ``images``.

    Every .txt whose image is in the index gives a frame, an empty one a frame without objects. An image without a
    .txt gives none; it counts as unlabelled.

    Raises:
        DatasetError: no images were given, or the class file is damaged.
    """
    from nightaug.data.formats.bdd100k import label_files

    if images is None:
        raise DatasetError(f"{path}: YOLO labels are fractions of the image; pass the folder of images too (--images)")
    problems = Problems()
    folder = path if path.is_dir() else path.parent
    names, given = read_names(path)
    files: Iterable[Path] = [path] if path.suffix.lower() == ".txt" else []
    if path.is_dir():
        files = label_files(path, ".txt")
    highest = -1

    def numbered() -> Iterator[Frame]:
        nonlocal highest
        for frame, highest_here in _each(files, folder, images, names, problems):
            highest = max(highest, highest_here)
            yield frame

    frames = keep(numbered())
    for number in range(len(names), highest + 1):
        names.append(f"class{number}")
    if not given and highest >= 0:
        problems.add("no class names found", str(path), "add a classes.txt or dataset.yaml; named class0, class1, ...")
    canonical = [canonical_class(name) for name in names]
    first = first_places(canonical)

    def named(frame: Frame) -> Frame:
        frame.boxes = packed([_named(box, canonical, first) for box in frame.boxes])
        return frame

    categories = [{"id": number, "name": own_name(name)} for number, name in enumerate(names)]
    more = {"categories": categories}
    return LabelSet(change(frames, named), canonical_classes(names), "yolo", "", problems, more)


def _named(box: Box, canonical: Sequence[str], first: Mapping[str, int]) -> Box:
    number = int(box.category)
    box.category = canonical[number]
    box.source_category = None if first[box.category] == number else number
    return box


def _each(
    files: Iterable[Path], folder: Path, images: ImageIndex, names: list[str], problems: Problems
) -> Iterator[tuple[Frame, int]]:
    """The frame of every file, its boxes' category still the number as text, and the highest of these, or -1."""
    listed: set[str] = set()
    for file in files:
        stem = file.relative_to(folder).with_suffix("").as_posix()
        found = images.find(stem)
        if found is None:
            if file.name.lower() in _NOT_LABELS or file.name.lower().startswith("readme"):
                continue
            problems.add("label file without an image", shown(stem + ".txt"), "its boxes need the image's size")
            continue
        if found in listed:
            problems.add("duplicate name", shown(found), f"labelled again by {shown(stem)}.txt")
            continue
        listed.add(found)
        try:
            width, height = image_size(images.root / found)
        except ImageError as error:
            problems.add("unreadable image", shown(found), str(error))
            continue
        frame = Frame(found, [], width, height)
        try:
            text = file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            problems.add("unreadable label file", shown(file.name), str(error))
            continue
        frame.boxes, highest = _boxes(text, frame, names, problems)
        yield frame, highest


def _boxes(text: str, frame: Frame, names: list[str], problems: Problems) -> tuple[list[Box], int]:
    """The boxes of one file, their category still the number as text, and the highest number, or -1."""
    boxes: list[Box] = []
    highest = -1
    width, height = frame.width or 1, frame.height or 1
    for line in text.splitlines():
        parts = line.split()
        if not parts:
            continue
        try:
            number, values = int(float(parts[0])), [float(v) for v in parts[1:]]
        except (ValueError, OverflowError):
            problems.add("line that is no YOLO label skipped", shown(frame.name), shown(line, 60))
            continue
        limit = len(names) if names else _MAX_CLASSES
        if len(values) < 4 or not 0 <= number < limit:
            problems.add("line that is no YOLO label skipped", shown(frame.name), shown(line, 60))
            continue
        polygon = len(values) >= 6 and len(values) % 2 == 0
        if polygon:
            xs, ys = values[0::2], values[1::2]
            x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
        else:
            cx, cy, w, h = values[:4]  # a fifth number is a prediction's confidence
            x1, y1, x2, y2 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
        x1, y1, x2, y2 = x1 * width, y1 * height, x2 * width, y2 * height
        if not plausible(x1, y1, x2, y2):
            problems.add(why_implausible(x1, y1, x2, y2), shown(frame.name), shown(line, 60))
            continue
        problems.count(SEGMENTATION, int(polygon))
        highest = max(highest, number)
        boxes.append(Box(x1, y1, x2, y2, str(number)))
    return boxes, highest


def read_names(path: Path) -> tuple[list[str], bool]:
    """Class names in the order of their numbers, and whether a file gave them.

    Raises:
        DatasetError: the class file found is damaged.
    """
    folder = path if path.is_dir() else path.parent
    for place in (folder, folder.parent, folder.parent.parent):
        for name in YOLO_FILES:
            file = place / name
            if not file.is_file():
                continue
            try:
                with open(file, "rb") as stream:
                    data = stream.read(_MAX_BYTES + 1)
                if len(data) > _MAX_BYTES:
                    raise DatasetError(f"{file}: over {_MAX_BYTES:,} bytes are no list of class names")
                text = data.decode("utf-8-sig")
                if file.suffix in (".yaml", ".yml"):
                    names = _yaml_names(yaml.load(text, yaml.BaseLoader))
                else:
                    names = [line.strip() for line in text.splitlines() if line.strip()]
            except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
                raise DatasetError(f"{file}: class names cannot be read ({first_line(error)})") from error
            if len(names) > _MAX_CLASSES:
                raise DatasetError(f"{file}: {len(names):,} class names; expected at most {_MAX_CLASSES:,}")
            if names:
                return names, True
    return [], False


def _yaml_names(value: Any) -> list[str]:
    """The names of a value made of text, lists and dicts only."""
    names = value.get("names") if isinstance(value, dict) else None
    if isinstance(names, (list, dict)):
        for name in names.values() if isinstance(names, dict) else names:
            if not isinstance(name, str):  # never shown: aliases make a few lines grow beyond all memory
                raise ValueError("a class name is a list or an object, expected text")
    if isinstance(names, list):
        return list(names)
    if isinstance(names, dict):
        numbers = {int(key): name for key, name in names.items() if key.isdecimal() and len(key) < 10}
        if numbers and max(numbers) < _MAX_CLASSES:
            return [numbers.get(i, f"class{i}") for i in range(max(numbers) + 1)]
    return []


def lines(frame: Frame, numbers: Mapping[str, int], own: Sequence[str] = ()) -> str:
    """The text of one label file.

    Args:
        numbers: canonical name -> class number.
        own: canonical names in the order of the source's own class numbers, which then are kept.

    Raises:
        DatasetError: the frame's size is not known.
    """
    if not frame.width or not frame.height:
        raise DatasetError(f"{shown(frame.name)}: YOLO labels need the image's size, which is not known")
    rows = []
    for box in frame.boxes:
        if box.crowd or box.category not in numbers:
            continue  # YOLO has no mark for a group; training on it would be wrong
        cx, cy = (box.x1 + box.x2) / 2 / frame.width, (box.y1 + box.y2) / 2 / frame.height
        w, h = (box.x2 - box.x1) / frame.width, (box.y2 - box.y1) / frame.height
        # A percent format, as it is twice as quick as an f-string with five fields.
        rows.append("%d %.7g %.7g %.7g %.7g\n" % (place_of(box, own, numbers), cx, cy, w, h))  # noqa: UP031
    return "".join(rows)


def dataset_yaml(folders: Mapping[str, Sequence[str]], names: Sequence[str], note: str) -> str:
    """The text of a ``dataset.yaml`` as ultralytics reads it.

    Args:
        folders: split -> folders of images (or lists of them), relative to where the file will lie.
        names: of the classes, in the order of their numbers.
        note: what the file says of itself, one line or more.
    """
    # Without "path" all is relative to the file itself, wherever the folder is moved.
    value = {**{split: list(places) for split, places in folders.items()}, "names": dict(enumerate(names))}
    comment = "".join(f"# {line}\n" for line in note.splitlines())
    return comment + yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def write(
    frames: Sequence[Frame],
    out: Path,
    classes: Sequence[str] = (),
    layout: str = "",
    meta: dict[str, Any] | None = None,
) -> list[Path]:
    """Write one .txt an image and ``classes.txt`` into the folder ``out``, each atomically.

    Args:
        classes: canonical names in the order of their numbers; classes that only boxes name follow.
        meta: as read; the source's own list of classes then comes first, so that its class numbers stay.
    """
    own = own_classes(meta)
    seen = {box.category for frame in frames for box in frame.boxes}
    others = list(dict.fromkeys([*own, *classes, *sorted(seen)]))[len(set(own)) :]
    numbers = first_places([*own, *others])
    names = [category["name"] for category in (meta or {}).get("categories", ())] + others
    written: list[Path] = []
    for frame in frames:
        target = out / PurePosixPath(frame.name).with_suffix(".txt")
        atomic_write_bytes(target, lines(frame, numbers, own).encode())
        written.append(target)
    atomic_write_text(out / "classes.txt", "".join(f"{name}\n" for name in names))
    return [*written, out / "classes.txt"]
