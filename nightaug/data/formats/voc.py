"""Pascal VOC: one XML file an image.

VOC counts pixels from 1 and includes the last one; nightaug's boxes begin at 0 and exclude it: ``x1 = xmin - 1``,
``x2 = xmax``. Tools that write 0 get 0. ``difficult`` objects are like COCO's crowds: never a training target.

The XML is untrusted: a file with a DOCTYPE or an entity is refused before it is parsed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

from nightaug.data.classes import BDD100K_CLASSES, canonical_class, canonical_light, canonical_time
from nightaug.data.formats.base import (
    SECOND_NAME,
    ImageIndex,
    LabelSet,
    Problems,
    plausible,
    read_bytes,
    safe_name,
    shown,
    why_implausible,
)
from nightaug.data.frames import Box, Frame
from nightaug.data.packed import Keep, pack_frames
from nightaug.data.text import encodable, plain
from nightaug.errors import DatasetError
from nightaug.images import IMAGE_SUFFIXES, atomic_write_bytes

_MAX_BYTES = 20_000_000  # one image's labels are a few kilobytes


def read(path: Path, images: ImageIndex | None = None, keep: Keep = pack_frames) -> LabelSet:
    """Read one XML file, or all of a folder.

    Raises:
        DatasetError: there are no XML files, or the only one cannot be read.
    """
    from nightaug.data.formats.bdd100k import label_files

    problems = Problems()
    number = 0
    own: dict[str, str] = {}

    def each() -> Iterator[Frame]:
        nonlocal number
        for file in label_files(path, ".xml") if path.is_dir() else [path]:
            number += 1
            if not encodable(str(file.relative_to(path))):
                problems.add("file name that is not UTF-8 skipped", shown(file.name), "rename it")
                continue
            try:
                frame = _read_one(file, own, problems)
            except DatasetError as error:
                problems.add("unreadable label file", shown(file.name), str(error))
                continue
            if frame is not None:
                if path.is_dir() and file.parent != path and "/" not in frame.name:
                    frame.name = f"{file.parent.relative_to(path).as_posix()}/{frame.name}"
                yield frame

    frames = keep(each())
    if not number:
        raise DatasetError(f"{path}: no .xml files in this folder")
    if not frames and problems.counts["unreadable label file"] == number:
        raise DatasetError(problems.listed[0].detail)
    classes = [name for name in BDD100K_CLASSES if name in own] + sorted(set(own) - set(BDD100K_CLASSES))
    return LabelSet(frames, tuple(classes), "voc", "", problems, {"names": own})


def split_by_sets(path: Path, labels: LabelSet, keep: Keep) -> list[tuple[str | None, LabelSet]]:
    """The splits that ``ImageSets/Main/{train,val,test}.txt`` beside the labels cut their frames into.

    Returns:
        (split, its frames); where there are no such files, (None, ``labels``).
    """
    folder = path if path.is_dir() else path.parent
    sets = folder.parent / "ImageSets" / "Main"
    if not sets.is_dir():
        return [(None, labels)]
    by_stem = {os.path.splitext(frame.name)[0]: number for number, frame in enumerate(labels.frames)}
    found: list[tuple[str | None, LabelSet]] = []
    for split in ("train", "val", "test"):
        file = sets / f"{split}.txt"
        try:
            stems = [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError):
            continue
        numbers = [number for stem in stems if (number := by_stem.pop(stem, None)) is not None]
        if numbers:
            frames = keep(labels.frames[number] for number in numbers)
            found.append((split, LabelSet(frames, labels.classes, "voc", "", labels.problems, labels.meta)))
    if not found:
        return [(None, labels)]
    if by_stem:
        labels.problems.count("frame in no split of ImageSets, not used", len(by_stem))
    return found


def _read_one(file: Path, own: dict[str, str], problems: Problems) -> Frame | None:
    data = read_bytes(file)
    if len(data) > _MAX_BYTES:
        raise DatasetError(f"{file}: {len(data):,} bytes are too many for one image's labels")
    # UTF-16 would hide the two words from this search; VOC files are never that.
    if b"<!DOCTYPE" in data.upper() or b"<!ENTITY" in data.upper() or b"\0" in data:
        raise DatasetError(f"{file}: has a DOCTYPE, an entity or zero bytes; refused (remove them, labels need none)")
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise DatasetError(f"{file}: not valid XML ({error}); export it again") from error
    if root.tag != "annotation":
        raise DatasetError(f"{file}: expected <annotation>, got <{shown(root.tag, 40)}>; this is not Pascal VOC")
    given = (root.findtext("filename") or "").strip() or file.stem
    name, reason = safe_name(given)
    if reason:
        problems.add("unsafe image name refused", shown(given), reason)
        return None
    if os.path.splitext(name)[1].lower() not in IMAGE_SUFFIXES:
        name += ".jpg"
    width, height = (_number(root.findtext(f"size/{key}")) for key in ("width", "height"))
    known = width is not None and height is not None and 1 <= width < 1e6 and 1 <= height < 1e6
    attribute = {key: (root.findtext(key) or "").strip() or None for key in ("timeofday", "weather", "scene", "video")}
    frame = Frame(
        name,
        [],
        int(width) if known and width is not None else None,
        int(height) if known and height is not None else None,
        canonical_time(attribute["timeofday"]),
        attribute["weather"],
        attribute["scene"],
        attribute["video"],
    )
    boxes: list[Box] = []
    for item in root.iter("object"):
        label = (item.findtext("name") or "").strip()
        if not label:
            problems.add("label without a category skipped", shown(name), "")
            continue
        corners = [_number(item.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
        if None in corners:
            problems.add("box without four numbers skipped", shown(name), shown(corners, 60))
            continue
        x1, y1, x2, y2 = (float(c) for c in corners if c is not None)
        x1, y1 = (x1 - 1 if x1 >= 1 or x1 < 0 else 0.0), (y1 - 1 if y1 >= 1 or y1 < 0 else 0.0)
        if not plausible(x1, y1, x2, y2):
            problems.add(why_implausible(x1, y1, x2, y2), shown(name), f"{x1:g},{y1:g},{x2:g},{y2:g}")
            continue
        category = canonical_class(label)
        if own.setdefault(category, plain(label)) != plain(label):
            detail = f"{shown(label)}: {own[category]} is the same class, and what would be written"
            problems.add(SECOND_NAME, shown(name), detail)
        boxes.append(
            Box(
                x1,
                y1,
                x2,
                y2,
                category,
                canonical_light(item.findtext("lightcolor")),
                _flag(item.findtext("occluded")),
                _flag(item.findtext("truncated")),
                _flag(item.findtext("difficult")) is True,
            )
        )
    frame.boxes = boxes
    return frame


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _flag(text: str | None) -> bool | None:
    return {"0": False, "1": True, "false": False, "true": True}.get((text or "").strip().lower())


def _text(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def write(
    frames: Sequence[Frame],
    out: Path,
    classes: Sequence[str] = (),
    layout: str = "",
    meta: dict[str, Any] | None = None,
) -> list[Path]:
    """Write one XML file an image into the folder ``out``, each atomically.

    Time of day, weather, scene and video are written as extra elements, which other readers ignore.
    """
    own = (meta or {}).get("names", {})
    written: list[Path] = []
    for frame in frames:
        root = ElementTree.Element("annotation")

        def add(parent: ElementTree.Element, tag: str, text: object) -> None:
            ElementTree.SubElement(parent, tag).text = str(text)

        add(root, "filename", frame.name)
        for key in ("timeofday", "weather", "scene", "video"):
            value = getattr(frame, key)
            if value is not None:
                add(root, key, value)
        if frame.width is not None and frame.height is not None:
            size = ElementTree.SubElement(root, "size")
            add(size, "width", frame.width)
            add(size, "height", frame.height)
            add(size, "depth", 3)
        for box in frame.boxes:
            item = ElementTree.SubElement(root, "object")
            add(item, "name", own.get(box.category, box.category))
            if box.truncated is not None:
                add(item, "truncated", int(box.truncated))
            if box.occluded is not None:
                add(item, "occluded", int(box.occluded))
            if box.light_color is not None:
                add(item, "lightcolor", box.light_color)
            add(item, "difficult", int(box.crowd))
            corners = ElementTree.SubElement(item, "bndbox")
            for tag, corner in zip(
                ("xmin", "ymin", "xmax", "ymax"), (box.x1 + 1, box.y1 + 1, box.x2, box.y2), strict=True
            ):
                add(corners, tag, _text(corner))
        ElementTree.indent(root)
        target = out / PurePosixPath(frame.name).with_suffix(".xml")
        atomic_write_bytes(target, ElementTree.tostring(root, encoding="utf-8") + b"\n")
        written.append(target)
    return written
