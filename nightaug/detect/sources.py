"""Where training frames come from: any dataset or translated folder, a split, a domain, a weight."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from nightaug.data.classes import BDD100K_CLASSES, DAY, NIGHT, canonical_class
from nightaug.data.formats import Dataset, open_dataset
from nightaug.data.formats.discover import unlabelled_frames
from nightaug.data.frames import Box, Frame
from nightaug.detect.sampling import Source
from nightaug.errors import ConfigError, DatasetError

SPLITS = ("train", "val", "test", "all")
DOMAINS = ("A", "B", "all")


class SourceSpec(NamedTuple):
    """``--data NAME:SPLIT:DOMAIN:WEIGHT``: ``data`` is a folder, or ``dataset`` for the command's own."""

    data: str
    split: str = "train"
    domain: str = "all"
    weight: float = 1.0


class _Row(msgspec.Struct):
    """What training needs of a line of a translated folder's ``manifest.jsonl``."""

    output: str
    source: str = ""
    weight: float = 1.0
    dropped_boxes: list[int] = msgspec.field(default_factory=list)


def parse_source(text: str, option: str = "--data") -> SourceSpec:
    """``dataset:train:A:0.5`` or ``path/to/folder:train``; what is left out is train, all, 1.

    Args:
        option: where it comes from, for messages.

    Raises:
        ConfigError: a part is not a split, a domain or a weight.
    """
    if ":" in text and Path(text).is_dir():
        return SourceSpec(text)  # the colons are the folder's own
    parts = text.split(":")
    weight, domain, split = 1.0, "all", "train"
    if len(parts) > 1 and _is_number(parts[-1]):
        weight = float(parts.pop())
    if len(parts) > 1 and parts[-1] in DOMAINS and (parts[-1] != "all" or parts[-2] in SPLITS):
        domain = parts.pop()
    if len(parts) > 1 and parts[-1] in SPLITS:
        split = parts.pop()
    name = ":".join(parts)
    if not name or (len(parts) > 1 and not Path(name).exists()):
        raise ConfigError(
            f"{option} '{text}': expected NAME:SPLIT:DOMAIN:WEIGHT, e.g. dataset:train:A:0.5 (NAME is 'dataset' or a "
            f"folder, SPLIT one of {', '.join(SPLITS)}, DOMAIN A, B or all)"
        )
    if not 0 <= weight < math.inf:
        raise ConfigError(f"{option} '{text}': expected a weight of 0 or more, got {weight}")
    return SourceSpec(name, split, domain, weight)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def load_frames(dataset: Dataset, split: str, domain: str, rows: Mapping[str, _Row] | None = None) -> list[Frame]:
    """Frames of a dataset with an image, by split and domain; a translated folder's weights are put into them.

    ``dropped_boxes`` of the manifest get weight 0, an image's weight goes to ``extra["weight"]``, and images of
    weight 0 are left out. ``rows`` are the manifest's where the caller has them (see :func:`read_weights`).
    """
    frames = [frame for frame in dataset.frames(split, None if domain == "all" else domain) if frame.path is not None]
    rows = read_weights(dataset.root) if rows is None else rows
    if not rows:
        return frames
    found = []
    for frame in frames:
        row = rows.get(_place(frame, dataset.root))
        kept = frame if row is None else weighed(frame, row.weight, frozenset(row.dropped_boxes))
        if kept is not None:
            found.append(kept)
    return found


def _place(frame: Frame, root: Path) -> str:
    """Where in a folder a frame's image lies, as manifests name it."""
    return os.path.relpath(os.path.abspath(frame.path or ""), os.path.abspath(root))


def read_weights(root: Path) -> dict[str, _Row]:
    """Manifest rows of a translated folder by image file relative to it; empty where it is none.

    Raises:
        DatasetError: the manifest cannot be read.
    """
    path = root / "manifest.jsonl"
    if not path.is_file():
        return {}
    rows: dict[str, _Row] = {}
    decoder = msgspec.json.Decoder(_Row)
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = decoder.decode(line)
        except (ValueError, RecursionError) as error:
            if b'"output"' not in line:
                return {}  # the manifest of a prepared dataset
            raise DatasetError(f"{path}: line {number} cannot be read ({error}); translate the folder anew") from error
        rows[os.path.normpath(row.output)] = row
    return rows


