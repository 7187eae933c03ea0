"""BDD100K's old layouts: one list for all images, one file an image, and bare label lists.

- ``list``: ``bdd100k_labels_images_train.json``, ``[{name, attributes, timestamp, labels}]``.
- ``per-image``: ``labels/100k/train/*.json``, ``{name, attributes, frames: [{timestamp, objects}]}``.
- ``labels``: ``[{category, box2d, ...}]``; the image is the one of the file's name.

Lanes and drivable areas (``poly2d`` without ``box2d``) are counted and left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from nightaug.data.formats.base import ImageIndex, LabelSet, Problems, ordered_classes, read_bytes, shown
from nightaug.data.formats.detect import json_layout
from nightaug.data.formats.frame_json import FrameStream, loads, no_gc
from nightaug.data.formats.raw_frames import FrameConverter, RawFrame, RawLabel
from nightaug.data.formats.scalabel import frame_attributes, frame_item, label_item, note_unknown, write_json
from nightaug.data.frames import Box, Frame
from nightaug.data.packed import Keep, pack_frames
from nightaug.errors import DatasetError
from nightaug.images import IMAGE_SUFFIXES

#: Canonical names that the old layout spells its own way.
OLD_NAMES: dict[str, str] = {"pedestrian": "person", "motorcycle": "motor", "bicycle": "bike"}


class _ObjectFrame(msgspec.Struct, gc=False):
    objects: list[RawLabel] | None = None
    timestamp: int | float | str | None = None


class _PerImage(msgspec.Struct, gc=False):
    frames: list[_ObjectFrame]
    name: str | None = None
    attributes: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET


_PER_IMAGE = msgspec.json.Decoder(_PerImage)
_LABELS = msgspec.json.Decoder(list[RawLabel])


def label_files(folder: Path, suffix: str) -> Iterator[Path]:
    """All files with this ending under a folder, sorted; links to folders, pipes and devices are left out."""
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(suffix) and name[0] != "." and (path := Path(parent, name)).is_file():
                yield path


def image_name(stem: str) -> str:
    """A label's image name with an ending: the old layout gives none."""
    return stem if os.path.splitext(stem)[1].lower() in IMAGE_SUFFIXES else stem + ".jpg"


def read(path: Path, images: ImageIndex | None = None, keep: Keep = pack_frames) -> LabelSet:
    """Read a file in any of the three layouts, or a folder of per-image files.

    Raises:
        DatasetError: the file cannot be read, is cut off, or is something else.
    """
    problems = Problems()
    converter = FrameConverter(problems, str(path))
    frames: Sequence[Frame]
    if path.is_dir():
        layout = "per-image"
        number = 0

        def each() -> Iterator[Frame]:
            nonlocal layout, number
            for file in label_files(path, ".json"):
                number += 1
                try:
                    layout_here, found = _read_one(file, file.relative_to(path).with_suffix("").as_posix(), converter)
                except DatasetError as error:
                    # One damaged file of 70,000 must not cost the others.
                    problems.add("unreadable label file", shown(file.name), str(error))
                    continue
                if found:
                    layout = layout_here
                yield from found

        with no_gc():
            frames = keep(each())
        if not number:
            raise DatasetError(f"{path}: no .json files in this folder")
        if not frames and problems.counts["unreadable label file"] == number:
            raise DatasetError(problems.listed[0].detail)
    elif is_list(path):
        stream = FrameStream(path, problems)
        frames = keep(stream)
        converter, layout = stream.converter, "list"
    else:
        layout, found = _read_one(path, path.stem, converter)
        frames = keep(found)
    note_unknown(problems, converter)
    return LabelSet(frames, ordered_classes(converter.unknown), "bdd100k", layout, problems)


def iterate(path: Path, problems: Problems | None = None) -> Iterator[Frame]:
    """The frames of one list file as a stream, in little memory."""
    return iter(FrameStream(path, problems))


def is_list(path: Path) -> bool:
    """True for one list of all images, which can be read as a stream."""
    return json_layout(path) in ("list", "frames", "")


def _read_one(path: Path, stem: str, converter: FrameConverter) -> tuple[str, list[Frame]]:
    data = read_bytes(path)
    try:
        if data.lstrip()[:1] == b"{":
            item = _PER_IMAGE.decode(data)
            if len(item.frames) > 1:
                kind = "further frames of one image skipped"
                converter.problems.add(kind, shown(path.name), str(len(item.frames) - 1))
            first = item.frames[0] if item.frames else _ObjectFrame()
            raw = RawFrame(image_name(item.name or stem), first.objects, item.attributes, timestamp=first.timestamp)
            return "per-image", converter.typed([raw])
        return "labels", converter.typed([RawFrame(image_name(stem), _LABELS.decode(data))])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        loose = loads(data, path)
    if isinstance(loose, dict):
        inner = loose.get("frames")
        first_loose = inner[0] if isinstance(inner, list) and inner and isinstance(inner[0], dict) else {}
        name = loose.get("name")
        values: dict[str, Any] = {"name": image_name(name if isinstance(name, str) and name else stem)}
        values["labels"] = first_loose.get("objects")
        values["timestamp"] = first_loose.get("timestamp")
        if "attributes" in loose:
            values["attributes"] = loose["attributes"]
        return "per-image", converter.loose([values])
    if isinstance(loose, list) and loose and isinstance(loose[0], dict) and "labels" in loose[0]:
        return "list", converter.loose(loose)
    return "labels", converter.loose([{"name": image_name(stem), "labels": loose}])


def _label(box: Box) -> dict[str, Any]:
    item = label_item(box, light_words=("none", {}), names=OLD_NAMES)
    identity = item.pop("id", None)
    item["manualShape"] = item["manualAttributes"] = True  # marks of the old layout, which readers tell it by
    if identity is not None:
        item["id"] = int(identity) if identity.isdecimal() and len(identity) < 19 else identity
    return item


def write(
    frames: Sequence[Frame],
    out: Path,
    classes: Sequence[str] = (),
    layout: str = "list",
    meta: dict[str, Any] | None = None,
) -> list[Path]:
    """Write frames in the old layout.

    Args:
        out: a .json file for ``list``; a folder for ``per-image`` and ``labels``, which get a file an image.
        classes, meta: not needed by this format.

    Returns:
        The files written, each of them atomically.
    """
    if layout == "list":
        write_json(out, [frame_item(f, [_label(b) for b in f.boxes]) for f in frames])
        return [out]
    written: list[Path] = []
    for frame in frames:
        target = out / PurePosixPath(frame.name).with_suffix(".json")
        labels = [_label(b) for b in frame.boxes]
        if layout == "labels":
            write_json(target, labels)
        else:
            item: dict[str, Any] = {"name": PurePosixPath(frame.name).stem}
            item["attributes"] = frame_attributes(frame)
            item["frames"] = [{"timestamp": (frame.extra or {}).get("timestamp", 10000), "objects": labels}]
            write_json(target, item)
        written.append(target)
    return written
