"""What is in a dataset's folder: its images, its label files, which belong together, and the splits.

Understood are BDD100K's root, SHIFT, COCO and FLIR, Pascal VOC, YOLO (also Roboflow's exports), folders of images
alone, a single label file or image, and the folders ``nightaug prepare`` makes. The tree is walked once; label
files are told by their content, splits by the words train, val and test in folder and file names, and the images of
a label file are those in the split's own image folder, or beside or below the label file.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from nightaug.data.classes import DAY, NIGHT, TARGET_TIME, Direction
from nightaug.data.companion_names import without_companions
from nightaug.data.formats.base import (
    LABELS_BESIDE,
    ImageIndex,
    LabelSet,
    Problems,
    is_image_name,
    resolve,
    shown,
)
from nightaug.data.formats.detect import YOLO_FILES, detect_format
from nightaug.data.formats.registry import READERS, check_format
from nightaug.data.formats.tree import (
    IMAGE_FOLDERS,
    TRANSLATION,
    Folder,
    Source,
    descend,
    find_sources,
    images_for,
    labels_beside,
    parents,
    split_word,
    walk,
)
from nightaug.data.formats.voc import split_by_sets
from nightaug.data.frames import Frame
from nightaug.data.packed import Keep, pack_frames
from nightaug.data.shelf import change, paths_of, repeated
from nightaug.data.text import encodable
from nightaug.errors import DatasetError
from nightaug.images import IMAGE_SUFFIXES

SPLITS = ("train", "val", "test")
DOMAINS = ("A", "B")


@dataclass
class Part:
    """The frames of one split (and one domain, in a prepared dataset).

    Attributes:
        split: ``train``, ``val``, ``test``, or ``all`` where the dataset has no splits.
        domain: ``A`` or ``B`` in a prepared dataset, otherwise None.
        labels: the frames, with ``path`` set where the image exists.
        images: folder the frames' names are relative to.
        source: the label file or folder, None for images alone.
        timeofday: of images whose labels cannot say it, as in YOLO's: known in a folder that was translated.
    """

    split: str
    domain: str | None
    labels: LabelSet
    images: Path
    source: Path | None
    timeofday: str | None = None


_YAML = (".yaml", ".yml")


@dataclass
class Dataset:
    """A dataset as found on disk.

    Attributes:
        root: what was opened.
        parts: see :class:`Part`.
        prepared: made by ``nightaug prepare``.
        problems: everything that was skipped while reading, of all parts.
        duplicates: frames left out as an earlier one is of the same image.
    """

    root: Path
    parts: list[Part] = field(default_factory=list)
    prepared: bool = False
    problems: Problems = field(default_factory=Problems)
    duplicates: int = 0

    @property
    def format(self) -> str | None:
        """The label format, None for images alone."""
        return next((part.labels.format for part in self.parts if part.source is not None), None)

    @property
    def classes(self) -> tuple[str, ...]:
        """Canonical class names of all parts, in the order of the first."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.labels.classes))

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(part.split for part in self.parts))

    def require_split(self, split: str) -> None:
        """Raise a DatasetError that names the splits there are, if ``split`` is none of them; ``all`` always is one."""
        if split != "all" and split not in self.splits:
            there = ", ".join(name for name in self.splits if name != "all")
            choose = f"choose one with --split ({there}, or all)" if there else "it is not split, give --split all"
            raise DatasetError(f"{self.root}: it has no split {split}; {choose}")

    def frames(self, split: str | None = None, domain: str | None = None) -> list[Frame]:
        """Frames of a split and a domain (``A`` day, ``B`` night); None takes all, and so does the split ``all``.

        In a dataset that is not prepared, the time of day decides about the domain.
        """
        found: list[Frame] = []
        time = {"A": DAY, "B": NIGHT}.get(domain or "")
        for part in self.parts:
            if split not in (None, "all", part.split):
                continue
            if domain is None or part.domain == domain:
                found += part.labels.frames
            elif part.domain is None:
                found += [frame for frame in part.labels.frames if frame.timeofday == time]
        return found


def unlabelled_frames(part: Part) -> Iterator[Frame]:
    """The images of a part that no label names."""
    return (Frame(image, path=part.images / image, timeofday=part.timeofday) for image in part.labels.unlabelled)


def open_dataset(
    root: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
    format: str | None = None,
    keep: Keep = pack_frames,
) -> Dataset:
    """Find and read everything in a dataset's folder.

    Args:
        root: the folder; or one label file; or one image; or the ``data.yaml`` in a YOLO dataset's folder.
        images, labels: say where they are instead of searching.
        format: a key of ``READERS`` where looking would be wrong.
        keep: what to make of the frames of each part: a list, or :meth:`nightaug.data.shelf.Shelf.keep`.

    Raises:
        DatasetError: nothing usable is there; the message says what was looked for.
        ConfigError: unknown ``format``.
    """
    dataset = _open(root, images, labels, format, keep)
    _tell_time(dataset)
    return dataset


