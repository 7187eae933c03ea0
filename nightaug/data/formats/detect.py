"""Which format is it: found by looking at the content, not at the name."""

from __future__ import annotations

import os
import re
from pathlib import Path

from nightaug.errors import DatasetError
from nightaug.images import IMAGE_SUFFIXES

#: How much of a JSON file is looked at, the larger amounts only where the smaller tell nothing: a first frame with
#: its polygons fits into the first, a COCO file may have long lists before the telling keys.
PEEKS = (1 << 16, 1 << 21, 1 << 40)
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},:]')
_MAX_DEPTH = 12
YOLO_FILES = ("dataset.yaml", "data.yaml", "dataset.yml", "data.yml", "classes.txt", "obj.names", "_darknet.labels")


def outline(path: Path, limit: int = PEEKS[0]) -> set[str]:
    """Key paths in the beginning of a JSON file: ``{"frames", "frames[].name", "[].labels[].category", ...}``.

    Works on a file that is cut off anywhere, for only its first ``limit`` bytes are read. The text itself adds
    ``"[]"`` for a list and ``"{}"`` for an object at the top.

    Raises:
        DatasetError: the file cannot be read or does not begin like JSON.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(limit)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head:
        raise DatasetError(f"{path}: the label file is empty; fetch or export it again")
    if head[:1] not in b"[{":
        raise DatasetError(f"{path}: does not begin like JSON; expected a list or an object")
    found = {"[]" if head[:1] == b"[" else "{}"}
    # Per open bracket: the prefix of the keys inside, and whether it is an object.
    stack: list[tuple[str, bool]] = []
    prefix, is_object, expect_key, last = "", False, False, ""
    for token in _TOKENS.finditer(head):
        first = token[0][:1]
        if first in b"{[":
            stack.append((prefix, is_object))
            if len(stack) > _MAX_DEPTH:
                break
            inside = prefix
            if is_object:  # the value of the key before it
                inside = f"{prefix}.{last}" if prefix else last
            is_object = first == b"{"
            prefix = inside if is_object else inside + "[]"
            expect_key = is_object
        elif first in b"}]":
            if not stack:
                break
            prefix, is_object = stack.pop()
            expect_key = False
            if not stack:
                break
        elif first == b",":
            expect_key = is_object
        elif first == b'"' and expect_key:
            last = token[0][1:-1].decode("utf-8", "replace")
            found.add(f"{prefix}.{last}" if prefix else last)
            expect_key = False
    return found


def _json_kind(path: Path) -> tuple[str, str] | None:
    """Format and layout of a JSON file; None where nothing tells."""
    for limit in PEEKS:
        keys = outline(path, limit)
        found = _object_kind(keys) if "{}" in keys else _list_kind(keys)
        if found is not None:
            return found
        if limit >= path.stat().st_size:
            break
    # An empty list holds no frames in any of the list formats.
    return ("scalabel", "list") if keys == {"[]"} else None


def _object_kind(keys: set[str]) -> tuple[str, str] | None:
    if "frames[].objects" in keys or ("name" in keys and "frames" in keys and "frames[].name" not in keys):
        return "bdd100k", "per-image"
    if "frames" in keys:
        return "scalabel", "frames"
    if "nightaug" in keys and not keys & {"annotations", "categories"}:
        return None  # scores and counts of our own, which list images too
    if keys & {"annotations", "images", "categories"}:
        return "coco", ""
    return None


def _list_kind(keys: set[str]) -> tuple[str, str] | None:
    if "[].category" in keys or "[].box2d" in keys:
        return "bdd100k", "labels"
    if "[].name" in keys or "[].labels" in keys:
        # det_20 was made from the old files; these have the marks of the old annotation tool, without the
        # fields of Scalabel's own exports.
        old = "[].labels[].manualShape" in keys or "[].labels[].manualAttributes" in keys
        return ("bdd100k" if old and "[].videoName" not in keys else "scalabel"), "list"
    return None


def json_layout(path: Path) -> str:
    """``list``, ``frames``, ``per-image``, ``labels``, or ``""`` where it is something else.

    Raises:
        DatasetError: the file cannot be read or does not begin like JSON.
    """
    found = _json_kind(path)
    return "" if found is None else found[1]


def _json_format(path: Path) -> str:
    found = _json_kind(path)
    if found is None:
        raise DatasetError(
            f"{path}: not a label file nightaug knows (bdd100k, scalabel, coco); name the right file or pass --format"
        )
    return found[0]


def detect_format(path: Path) -> str:
    """The key of ``READERS`` for a label file or a folder of label files.

    Raises:
        DatasetError: nothing known is found; the message says what was looked for.
    """
    if path.is_dir():
        return _folder_format(path)
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _json_format(path)
    if suffix == ".xml":
        return "voc"
    if suffix in (".txt", ".yaml", ".yml", ".names"):
        return "yolo"
    if not path.exists():
        raise DatasetError(f"{path}: no such file or folder of labels")
    if suffix in IMAGE_SUFFIXES:
        raise DatasetError(f"{path}: this is an image; expected a label file or folder")
    return _json_format(path)


def _folder_format(path: Path) -> str:
    if any((path / name).is_file() for name in YOLO_FILES):
        return "yolo"
    for _, folders, files in os.walk(path):
        folders.sort()
        for name in sorted(files):
            if name.startswith("."):
                continue
            suffix = os.path.splitext(name)[1].lower()
            if suffix == ".json":
                return "bdd100k"
            if suffix == ".xml":
                return "voc"
            if suffix == ".txt":
                return "yolo"
    raise DatasetError(f"{path}: no label files (.json, .xml, .txt) in this folder")
