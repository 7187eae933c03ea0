"""What to translate, where each result goes, and what of it is done already."""

from __future__ import annotations

import json
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import msgspec

from nightaug.data.classes import DAY, NIGHT, SOURCE_TIME, TARGET_TIME, Direction
from nightaug.data.formats import Dataset, LabelSet, Part, open_dataset, yolo
from nightaug.data.formats.discover import SPLITS, unlabelled_frames
from nightaug.data.frames import Frame, lit_by
from nightaug.data.results import result_suffix
from nightaug.data.upright import upright
from nightaug.errors import DatasetError
from nightaug.images import ImageFormat
from nightaug.translate.storage import Storage

_DOMAIN = {DAY: "A", NIGHT: "B"}


class ManifestRow(msgspec.Struct, kw_only=True):
    """One line of ``manifest.jsonl``: everything another command needs to know of a translated image.

    ``source`` is relative to the input, ``output`` to the translated folder. ``weight`` and
    ``dropped_boxes`` are 1 and empty until ``curate`` changes them. ``inputs`` is a checksum of the source file's
    size and of the boxes: where it has changed, the image is made again.
    """

    source: str
    output: str
    sha256: str
    translator: str
    checkpoint_sha: str | None
    direction: Direction
    seed: int
    source_timeofday: str | None
    inputs: int
    weight: float = 1.0
    dropped_boxes: list[int] = msgspec.field(default_factory=list)


class Item(NamedTuple):
    """One image to translate."""

    frame: Frame  # boxes refer to the upright image
    source: str  # relative to the input
    output: str  # relative to the translated folder
    seed: int
    inputs: int  # see ManifestRow


class PlannedPart(NamedTuple):
    """The items of one label file, and where its translated labels go (None: there are none)."""

    part: Part
    items: list[Item]
    labels: Path | None


class Plan(NamedTuple):
    """Everything that will be translated, and how many images were left out, by reason.

    ``split`` is what was asked for. What lies in the translated folder already may be of other splits: ``sources`` has
    each output's source over all splits, in the input's order, ``others`` the parts not asked for with their outputs.
    ``beyond`` are outputs, with their sources, that the limit leaves out.
    ``origin`` is set where the dataset is a listing of one in object storage, see :mod:`nightaug.translate.storage`.
    """

    dataset: Dataset
    parts: list[PlannedPart]
    skipped: Counter[str]
    seed: int
    split: str
    sources: dict[str, str]
    others: list[tuple[PlannedPart, list[str]]]
    beyond: dict[str, str]
    origin: Storage | None = None

    @property
    def items(self) -> list[Item]:
        return [item for part in self.parts for item in part.items]


def image_seed(name: str, seed: int) -> int:
    """The seed of one image: a function of its name, so that order and resume do not matter."""
    return zlib.crc32(name.encode("utf-8", "surrogateescape")) ^ (seed & 0xFFFFFFFF)


def inputs_checksum(frame: Frame) -> int:
    """Checksum of what a translation depends on besides the translator: the file (by its size) and the boxes."""
    try:
        size = frame.path.stat().st_size if frame.path is not None else 0
    except OSError:
        size = 0
    return zlib.crc32(repr((size, [lit_by(box) for box in frame.boxes])).encode())


def _inside(path: Path, root: Path) -> str | None:
    """``path`` relative to ``root`` with forward slashes, None where it lies elsewhere.

    Both are made absolute first, without following links: ``../x`` is not inside ``.``, and a dataset made of
    links is inside itself.
    """
    here, there = os.path.abspath(path), os.path.abspath(root)
    relative = os.path.relpath(here, there)
    return None if relative == ".." or relative.startswith("../") else relative


def _with_format(name: str, format: ImageFormat | None) -> str:
    path = PurePosixPath(name)
    return str(path.with_suffix(result_suffix(path) if format is None else f".{format}"))


def make_plan(
    source: str | os.PathLike[str],
    direction: Direction,
    format: ImageFormat | None = None,
    seed: int = 0,
    images: str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
    label_format: str | None = None,
    all_times: bool = False,
    limit: int | None = None,
    split: str = "all",
) -> Plan:
    """Find the images of an input and give each its place in the translated folder.

    Where labels know the time of day, only frames of the source's time enter (``all_times`` takes all):
    a night frame rendered night is no pair of anything. Frames without a time of day always enter. Of a prepared
    dataset only the source's domain is translated. With a ``split`` only that one's frames enter.

    Raises:
        DatasetError: nothing to translate, or no such split.
    """
    dataset = open_dataset(source, images, labels, label_format)
    dataset.require_split(split)
    wanted, target = SOURCE_TIME[direction], TARGET_TIME[direction]
    skipped: Counter[str] = Counter()
    taken: set[str] = set()
    sources: dict[str, str] = {}
    beyond: dict[str, str] = {}
    others: list[tuple[PlannedPart, list[str]]] = []
    parts: list[PlannedPart] = []
    left = limit if limit is not None else -1
    root = dataset.root if dataset.root.is_dir() else dataset.root.parent
    for part in dataset.parts:
        asked = split in ("all", part.split)
        items: list[Item] = []
        outputs: list[str] = []
        own_time = {"A": DAY, "B": NIGHT}.get(part.domain or "")
        base = _inside(part.images, root) or part.images.name
        for frame in [*part.labels.frames, *unlabelled_frames(part)]:
            time = frame.timeofday or own_time
            # Both domains of a prepared dataset would end up in one folder of the target domain.
            other_time = time is not None and time != wanted and (not all_times or own_time is not None)
            if not asked:
                skipped[f"not of {split}"] += 1
            elif frame.path is None:
                skipped["image missing"] += 1
            elif other_time:
                skipped[f"not {wanted}"] += 1
            elif left == 0:
                skipped["over the limit"] += 1
            if frame.path is None or other_time:
                continue
            place = _inside(frame.path, root) or str(PurePosixPath(base, frame.name))
            output = _free(_with_format(_moved(place, part, target), format), place, taken)
            if asked and left == 0:
                beyond[output] = place
                continue
            sources[output] = place
            outputs.append(output)
            if asked:
                left -= 1
                turned = upright(frame)
                items.append(Item(turned, place, output, image_seed(place, seed), inputs_checksum(turned)))
        where = _label_place(part, root, target)
        if items:
            parts.append(PlannedPart(part, items, where))
        elif outputs:
            others.append((PlannedPart(part, [], where), outputs))
    if not parts:
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items()) or "no images found"
        raise DatasetError(f"{source}: nothing to translate ({reasons})")
    return Plan(dataset, parts, skipped, seed, split, sources, others, beyond)