def weighed(frame: Frame, weight: float, dropped: Collection[int]) -> Frame | None:
    """The frame with the weights of its manifest row, None where the image's is 0.

    Args:
        weight: of the image, to ``extra["weight"]``.
        dropped: numbers of the boxes that get weight 0.
    """
    if weight <= 0:
        return None
    if weight == 1 and not dropped:
        return frame  # nearly all are
    boxes = [
        msgspec.structs.replace(box, weight=0.0) if number in dropped else box for number, box in enumerate(frame.boxes)
    ]
    extra = frame.extra if weight == 1 else {**(frame.extra or {}), "weight": weight}
    return msgspec.structs.replace(frame, boxes=boxes, extra=extra)


def image_weight(frame: Frame) -> float:
    """In [0, 1]: how far the whole image is trusted (a translation's manifest says so), 1 where nothing is said."""
    return float((frame.extra or {}).get("weight", 1.0))


def is_labelled(frame: Frame) -> bool:
    """Whether somebody has looked for objects in the frame."""
    return (frame.extra or {}).get("labelled") is not False


def labelled_frames(dataset: Dataset, split: str, domain: str, rows: Mapping[str, _Row] | None = None) -> list[Frame]:
    """Frames (see :func:`load_frames`) in which somebody has looked for objects; images alone are none."""
    parts = [part for part in dataset.parts if part.source is not None]
    labelled = Dataset(dataset.root, parts, dataset.prepared, dataset.problems)
    return [frame for frame in load_frames(labelled, split, domain, rows) if is_labelled(frame)]


def load_source(spec: SourceSpec, dataset: Dataset, option: str = "--data") -> Source:
    """The labelled frames behind a spec.

    Args:
        dataset: what ``dataset`` (or ``.``) means.
        option: where the spec comes from, for messages.

    Raises:
        DatasetError: nothing usable is there.
    """
    opened, split, name = _open(spec, dataset)
    rows = read_weights(opened.root)
    frames = labelled_frames(opened, split, spec.domain, rows)
    if not frames:
        found = len(load_frames(opened, split, spec.domain, rows))
        what = f"{found:,} images, none of them labelled" if found else "no images"
        raise DatasetError(f"{option} {name}: {what} ({_parts(opened)})")
    origins = find_origins(frames, opened.root, rows, dataset.root)
    return Source(name, frames, spec.weight, origins, _left_out(opened, split, spec.domain, rows))


def _left_out(dataset: Dataset, split: str, domain: str, rows: Mapping[str, _Row]) -> int:
    """How many labelled images :func:`labelled_frames` leaves out for their weight of 0."""
    gone = {place for place, row in rows.items() if row.weight <= 0}
    frames = labelled_frames(dataset, split, domain, {place: _Row(place) for place in gone}) if gone else []
    return sum(_place(frame, dataset.root) in gone for frame in frames)


def find_origins(frames: Sequence[Frame], root: Path, rows: Mapping[str, _Row], dataset: Path) -> dict[Path, Path]:
    """Which image of the dataset each translated frame was made from, as the translated folder's manifest says.

    Args:
        root: of the translated folder.
        rows: of its manifest.
        dataset: what was translated.

    Returns:
        Empty where ``root`` holds no translation; frames whose image is not in the dataset are left out.
    """
    found: dict[Path, Path] = {}
    for frame in frames if rows else ():
        row = rows.get(_place(frame, root))
        if row is not None and row.source and frame.path is not None and (dataset / row.source).is_file():
            found[frame.path] = dataset / row.source
    return found


def load_target(spec: SourceSpec, dataset: Dataset, option: str = "--target") -> list[Frame]:
    """The images behind a spec, labelled or not.

    Args:
        dataset: what ``dataset`` (or ``.``) means.
        option: where the spec comes from, for messages.

    Raises:
        DatasetError: there are none.
    """
    opened, split, name = _open(spec, dataset)
    found = load_frames(opened, split, spec.domain)
    for part in opened.parts:
        if split in ("all", part.split) and spec.domain in ("all", part.domain):
            found += unlabelled_frames(part)
    if not found:
        raise DatasetError(f"{option} {name}: no images ({_parts(opened)})")
    return found


