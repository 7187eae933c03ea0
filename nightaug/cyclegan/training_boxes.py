"""The boxes of training images, of day and night, read once before training.

Night boxes may be the dataset's own, none, or pseudo boxes: what a detector found in the night images.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from nightaug.boxes import FloatArray
from nightaug.cyclegan.label_maps import MAX_CLASSES, UNSURE, Masks, ShownBoxes, Window, shown_boxes
from nightaug.cyclegan.settings import FaithfulSettings
from nightaug.data.classes import canonical_class
from nightaug.data.formats import open_dataset, read_labels
from nightaug.data.formats.base import plausible
from nightaug.data.frames import Box, Frame
from nightaug.errors import DatasetError

#: What ``nightaug predict`` calls its COCO results and the list of images that belongs to them.
RESULTS, IMAGES = "detections.json", "images.json"


class _Own(NamedTuple):
    boxes: FloatArray  # (P, 4) xyxy, pixels of the original image
    labels: np.ndarray  # (P,) uint8, as in a label map


class TrainingBoxes:
    """Boxes by image file.

    Args:
        day, night: frames with their boxes; an image that is in neither is one nobody has looked at.
        classes: canonical names; a box of another class is an object of no class.
        masks: how a box is painted.
        shown_boxes: how many boxes of a crop are handed on as such.

    Raises:
        DatasetError: no day image has a box, or there are too many classes.
    """

    def __init__(
        self,
        day: Iterable[tuple[Path, Sequence[Box]]],
        night: Iterable[tuple[Path, Sequence[Box]]],
        classes: Sequence[str],
        masks: Masks = "box",
        shown_boxes: int = 8,
    ) -> None:
        self.classes, self.masks, self.shown_boxes = tuple(classes), masks, shown_boxes
        if not 0 < len(self.classes) <= MAX_CLASSES:
            raise DatasetError(f"expected 1 to {MAX_CLASSES} classes of boxes, got {len(self.classes)}")
        numbers = {name: number for number, name in enumerate(self.classes, 1)}
        self._own: tuple[dict[Path, _Own], dict[Path, _Own]] = ({}, {})
        for own, images in zip(self._own, (day, night), strict=True):
            for path, boxes in images:
                labels = [UNSURE if box.crowd else numbers.get(box.category, UNSURE) for box in boxes]
                corners = np.array([box.xyxy for box in boxes], dtype=np.float64).reshape(-1, 4)
                own[path] = _Own(corners, np.array(labels, dtype=np.uint8))

    def counts(self) -> tuple[int, int]:
        """Number of day and of night boxes."""
        day, night = (sum(len(own.labels) for own in domain.values()) for domain in self._own)
        return day, night

    def fingerprint(self) -> str:
        """Counts, and a hash of classes and boxes: a resumed run must see the same ones."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for domain in self._own:
            for path in sorted(domain):
                digest.update(path.name.encode() + domain[path].boxes.tobytes() + domain[path].labels.tobytes())
        day, night = self.counts()
        return f"{day}+{night} boxes, {digest.hexdigest()[:12]}"

    def shown(self, domain: int, path: Path, window: Window, crop: int) -> ShownBoxes:
        """The boxes that a crop of an image shows; ``domain`` 0 is day, 1 night."""
        own = self._own[domain].get(path)
        if own is None:
            return ShownBoxes(np.zeros((0, 4)), np.zeros(0, np.uint8), False)
        return shown_boxes(own.boxes, own.labels, True, window, crop)


