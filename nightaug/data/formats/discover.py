"""What is in a dataset's folder: its images, its label files, which belong together, and the splits.

Understood are BDD100K's root, SHIFT, COCO and FLIR, Pascal VOC, YOLO (also Roboflow's exports), folders of images
alone, a single label file or image, and the folders ``nightaug prepare`` makes. The tree is walked once; label
files are told by their content, splits by the words train, val and test in folder and file names, and the images of
a label file are those in the split's own image folder, or beside or below the label file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from nightaug.data.classes import DAY, NIGHT
from nightaug.data.formats.base import ImageIndex, LabelSet, Problems, resolve
from nightaug.data.formats.detect import detect_format
from nightaug.data.formats.registry import READERS, check_format
from nightaug.data.frames import Frame
from nightaug.errors import DatasetError
from nightaug.images import IMAGE_SUFFIXES

SPLITS = ("train", "val", "test")
DOMAINS = ("A", "B")
_SPLIT_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
                "testing": "test"}
_IMAGE_FOLDERS = ("images", "JPEGImages", "jpegimages", "image", "img", "imgs")
#: Folders of labels that are no boxes; prepare passes them along, nobody reads them.
_NOT_BOXES = frozenset(
    {"lane", "drivable", "sem_seg", "ins_seg", "pan_seg", "seg_track_20", "pose_21", "masks", "colormaps", "bitmasks",
     "polygons", "rles", "SegmentationClass", "SegmentationObject", "ImageSets", "__MACOSX"}
)
_MAX_FOLDERS = 100_000


@dataclass
class Part:
    """The frames of one split (and one domain, in a prepared dataset).

    Attributes:
        split: ``train``, ``val``, ``test``, or ``all`` where the dataset has no splits.
        domain: ``A`` or ``B`` in a prepared dataset, otherwise None.
        labels: the frames, with ``path`` set where the image exists.
        images: folder the frames' names are relative to.
        source: the label file or folder, None for images alone.
    """

    split: str
    domain: str | None
    labels: LabelSet
    images: Path
    source: Path | None


@dataclass
class Dataset:
    """A dataset as found on disk.

    Attributes:
        root: what was opened.
        parts: see :class:`Part`.
        prepared: made by ``nightaug prepare``.
        problems: everything that was skipped while reading, of all parts.
    """

    root: Path
    parts: list[Part] = field(default_factory=list)
    prepared: bool = False
    problems: Problems = field(default_factory=Problems)

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

    def frames(self, split: str | None = None, domain: str | None = None) -> list[Frame]:
        """Frames of a split and a domain (``A`` day, ``B`` night); None takes all.

        In a dataset that is not prepared, the time of day decides about the domain.
        """
        found: list[Frame] = []
        time = {"A": DAY, "B": NIGHT}.get(domain or "")
        for part in self.parts:
            if split is not None and part.split != split:
                continue
            if domain is None or part.domain == domain:
                found += part.labels.frames
            elif part.domain is None:
                found += [frame for frame in part.labels.frames if frame.timeofday == time]
        return found


@dataclass
class _Folder:
    images: int = 0  # in this folder itself
    below: int = 0  # in this folder and all below it
    json: list[str] = field(default_factory=list)
    xml: int = 0
    text: list[str] = field(default_factory=list)


@dataclass
class _Source:
    path: Path
    format: str
    split: str
    priority: int


def open_dataset(
    root: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
    format: str | None = None,
) -> Dataset:
    """Find and read everything in a dataset's folder.

    Args:
        root: the folder; or one label file; or one image.
        images, labels: say where they are instead of searching.
        format: a key of ``READERS`` where looking would be wrong.

    Raises:
        DatasetError: nothing usable is there; the message says what was looked for.
        ConfigError: unknown ``format``.
    """
    check_format(format)
    root = Path(root)
    if not root.exists():
        raise DatasetError(f"{root}: no such file or folder")
    dataset = Dataset(root)
    if root.is_file() and labels is None:
        if root.suffix.lower() in IMAGE_SUFFIXES:
            frame = Frame(root.name, path=root)
            dataset.parts.append(Part("all", None, LabelSet([frame], (), "", "images"), root.parent, None))
            return dataset
        labels = root
    if labels is None and images is None and root.is_dir():
        dataset.parts = list(_prepared(root, dataset.problems))
        if dataset.parts:
            dataset.prepared = True
            return dataset
    base = root if root.is_dir() else _base_of(root)
    image_base = Path(images) if images is not None else base
    label_base = Path(labels) if labels is not None else base
    if not image_base.is_dir():
        raise DatasetError(f"{image_base}: no such folder of images")
    image_tree = _tree(image_base, dataset.problems)
    if label_base.is_file():
        sources = [_Source(label_base, format or detect_format(label_base), split_word(label_base.name) or "all", 5)]
    elif labels is not None or images is None:
        if not label_base.is_dir():
            raise DatasetError(f"{label_base}: no such file or folder of labels")
        tree = image_tree if label_base == image_base else _tree(label_base, dataset.problems)
        sources = list(_sources(label_base, tree, format, dataset.problems))
        if labels is not None and not sources:
            raise DatasetError(f"{label_base}: no label files found (looked for {', '.join(READERS)})")
    else:
        sources = []
    _read_parts(dataset, sources, image_base, image_tree)
    if not dataset.parts:
        links = [p.where for p in dataset.problems.listed if p.kind == "linked folder skipped"]
        hint = f"; {links[0]} is a link that leads out of it, pass --images and --labels" if links else ""
        raise DatasetError(f"{root}: no images and no label files found{hint}")
    return dataset


def _base_of(label_file: Path) -> Path:
    """The folder to look for images in, given one label file: the nearest one above that has an image folder."""
    for parent in list(label_file.absolute().parents)[:4]:
        if any((parent / name).is_dir() for name in _IMAGE_FOLDERS):
            return parent
    return label_file.parent


def _tree(root: Path, problems: Problems) -> dict[str, _Folder]:
    """Every folder under ``root`` (by relative name, ``""`` is the root) and what lies in it."""
    found: dict[str, _Folder] = {}
    real_root = os.path.realpath(root)
    seen = {real_root}
    pending = [""]
    while pending:
        name = pending.pop()
        folder = found[name] = _Folder()
        if len(found) > _MAX_FOLDERS:
            raise DatasetError(f"{root}: more than {_MAX_FOLDERS:,} folders; name the dataset's own folder")
        try:
            entries = sorted(os.scandir(root / name if name else root), key=lambda e: e.name)
        except OSError as error:
            problems.add("folder that cannot be listed", name or str(root), str(error.strerror))
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            inner = f"{name}/{entry.name}" if name else entry.name
            if entry.is_dir():
                if entry.is_symlink():
                    target = os.path.realpath(entry.path)
                    if target in seen or os.path.commonpath([target, real_root]) != real_root:
                        problems.add("linked folder skipped", inner, "a loop, or leads out of the data root")
                        continue
                    seen.add(target)
                pending.append(inner)
                continue
            suffix = os.path.splitext(entry.name)[1].lower()
            if suffix in IMAGE_SUFFIXES:
                folder.images += 1
            elif suffix == ".json":
                folder.json.append(entry.name)
            elif suffix == ".xml":
                folder.xml += 1
            elif suffix == ".txt" and len(folder.text) < 50:
                folder.text.append(entry.name)
    for name, folder in found.items():
        for parent in (name, *_parents(name)):
            found[parent].below += folder.images
    return found


def _parents(name: str) -> list[str]:
    return [] if name == "" else ["" if str(p) == "." else str(p) for p in PurePosixPath(name).parents]


def split_word(name: str) -> str | None:
    """``train``, ``val`` or ``test`` if one of these words is in the name (``det_train.json``, ``val2017``)."""
    words = re.findall(r"[a-z]+", name.lower())
    found = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def _path_split(relative: str) -> str | None:
    """The split in the last part of a path that names one."""
    return next((s for part in reversed(relative.split("/")) if (s := split_word(part))), None)


def _priority(path: str) -> int:
    """Of several label files for the same images the lowest number is read."""
    for number, mark in enumerate(("det_20", "instances", "bdd100k_labels_images", "det_")):
        if mark in path:
            return number
    if "box_track" in path or "keypoints" in path or "captions" in path or "seg" in path.rsplit("/", 1)[-1]:
        return 9
    return 8 if "100k/" in path else 5


def _sources(root: Path, tree: dict[str, _Folder], format: str | None, problems: Problems) -> Iterator[_Source]:
    given: set[Path] = set()
    for name, folder in sorted(tree.items()):
        parts = name.split("/")
        if not _NOT_BOXES.isdisjoint(parts):
            continue
        place = root / name if name else root
        kinds: list[tuple[Path, str]] = []
        if folder.json and format in (None, "bdd100k", "scalabel", "coco"):
            kinds += _json_sources(place, folder.json, format, problems)
        if folder.xml and format in (None, "voc"):
            kinds.append((_top(root, name, tree), "voc"))
        if folder.text and format in (None, "yolo") and any(_is_yolo(place / text) for text in folder.text):
            kinds.append((_top(root, name, tree), "yolo"))
        for path, kind in kinds:
            if path not in given:
                given.add(path)
                relative = path.relative_to(root).as_posix()
                split = _path_split("" if relative == "." else relative) or _path_split(name) or "all"
                yield _Source(path, kind, split, _priority(relative + "/"))


def _json_sources(place: Path, names: list[str], format: str | None, problems: Problems) -> list[tuple[Path, str]]:
    if len(names) > 20:
        # Thousands of files are one label file an image; looking at the first of them is enough.
        kind = format or _quiet_format(place / names[0], problems)
        if kind == "bdd100k":
            return [(place, kind)]
    found: list[tuple[Path, str]] = []
    for name in names[:200]:
        kind = format or _quiet_format(place / name, problems)
        if kind == "bdd100k" and _is_per_image(place / name):
            return [(place, kind)]
        if kind is not None:
            found.append((place / name, kind))
    return found


def _is_per_image(path: Path) -> bool:
    from nightaug.data.formats.bdd100k import is_list

    return not is_list(path)


def _quiet_format(path: Path, problems: Problems) -> str | None:
    try:
        return detect_format(path)
    except DatasetError as error:
        problems.add("file that is no label file", path.name, str(error))
        return None


def _top(root: Path, name: str, tree: dict[str, _Folder]) -> Path:
    """The highest folder above ``name`` that holds only labels of the same split: they are read together."""
    while name:
        parent = _parents(name)[0]
        if parent == "" or tree[parent].below or _path_split(parent) != _path_split(name):
            break
        name = parent
    return root / name if name else root


def _is_yolo(path: Path) -> bool:
    try:
        with open(path, encoding="utf-8-sig") as file:
            line = next((text for text in file if text.strip()), "")
        values = [float(word) for word in line.split()]
    except (OSError, ValueError):
        return False
    return len(values) >= 5


def _images_for(source: _Source, base: Path, tree: dict[str, _Folder]) -> str:
    """The image folder (relative to ``base``) of one label source."""
    place = source.path if source.path.is_dir() else source.path.parent
    try:
        beside = place.relative_to(base).as_posix()
        beside = "" if beside == "." else beside
    except ValueError:
        beside = ""
    if source.split != "all":
        named = [n for n, f in tree.items() if f.below and n and split_word(n.rsplit("/", 1)[-1]) == source.split]
        top = [n for n in named if not any(parent in named for parent in _parents(n))]
        if top:
            near = [n for n in top if beside == n or beside.startswith(n + "/")]
            # The deepest folder around the labels, else the split's folder with the most images.
            best = max(near, key=len) if near else max(top, key=lambda n: (tree[n].below, n))
            if near and tree[beside].below:
                best = beside
            return _descend(best, tree)
    if beside and tree[beside].below and beside in tree:
        return _descend(beside, tree)
    for parent in _parents(beside):
        if tree[parent].below:
            return _descend(parent, tree)
    return _descend("", tree)


def _descend(name: str, tree: dict[str, _Folder]) -> str:
    """Down into ``images`` where all images of the folder are in there."""
    for child in _IMAGE_FOLDERS:
        inner = f"{name}/{child}" if name else child
        if inner in tree and tree[inner].below and not tree[name].images and tree[inner].below == tree[name].below:
            return inner
    return name


def _read_parts(dataset: Dataset, sources: list[_Source], base: Path, tree: dict[str, _Folder]) -> None:
    indexes: dict[str, ImageIndex] = {}

    def index_of(name: str) -> ImageIndex:
        if name not in indexes:
            indexes[name] = ImageIndex(base / name if name else base, dataset.problems)
        return indexes[name]

    groups: dict[tuple[str, str], list[_Source]] = {}
    for source in sources:
        groups.setdefault((source.split, _images_for(source, base, tree)), []).append(source)
    for (split, folder), members in groups.items():
        best = min(member.priority for member in members)
        for source in members:
            if source.priority > best:
                dataset.problems.add("label file not used", str(source.path), "another one names the same images")
                continue
            index = index_of(folder)
            labels = READERS[source.format](source.path, index)
            resolve(labels, index)
            dataset.problems.extend(labels.problems)
            for name, some in _voc_sets(source, labels):
                dataset.parts.append(Part(name or split, None, some, index.root, source.path))
    labelled = {part.split for part in dataset.parts}
    if not sources and tree[""].below:
        named = {n: s for n in tree if n and tree[n].below and (s := split_word(n.rsplit("/", 1)[-1]))}
        tops = {n: s for n, s in named.items() if not any(parent in named for parent in _parents(n))}
        for name, split in (tops or {_descend("", tree): "all"}).items():
            index = index_of(name)
            frames = [Frame(image, path=index.root / image) for image in index.names]
            dataset.parts.append(Part(split, None, LabelSet(frames, (), "", "images"), index.root, None))
    elif "test" not in labelled and "all" not in labelled:
        for name, folder_here in tree.items():
            if folder_here.images and split_word(name.rsplit("/", 1)[-1]) == "test":
                # BDD100K keeps its test labels to itself.
                dataset.problems.count("image of a split without labels, not used", folder_here.images)


def _voc_sets(source: _Source, labels: LabelSet) -> list[tuple[str | None, LabelSet]]:
    """Pascal VOC's ``ImageSets/Main/{train,val,test}.txt`` cut the frames into splits."""
    folder = source.path if source.path.is_dir() else source.path.parent
    sets = folder.parent / "ImageSets" / "Main"
    if source.format != "voc" or source.split != "all" or not sets.is_dir():
        return [(None, labels)]
    by_stem = {os.path.splitext(frame.name)[0]: frame for frame in labels.frames}
    found: list[tuple[str | None, LabelSet]] = []
    for split in SPLITS:
        file = sets / f"{split}.txt"
        try:
            stems = [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError):
            continue
        frames = [frame for stem in stems if (frame := by_stem.pop(stem, None)) is not None]
        if frames:
            found.append((split, LabelSet(frames, labels.classes, "voc", "", labels.problems, labels.meta)))
    if not found:
        return [(None, labels)]
    if by_stem:
        labels.problems.count("frame in no split of ImageSets, not used", len(by_stem))
    return found


def _prepared(root: Path, problems: Problems) -> Iterator[Part]:
    """The parts of ``{train,val,test}/{A,B}`` with ``annotations/{split}_{domain}.json``, where they exist."""
    for split in SPLITS:
        for domain in DOMAINS:
            folder = root / split / domain
            if not folder.is_dir():
                continue
            index = ImageIndex(folder, problems)
            file = root / "annotations" / f"{split}_{domain}.json"
            if file.is_file():
                labels = READERS["coco"](file, index)
                resolve(labels, index)
                problems.extend(labels.problems)
                yield Part(split, domain, labels, folder, file)
            else:
                frames = [Frame(name, path=folder / name) for name in index.names]
                yield Part(split, domain, LabelSet(frames, (), "", "images"), folder, None)
