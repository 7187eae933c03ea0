"""COCO detection JSON, FLIR's included: ids may be text, categories unknown, crowds marked.

nightaug's own files add ``timeofday``, ``weather``, ``scene`` and ``video`` to each image, and ``"labelled": false`` to
those nobody has labelled (``Frame.extra["labelled"]``); other readers ignore these.

Of an annotation only box and attributes are kept: the polygons of COCO's 118,000 images would take several times the
memory of all else.
"""

from __future__ import annotations

import itertools
import os
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec

from nightaug.data.classes import canonical_time
from nightaug.data.formats.base import (
    MAX_COORDINATE,
    SEGMENTATION,
    ImageIndex,
    LabelSet,
    Problems,
    first_places,
    own_classes,
    own_name,
    place_of,
    read_bytes,
    safe_name,
    shown,
    why_implausible,
)
from nightaug.data.formats.frame_json import loads, no_gc
from nightaug.data.frames import Box, Frame
from nightaug.data.packed import Keep, pack_frames, packed
from nightaug.data.shelf import repeated
from nightaug.errors import DatasetError
from nightaug.images import IMAGE_SUFFIXES, atomic_open


class _Image(msgspec.Struct, gc=False):
    id: int | str
    file_name: str | None = None
    width: int | None = None
    height: int | None = None
    timeofday: str | None = None
    weather: str | None = None
    scene: str | None = None
    video: str | None = None
    labelled: bool = True


class _Annotation(msgspec.Struct, gc=False):
    image_id: int | str
    category_id: int | str
    bbox: list[float] | None = None
    iscrowd: int | bool = 0
    id: int | str | None = None
    occluded: bool | None = None
    truncated: bool | None = None
    light_color: str | None = None
    weight: float = 1.0
    segmentation: msgspec.Raw = msgspec.Raw()  # not decoded, only counted


class _Category(msgspec.Struct, gc=False):
    id: int | str
    name: str
    supercategory: Any = None


class _Document(msgspec.Struct, gc=False):
    images: list[_Image]
    annotations: list[_Annotation] = []
    categories: list[_Category] = []
    info: Any = None
    licenses: Any = None


class _Written(msgspec.Struct, gc=False, omit_defaults=True):
    """An annotation as it is written: a struct and no dict, as there are over a million in BDD100K."""

    id: int
    image_id: int | str
    category_id: int | str
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: int
    occluded: bool | None = None
    truncated: bool | None = None
    light_color: str | None = None
    weight: float = 1.0


#: Bytes of a segmentation that is none: ``null``, ``[]``, ``[[]]``.
_NO_SEGMENTATION = 4
_DECODER = msgspec.json.Decoder(_Document)


def read(path: Path, images: ImageIndex | None = None, keep: Keep = pack_frames) -> LabelSet:
    """Read one COCO file.

    Images without annotations are frames without boxes. Annotations of unknown images or categories, without
    four numbers, or without area are counted and skipped.

    Raises:
        DatasetError: the file cannot be read, is cut off, or has no list of images.
    """
    data = read_bytes(path)
    problems = Problems()
    with no_gc():
        try:
            document = _DECODER.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            document = _loose(loads(data, path), path, problems)
        return _convert(document, problems, keep)


