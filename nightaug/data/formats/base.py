"""What all label formats share: problems that are counted and listed, the label set, safe names, image lookup.

Label files come from strangers. Nothing in them is trusted: names are checked before they touch the file
system, boxes before they are used, and whatever is left out is counted and listed with its reason.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from nightaug.data.classes import BDD100K_CLASSES, canonical_class
from nightaug.data.companion_names import without_companions
from nightaug.data.frames import Box, Frame
from nightaug.data.shelf import change
from nightaug.data.text import encodable, plain
from nightaug.errors import DatasetError
from nightaug.images import IMAGE_SUFFIXES

#: Coordinates beyond this many pixels are damage, not a box; infinities fall out here too.
MAX_COORDINATE = 1e7
#: The kind of problem of what :func:`is_special` finds.
SPECIAL = "no ordinary file, skipped"
#: The kind of problem of ``person`` beside ``pedestrian`` in formats whose boxes cannot say which it was.
SECOND_NAME = "second name of a class, which is written back under its first"
#: The kind of problem of a polygon or mask: only boxes are read, and so only boxes are written back.
SEGMENTATION = "segmentation of which only the box is kept"
#: Problems listed in full per kind; beyond it they are still counted.
MAX_LISTED = 20_000
#: The kind of problem where only the folder of images was given and its labels lie beside it.
LABELS_BESIDE = "folder of labels beside the images, not used"
#: Kinds that cost a whole file or folder of labels: said by name where all others are only counted.
_NAMED = frozenset(
    {"file that is no label file", "unreadable label file", "folder that cannot be listed", LABELS_BESIDE}
)


class Problem(NamedTuple):
    """One thing that was left out or mended."""

    kind: str  #: short, counted by ("missing image", "inverted box", ...)
    where: str  #: image name, label file or line
    detail: str  #: what was found there


class Problems:
    """Counts every problem and lists them, up to ``MAX_LISTED`` of a kind."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.listed: list[Problem] = []

    def add(self, kind: str, where: str, detail: str = "") -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= MAX_LISTED:
            self.listed.append(Problem(plain(kind), plain(where), plain(detail)))

    def count(self, kind: str, number: int = 1) -> None:
        """Count without listing: for what is left out by design (lane polygons)."""
        if number:
            self.counts[kind] += number

    def extend(self, other: Problems) -> None:
        self.counts.update(other.counts)
        self.listed.extend(other.listed)

    def noticed(self, most: int = 3) -> list[str]:
        """Lines for people: the counts, and the files of which nothing was read, with the reason of each."""
        if not self.counts:
            return []
        counts = ", ".join(f"{number:,} {kind}" for kind, number in self.counts.most_common())
        return [f"noticed in the labels: {counts}", *named(self.listed, most)]

    def lost_files(self) -> str:
        """For the end of an error's line: the files of which nothing was read; empty where there are none."""
        lines = self.noticed()[1:]
        return f" ({'; '.join(line.strip() for line in lines)})" if lines else ""

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __len__(self) -> int:
        return sum(self.counts.values())


def named(problems: Sequence[Problem], most: int = 3) -> list[str]:
    """Lines for people: the files and folders of labels of which nothing was read, with the reason or what to do."""
    lost = [f"  {problem.where}: {problem.detail}" for problem in problems if problem.kind in _NAMED]
    rest = [f"  ... and {len(lost) - most:,} more"] if len(lost) > most else []
    return [*lost[:most], *rest]


@dataclass
class LabelSet:
    """The frames of one label file or folder.

    Attributes:
        frames: one for every image the labels name, in file order; ``path`` is None until resolved. A list, unless the
            reader was told to keep them elsewhere (shelf.py): then what is changed in one is forgotten.
        classes: canonical class names in the order of the format's class numbers.
        format: key of ``READERS``.
        layout: variant inside the format, which its writer takes back (``list``, ``per-image``, ``frames`` ...).
        problems: what was skipped or mended while reading.
        meta: what the writer of the same format wants back (the dataset's own class names, ...). Of COCO and YOLO
            ``categories`` is the source's own list of classes, ``{"id": ..., "name": ...}`` in its order.
        unlabelled: images that no label names, relative to the image root, without other images' masks.
    """

    frames: Sequence[Frame]
    classes: tuple[str, ...]
    format: str
    layout: str = ""
    problems: Problems = field(default_factory=Problems)
    meta: dict[str, Any] = field(default_factory=dict)
    unlabelled: list[str] = field(default_factory=list)


