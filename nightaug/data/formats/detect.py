"""Which format is it: found by looking at the content, not at the name."""

from __future__ import annotations

import os
import re
from pathlib import Path

from nightaug.errors import DatasetError
from nightaug.images import IMAGE_SUFFIXES

#: How much of a JSON file is looked at. The outline needs the first frame only, polygons included.
PEEK_BYTES = 1 << 20
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},:]')
_MAX_DEPTH = 12
YOLO_FILES = ("dataset.yaml", "data.yaml", "dataset.yml", "data.yml", "classes.txt", "obj.names", "_darknet.labels")


def outline(path: Path, limit: int = PEEK_BYTES) -> set[str]:
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
        if first == b"{" or first == b"[":
            stack.append((prefix, is_object))
            if len(stack) > _MAX_DEPTH:
                break
            inside = prefix if len(stack) == 1 else (f"{prefix}.{last}" if prefix and is_object else last if is_object else prefix)
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


def _json_format(path: Path) -> str:
    keys = outline(path)
    if "{}" in keys:
        if "frames[].objects" in keys or ("name" in keys and "frames" in keys and "frames[].name" not in keys):
            return "bdd100k"
        if "frames" in keys:
            return "scalabel"
        if keys & {"annotations", "images", "categories"}:
            return "coco"
        # The telling keys may come after a long first value: look at the whole file once.
        keys = outline(path, limit=path.stat().st_size)
        if "frames" in keys:
            return "scalabel"
        if keys & {"annotations", "images", "categories"}:
            return "coco"
    else:
        if "[].category" in keys or "[].box2d" in keys:
            return "bdd100k"
        if "[].name" in keys or "[].labels" in keys:
            # det_20 was made from the old files; these have the marks of the old annotation tool, without the
            # fields of Scalabel's own exports.
            old = "[].labels[].manualShape" in keys or "[].labels[].manualAttributes" in keys
            return "bdd100k" if old and "[].videoName" not in keys else "scalabel"
        if not keys - {"[]"}:
            return "scalabel"  # an empty list: no frames in any of the list formats
    raise DatasetError(
        f"{path}: not a label file nightaug knows (bdd100k, scalabel, coco); name the right file or pass --format"
    )


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