def _convert(document: _Document, problems: Problems, keep: Keep) -> LabelSet:
    meta: dict[str, Any] = {"categories": [_entry(category) for category in document.categories]}
    meta.update((key, value) for key in ("info", "licenses") if (value := getattr(document, key)) is not None)
    own = own_classes(meta)
    first = first_places(own)
    by_id = {category.id: place for place, category in enumerate(document.categories)}
    frames: list[Frame] = []
    by_image: dict[int | str, Frame] = {}
    boxes: dict[int | str, list[Box]] = defaultdict(list)
    for image in document.images:
        raw = image.file_name
        if raw is None:
            # FLIR-like files may leave only the id; it is the stem of the file.
            raw = str(image.id)
            raw = raw if os.path.splitext(raw)[1].lower() in IMAGE_SUFFIXES else raw + ".jpg"
        name, reason = safe_name(raw)
        if reason:
            problems.add("unsafe image name refused", shown(raw), reason)
            continue
        if image.id in by_image:
            problems.add("image id used twice, second skipped", shown(name), str(image.id))
            continue
        known = image.width is not None and image.height is not None and image.width > 0 and image.height > 0
        frame = Frame(
            name,
            [],
            image.width if known else None,
            image.height if known else None,
            canonical_time(image.timeofday),
            image.weather,
            image.scene,
            image.video,
            None,
            {"id": image.id} if image.labelled else {"id": image.id, "labelled": False},
        )
        by_image[image.id] = frame
        frames.append(frame)
    segmentations = 0
    for a in document.annotations:
        owner = by_image.get(a.image_id)
        if owner is None:
            problems.add("annotation of an unknown image skipped", str(a.image_id)[:80], f"annotation {a.id}")
            continue
        place = by_id.get(a.category_id)
        if place is None:
            problems.add("annotation of an unknown category skipped", shown(owner.name), f"category id {a.category_id}")
            continue
        bbox = a.bbox
        if bbox is None or len(bbox) != 4:
            problems.add("box without four numbers skipped", shown(owner.name), f"annotation {a.id}: {shown(bbox, 60)}")
            continue
        x1, y1, w, h = bbox
        x2, y2 = x1 + w, y1 + h
        if not (-MAX_COORDINATE < x1 < x2 < MAX_COORDINATE and -MAX_COORDINATE < y1 < y2 < MAX_COORDINATE):
            problems.add(why_implausible(x1, y1, x2, y2), shown(owner.name), f"annotation {a.id}: {bbox}")
            continue
        weight = a.weight if 0 <= a.weight <= 1 else 1.0
        box = Box(x1, y1, x2, y2, own[place], a.light_color, a.occluded, a.truncated, bool(a.iscrowd), weight)
        box.id = None if a.id is None else str(a.id)
        box.source_category = None if first[box.category] == place else place
        boxes[a.image_id].append(box)
        segmentations += len(memoryview(a.segmentation)) > _NO_SEGMENTATION
    problems.count(SEGMENTATION, segmentations)
    for number, frame in by_image.items():
        frame.boxes = packed(boxes.pop(number, []))
    return LabelSet(keep(frames), tuple(first), "coco", "", problems, meta)


def _entry(category: _Category) -> dict[str, Any]:
    """A category as it is written back."""
    entry: dict[str, Any] = {"id": category.id, "name": own_name(category.name)}
    if isinstance(category.supercategory, str):
        entry["supercategory"] = category.supercategory
    return entry


def _loose(value: Any, path: Path, problems: Problems) -> _Document:
    """What of a plain JSON value is sound, entry by entry."""
    if not isinstance(value, dict) or not isinstance(value.get("images"), list):
        raise DatasetError(f'{path}: expected a COCO object with a list "images"; name the right file or pass --format')
    document = _Document([])
    kinds: tuple[tuple[str, type[Any], list[Any]], ...] = (
        ("images", _Image, document.images),
        ("annotations", _Annotation, []),
        ("categories", _Category, []),
    )
    for key, kind, found in kinds:
        entries = value.get(key)
        for entry in entries if isinstance(entries, list) else ():
            try:
                if isinstance(entry, dict) and "segmentation" in entry:
                    entry["segmentation"] = msgspec.Raw(b"[0,0]" if entry["segmentation"] else b"")
                found.append(msgspec.convert(entry, kind, strict=False))
            except (msgspec.ValidationError, RecursionError) as error:
                problems.add(f'entry of "{key}" not understood, skipped', shown(entry, 60), str(error)[:200])
    document.annotations, document.categories = kinds[1][2], kinds[2][2]
    return document