_PLAIN_NAME = re.compile(r"[\w\-][\w.\- ]*", re.ASCII)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")


def safe_name(name: str) -> tuple[str, str]:
    """``(clean name, "")``, or ``("", reason)`` where the name must not touch the file system.

    A URL becomes its last part; Windows separators become slashes. Refused are absolute paths, ``..``,
    control characters and names no file system takes.
    """
    if len(name) < 200 and _PLAIN_NAME.fullmatch(name):
        return name, ""
    if _URL.match(name):
        name = name.split("?", 1)[0].split("#", 1)[0].rstrip("/").rsplit("/", 1)[-1]
    reason = ""
    if any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in name):
        return "", "control characters in the name"
    name = name.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        reason = "absolute path"
    elif ".." in parts:
        reason = "the name leaves the data root ('..')"
    elif not parts:
        reason = "empty name"
    elif len(name) > 2000 or any(len(part.encode("utf-8")) > 255 for part in parts):
        reason = "name too long for a file"
    return ("", reason) if reason else ("/".join(parts), "")


def shown(name: object, limit: int = 120) -> str:
    """A name from a file, fit for one line of output."""
    text = str(name)
    return ascii(text[:limit])[1:-1] + ("..." if len(text) > limit else "")


def plausible(x1: float, y1: float, x2: float, y2: float) -> bool:
    """False for NaN, infinite, absurdly far, inverted and empty boxes."""
    return -MAX_COORDINATE < x1 < x2 < MAX_COORDINATE and -MAX_COORDINATE < y1 < y2 < MAX_COORDINATE


def why_implausible(x1: float, y1: float, x2: float, y2: float) -> str:
    """The kind of problem that :func:`plausible` refused a box for."""
    values = (x1, y1, x2, y2)
    if not all(abs(v) < MAX_COORDINATE for v in values):
        return "box with NaN, infinite or absurd coordinates"
    return "box without area or inverted"


def ordered_classes(seen: Iterable[str]) -> tuple[str, ...]:
    """The ten BDD100K classes when all seen ones are among them, otherwise these with the others after them."""
    others = sorted(set(seen) - set(BDD100K_CLASSES))
    return BDD100K_CLASSES + tuple(others)


def own_name(name: str) -> str:
    """A class name as its file has it, in one line and never empty."""
    return plain(name).strip() or canonical_class(name)


def own_classes(meta: Mapping[str, Any] | None) -> list[str]:
    """Canonical name of each class of the source's own list; two of its names may be one class here."""
    return [canonical_class(category["name"]) for category in (meta or {}).get("categories", ())]


def first_places(names: Iterable[str]) -> dict[str, int]:
    """Name -> where it stands first."""
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        places.setdefault(name, place)
    return places


def place_of(box: Box, own: Sequence[str], first: Mapping[str, int]) -> int:
    """Where a box's class stands in a list of classes.

    Args:
        own: canonical names of the source's list, which the box may say its place in.
        first: canonical name -> where it stands first, in ``own`` or behind it.
    """
    place = box.source_category
    # A box that was given another class since, or was read from another list, has lost its place.
    return place if place is not None and place < len(own) and own[place] == box.category else first[box.category]


def refused_link(path: str, real_root: str) -> str:
    """Why a linked folder is not followed; empty where its target is read anyway, being inside the root itself.

    Not following any linked folder is what keeps loops and ways out of the data root harmless.
    """
    target = os.path.realpath(path)
    if os.path.commonpath([target, real_root]) != real_root:
        return "leads out of the data root; name the folder itself if you trust it"
    return "a loop" if os.path.commonpath([os.path.abspath(path), target]) == target else ""


