"""What detections are measured against: the labelled images of a test set, numbered, as a COCO document.

Images are numbered from 1 in the order of their file names, classes from 1 in the order given. Everything that
evaluates, compares or reports shares these numbers through one file, so that a results file means the same to all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from nightaug.boxes import clip
from nightaug.data.formats.base import read_bytes
from nightaug.data.frames import Box, Frame
from nightaug.data.upright import upright
from nightaug.errors import DatasetError, ImageError
from nightaug.images import atomic_write_bytes, image_size

#: What an image's record says beside its number, name and size; None where the dataset does not know.
ATTRIBUTES = ("timeofday", "weather", "scene", "video")


class _Image(msgspec.Struct):
    id: int
    file_name: str
    width: int
    height: int
    timeofday: str | None = None
    weather: str | None = None
    scene: str | None = None
    video: str | None = None


class _Annotation(msgspec.Struct):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: int = 0


class _Category(msgspec.Struct):
    id: int
    name: str


class _Document(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


@dataclass
class Truth:
    """The images and boxes of a test set.

    Attributes:
        classes: canonical names; category id = position + 1.
        images: ``{"id", "file_name", "width", "height", "timeofday", "weather", "scene", "video"}``, in order of id.
        annotations: ``{"id", "image_id", "category_id", "bbox", "area", "iscrowd"}``; bbox is x, y, width, height in
            pixels of the original, upright image. A crowd box is ignored: finding it is no hit, missing it no miss.
        left_out: class -> boxes left out because the class is not measured.
        skipped: reason -> frames or boxes left out, or mended, for that reason.
        frames: image id -> its frame, upright and of known size; empty after :meth:`read`.
    """

    classes: tuple[str, ...]
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    left_out: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    frames: dict[int, Frame] = field(default_factory=dict)

    @classmethod
    def from_frames(cls, frames: Iterable[Frame], classes: Sequence[str]) -> Truth:
        """Number the labelled frames and their boxes.

        Frames nobody has labelled, and those whose image cannot be opened, are left out and counted. Boxes are cut
        to the image; crowds, and boxes whose weight is 0, become crowd boxes. The size is the file's, read from its
        header; only a frame without a file is believed.

        Args:
            frames: in any order; they are not changed.
            classes: the canonical names to measure.
        """
        truth = cls(tuple(classes), [], [])
        numbers = {name: number for number, name in enumerate(truth.classes, 1)}
        for given in sorted(frames, key=lambda frame: (frame.name, str(frame.path))):
            frame = truth._sized(given)
            if frame is None:
                continue
            image_id = len(truth.images) + 1
            truth.frames[image_id] = frame
            record = {"id": image_id, "file_name": frame.name, "width": frame.width, "height": frame.height}
            truth.images.append({**record, **{key: getattr(frame, key) for key in ATTRIBUTES}})
            for box in frame.boxes:
                if box.category in numbers:
                    truth._add(box, frame, image_id, numbers[box.category])
                else:
                    truth.left_out[box.category] += 1
        return truth

    def _sized(self, frame: Frame) -> Frame | None:
        """The frame, upright and with the size of its file, or None where it cannot serve."""
        if (frame.extra or {}).get("labelled") is False:
            self.skipped["image nobody has labelled"] += 1
            return None
        width, height = frame.width, frame.height
        if frame.path is not None:
            try:
                frame = upright(frame)
                width, height = image_size(frame.path or "")
            except ImageError:
                self.skipped["unreadable image"] += 1
                return None
            if frame.width is not None and (frame.width, frame.height) != (width, height):
                self.skipped["size in the labels is wrong, the image's own is used"] += 1
        if width is None or height is None:
            self.skipped["image of unknown size, without a file"] += 1
            return None
        return msgspec.structs.replace(frame, width=width, height=height)

    def _add(self, box: Box, frame: Frame, image_id: int, category_id: int) -> None:
        x1, y1, x2, y2 = clip([box.xyxy], frame.width or 0, frame.height or 0)[0].tolist()
        width, height = x2 - x1, y2 - y1
        if not (width > 0 and height > 0):  # also NaN
            self.skipped["box outside the image"] += 1
            return
        self.annotations.append(
            {
                "id": len(self.annotations) + 1,  # from 1: COCO's code takes 0 for "no match"
                "image_id": image_id,
                "category_id": category_id,
                "bbox": [x1, y1, width, height],
                "area": width * height,
                "iscrowd": int(box.crowd or box.weight == 0),
            }
        )

    def boxes(self) -> dict[str, int]:
        """Class -> boxes that are measured (crowds are not)."""
        counts = Counter(row["category_id"] for row in self.annotations if not row["iscrowd"])
        return {name: counts[number] for number, name in enumerate(self.classes, 1)}

    def write(self, path: Path) -> None:
        """Write a COCO document, atomically."""
        document = {
            "info": {"description": "nightaug truth: what detections are measured against"},
            "images": self.images,
            "annotations": self.annotations,
            "categories": [{"id": number, "name": name} for number, name in enumerate(self.classes, 1)],
        }
        atomic_write_bytes(path, msgspec.json.encode(document))

    @classmethod
    def read(cls, path: Path) -> Truth:
        """Read what :meth:`write` wrote.

        Raises:
            DatasetError: it cannot be read, or is something else.
        """
        try:
            document = msgspec.json.decode(read_bytes(path), type=_Document)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DatasetError(f"{path}: not a truth file of nightaug, or damaged ({error})") from error
        ids = [image.id for image in document.images]
        numbers = [category.id for category in document.categories]
        known, last = set(ids), len(numbers)
        sound = all(row.image_id in known and 1 <= row.category_id <= last for row in document.annotations)
        if ids != sorted(known) or numbers != list(range(1, last + 1)) or not sound:
            raise DatasetError(f"{path}: its images, classes and boxes do not fit together; make it again")
        return cls(
            tuple(category.name for category in document.categories),
            [msgspec.to_builtins(image) for image in document.images],
            [{**msgspec.structs.asdict(row), "bbox": list(row.bbox)} for row in document.annotations],
        )