def _label_place(part: Part, root: Path, target: str) -> Path | None:
    """Where a part's translated labels go, relative to the translated folder; None where there are none."""
    if part.source is None:
        return None
    if part.domain is not None:
        return Path(f"annotations/{part.split}_{_DOMAIN[target]}.json")
    return Path(_inside(part.source, root) or part.source.name)


def _moved(place: str, part: Part, target: str) -> str:
    """In a prepared dataset a translated day image belongs into the night domain's folder."""
    if part.domain is None:
        return place
    head = f"{part.split}/{part.domain}/"
    return f"{part.split}/{_DOMAIN[target]}/{place[len(head) :]}" if place.startswith(head) else place


def _free(output: str, place: str, taken: set[str]) -> str:
    """An output name nobody has: ``x.png`` beside ``x.jpg`` becomes ``x_png.jpg`` when both become jpg."""
    if output in taken:
        path = PurePosixPath(output)
        output = str(path.with_name(f"{path.stem}_{PurePosixPath(place).suffix[1:]}{path.suffix}"))
    number = 2
    base = PurePosixPath(output)
    while output in taken:
        output = str(base.with_name(f"{base.stem}_{number}{base.suffix}"))
        number += 1
    taken.add(output)
    return output


def read_manifest(folder: Path) -> Iterator[ManifestRow]:
    """Rows of ``manifest.jsonl``; a last line torn by a crash is left out.

    Raises:
        DatasetError: a line in the middle is not a manifest row.
    """
    path = folder / "manifest.jsonl"
    if not path.exists():
        return
    decoder = msgspec.json.Decoder(ManifestRow)
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines):
        if not line:
            continue
        try:
            yield decoder.decode(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines) - 1:
                return  # no newline after it: the write was cut off
            raise DatasetError(
                f"{path}, line {number + 1}: not a row of a translation's manifest ({error}); "
                "choose another --out, or --overwrite"
            ) from error


def manifest_line(row: ManifestRow) -> bytes:
    """One row as it stands in the file."""
    return msgspec.json.encode(row) + b"\n"


def translated_frames(items: Iterable[Item], part: Part, target: str) -> list[Frame]:
    """The labels of translated images: the source's, with the target's time of day and the output's name."""
    named = set(part.labels.unlabelled)
    frames = []
    for item in items:
        if item.frame.name in named:
            continue
        frame = msgspec.structs.replace(item.frame, timeofday=target)
        suffix = PurePosixPath(item.output).suffix
        name = PurePosixPath(item.frame.name)
        stem = PurePosixPath(item.output).stem if part.source is not None else name.stem
        if name.suffix != suffix or name.stem != stem:
            frame.name = str(name.with_name(stem + suffix))
        frames.append(frame)
    return frames


def translated_labels(part: Part, frames: list[Frame]) -> LabelSet:
    """A label set like the source's with other frames, for the writer of its format."""
    labels = part.labels
    return LabelSet(frames, labels.classes, labels.format, labels.layout, meta=dict(labels.meta))


def translated_yaml(plan: Plan, parts: Sequence[PlannedPart]) -> str | None:
    """The ``dataset.yaml`` of a translated YOLO dataset, None for other formats.

    Also None where the source's folders are not laid out as ultralytics looks for labels (``images`` becomes
    ``labels``, or they lie beside the images), or its parts name classes differently: no such file would be true.
    """
    root = plan.dataset.root if plan.dataset.root.is_dir() else plan.dataset.root.parent
    folders: dict[str, list[str]] = {}
    names: list[str] = []
    for part, _, labels in parts:
        if labels is None or part.labels.format != "yolo":
            return None
        images = _inside(part.images, root) or part.images.name
        if "/labels/".join(f"/{images}/".rsplit("/images/", 1)) != f"/{labels.as_posix()}/":
            return None
        own = [category["name"] for category in part.labels.meta["categories"]]
        if own[: len(names)] != names[: len(own)]:
            return None
        names = max(names, own, key=len)
        folders.setdefault("train" if part.split == "all" else part.split, []).append(images)
    note = "Made by nightaug translate."
    if "val" not in folders:
        note += "\nNo val was translated: ultralytics wants one, name a folder of validation images under it."
    ordered = {split: folders[split] for split in SPLITS if split in folders}
    return yolo.dataset_yaml(ordered, names, note) if ordered else None


def summary(plan: Plan) -> str:
    """The counts of a plan in one line."""
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in sorted(plan.skipped.items()))
    boxes = sum(len(item.frame.boxes) for item in plan.items)
    line = f"{len(plan.items):,} images, {boxes:,} boxes"
    return f"{line}; left out: {left_out}" if left_out else line


def as_json(value: dict[str, Any]) -> str:
    """Pretty JSON text with a final newline."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