class ImageIndex:
    """All image files under a folder, found once; lookups never touch the file system.

    Symbolic links to image files are followed (a prepared dataset may consist of them), linked folders are not.

    Args:
        root: folder of images.
        problems: where refused links are counted.

    Raises:
        DatasetError: ``root`` is not a folder that can be read.
    """

    def __init__(self, root: Path, problems: Problems | None = None) -> None:
        self.root = root
        self.problems = Problems() if problems is None else problems
        #: Every image, and the number of the label set (:func:`resolve`) that named it last.
        self.names: dict[str, int] = {}
        self._label_sets = 0
        self._tails: dict[str, str] | None = None
        if not root.is_dir():
            raise DatasetError(f"{root}: no such folder of images")
        try:
            self._walk()
        except OSError as error:
            raise DatasetError(f"{error.filename or root}: cannot be listed ({error.strerror})") from error

    def _walk(self) -> None:
        real_root = os.path.realpath(self.root)
        pending = [(str(self.root), "")]
        while pending:
            folder, prefix = pending.pop()
            # Names only are kept and sorted: the entries of 100,000 files would take three times as much.
            images: list[str] = []
            strange: list[tuple[str, str, str]] = []
            folders: list[tuple[str, str]] = []
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = prefix + entry.name
                    if entry.name.startswith(".") or entry.name == "__MACOSX":
                        continue
                    if not encodable(entry.name):
                        strange.append((shown(name), "file name that is not UTF-8 skipped", "rename it"))
                    elif is_folder(entry):
                        if not entry.is_symlink():
                            folders.append((entry.path, name + "/"))
                        elif reason := refused_link(entry.path, real_root):
                            strange.append((name, "linked folder skipped", reason))
                    elif os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                        if entry.is_symlink() and not _leads_to_image(entry.path):
                            strange.append((name, "broken link skipped", "does not lead to an image file"))
                        elif is_special(entry):
                            strange.append((name, SPECIAL, "a pipe, a socket or a device"))
                        else:
                            images.append(name)
            pending += sorted(folders)
            for name, kind, detail in sorted(strange):
                self.problems.add(kind, name, detail)
            images.sort()
            self.names.update(dict.fromkeys(images, 0))

    def __len__(self) -> int:
        return len(self.names)

    def next_label_set(self) -> int:
        """A number that no image has been marked with."""
        self._label_sets += 1
        return self._label_sets

    def find(self, name: str, video: str | None = None) -> str | None:
        """Relative name of the image a label means, or None.

        Tried in this order: the name itself, in the video's folder first; the only file of that base name in the
        same folder; the only one of that base name anywhere; the only one of that stem (labels may say .jpg where
        the file is .png, or give no ending).
        """
        if video is not None:
            inside = f"{video}/{name}"
            if inside in self.names:
                return inside
        if name in self.names:
            return name
        base = name.rsplit("/", 1)[-1]
        if self._tails is None:
            self._tails = self._index_tails()
        stem, suffix = os.path.splitext(base)
        tails = [base, stem if suffix.lower() in IMAGE_SUFFIXES else base]
        if video is not None:
            tails.insert(0, f"{video}/{base}")
        elif "/" in name:
            tails.insert(0, "/".join(name.split("/")[-2:]))
        for tail in tails:
            found = self._tails.get(tail)
            # In another folder than the label says lies another drive's image of the same name.
            if found and "/" in found and "/" not in tail and len(tails) == 3:
                folder = tails[0].rsplit("/", 1)[0]
                if folder not in found.split("/")[:-1] and not base.startswith(folder):
                    return None
            if found is not None:
                return found or None
        return None

    def _index_tails(self) -> dict[str, str]:
        """Base name, base name in its folder, and stem -> the one image of it, or ``""`` where there are several."""
        tails: dict[str, str] = {}
        for known in self.names:
            parts = known.rsplit("/", 2)
            base = parts[-1]
            stem = os.path.splitext(base)[0]
            for tail in {base, stem, "/".join(parts[-2:])}:
                tails[tail] = "" if tail in tails else known
        return tails


def is_image_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_folder(entry: os.DirEntry[str]) -> bool:
    """``entry.is_dir()``, False for a link that leads to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_special(entry: os.DirEntry[str]) -> bool:
    """A pipe, a socket or a device: whoever opens one may wait for ever."""
    try:
        return not entry.is_file() and not entry.is_dir()
    except OSError:
        return False


def _leads_to_image(path: str) -> bool:
    target = os.path.realpath(path)
    return os.path.splitext(target)[1].lower() in IMAGE_SUFFIXES and os.path.isfile(target)


def resolve(labels: LabelSet, index: ImageIndex) -> None:
    """Set ``path`` of every frame whose image exists, and list the images no label names."""
    # Marked in the index itself: a set of the names would take as much again.
    mark, names, root = index.next_label_set(), index.names, index.root

    def find(frame: Frame) -> Frame:
        found = index.find(frame.name, frame.video)
        if found is not None:
            frame.path = root / found
            names[found] = mark
        return frame

    labels.frames = change(labels.frames, find)
    labels.unlabelled = without_companions((name for name, by in names.items() if by != mark), names)


def read_bytes(path: Path) -> bytes:
    """The whole file without a UTF-8 byte order mark.

    Raises:
        DatasetError: it cannot be read, or is empty.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
    if not data.strip():
        raise DatasetError(f"{path}: the label file is empty; fetch or export it again")
    return data