def read_training_boxes(
    root: Path, a: Sequence[Path], b: Sequence[Path], settings: FaithfulSettings
) -> tuple[TrainingBoxes, list[str]]:
    """The boxes of a prepared dataset's training images.

    Args:
        a, b: the day and the night images of training.

    Returns:
        The boxes, and lines on what was left out.

    Raises:
        DatasetError: the dataset has no labels, or the pseudo boxes cannot be read or fit no image.
    """
    dataset = open_dataset(root)
    day = {frame.path: frame for frame in dataset.frames("train", "A") if _labelled(frame)}
    if not any(day[path].boxes for path in a if path in day):
        raise DatasetError(f"{root}: no boxes of day images for label-aware training; make it with: nightaug prepare")
    notes: list[str] = []
    classes = list(dataset.classes)
    night: list[tuple[Path, Sequence[Box]]] = []
    if settings.night_boxes == "real":
        own = {frame.path: frame for frame in dataset.frames("train", "B") if _labelled(frame)}
        night = [(path, own[path].boxes) for path in b if path in own]
        if not any(boxes for _, boxes in night):
            raise DatasetError(
                f"{root}: no boxes of night images; set faithful.night_boxes to pseudo boxes (see: nightaug predict)"
            )
    elif settings.night_boxes != "none":
        night = _pseudo(Path(settings.night_boxes), b, settings.min_score, set(classes), notes)
    boxes = TrainingBoxes(
        [(path, day[path].boxes) for path in a if path in day], night, classes, settings.masks, settings.judge_boxes
    )
    for name, files, known in (("day", a, boxes._own[0]), ("night", b, boxes._own[1])):
        if known and len(known) < len(files):
            notes.append(f"{len(files) - len(known):,} of {len(files):,} {name} images have no labels")
    return boxes, notes


def _labelled(frame: Frame) -> bool:
    return frame.path is not None and (frame.extra or {}).get("labelled") is not False


def _pseudo(
    source: Path, files: Sequence[Path], least: float, classes: set[str], notes: list[str]
) -> list[tuple[Path, Sequence[Box]]]:
    """Pseudo boxes of at least the score ``least``, by image; a Box's ``weight`` is its score."""
    frames = _read_results(source, notes)
    if frames is None:
        labels = read_labels(source)
        notes += [f"{number:,} {kind} in {source}" for kind, number in labels.problems.counts.most_common()]
        frames = labels.frames
    names = Counter(Path(frame.name).stem for frame in frames)
    by_stem = {Path(frame.name).stem: frame for frame in frames if names[Path(frame.name).stem] == 1}
    found: list[tuple[Path, Sequence[Box]]] = []
    weak = foreign = 0
    for path in files:
        frame = by_stem.get(path.stem)
        if frame is None:
            continue
        sure = [box for box in frame.boxes if box.weight >= least]
        kept = [box for box in sure if box.category in classes]
        weak, foreign = weak + len(frame.boxes) - len(sure), foreign + len(sure) - len(kept)
        found.append((path, kept))
    if not any(boxes for _, boxes in found):
        raise DatasetError(
            f"{source}: no box of faithful.min_score={least:g} or more belongs to a night image, judged by file names"
        )
    if weak:
        notes.append(f"{weak:,} pseudo boxes with a score under {least:g} are not used")
    if foreign:
        notes.append(f"{foreign:,} pseudo boxes of classes the dataset does not have are not used")
    return found


class _Entry(msgspec.Struct, gc=False):
    image_id: int | str
    category_id: int | str
    bbox: tuple[float, float, float, float]
    score: float


class _Named(msgspec.Struct, gc=False):
    id: int | str
    file_name: str = ""
    name: str = ""


class _Images(msgspec.Struct, gc=False):
    images: list[_Named]
    categories: list[_Named]


def _read_results(source: Path, notes: list[str]) -> list[Frame] | None:
    """COCO detections with the image list beside them; None where ``source`` is no such thing.

    Raises:
        DatasetError: it is, and is damaged.
    """
    results = source / RESULTS if source.is_dir() else source
    listed = results.with_name(IMAGES)
    if results.suffix != ".json" or not results.is_file() or not listed.is_file() or results == listed:
        return None
    entries: list[_Entry] = _decoded(results, list[_Entry])
    images: _Images = _decoded(listed, _Images)
    names = {category.id: canonical_class(category.name) for category in images.categories}
    frames = {image.id: Frame(image.file_name) for image in images.images}
    odd = 0
    for entry in entries:
        x, y, width, height = entry.bbox
        frame, name = frames.get(entry.image_id), names.get(entry.category_id)
        if frame is None or name is None or not plausible(x, y, x + width, y + height) or not 0 <= entry.score <= 1:
            odd += 1
            continue
        frame.boxes.append(Box(x, y, x + width, y + height, name, weight=entry.score))
    if odd:
        notes.append(f"{odd:,} unusable detections in {results} skipped")
    return list(frames.values())


def _decoded(path: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        raise DatasetError(f"{path}: cannot be read as what nightaug predict writes ({error})") from error