def _box_ids(frames: Sequence[Frame]) -> Iterator[int]:
    """The boxes' own ids where they are whole numbers and unique, otherwise 1, 2, 3 ..."""
    found = array("q")
    for frame in frames:
        for box in frame.boxes:
            text = box.id or ""
            if not (text.isascii() and text.isdecimal() and len(text) < 16):
                return itertools.count(1)
            found.append(int(text))
    if repeated(found):
        return itertools.count(1)
    return (int(box.id or 0) for frame in frames for box in frame.boxes)


def write(
    frames: Sequence[Frame],
    out: Path,
    classes: Sequence[str] = (),
    layout: str = "",
    meta: dict[str, Any] | None = None,
) -> list[Path]:
    """Write one COCO file.

    Args:
        out: the .json file.
        classes: canonical names, numbered from 1 unless ``meta`` has their ids; classes that only boxes name follow.
        meta: as read; the file's own categories, info and licenses are kept, and so are image ids (in
            ``Frame.extra``).

    Returns:
        The one file written, atomically.
    """
    meta = meta or {}
    own = own_classes(meta)
    categories: list[dict[str, Any]] = list(meta.get("categories", ()))
    seen = {box.category for frame in frames for box in frame.boxes}
    others = list(dict.fromkeys([*own, *classes, *sorted(seen)]))[len(set(own)) :]
    taken = {category["id"] for category in categories}
    free = (number for number in itertools.count(1) if number not in taken)
    categories += [{"id": number, "name": name} for name, number in zip(others, free, strict=False)]
    first = first_places([*own, *others])
    identities = _image_ids(frames)
    box_ids = _box_ids(frames)
    images = ([_image(frame, image)] for frame, image in zip(frames, identities, strict=True))
    annotations = (
        [_annotation(next(box_ids), image, categories[place_of(box, own, first)]["id"], box) for box in frame.boxes]
        for frame, image in zip(frames, identities, strict=True)
    )
    # Image by image: the annotations of 70,000 frames as objects, and then as text, would take most of the memory.
    with atomic_open(out) as stream:
        for opening, parts in ((b'{"images":', images), (b',"annotations":', annotations)):
            stream.write(opening)
            _write_list(stream, parts)
        rest = {"categories": categories} | {key: meta[key] for key in ("info", "licenses") if key in meta}
        stream.write(b"," + msgspec.json.encode(rest)[1:])
    return [out]


def _write_list(stream: IO[bytes], parts: Iterable[Sequence[Any]]) -> None:
    """The entries of all parts as one JSON list."""
    following = b"["
    for part in parts:
        if part:
            stream.write(following + msgspec.json.encode(part)[1:-1])
            following = b","
    stream.write(b"[]" if following == b"[" else b"]")


def _image_ids(frames: Sequence[Frame]) -> Sequence[int | str]:
    """The frames' own ids where they are unique, otherwise 1, 2, 3 ... as far as these are free."""
    if not any("id" in (frame.extra or ()) for frame in frames):
        return range(1, len(frames) + 1)
    used: dict[int | str, None] = {}
    number = 0
    for frame in frames:
        identity = (frame.extra or {}).get("id")
        if not isinstance(identity, (int, str)) or identity in used:
            number += 1
            while number in used:
                number += 1
            identity = number
        used[identity] = None
    return list(used)


def _image(frame: Frame, identity: int | str) -> dict[str, Any]:
    image: dict[str, Any] = {"id": identity, "file_name": frame.name}
    image.update(
        (key, value)
        for key in ("width", "height", "timeofday", "weather", "scene", "video")
        if (value := getattr(frame, key)) is not None
    )
    if (frame.extra or {}).get("labelled") is False:
        image["labelled"] = False
    return image


def _annotation(number: int, image: int | str, category: int | str, box: Box) -> _Written:
    w, h = box.x2 - box.x1, box.y2 - box.y1
    return _Written(
        number, image, category, (box.x1, box.y1, w, h), w * h, int(box.crowd), box.occluded, box.truncated,
        box.light_color, box.weight,
    )  # fmt: skip