def _open(spec: SourceSpec, dataset: Dataset) -> tuple[Dataset, str, str]:
    """The dataset a spec means, the split, and the spec in words; a dataset without splits is all training data."""
    opened = dataset if spec.data in {"dataset", "."} else open_dataset(spec.data)
    split = "all" if spec.split == "train" and set(opened.splits) == {"all"} else spec.split
    return opened, split, f"{spec.data}:{split}:{spec.domain}"


def _parts(dataset: Dataset) -> str:
    """What there is to choose from."""
    there = ", ".join(f"{part.split}/{part.domain or '-'}" for part in dataset.parts)
    return f"the dataset has: {there or 'nothing'}"


def known_classes(frames: Sequence[Frame], order: Sequence[str] = ()) -> tuple[str, ...]:
    """Classes that occur in the labels, BDD100K's in their usual order, then ``order``'s, then others by name."""
    seen = {box.category for frame in frames for box in frame.boxes}
    first = [name for name in (*BDD100K_CLASSES, *order) if name in seen]
    return tuple(dict.fromkeys([*first, *sorted(seen)]))


def without_images_of(frames: Sequence[Frame], classes: Sequence[str]) -> list[Frame]:
    """Frames that show none of the classes, crowds and labels of weight 0 among them; an empty frame stays."""
    gone = {canonical_class(name) for name in classes}
    return [frame for frame in frames if not any(canonical_class(box.category) in gone for box in frame.boxes)]


def map_classes(frames: Sequence[Frame], mapping: dict[str, str]) -> list[Frame]:
    """Frames with their classes renamed, e.g. ``{"rider": "pedestrian"}``; names are made canonical."""
    names = {canonical_class(old): canonical_class(new) for old, new in mapping.items()}
    if not names:
        return list(frames)

    def renamed(box: Box) -> Box:
        new = names.get(box.category)
        return box if new is None else msgspec.structs.replace(box, category=new)

    return [msgspec.structs.replace(frame, boxes=[renamed(box) for box in frame.boxes]) for frame in frames]


def spread(frames: Sequence[Frame], count: int) -> list[Frame]:
    """``count`` frames spread evenly over the list sorted by name: the same ones each time, from many drives."""
    ordered = sorted(frames, key=lambda frame: frame.name)
    if len(ordered) <= count:
        return ordered
    return [ordered[at * len(ordered) // count] for at in range(count)]


def fingerprint(sources: Sequence[Source]) -> str:
    """Numbers of images and a hash of names, boxes and weights: a resumed run must see the same ones."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(f"{source.name}|{source.weight}\n".encode("utf-8", "surrogateescape"))
        for frame in source.frames:
            weight = (frame.extra or {}).get("weight", 1.0)
            labels = [(box.xyxy, box.category, box.weight, box.crowd) for box in frame.boxes]
            digest.update(f"{frame.name}|{weight}|{labels}\n".encode("utf-8", "surrogateescape"))
    return f"{'+'.join(str(len(source.frames)) for source in sources)} images, {digest.hexdigest()[:12]}"


def placeless(sources: Sequence[Source]) -> list[Source]:
    """The sources, their names without the folders they lie in: ``/home/me/T:train:B`` is ``T:train:B``."""
    return [source._replace(name=source.name.rpartition("/")[2]) for source in sources]


def in_words(source: Source) -> str:
    """``T:train:B: 13 images (0 day, 13 night), 174 boxes (83 more of weight 0), weight 1`` for messages."""
    frames = source.frames
    dropped = sum(box.weight <= 0 for frame in frames for box in frame.boxes)
    boxes = f"{sum(len(frame.boxes) for frame in frames) - dropped:,} boxes"
    parts = [
        f"{source.name}: {len(frames):,} images ({by_time(frames)})",
        boxes + (f" ({dropped:,} more of weight 0)" if dropped else ""),
    ]
    if doubted := sum(image_weight(frame) < 1 for frame in frames):
        parts.append(f"{doubted:,} images weighed down")
    if source.left_out:
        parts.append(f"{source.left_out:,} images of weight 0 left out")
    return ", ".join([*parts, f"weight {source.weight:g}"])


def by_time(frames: Sequence[Frame]) -> str:
    """``1,020 day, 0 night`` for messages."""
    day = sum(frame.timeofday == DAY for frame in frames)
    night = sum(frame.timeofday == NIGHT for frame in frames)
    other = len(frames) - day - night
    return f"{day:,} day, {night:,} night" + (f", {other:,} other" if other else "")
