"""Inputs as strangers send them: label documents of each format, and ways to damage documents and bytes."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

#: Values where a document expects another one.
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1e30, -1e30, 10**40, float("nan"), float("inf"), -0.0, "", "12", "x" * 3000, "a\nb", "\ud800",
    [], {}, [[]], {"a": {"b": []}}, [1, 2, 3], "../../x", "/etc/passwd",
)  # fmt: skip
#: Names that must not reach the file system.
NAMES = (
    "../outside.jpg", "x/../../outside.jpg", "/etc/passwd", "C:\\outside.jpg", "a\nb.jpg", "\0.jpg", "..", "n" * 300,
    "~/x.jpg", "good.jpg/x.jpg", "\u202egpj.exe", "%2e%2e/x.jpg",
)  # fmt: skip
#: Boxes that are none: x1, y1, x2, y2.
BOXES: tuple[tuple[Any, Any, Any, Any], ...] = (
    (float("nan"), 2, 9, 9), (2, float("inf"), 9, 9), (-50, -50, -10, -10), (30, 20, 10, 5), (5, 5, 5, 5),
    (-1e30, -1e30, 1e30, 1e30), (1e308, 0, 1e309, 9), (0, 0, 10**30, 10**30), ("a", 1, 2, 3), (None, 1, 2, 3),
    (1e-300, 1e-300, 2e-300, 2e-300), (-5, -5, 900, 900),
)  # fmt: skip
FORMATS = ("scalabel", "bdd100k", "coco", "voc", "yolo")
WIDTH, HEIGHT = 64, 48


class Row(NamedTuple):
    """What labels say of one image: its name, and its boxes with their class."""

    name: str
    boxes: Sequence[tuple[str, Any, Any, Any, Any]]


GOOD_BOXES = (("car", 4, 5, 30, 25), ("pedestrian", 36, 10, 44, 40))


def documents(format: str, rows: Sequence[Row]) -> dict[str, Any]:
    """File name -> document of a label format: a value for JSON, text for the others."""
    if format == "voc":
        return {f"{Path(row.name).stem or 'x'}.xml": _voc(row) for row in rows}
    if format == "yolo":
        found: dict[str, Any] = {f"{Path(row.name).stem or 'x'}.txt": _yolo(row) for row in rows}
        return found | {"data.yaml": "names: [car, pedestrian]\ntrain: images\nval: images\n"}
    if format == "coco":
        numbers = {"car": 1, "pedestrian": 2}
        images = [{"id": at, "file_name": row.name, "width": WIDTH, "height": HEIGHT} for at, row in enumerate(rows)]
        boxes = [
            {"id": 10 * at + k, "image_id": at, "category_id": numbers[name], "bbox": _xywh(box)}
            for at, row in enumerate(rows)
            for k, (name, *box) in enumerate(row.boxes)
        ]
        categories = [{"id": number, "name": name} for name, number in numbers.items()]
        return {"labels.json": {"images": images, "annotations": boxes, "categories": categories}}
    frames = [_frame(row) for row in rows]
    if format == "scalabel":
        return {"det_train.json": frames}
    return {
        f"{Path(row.name).stem or 'x'}.json": {
            "name": Path(row.name).stem, "attributes": frame["attributes"],
            "frames": [{"timestamp": 1, "objects": frame["labels"]}],
        }
        for row, frame in zip(rows, frames, strict=True)
    }  # fmt: skip


def _frame(row: Row) -> dict[str, Any]:
    labels = [
        {"id": str(k), "category": name, "box2d": dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))}
        for k, (name, *box) in enumerate(row.boxes)
    ]
    return {"name": row.name, "attributes": {"timeofday": "daytime", "weather": "clear"}, "labels": labels}


def _xywh(box: Sequence[Any]) -> list[Any]:
    try:
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]
    except TypeError:
        return list(box)


def _voc(row: Row) -> str:
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>"
        for name, x1, y1, x2, y2 in row.boxes
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation><filename>{escape(row.name)}</filename>{size}{objects}</annotation>\n"


def _yolo(row: Row) -> str:
    lines = []
    for name, *box in row.boxes:
        try:
            x1, y1, x2, y2 = (float(value) for value in box)
            values: list[Any] = [(x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT]
        except (TypeError, ValueError, OverflowError):
            values = list(box)
        lines.append(f"{('car', 'pedestrian').index(name)} {' '.join(str(value) for value in values)}\n")
    return "".join(lines)


def encoded(document: Any, encoding: str = "utf-8") -> bytes:
    """A document as bytes; JSON allows what is no number in Python's way (``NaN``)."""
    text = document if isinstance(document, str) else json.dumps(document)
    return text.encode(encoding, "replace")


# -- ways to damage --------------------------------------------------------------------------------------------


def flipped(data: bytes, chance: random.Random) -> bytes:
    """One to thirty bits turned over."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 3, 30))):
        if out:
            out[chance.randrange(len(out))] ^= 1 << chance.randrange(8)
    return bytes(out)


def cut(data: bytes, chance: random.Random) -> bytes:
    """Its beginning alone, or without it."""
    at = chance.randrange(len(data) + 1)
    return data[:at] if chance.random() < 0.8 else data[at:]


def overwritten(data: bytes, chance: random.Random) -> bytes:
    """A stretch of it zero, or noise, or doubled."""
    first = chance.randrange(len(data) or 1)
    last = min(len(data), first + chance.choice((1, 16, 400)))
    middle = chance.choice((bytes(last - first), chance.randbytes(last - first), data[first:last] * 2))
    return data[:first] + middle + data[last:]


BYTES: dict[str, Callable[[bytes, random.Random], bytes]] = {"flips": flipped, "cut": cut, "overwritten": overwritten}


def mutated(document: Any, chance: random.Random) -> Any:
    """A JSON document with one value, anywhere in it, replaced, left out, or twice there."""
    copy = json.loads(json.dumps(document))
    places = list(_places(copy))
    holder, key = chance.choice(places)
    action = chance.random()
    if action < 0.7:
        holder[key] = chance.choice(ODD)
    elif action < 0.85:
        del holder[key]
    elif isinstance(holder, list):
        holder.append(holder[key])
    else:
        holder[str(chance.choice(ODD))[:50]] = holder.pop(key)
    return copy


def _places(value: Any) -> Any:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(pairs):
        yield value, key
        yield from _places(item)


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A whole PNG of a few kilobytes whose header promises gigabytes of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(2_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
