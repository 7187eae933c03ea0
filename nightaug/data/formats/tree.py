"""What lies where in a dataset's folder, and which of it are label files; see discover.py for what is made of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from nightaug.data.formats.base import (
    SPECIAL,
    Problems,
    is_folder,
    is_image_name,
    is_special,
    refused_link,
    shown,
)
from nightaug.data.formats.detect import detect_format, json_layout
from nightaug.data.text import encodable
from nightaug.errors import DatasetError
from nightaug.images import IMAGE_SUFFIXES

IMAGE_FOLDERS = ("images", "JPEGImages", "jpegimages", "image", "img", "imgs")
#: Names of the folder of labels that lies beside one of these.
_LABEL_FOLDERS = ("labels", "annotations", "Annotations")
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
#: Folders of labels that are no boxes; prepare passes them along, nobody reads them.
# fmt: off
_NOT_BOXES = frozenset({
    "lane", "drivable", "sem_seg", "ins_seg", "pan_seg", "seg_track_20", "pose_21", "masks", "colormaps", "bitmasks",
    "polygons", "rles", "SegmentationClass", "SegmentationObject", "ImageSets", "__MACOSX",
})
# fmt: on
#: What ``nightaug translate`` says of its folder.
TRANSLATION = "translation.json"
#: What nightaug itself writes beside datasets; no labels, and nothing to complain about.
OWN_FILES = frozenset(
    {"world.json", "counts.json", "prepare.json", TRANSLATION, "manifest.json", "curation.json", "scores.json"}
)
_MAX_FOLDERS = 100_000
#: Of this many .json files of a folder, and of this many .txt files, it is asked what they are.
_MAX_NOTED, _MAX_LOOKED_AT = 200, 50


@dataclass
class Folder:
    """One folder of the tree."""

    images: int = 0  # in this folder itself
    below: int = 0  # in this folder and all below it
    json: list[str] = field(default_factory=list)  # the first ones
    xml: int = 0
    text: list[str] = field(default_factory=list)  # the first ones

    def add_file(self, name: str) -> None:
        """Count or note a file by its ending."""
        suffix = os.path.splitext(name)[1].lower()
        if suffix in IMAGE_SUFFIXES:
            self.images += 1
        elif suffix == ".json":
            _note(self.json, name)
        elif suffix == ".xml":
            self.xml += 1
        elif suffix == ".txt":
            _note(self.text, name)

    def settle(self) -> None:
        """All files have been added."""
        self.json = sorted(self.json)[:_MAX_NOTED]
        self.text = sorted(self.text)[:_MAX_LOOKED_AT]


def _note(names: list[str], name: str) -> None:
    """Add a name; of many the first ones in the order of the alphabet stay."""
    names.append(name)
    if len(names) > 10 * _MAX_NOTED:
        names[:] = sorted(names)[:_MAX_NOTED]


@dataclass
class Source:
    """A label file or a folder of label files, read as one."""

    path: Path
    format: str
    split: str
    priority: int


def walk(root: Path, problems: Problems) -> dict[str, Folder]:
    """Every folder under ``root`` (by relative name, ``""`` is the root) and what lies in it."""
    found: dict[str, Folder] = {}
    real_root = os.path.realpath(root)
    pending = [""]
    while pending:
        name = pending.pop()
        folder = found[name] = Folder()
        if len(found) > _MAX_FOLDERS:
            raise DatasetError(f"{root}: more than {_MAX_FOLDERS:,} folders; name the dataset's own folder")
        # Sorted is only what is kept: the entries of a folder of 100,000 files would take much memory.
        strange: list[tuple[str, str, str]] = []
        below: list[str] = []
        try:
            with os.scandir(root / name if name else root) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name == "__MACOSX":
                        continue
                    inner = f"{name}/{entry.name}" if name else entry.name
                    kind, why = _unusable(entry, real_root)
                    if kind and not is_image_name(entry.name):  # the index lists those
                        strange.append((inner, kind, why))
                    elif not kind and not is_folder(entry):
                        folder.add_file(entry.name)
                    elif not kind and not entry.is_symlink():
                        below.append(inner)
        except OSError as error:
            problems.add("folder that cannot be listed", name or str(root), str(error.strerror))
            continue
        folder.settle()
        pending += sorted(below)
        for inner, kind, why in sorted(strange):
            problems.add(kind, shown(inner), why)
    for name, folder in found.items():
        for parent in (name, *parents(name)):
            found[parent].below += folder.images
    return found


def _unusable(entry: os.DirEntry[str], real_root: str) -> tuple[str, str]:
    """The kind of problem and its detail for what nobody should open; two empty texts for the rest."""
    if not encodable(entry.name):
        return "file name that is not UTF-8 skipped", "rename it"
    if entry.is_symlink():
        if not os.path.exists(entry.path):
            return "broken link skipped", "leads nowhere"
        if is_folder(entry):
            reason = refused_link(entry.path, real_root)
            return ("linked folder skipped" if reason else ""), reason
    if is_special(entry):
        return SPECIAL, "a pipe, a socket or a device"
    return "", ""


def labels_beside(images: Path) -> Path | None:
    """The folder of labels that belongs to a folder of images, or to one inside it; None where there is none.

    ``set/labels`` for ``set/images`` as for ``set/images/train``.
    """
    place = images.absolute()
    around = next((folder.parent for folder in [place, *place.parents][:4] if folder.name in IMAGE_FOLDERS), None)
    if around is None:
        return None
    for name in _LABEL_FOLDERS:
        for _, _, files in os.walk(around / name):
            if any(file.lower().endswith((".txt", ".json", ".xml")) for file in files):
                return around / name if images.is_absolute() else Path(os.path.relpath(around / name))
    return None


def parents(name: str) -> list[str]:
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


def find_sources(root: Path, tree: dict[str, Folder], format: str | None, problems: Problems) -> Iterator[Source]:
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
                yield Source(path, kind, split, _priority(relative + "/"))


def _json_sources(place: Path, names: list[str], format: str | None, problems: Problems) -> list[tuple[Path, str]]:
    if len(names) > 20:
        # Thousands of files are one label file an image; looking at the first of them is enough.
        kind = format or _quiet_format(place / names[0], problems)
        if kind == "bdd100k":
            return [(place, kind)]
    found: list[tuple[Path, str]] = []
    for name in names:
        kind = format or _quiet_format(place / name, problems)
        if kind == "bdd100k" and json_layout(place / name) in ("per-image", "labels"):
            return [(place, kind)]
        if kind is not None:
            found.append((place / name, kind))
    return found


def _quiet_format(path: Path, problems: Problems) -> str | None:
    try:
        return detect_format(path)
    except DatasetError as error:
        if path.name not in OWN_FILES:
            problems.add("file that is no label file", path.name, str(error))
        return None


def _top(root: Path, name: str, tree: dict[str, Folder]) -> Path:
    """The highest folder above ``name`` that holds only labels of the same split: they are read together."""
    while name:
        parent = parents(name)[0]
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


def images_for(source: Source, base: Path, tree: dict[str, Folder]) -> str:
    """The image folder (relative to ``base``) of one label source."""
    place = source.path if source.path.is_dir() else source.path.parent
    try:
        beside = place.relative_to(base).as_posix()
    except ValueError:
        beside = ""
    if beside not in tree:
        beside = ""
    if source.split != "all":
        named = [n for n, f in tree.items() if f.below and n and split_word(n.rsplit("/", 1)[-1]) == source.split]
        top = [n for n in named if not any(parent in named for parent in parents(n))]
        if top:
            near = [n for n in top if beside == n or beside.startswith(n + "/")]
            # The deepest folder around the labels, else one that shares a word with their path (labels/100k/train
            # and images/100k/train), else the split's folder with the most images.
            words = {*beside.split("/"), "100k"}
            best = (
                max(near, key=len) if near else max(top, key=lambda n: (len(words & set(n.split("/"))), tree[n].below))
            )
            if near and tree[beside].below:
                best = beside
            return descend(best, tree)
    if beside and tree[beside].below:
        return descend(beside, tree)
    for parent in parents(beside):
        if tree[parent].below:
            return descend(parent, tree)
    return descend("", tree)


def descend(name: str, tree: dict[str, Folder]) -> str:
    """Down into ``images`` where all images of the folder are in there."""
    for child in IMAGE_FOLDERS:
        inner = f"{name}/{child}" if name else child
        if inner in tree and tree[inner].below and not tree[name].images and tree[inner].below == tree[name].below:
            return inner
    return name