def _open(
    root: str | os.PathLike[str],
    images: str | os.PathLike[str] | None,
    labels: str | os.PathLike[str] | None,
    format: str | None,
    keep: Keep,
) -> Dataset:
    check_format(format)
    root = _folder_of_yaml(Path(root))
    check_encodable(root, images, labels)
    if not root.is_file() and not root.is_dir():
        what = "a pipe, a socket or a device; give a file or a folder" if root.exists() else "no such file or folder"
        raise DatasetError(f"{root}: {what}")
    dataset = Dataset(root)
    if root.is_file() and labels is None:
        if root.suffix.lower() in IMAGE_SUFFIXES:
            frame = Frame(root.name, path=root)
            dataset.parts.append(Part("all", None, LabelSet(keep([frame]), (), "", "images"), root.parent, None))
            return dataset
        labels = root
    if labels is None and images is None and root.is_dir():
        dataset.parts = list(_prepared(root, dataset.problems, keep))
        if dataset.parts:
            dataset.prepared = True
            _keep_first(dataset)
            return dataset
    base = root if root.is_dir() else _base_of(root)
    image_base = Path(images) if images is not None else base
    label_base = Path(labels) if labels is not None else base
    if not image_base.is_dir():
        raise DatasetError(f"{image_base}: no such folder of images")
    image_tree = walk(image_base, dataset.problems)
    if label_base.is_file():
        sources = [Source(label_base, format or detect_format(label_base), split_word(label_base.name) or "all", 5)]
    elif labels is not None or images is None:
        if not label_base.is_dir():
            raise DatasetError(f"{label_base}: no such file or folder of labels")
        tree = image_tree if label_base == image_base else walk(label_base, dataset.problems)
        sources = list(find_sources(label_base, tree, format, dataset.problems))
        if not sources:
            _without_labels(label_base, labels is not None, dataset.problems)
    else:
        sources = []
    _read_parts(dataset, sources, image_base, image_tree, keep)
    _keep_first(dataset)
    if not dataset.parts:
        links = [p.where for p in dataset.problems.listed if p.kind == "linked folder skipped"]
        hint = f"; {links[0]} is a link that leads out of it, pass --images and --labels" if links else ""
        raise DatasetError(f"{root}: no images and no label files found{hint}")
    return dataset


class _Translation(msgspec.Struct):
    """What a translated folder's ``translation.json`` says of it, as far as readers want to know."""

    direction: Direction


def _tell_time(dataset: Dataset) -> None:
    """Give a translated folder's images the time of day they were translated to, where their labels have no word."""
    if dataset.prepared:
        return
    try:
        facts = msgspec.json.decode((dataset.root / TRANSLATION).read_bytes(), type=_Translation)
    except (OSError, ValueError, RecursionError):
        return  # no translated folder; whoever translates into it says what is wrong with it
    time = TARGET_TIME[facts.direction]

    def tell(frame: Frame) -> Frame:
        frame.timeofday = frame.timeofday or time
        return frame

    for part in dataset.parts:
        part.timeofday = time
        part.labels.frames = change(part.labels.frames, tell)


def _folder_of_yaml(file: Path) -> Path:
    """The folder of the YOLO dataset that a ``data.yaml`` lies in, where its class names are read; others as given.

    Raises:
        DatasetError: a file of another name, such as those that ultralytics ships: its images lie elsewhere.
    """
    if file.suffix.lower() not in _YAML or not file.is_file():
        return file
    if file.name not in YOLO_FILES:
        names = " or ".join(name for name in YOLO_FILES if name.endswith(".yaml"))
        raise DatasetError(f"{file}: give the dataset's folder; class names are read from {names} in it")
    return file.absolute().parent


def check_encodable(*given: str | os.PathLike[str] | None) -> None:
    """Raise a DatasetError for a path that is not UTF-8."""
    for path in given:
        if path is not None and not encodable(str(path)):
            raise DatasetError(f"{shown(path)}: the name is not UTF-8, which no label file can hold; rename it")


def _without_labels(base: Path, asked: bool, problems: Problems) -> None:
    """No label files lie in ``base``: an error where they were asked for, else a word on those that lie beside it."""
    if asked:
        raise DatasetError(f"{base}: no label files found (looked for {', '.join(READERS)})")
    beside = labels_beside(base)
    if beside is not None:
        problems.add(LABELS_BESIDE, str(beside), f"give {beside.parent} to use it")


