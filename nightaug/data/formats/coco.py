"""Writing COCO detection JSON; see coco_read.py for reading it.

nightaug's own files add ``timeofday``, ``weather``, ``scene`` and ``video`` to each image, and ``"labelled": false`` to
those nobody has labelled (``Frame.extra["labelled"]``); other readers ignore these.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec

from nightaug.data.formats.base import (
    first_places,
    own_classes,
    place_of,
)
from nightaug.data.frames import Box, Frame
from nightaug.data.shelf import repeated
from nightaug.images import atomic_open


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
