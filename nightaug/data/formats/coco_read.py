"""Reading COCO detection JSON, FLIR's included: ids may be text, categories unknown, crowds marked.

Of an annotation only box and attributes are kept. A file is read twice, in pieces: first images and categories, then
the annotations, as nightaug itself and others write the categories last.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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
    read_bytes,
    safe_name,
    shown,
    why_implausible,
)
from nightaug.data.formats.coco_stream import Unusual, members
from nightaug.data.formats.frame_json import loads, no_gc
from nightaug.data.frames import Box, Frame
from nightaug.data.packed import BoxBytes, Keep, pack_frames
from nightaug.errors import DatasetError
from nightaug.images import IMAGE_SUFFIXES


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


class _Unread(msgspec.Struct, gc=False):
    """An entry that the second reading has no more questions to."""


class _Owner(msgspec.Struct, gc=False):
    """All that the first reading wants to know of an annotation; its types are those of the second."""

    image_id: int | str


class _Document(msgspec.Struct, gc=False):
    images: list[_Image]
    annotations: list[_Annotation] = []
    categories: list[_Category] = []
    info: Any = None
    licenses: Any = None


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
    try:
        return _in_pieces(path, keep)
    except Unusual:
        return _at_once(path, keep)


def _in_pieces(path: Path, keep: Keep) -> LabelSet:
    reading = _Reading()
    categories: list[_Category] = []
    more: dict[str, Any] = {}
    has_images = False
    last, in_order = -1, True

    def frames() -> Iterator[Frame]:
        nonlocal has_images, in_order, last
        kinds = {"images": _Image, "annotations": _Owner, "categories": _Category}
        for key, value in members(path, kinds, ("info", "licenses")):
            if key == "images":
                has_images = True
                for image in value:
                    frame = reading.frame(image)
                    if frame is not None:
                        yield frame
            elif key == "annotations":
                in_order = in_order and has_images
                for owner in value if in_order else ():
                    place = reading.places.get(owner.image_id, last)
                    in_order = in_order and place >= last
                    last = max(place, last)
            elif key == "categories":
                categories.extend(value)
            else:
                more[key] = value

    kept = keep(frames())
    if not has_images:
        raise Unusual
    reading.set_categories(categories, more)
    kinds = {"images": _Unread, "annotations": _Annotation, "categories": _Unread}
    pieces = (value for key, value in members(path, kinds) if key == "annotations")
    return reading.label_set(kept, (a for piece in pieces for a in piece), keep, in_order)


def _at_once(path: Path, keep: Keep) -> LabelSet:
    """As :func:`_in_pieces`, with all of the file in memory; of a damaged one what is sound, entry by entry."""
    data = read_bytes(path)
    reading = _Reading()
    with no_gc():
        try:
            document = _DECODER.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            document = _loose(loads(data, path), path, reading.problems)
        kept = keep(frame for image in document.images if (frame := reading.frame(image)) is not None)
        reading.set_categories(document.categories, {"info": document.info, "licenses": document.licenses})
        return reading.label_set(kept, document.annotations, keep, False)


class _Reading:
    """What is known of a file while it is read.

    Attributes:
        places: id of an image -> number of its frame.
    """

    def __init__(self) -> None:
        self.problems = Problems()
        self.places: dict[int | str, int] = {}
        self._segmentations = 0

    def frame(self, image: _Image) -> Frame | None:
        """The frame of an image, None where it is refused."""
        raw = image.file_name
        if raw is None:
            # FLIR-like files may leave only the id; it is the stem of the file.
            raw = str(image.id)
            raw = raw if os.path.splitext(raw)[1].lower() in IMAGE_SUFFIXES else raw + ".jpg"
        name, reason = safe_name(raw)
        if reason:
            self.problems.add("unsafe image name refused", shown(raw), reason)
            return None
        if image.id in self.places:
            self.problems.add("image id used twice, second skipped", shown(name), str(image.id))
            return None
        known = image.width is not None and image.height is not None and image.width > 0 and image.height > 0
        self.places[image.id] = len(self.places)
        return Frame(
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

    def set_categories(self, categories: Sequence[_Category], more: Mapping[str, Any]) -> None:
        """All categories have been read, and what else the file says."""
        self._meta: dict[str, Any] = {"categories": [_entry(category) for category in categories]}
        self._meta.update((key, more[key]) for key in ("info", "licenses") if more.get(key) is not None)
        self._own = own_classes(self._meta)
        self._first = first_places(self._own)
        self._by_id = {category.id: place for place, category in enumerate(categories)}

    def label_set(
        self, frames: Sequence[Frame], annotations: Iterable[_Annotation], keep: Keep, in_order: bool
    ) -> LabelSet:
        """The frames with their boxes.

        Args:
            in_order: the annotations of one image follow another, in the order of the images.
        """
        boxes = self._boxes(annotations, frames)
        found = _in_order(boxes) if in_order else _sorted(boxes, len(frames))

        def filled() -> Iterator[Frame]:
            for number, frame in enumerate(frames):
                frame.boxes = found(number)
                yield frame

        kept = keep(filled())
        found(len(frames))
        self.problems.count(SEGMENTATION, self._segmentations)
        return LabelSet(kept, tuple(self._first), "coco", "", self.problems, self._meta)

    def _boxes(self, annotations: Iterable[_Annotation], frames: Sequence[Frame]) -> Iterator[tuple[int, Box]]:
        """Number of the frame and box of every annotation that is sound."""
        problems, places, own, first = self.problems, self.places, self._own, self._first
        for a in annotations:
            owner = places.get(a.image_id)
            if owner is None:
                problems.add("annotation of an unknown image skipped", str(a.image_id)[:80], f"annotation {a.id}")
                continue
            place = self._by_id.get(a.category_id)
            if place is None:
                problems.add(
                    "annotation of an unknown category skipped",
                    shown(frames[owner].name),
                    f"category id {a.category_id}",
                )
                continue
            bbox = a.bbox
            if bbox is None or len(bbox) != 4:
                problems.add(
                    "box without four numbers skipped",
                    shown(frames[owner].name),
                    f"annotation {a.id}: {shown(bbox, 60)}",
                )
                continue
            x1, y1, w, h = bbox
            x2, y2 = x1 + w, y1 + h
            if not (-MAX_COORDINATE < x1 < x2 < MAX_COORDINATE and -MAX_COORDINATE < y1 < y2 < MAX_COORDINATE):
                problems.add(why_implausible(x1, y1, x2, y2), shown(frames[owner].name), f"annotation {a.id}: {bbox}")
                continue
            weight = a.weight if 0 <= a.weight <= 1 else 1.0
            box = Box(x1, y1, x2, y2, own[place], a.light_color, a.occluded, a.truncated, bool(a.iscrowd), weight)
            box.id = None if a.id is None else str(a.id)
            box.source_category = None if first[box.category] == place else place
            self._segmentations += len(memoryview(a.segmentation)) > _NO_SEGMENTATION
            yield owner, box


def _in_order(boxes: Iterator[tuple[int, Box]]) -> Callable[[int], Sequence[Box]]:
    """A function that gives the boxes of frame 0, 1, 2 ... as it is asked for them."""
    following: tuple[int, Box] | None = None

    def found(number: int) -> Sequence[Box]:
        nonlocal following
        here: list[Box] = []
        while True:
            if following is None:
                following = next(boxes, (-1, Box(0, 0, 0, 0, "")))
            if following[0] != number:
                return here
            here.append(following[1])
            following = None

    return found


def _sorted(boxes: Iterator[tuple[int, Box]], number: int) -> Callable[[int], Sequence[Box]]:
    """The same of boxes in any order, which then are all in memory, packed."""
    by_frame: list[BoxBytes | None] = [None] * number
    for place, box in boxes:
        own = by_frame[place]
        if own is None:
            own = by_frame[place] = BoxBytes()
        own.add(box)

    def found(number: int) -> Sequence[Box]:
        own = by_frame[number] if number < len(by_frame) else None
        return [] if own is None else own.boxes()

    return found


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
