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
from nightaug.data.formats import detect_format, open_dataset, read_labels
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
        classes: canonical names; a box of another class, a crowd, and a box of weight 0 are objects of no class.
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
                labels = [
                    UNSURE if box.crowd or box.weight <= 0 else numbers.get(box.category, UNSURE) for box in boxes
                ]
                corners = np.array([box.xyxy for box in boxes], dtype=np.float64).reshape(-1, 4)
                own[path] = _Own(corners, np.array(labels, dtype=np.uint8))

    def counts(self) -> tuple[int, int]:
        """Number of day and of night boxes of a class."""
        day, night = (sum(int((own.labels != UNSURE).sum()) for own in domain.values()) for domain in self._own)
        return day, night

    def fingerprint(self) -> str:
        """Counts, and a hash of classes and boxes: a resumed run must see the same ones."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for domain in self._own:
            for path in sorted(domain):
                digest.update(path.name.encode() + domain[path].boxes.tobytes() + domain[path].labels.tobytes())
        day, night = (sum(len(own.labels) for own in domain.values()) for domain in self._own)
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
        night = pseudo_boxes(Path(settings.night_boxes), b, settings, set(classes), notes)
    boxes = TrainingBoxes(
        [(path, day[path].boxes) for path in a if path in day], night, classes, settings.masks, settings.judge_boxes
    )
    for name, files, known in (("day", a, boxes._own[0]), ("night", b, boxes._own[1])):
        if known and len(known) < len(files):
            notes.append(f"{len(files) - len(known):,} of {len(files):,} {name} images have no labels")
    return boxes, notes


def _labelled(frame: Frame) -> bool:
    return frame.path is not None and (frame.extra or {}).get("labelled") is not False


def pseudo_boxes(
    source: Path, files: Sequence[Path], settings: FaithfulSettings, classes: set[str], notes: list[str]
) -> list[tuple[Path, Sequence[Box]]]:
    """Pseudo boxes by image; those under ``min_score`` have weight 0, those under ``unsure_score`` are left out."""
    least = settings.min_score
    frames = _read_results(source, notes)
    if frames is None:
        frames = _read_labels(source, notes)
    names = Counter(Path(frame.name).stem for frame in frames)
    by_stem = {Path(frame.name).stem: frame for frame in frames if names[Path(frame.name).stem] == 1}
    found: list[tuple[Path, Sequence[Box]]] = []
    weak = foreign = left_out = 0
    for path in files:
        frame = by_stem.get(path.stem)
        if frame is None:
            continue
        kept = []
        for box in frame.boxes:
            if box.weight < min(least, settings.unsure_score):
                left_out += 1
            elif box.category not in classes:
                foreign += 1
            elif box.weight < least:
                weak += 1
                kept.append(msgspec.structs.replace(box, weight=0.0))
            else:
                kept.append(msgspec.structs.replace(box, weight=1.0))
        found.append((path, kept))
    if not any(box.weight for _, boxes in found for box in boxes):
        raise DatasetError(
            f"{source}: no box of faithful.min_score={least:g} or more belongs to a night image, judged by file names"
        )
    if weak:
        notes.append(f"{weak:,} pseudo boxes with a score under {least:g} are unsure, neither object nor background")
    if left_out:
        notes.append(f"{left_out:,} pseudo boxes with a score under {min(least, settings.unsure_score):g} are not used")
    if foreign:
        notes.append(f"{foreign:,} pseudo boxes of classes the dataset does not have are not used")
    return found


def _read_labels(source: Path, notes: list[str]) -> list[Frame]:
    """Frames of any other label format, sure boxes all, but for the scores that a COCO file may have.

    Raises:
        DatasetError: it cannot be read, or is YOLO, whose lines are fractions of images that lie elsewhere.
    """
    if detect_format(source) == "yolo":
        raise DatasetError(
            f"{source}: faithful.night_boxes takes COCO (nightaug predict --format coco), BDD100K, Scalabel or VOC, "
            "not YOLO lines"
        )
    labels = read_labels(source)
    notes += [f"{number:,} {kind} in {source}" for kind, number in labels.problems.counts.most_common()]
    if labels.format == "coco":
        try:
            entries = msgspec.json.decode(source.read_bytes(), type=_Annotations).annotations
        except (OSError, ValueError, RecursionError):
            entries = []  # a file that is only partly sound has been read entry by entry, without scores
        scores = {str(entry.id): entry.score for entry in entries if entry.score is not None}
        for frame in labels.frames:
            boxes = list(frame.boxes)
            for box in boxes:
                box.weight = min(box.weight, scores.get(box.id or "", 1.0))
            frame.boxes = boxes
    return list(labels.frames)


class _Scored(msgspec.Struct, gc=False):
    id: int | str | None = None
    score: float | None = None


class _Annotations(msgspec.Struct, gc=False):
    annotations: list[_Scored] = []


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
    boxes: dict[int | str, list[Box]] = {number: [] for number in frames}
    odd = 0
    for entry in entries:
        x, y, width, height = entry.bbox
        frame, name = frames.get(entry.image_id), names.get(entry.category_id)
        if frame is None or name is None or not plausible(x, y, x + width, y + height) or not 0 <= entry.score <= 1:
            odd += 1
            continue
        boxes[entry.image_id].append(Box(x, y, x + width, y + height, name, weight=entry.score))
    if odd:
        notes.append(f"{odd:,} unusable detections in {results} skipped")
    for number, frame in frames.items():
        frame.boxes = boxes[number]
    return list(frames.values())


def _decoded(path: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: cannot be read as what nightaug predict writes ({error})") from error