def _keep_first(dataset: Dataset) -> None:
    """Of several frames of one image only the first stays, whoever reads the dataset."""
    # The numbers of all paths say which few have to be looked at; the paths themselves would fill the memory.
    paths = (path for part in dataset.parts for path in paths_of(part.labels.frames) if path is not None)
    twice = repeated(array("q", map(hash, paths)))
    if not twice:
        return
    seen: set[str] = set()
    for part in dataset.parts:

        def first(frame: Frame, part: Part = part) -> Frame | None:
            path = None if frame.path is None else str(frame.path)
            if path is None or hash(path) not in twice:
                return frame
            if path not in seen:
                seen.add(path)
                return frame
            dataset.duplicates += 1
            dataset.problems.add("duplicate name", shown(frame.name), f"labelled again in {part.source}, skipped")
            return None

        part.labels.frames = change(part.labels.frames, first)


def _base_of(label_file: Path) -> Path:
    """The folder to look for images in, given one label file: the nearest one above that has an image folder."""
    for parent in list(label_file.absolute().parents)[:4]:
        if any((parent / name).is_dir() for name in IMAGE_FOLDERS):
            return parent
    return label_file.parent


def _read_parts(dataset: Dataset, sources: list[Source], base: Path, tree: dict[str, Folder], keep: Keep) -> None:
    indexes: dict[str, ImageIndex] = {}

    def index_of(name: str) -> ImageIndex:
        if name not in indexes:
            seen = Problems()
            indexes[name] = ImageIndex(base / name if name else base, seen)
            # The tree has named everything else already.
            for problem in seen.listed:
                if problem.kind != "linked folder skipped" and is_image_name(problem.where):
                    dataset.problems.add(*problem)
        return indexes[name]

    groups: dict[tuple[str, str], list[Source]] = {}
    for source in sources:
        groups.setdefault((source.split, images_for(source, base, tree)), []).append(source)
    for (split, folder), members in groups.items():
        best = min(member.priority for member in members)
        for source in members:
            if source.priority > best:
                dataset.problems.add("label file not used", str(source.path), "another one names the same images")
                continue
            index = index_of(folder)
            labels = READERS[source.format](source.path, index, keep)
            resolve(labels, index)
            by_sets = source.format == "voc" and source.split == "all"
            for name, some in split_by_sets(source.path, labels, keep) if by_sets else [(None, labels)]:
                dataset.parts.append(Part(name or split, None, some, index.root, source.path))
            dataset.problems.extend(labels.problems)
    _settle_unlabelled(dataset.parts)
    labelled = {part.split for part in dataset.parts}
    if not sources and tree[""].below:
        named = {n: s for n in tree if n and tree[n].below and (s := split_word(n.rsplit("/", 1)[-1]))}
        tops = {n: s for n, s in named.items() if not any(parent in named for parent in parents(n))}
        for name, split in (tops or {descend("", tree): "all"}).items():
            index = index_of(name)
            frames = keep(Frame(image, path=index.root / image) for image in without_companions(index.names))
            dataset.parts.append(Part(split, None, LabelSet(frames, (), "", "images"), index.root, None))
    elif "test" not in labelled and "all" not in labelled:
        for name, folder_here in tree.items():
            if folder_here.images and split_word(name.rsplit("/", 1)[-1]) == "test":
                # BDD100K keeps its test labels to itself.
                dataset.problems.count("image of a split without labels, not used", folder_here.images)


def _settle_unlabelled(parts: list[Part]) -> None:
    """An image is unlabelled only if no label file of its folder names it; it then counts once."""
    by_root: dict[Path, list[Part]] = {}
    for part in parts:
        by_root.setdefault(part.images, []).append(part)
    for members in by_root.values():
        if len(members) > 1:
            free = set(members[0].labels.unlabelled).intersection(*(part.labels.unlabelled for part in members[1:]))
            members[0].labels.unlabelled = [name for name in members[0].labels.unlabelled if name in free]
            for part in members[1:]:
                part.labels.unlabelled = []


def _prepared(root: Path, problems: Problems, keep: Keep) -> Iterator[Part]:
    """The parts of ``{train,val,test}/{A,B}`` with ``annotations/{split}_{domain}.json``, where they exist."""
    for split in SPLITS:
        for domain in DOMAINS:
            folder = root / split / domain
            if not folder.is_dir():
                continue
            index = ImageIndex(folder, problems)
            file = root / "annotations" / f"{split}_{domain}.json"
            if file.is_file():
                labels = READERS["coco"](file, index, keep)
                resolve(labels, index)
                problems.extend(labels.problems)
                yield Part(split, domain, labels, folder, file)
            else:
                frames = keep(Frame(name, path=folder / name) for name in without_companions(index.names))
                yield Part(split, domain, LabelSet(frames, (), "", "images"), folder, None)
